"""torch's recurrent layers and scans as programs with loop kernels: the same results, strides and dtypes as eager, or a reason."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch._higher_order_ops import scan
from torch.utils import _pytree as pytree

import torch_autokernel as ak
from tests.capture.engines import ReferenceEngine
from torch_autokernel.capture import trial
from torch_autokernel.capture.decorator import Accelerated
from torch_autokernel.capture.purity import watch
from torch_autokernel.capture.staged import capture_staged, concerns

Tensor = torch.Tensor
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 0.05}


def same(got: Any, want: Any, tolerance: float = 1e-5) -> None:
    mine, theirs = pytree.tree_flatten(got), pytree.tree_flatten(want)
    assert mine[1] == theirs[1]
    for x, y in zip(mine[0], theirs[0], strict=True):
        torch.testing.assert_close(x, y, rtol=tolerance, atol=tolerance)
        assert x.stride() == y.stride() or y.numel() < 2


def states(layer: nn.RNNBase, batch: int | None, dtype: torch.dtype = torch.float32) -> Any:
    count = layer.num_layers * (2 if layer.bidirectional else 1)
    middle = () if batch is None else (batch,)
    h = torch.randn(count, *middle, layer.proj_size or layer.hidden_size, dtype=dtype)
    return (h, torch.randn(count, *middle, layer.hidden_size, dtype=dtype)) if isinstance(layer, nn.LSTM) else h


def check(layer: nn.RNNBase, length: int, batch: int, given: bool, engine: ReferenceEngine) -> None:
    """One call through kernels, and one more that finds its plan."""
    layer = layer.eval()
    dtype = next(layer.parameters()).dtype
    shape = (batch, length) if layer.batch_first else (length, batch)
    args: list[Any] = [torch.randn(*shape, layer.input_size, dtype=dtype)]
    args += [states(layer, batch, dtype)] if given else []
    plain = copy.deepcopy(layer)
    ak.autokernel(layer)
    loops = layer.num_layers * (2 if layer.bidirectional else 1)
    with torch.no_grad():
        same(layer(*args), plain(*args), TOLERANCE[dtype])
        del engine.calls[:]
        same(layer(*args), plain(*args), TOLERANCE[dtype])
    assert len(engine.calls) == loops and layer.forward._compiled is None, layer.forward.reason


LAYERS = {
    "lstm": lambda: nn.LSTM(5, 7),
    "gru": lambda: nn.GRU(5, 7, batch_first=True),
    "tanh": lambda: nn.RNN(5, 7),
    "relu": lambda: nn.RNN(5, 7, nonlinearity="relu", batch_first=True),
    "two layers": lambda: nn.LSTM(5, 7, 2, batch_first=True),
    "without biases": lambda: nn.GRU(5, 7, 2, bias=False),
    "both directions": lambda: nn.LSTM(5, 7, 2, bidirectional=True),
    "both directions of a gru": lambda: nn.GRU(5, 7, bidirectional=True, batch_first=True),
    "projected": lambda: nn.LSTM(5, 7, 2, proj_size=3),
    "projected without biases": lambda: nn.LSTM(5, 7, proj_size=3, bias=False, bidirectional=True),
    "dropout when not training": lambda: nn.LSTM(5, 7, 2, dropout=0.5),
}


@pytest.mark.parametrize("given", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.parametrize("name", LAYERS)
def test_layers(name: str, given: bool, engine: ReferenceEngine) -> None:
    check(LAYERS[name](), 9, 3, given, engine)


@pytest.mark.parametrize("length, batch", [(1, 1), *(pytest.param(*sizes, marks=pytest.mark.slow) for sizes in ((1, 3), (13, 1), (2, 2)))])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_short_and_narrow(kind: type[nn.RNNBase], length: int, batch: int, engine: ReferenceEngine) -> None:
    check(kind(5, 7, 2, batch_first=True), length, batch, True, engine)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_bf16(kind: type[nn.RNNBase], engine: ReferenceEngine) -> None:
    check(kind(5, 7, 2, dtype=torch.bfloat16), 9, 3, True, engine)
    check(kind(5, 7, dtype=torch.bfloat16, batch_first=True), 1, 1, False, engine)


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYERS)
def test_one_step_of_one_row(name: str, engine: ReferenceEngine) -> None:
    check(LAYERS[name](), 1, 1, True, engine)


def test_one_step_of_one_row_has_its_product_within_the_loop(engine: ReferenceEngine) -> None:
    for length, inside in ((1, True), (2, False)):
        staged = capture_staged(nn.LSTM.forward, [torch.randn(length, 1, 5)], nn.LSTM(5, 7))
        assert any("mm" in str(n.target) for n in staged.graph.nodes) is not inside
        assert any(tuple(s.shape) == (28, 5) for s in next(iter(staged.scans.values())).region.signature.inputs) is inside


def test_one_region_serves_layers_and_lengths(engine: ReferenceEngine) -> None:
    layer = ak.autokernel(nn.LSTM(7, 7, 3, batch_first=True))
    with torch.no_grad():
        for length in (4, 9):
            layer(torch.randn(2, length, 7))
    assert len(layer.forward.plans) == 2 and len({r.signature.digest for r in engine.regions}) == 1


def test_an_input_without_a_batch(engine: ReferenceEngine) -> None:
    for kind in (nn.LSTM, nn.GRU):
        plain = kind(5, 7, 2)
        layer, x = ak.autokernel(copy.deepcopy(plain)), torch.randn(6, 5)
        given = states(plain, None)
        with torch.no_grad():
            same(layer(x, given), plain(x, given))
            same(layer(x), plain(x))
        assert len(layer.forward.plans) == 2, layer.forward.reason


def test_new_weights_and_another_structure_of_arguments(engine: ReferenceEngine) -> None:
    plain = nn.LSTM(5, 7)
    layer, x = ak.autokernel(copy.deepcopy(plain)), torch.randn(6, 3, 5)
    with torch.no_grad():
        layer(x)
        plain.weight_hh_l0.mul_(0.5)
        layer.weight_hh_l0.mul_(0.5)
        same(layer(x), plain(x))
        layer.weight_hh_l0 = plain.weight_hh_l0 = nn.Parameter(torch.randn(28, 7))
        same(layer(x), plain(x))
        h, c = states(plain, 3)
        same(layer(x, (h, c)), plain(x, (h, c)))
        same(layer(x, (c, h)), plain(x, (c, h)))
    assert layer.forward._compiled is None


def test_the_layer_is_left_as_it_was(engine: ReferenceEngine) -> None:
    layer = nn.LSTM(5, 7)
    capture_staged(nn.LSTM.forward, [torch.randn(6, 3, 5)], layer)
    assert all(a is b for a, b in zip(layer._flat_weights, layer.parameters(), strict=True))
    ak.autokernel(layer)
    same(ak.restore(copy.deepcopy(layer))(torch.ones(2, 1, 5)), ak.restore(layer)(torch.ones(2, 1, 5)))


# ---------------------------------------------------------------------- around the layers
class Language(nn.Module):
    """An embedding before, a product behind, and the last state."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.layer, self.head = nn.Embedding(11, 5), nn.LSTM(5, 7, 2, batch_first=True), nn.Linear(7, 11)

    def forward(self, tokens: Tensor) -> Any:
        y, (h, _c) = self.layer(self.words(tokens))
        return torch.log_softmax(self.head(y), -1), h[-1]


def test_a_model_around_a_layer(engine: ReferenceEngine) -> None:
    plain = Language().eval()
    model, tokens = ak.autokernel(copy.deepcopy(plain)), torch.randint(0, 11, (3, 8))
    with torch.no_grad():
        for _ in range(2):
            same(model(tokens), plain(tokens))
        with pytest.raises(IndexError):
            model(tokens + 11)
    assert len(model.forward.plans) == 1 and len(engine.calls) >= 4, model.forward.reason


_LAYER, _HEAD = nn.GRU(5, 7).requires_grad_(False), nn.Linear(7, 2).requires_grad_(False)


def _named(x: Tensor, scale: float = 2.0) -> Tensor:
    return _HEAD(_LAYER(x * scale)[1][0])


def test_a_function_that_names_modules(engine: ReferenceEngine) -> None:
    closed = nn.LSTM(5, 7).requires_grad_(False)

    def closing(x: Tensor) -> Tensor:
        return closed(x)[0]

    for function in (_named, closing):
        f, x = ak.autokernel(function), torch.randn(6, 3, 5)
        for _ in range(2):
            same(f(x), function(x))
        assert len(f.plans) == 1, f.reason


def test_a_module_that_a_function_names_may_change(engine: ReferenceEngine) -> None:
    f, x = ak.autokernel(_named), torch.randn(6, 3, 5)
    f(x)
    with torch.no_grad():
        _HEAD.weight.add_(1.0)
    same(f(x), _named(x))
    _HEAD.register_forward_hook(lambda _m, _i, out: out * 3)
    try:
        same(f(x), _named(x))
    finally:
        _HEAD._forward_hooks.clear()


_DROP = nn.Dropout()


class Dropping(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return _DROP(x)


def test_a_module_that_is_not_watched_may_change(engine: ReferenceEngine) -> None:
    f = Accelerated(Dropping.forward, Dropping().eval(), {})
    _DROP.eval()
    assert f._plan(None, (torch.randn(6, 3),)) is None and "may change" in f.reason


def test_what_falls_back(engine: ReferenceEngine) -> None:
    x = torch.randn(6, 3, 5)
    training = nn.LSTM(5, 7, 2, dropout=0.5)
    with torch.no_grad():
        f = Accelerated(nn.LSTM.forward, training, {})
        assert f._plan(None, (x,)) is None and "dropout" in f.reason
        packed = nn.utils.rnn.pack_padded_sequence(x, [6, 4, 2])
        plain = nn.GRU(5, 7)
        layer = ak.autokernel(copy.deepcopy(plain))
        same(layer(packed)[1], plain(packed)[1])
        assert not layer.forward.plans
    f = Accelerated(nn.LSTM.forward, nn.LSTM(5, 7), {})
    assert f._plan(None, (x,)) is None and "gradients" in f.reason
    assert not engine.regions


def test_a_layer_that_falls_back_runs_plainly(engine: ReferenceEngine) -> None:
    """torch.compile would only stand in its way."""
    layer, x = ak.autokernel(nn.LSTM(5, 7)), torch.randn(6, 3, 5, requires_grad=True)
    layer(x)[0].sum().backward()
    assert x.grad is not None and layer.forward._compiled is None


def test_what_torch_cannot_compile_runs_as_it_is(engine: ReferenceEngine) -> None:
    def sorting(x: Tensor, h: Tensor) -> Any:
        return scan(lambda h, xt: ((h + xt).sort(-1).values, h * 2), h, x)

    f, x, h = ak.autokernel(sorting), torch.randn(9, 3, 6), torch.randn(3, 6)
    want = sorting(x, h)
    with pytest.warns(RuntimeWarning, match="runs as it is"):
        same(f(x, h), want)
    same(f(x, h), want)
    with pytest.raises(torch._dynamo.exc.BackendCompilerFailed):
        ak.autokernel(sorting, strict=True)(x, h)


def test_what_is_slower_falls_back(engine: ReferenceEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def measured(contenders: Any, kernels: Any) -> Any:
        seen.append(sorted(contenders))
        for run in contenders.values():
            run()
        return trial.Outcome(frozenset(), "it is slower")

    monkeypatch.setattr(engine, "timed", True, raising=False)
    monkeypatch.setattr(trial, "_measured", measured)
    plain = nn.LSTM(5, 7)
    layer, x = ak.autokernel(copy.deepcopy(plain)), torch.randn(6, 3, 5)
    with torch.no_grad():
        same(layer(x), plain(x))
        assert layer.forward.reason == "it is slower" and not layer.forward.plans
        again = ak.autokernel(copy.deepcopy(plain))
        same(again(x), plain(x))
    assert seen == [["", "eager"]], "what was found is kept"


def test_the_slowest_comparison_counts() -> None:
    def busy(rounds: int) -> Any:
        return lambda: sum(range(rounds))

    fast, slow, kernels = busy(2_000), busy(20_000), frozenset("k")
    assert trial._measured({"": fast, "eager": slow}, kernels).kept == kernels
    lost = trial._measured({"": slow, "eager": busy(60_000), "torch.compile": fast}, kernels)
    assert not lost.kept and "of torch.compile" in lost.reason


# ---------------------------------------------------------------------- scan
def both(x: Tensor, h: Tensor, w: Tensor) -> Any:
    def step(state: Any, xt: Tensor) -> Any:
        h, n = state
        h = torch.tanh(xt + h @ w)
        n = n + h.sum(-1, keepdim=True)
        return (h, n), (h.clone(), n * 2)

    return scan(step, (h, h[:, :1] * 0), x)


def backwards(x: Tensor, h: Tensor, w: Tensor) -> Any:
    def step(h: Tensor, xt: Tensor) -> Any:
        h = torch.sigmoid(xt) * h + torch.softmax(h @ w, -1)
        return h, h * 2

    return scan(step, h, x.exp(), dim=0, reverse=True)


def along_the_second(x: Tensor, h: Tensor, w: Tensor) -> Any:
    def step(h: Tensor, xt: Any) -> Any:
        a, b = xt
        return torch.tanh(a * h + b @ w), a + h

    h, y = scan(step, h, (x.transpose(0, 1), x.transpose(0, 1).cos()), dim=1)
    return y.transpose(0, 1) @ w, h


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.slow)])
@pytest.mark.parametrize("length", [1, pytest.param(2, marks=pytest.mark.slow), 19])
@pytest.mark.parametrize("function", [both, backwards, along_the_second])
def test_scans(function: Any, length: int, dtype: torch.dtype, engine: ReferenceEngine) -> None:
    args = [torch.randn(length, 3, 6).to(dtype), torch.randn(3, 6).to(dtype), (torch.randn(6, 6) * 0.3).to(dtype)]
    f = ak.autokernel(function)
    want = function(*args)
    for _ in range(2):
        same(f(*args), want, TOLERANCE[dtype])
    assert len(f.plans) == 1 and f._compiled is None, f.reason


def test_scans_that_are_refused(engine: ReferenceEngine) -> None:
    def sorting(x: Tensor, h: Tensor) -> Any:
        return scan(lambda h, xt: ((h + xt).sort(-1).values, h * 2), h, x)

    def whole(x: Tensor, h: Tensor) -> Any:
        return scan(lambda h, xt: (h + xt * x.sum(0), h * 2), h, x)

    x, h = torch.randn(9, 3, 6), torch.randn(3, 6)
    for function, reason in ((sorting, "sort"), (whole, "step by step and as a whole")):
        f = Accelerated(function, None, {})
        assert f._plan(None, (x, h)) is None and reason in f.reason, f.reason


def test_only_a_scan_of_torch_makes_a_program() -> None:
    def made(scan: Any) -> Any:
        return lambda x: scan(lambda h, y: (h + y, h.clone()), x[0], x)

    def by_its_place(x: Tensor) -> Any:
        return torch._higher_order_ops.scan(lambda h, y: (h + y, h.clone()), x[0], x)

    assert concerns(made(scan), None) and concerns(by_its_place, None)
    assert not concerns(made(lambda f, h, x: x), None)


def test_results_may_be_changed_in_place(engine: ReferenceEngine) -> None:
    for kind in (nn.LSTM, nn.GRU):
        plain = kind(5, 7, batch_first=True)
        layer, x, more = ak.autokernel(copy.deepcopy(plain)), torch.randn(3, 9, 5), nn.Parameter(torch.ones(7))
        for _ in range(2):
            found = []
            for f in (layer, plain):
                with torch.no_grad():
                    y, ends = f(x)
                first = ends[0] if isinstance(ends, tuple) else ends
                first += more
                if f is layer:
                    y += more
                    y.detach_(), first.detach_()
                found.append((first.detach(), y.detach() - (more if f is layer else 0)))
            same(*map(list, found))
        assert layer.forward.plans, layer.forward.reason


def test_everything_is_watched_once() -> None:
    def twice(x: Tensor) -> Tensor:
        return torch.sigmoid(torch.tanh(x))

    for found in (watch(Language.forward, Language()), watch(nn.GRU.forward, nn.GRU(5, 7)), watch(twice)):
        keys = [(id(space), key) for space, key, _value in found.entries]
        assert found.reason is None and len(keys) == len(set(keys))
    assert any(key == "batch_first" for _space, key, _value in watch(nn.GRU.forward, nn.GRU(5, 7)).entries)


def test_a_layers_own_constants_are_watched(engine: ReferenceEngine) -> None:
    plain = nn.GRU(5, 5)
    layer, x = ak.autokernel(copy.deepcopy(plain)), torch.randn(9, 9, 5)
    with torch.no_grad():
        same(layer(x), plain(x))
        layer.batch_first = plain.batch_first = True
        same(layer(x), plain(x))
    dropping = ak.autokernel(nn.LSTM(5, 7, 2, dropout=0.9)).eval()
    with torch.no_grad():
        before = dropping(x)[0]
        dropping.train()
        assert not torch.equal(dropping(x)[0], before)


class Counting(nn.Module):
    """Its first graph has run when torch finds that it cannot compile the second."""

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.seen = 0, list[int]()

    def forward(self, x: Tensor, h: Tensor) -> Any:
        self.calls += 1
        y = torch.relu(x)
        torch._dynamo.graph_break()
        self.seen.append(self.calls)
        return scan(lambda h, xt: ((h + xt).sort(-1).values, h * 2), h, y)


def test_what_has_run_is_not_run_again(engine: ReferenceEngine) -> None:
    plain = Counting()
    module, x, h = ak.autokernel(Counting()), torch.randn(9, 3, 6), torch.randn(3, 6)
    with torch.no_grad(), pytest.warns(RuntimeWarning, match="runs as it is"):
        for n in range(1, 4):
            same(module(x, h), plain(x, h))
            assert module.calls == n and module.seen == plain.seen == list(range(1, n + 1))
