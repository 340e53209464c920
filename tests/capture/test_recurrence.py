"""Loops over time rolled up again: the printed loop is the original at every length, and what is not understood is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import torch_autokernel as ak
from tests.capture.cells import CELLS, GRU, Tensor, elman, gated, make, rn
from tests.capture.engines import ReferenceEngine
from torch_autokernel.capture.recurrence import Unrolls, capture_recurrence, loops
from torch_autokernel.capture.reference import load_reference
from torch_autokernel.capture.whole import Whole
from torch_autokernel.core.errors import CaptureError
from torch_autokernel.core.types import Signature

QUICK = ("elman", "gated", "differences")


def run(whole: Whole, args: list[Tensor], module: torch.nn.Module | None, length: int) -> list[Any]:
    state = [] if module is None else [*module.parameters(), *module.buffers()]
    flat = [*args, *state]
    with torch.no_grad():
        results = load_reference(whole.captured.region.reference)(*[flat[i] for i in whole.order], length)
    return [results[o] for o in whole.outputs]


def original(function: Any, args: list[Tensor], module: torch.nn.Module | None) -> list[Tensor]:
    with torch.no_grad():
        out = function(*args) if module is None else module(*args)
    return list(out) if isinstance(out, tuple) else [out]


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in CELLS])
def test_the_loop_is_the_original_at_every_length(name: str) -> None:
    function, args, module = make(name)
    whole = capture_recurrence(function, args, module)
    signature = whole.captured.region.signature
    assert Signature.from_json(signature.to_json()) == signature
    assert sum(op.target == "loop" for op in signature.ops) == 1
    for length in (29, 2, 3, 64):
        _function, other, _module = make(name, length)
        for got, want in zip(run(whole, other, module, length), original(function, other, module), strict=True):
            torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
            assert got.stride() == want.stride() or length == 1


def two_back(x: Tensor, h: Tensor, g: Tensor) -> Tensor:
    for t in range(x.shape[1]):
        h, g = torch.tanh(x[:, t] + 0.5 * g), h * 1.0
        h = h + g.sin()
    return h


def every_other(x: Tensor, h: Tensor) -> Tensor:
    for t in range(0, x.shape[1], 2):
        h = torch.tanh(x[:, t] + h)
    return h


def numbered(x: Tensor, h: Tensor) -> Tensor:
    for t in range(x.shape[1]):
        h = torch.tanh(x[:, t] + h * (t + 1))
    return h


def one_step(x: Tensor, h: Tensor) -> Tensor:
    ys = []
    for t in range(x.shape[1]):
        h = torch.tanh(x[:, t] + h)
        ys.append(h)
    return h + ys[2]


def changes(x: Tensor, h: Tensor) -> Tensor:
    for t in range(x.shape[1]):
        h.add_(x[:, t])
    return h * 2


def growing(x: Tensor, h: Tensor) -> Tensor:
    for t in range(x.shape[1]):
        h = torch.tanh(h + x[:, : t + 1].sum(1))
    return h


@pytest.mark.parametrize("function", [every_other, numbered, one_step, changes, growing])
def test_what_is_not_understood_is_refused(function: Any) -> None:
    with pytest.raises(Unrolls) as caught:
        capture_recurrence(function, [rn(3, 40, 10), rn(3, 10)])
    assert caught.value.message.startswith("the loop cannot be rolled up: ")


def test_no_loop_is_no_loop() -> None:
    with pytest.raises(CaptureError) as caught:
        capture_recurrence(lambda x: torch.softmax(x, -1), [rn(9, 40)])
    assert not isinstance(caught.value, Unrolls)
    assert loops(elman, None) and loops(GRU.forward, GRU()) and not loops(torch.nn.Linear.forward, torch.nn.Linear(2, 2))


class MadeInALoop(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList()
        for _ in range(3):
            self.layers.append(torch.nn.Linear(4, 4))

    def reset_parameters(self) -> None:
        for layer in self.layers:
            layer.reset_parameters()  # type: ignore[operator]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.layers[0](x))

    def last(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers[1](x)  # type: ignore[no-any-return]


class RunInALoop(MadeInALoop):
    def last(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def test_a_loop_that_makes_a_module_is_none() -> None:
    assert not loops(MadeInALoop.forward, MadeInALoop())
    assert loops(RunInALoop.forward, RunInALoop())
    assert loops(torch.nn.Sequential.forward, torch.nn.Sequential(RunInALoop()))


def test_a_state_that_trades_places() -> None:
    """Faithful or refused."""
    args = [rn(3, 40, 10), rn(3, 10), rn(3, 10)]
    try:
        whole = capture_recurrence(two_back, args)
    except CaptureError:
        return
    torch.testing.assert_close(run(whole, args, None, 40)[0], two_back(*args))


def test_decorated_calls_use_one_kernel_at_all_lengths(engine: ReferenceEngine) -> None:
    f = ak.autokernel(gated)
    for length in (40, 41):
        args = [rn(length, 3, 10), rn(length, 3, 10), rn(3, 10)]
        for _ in range(2):
            torch.testing.assert_close(f(*args), gated(*args))
    assert len(f.plans) == 2 and len({r.signature.digest for r in engine.regions}) == 1
    assert f._compiled is None, "torch.compile was used"


def test_python_that_looks_at_the_length_is_noticed(engine: ReferenceEngine) -> None:
    def sly(x: Tensor, h: Tensor) -> Tensor:
        eps = 1e-3 if x.shape[1] > 30 else 1e-4
        for t in range(x.shape[1]):
            h = torch.tanh(x[:, t] + h * (1 - eps))
        return h

    for length in (20, 40):
        args = (rn(3, length, 10), rn(3, 10))
        f = ak.autokernel(sly)
        with torch.no_grad():
            torch.testing.assert_close(f._plain(*args), sly(*args))
            f._plan(None, args)
        assert bool(f.plans) is (length == 20), f.reason
    assert "at length 40" in f.reason


def test_calls_that_need_gradients_are_left_alone(engine: ReferenceEngine) -> None:
    f = ak.autokernel(gated)
    args = (rn(40, 3, 10), rn(40, 3, 10).requires_grad_(), rn(3, 10))
    assert f._plan(None, args) is None and "gradients" in f.reason
    assert not engine.regions
