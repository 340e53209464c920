"""Training of torch's recurrent layers through loops' kernels, which are the printed references here: results and gradients are
eager autograd's."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import torch_autokernel as ak
from tests.capture.engines import ReferenceEngine
from torch_autokernel.capture.layer_training import LayerTrainer

SEED = 20261129
T, B, D, H = 13, 3, 5, 7
Tensor = torch.Tensor

MADE: dict[str, Callable[[], nn.Module]] = {
    "lstm": lambda: nn.LSTM(D, H),
    "gru": lambda: nn.GRU(D, H, batch_first=True),
    "tanh": lambda: nn.RNN(D, H),
    "relu without biases": lambda: nn.RNN(D, H, nonlinearity="relu", bias=False),
    "both directions": lambda: nn.GRU(D, H, 2, bidirectional=True),
    "two layers": lambda: nn.LSTM(D, H, 2, batch_first=True),
    "projected": lambda: nn.LSTM(D, H, proj_size=4),
}


def steps(layer: nn.Module, *given: Any) -> list[Any]:
    """All results, then the gradients of all arguments and parameters."""
    leaves = [t.detach().clone().requires_grad_() for t in given]
    hx = (leaves[1] if len(leaves) == 2 else tuple(leaves[1:]),) if len(leaves) > 1 else ()
    out = layer(leaves[0], *hx)
    results = torch.utils._pytree.tree_leaves(out)
    weights = [torch.randn(r.shape, generator=torch.Generator().manual_seed(k)) for k, r in enumerate(results)]
    total = sum((r * w).sum() for r, w in zip(results, weights, strict=True))
    ends = [*leaves, *(p for p in layer.parameters() if p.requires_grad)]
    return [*(r.detach() for r in results), *torch.autograd.grad(total, ends, allow_unused=True)]


def same(got: list[Any], want: list[Any]) -> None:
    assert len(got) == len(want)
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(g, w, rtol=1e-4, atol=1e-5)


def inputs(layer: nn.Module, batch: int = B, length: int = T) -> Tensor:
    return torch.randn(*((batch, length) if layer.batch_first else (length, batch)), D)


def pair(name: str) -> tuple[Any, Any]:
    torch.manual_seed(SEED)
    plain = MADE[name]()
    return ak.autokernel(copy.deepcopy(plain), strict=True), plain


@pytest.mark.parametrize("name", ["lstm", "gru", "both directions"])
def test_results_and_gradients_are_torchs(engine: ReferenceEngine, name: str) -> None:
    fast, plain = pair(name)
    for batch in (B, 1):
        x = inputs(plain, batch)
        for _ in range(2):
            same(steps(fast, x), steps(plain, x))
    assert len(fast.forward.trainer.plans) == 2 and engine.regions


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(MADE))
def test_every_kind_of_layer(engine: ReferenceEngine, name: str) -> None:
    fast, plain = pair(name)
    x = inputs(plain)
    same(steps(fast, x), steps(plain, x))
    if name not in ("both directions", "two layers", "projected"):
        h = [torch.randn(1, B, H) for _ in range(2 if name == "lstm" else 1)]
        same(steps(fast, x, *h), steps(plain, x, *h))
        alone = x[0] if plain.batch_first else x[:, 0]
        same(steps(fast, alone), steps(plain, alone))
    assert fast.forward.trainer.plans and not fast.forward.trainer.failed


def test_other_lengths_and_other_weights(engine: ReferenceEngine) -> None:
    fast, plain = pair("lstm")
    for length in (T, 20, 9):
        x = torch.randn(length, B, D)
        same(steps(fast, x), steps(plain, x))
    other = nn.LSTM(D, H)
    for layer in (fast, plain):
        layer.load_state_dict(other.state_dict())
    x = torch.randn(T, B, D)
    same(steps(fast, x), steps(plain, x))
    fast.weight_hh_l0, plain.weight_hh_l0 = (nn.Parameter(2 * layer.weight_hh_l0.detach()) for layer in (fast, plain))
    same(steps(fast, x), steps(plain, x))
    for layer in (fast, plain):
        layer.weight_ih_l0.requires_grad_(False)
    same(steps(fast, x), steps(plain, x))


def test_what_is_not_trained_by_kernels(engine: ReferenceEngine) -> None:
    torch.manual_seed(SEED)
    dropping = ak.autokernel(nn.LSTM(D, H, 2, dropout=0.5))
    x = torch.randn(T, B, D, requires_grad=True)
    dropping(x)[0].sum().backward()
    assert "dropout" in next(iter(dropping.forward.trainer.failed.values()))
    packed = nn.utils.rnn.pack_padded_sequence(x, [T, 9, 8])
    fast, plain = pair("gru")
    torch.testing.assert_close(fast(packed)[1], plain(packed)[1])
    short = inputs(plain, length=4)
    same(steps(fast, short), steps(plain, short))
    assert not fast.forward.trainer.plans and not engine.regions


def test_a_second_derivative(engine: ReferenceEngine) -> None:
    fast, plain = pair("gru")
    x = torch.randn(B, T, D)
    found = []
    for layer in (fast, plain):
        given = x.clone().requires_grad_()
        (first,) = torch.autograd.grad(layer(given)[0].square().sum(), [given], create_graph=True)
        found.append(torch.autograd.grad(first.square().sum(), [given, *layer.parameters()]))
    assert fast.forward.trainer.plans
    same(*map(list, found))


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.layer, self.head = nn.Embedding(11, D), nn.LSTM(D, H, batch_first=True), nn.Linear(H, 11)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.layer(self.words(tokens))[0]).logsumexp(-1).sum()


def test_layers_of_a_model_are_trained(engine: ReferenceEngine) -> None:
    torch.manual_seed(SEED)
    plain = Tagger()
    fast = ak.autokernel(copy.deepcopy(plain))
    tokens = torch.randint(11, (B, T))
    for _ in range(3):
        losses = [m(tokens) for m in (fast, plain)]
        torch.testing.assert_close(*losses)
        for loss in losses:
            loss.backward()
        same([p.grad for p in fast.parameters()], [p.grad for p in plain.parameters()])
    part = fast.layer.__dict__["forward"]
    assert isinstance(part.trainer, LayerTrainer) and part.trainer.plans
    with torch.no_grad():
        torch.testing.assert_close(fast(tokens), plain(tokens))
    assert "forward" not in ak.restore(fast).layer.__dict__
    torch.testing.assert_close(fast(tokens), plain(tokens))


def test_a_layer_without_kernels_stays_as_it_is(engine: ReferenceEngine) -> None:
    torch.manual_seed(SEED)
    fast = ak.autokernel(Tagger())
    fast(torch.randint(11, (B, 5))).backward()  # too short
    assert "forward" not in fast.layer.__dict__


def test_the_model_in_a_graph(engine: ReferenceEngine) -> None:
    torch.manual_seed(SEED)
    plain = Tagger()
    layer = ak.autokernel(copy.deepcopy(plain).layer)
    fast = copy.deepcopy(plain)
    fast.layer = layer
    compiled = torch.compile(fast, backend="eager")
    tokens = torch.randint(11, (B, T))
    for model in (compiled, plain):
        model(tokens).backward()
    same([p.grad for p in fast.parameters()], [p.grad for p in plain.parameters()])
    assert layer.forward.trainer.plans
