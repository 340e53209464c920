"""Decorated functions and modules within a graph of torch.compile: loops stand between two graphs, all else is just its text."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._dynamo.testing import CompileCounter

import torch_autokernel as ak
from tests.capture.engines import ReferenceEngine
from torch_autokernel.capture import around
from torch_autokernel.capture.inner import goes_over_time
from torch_autokernel.capture.staged import concerns
from torch_autokernel.core.errors import GuardMiss

Tensor = torch.Tensor
LENGTH = 40


def scan(x: Tensor, delta: Tensor) -> Tensor:
    h = x.new_zeros(x.shape[0], x.shape[2])
    out = []
    for t in range(x.shape[1]):
        h = torch.sigmoid(delta[:, t]) * h + x[:, t]
        out.append(h)
    return torch.stack(out, 1)


fast_scan = ak.autokernel(scan, strict=True)


class Scan(nn.Module):
    def forward(self, x: Tensor, delta: Tensor) -> Tensor:
        return scan(x, delta)


class MethodScan(nn.Module):
    @ak.autokernel(strict=True)
    def forward(self, x: Tensor, delta: Tensor) -> Tensor:
        return scan(x, delta)


@ak.autokernel(strict=True)
class ClassScan(nn.Module):
    def forward(self, x: Tensor, delta: Tensor) -> Tensor:
        return scan(x, delta)


class FunctionScan(nn.Module):
    def forward(self, x: Tensor, delta: Tensor) -> Tensor:
        return fast_scan(x, delta)


def instance() -> nn.Module:
    return ak.autokernel(Scan(), strict=True)


INNER: dict[str, Callable[[], nn.Module]] = {
    "function": FunctionScan, "method": MethodScan, "class": ClassScan, "instance": instance
}


class Outer(nn.Module):
    def __init__(self, scan: nn.Module) -> None:
        super().__init__()
        self.a, self.b, self.scan = nn.Linear(6, 12), nn.Linear(6, 6), scan

    def forward(self, x: Tensor) -> Tensor:
        u, d = self.a(x).chunk(2, -1)
        return self.b(self.scan(F.silu(u), d))


def plainly(model: Outer) -> Outer:
    plain = Outer(Scan())
    plain.load_state_dict(model.state_dict())
    return plain


def gradients(call: Callable[[Tensor], Tensor], model: nn.Module, x: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_()
    y = call(x)
    return [y.detach(), *torch.autograd.grad(y.square().sum(), [x, *model.parameters()])]


@pytest.mark.parametrize("kind", INNER)
def test_a_decorated_loop_is_its_kernel_within_a_compiled_model(engine: ReferenceEngine, kind: str) -> None:
    torch.manual_seed(0)
    model = Outer(INNER[kind]())
    plain = plainly(model)
    counter = CompileCounter()
    compiled = torch.compile(model, backend=counter)
    x = torch.randn(2, LENGTH, 6)
    for _ in range(2):
        with torch.no_grad():
            torch.testing.assert_close(compiled(x), plain(x))
        for got, want in zip(gradients(compiled, model, x), gradients(plain, plain, x), strict=True):
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    assert len(engine.calls) >= 6, "no kernel ran"
    assert counter.op_count < LENGTH, "the loop was unrolled"


def test_a_whole_graph_is_asked_for(engine: ReferenceEngine) -> None:
    model = Outer(instance())
    x = torch.randn(2, LENGTH, 6)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(model, backend="eager", fullgraph=True)(x), plainly(model)(x))
    assert not engine.calls


def test_dynamo_forgets(engine: ReferenceEngine) -> None:
    model, x = Outer(instance()), torch.randn(2, LENGTH, 6)
    for _ in range(2):
        counter = CompileCounter()
        with torch.no_grad():
            torch.testing.assert_close(torch.compile(model, backend=counter)(x), plainly(model)(x))
        assert counter.op_count < LENGTH
        torch._dynamo.reset()
    assert len(engine.calls) == 3, "one beside the original, two calls"


@ak.autokernel(strict=True)
def gated(x: Tensor, y: Tensor) -> Tensor:
    return F.silu(x) * y


class Gated(nn.Module):
    @ak.autokernel(strict=True)
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return F.silu(x) * y


@pytest.mark.parametrize("inner", [gated, Gated(), ak.autokernel(nn.PReLU(1), strict=True)], ids=["function", "method", "torch's"])
def test_what_is_no_loop_is_text_within_a_graph(engine: ReferenceEngine, inner: Any) -> None:
    counter = CompileCounter()

    def outer(x: Tensor) -> Tensor:
        return (inner(x) if isinstance(inner, nn.PReLU) else inner(x, x.cos())) + 1

    x = torch.randn(3, 5)
    with torch.no_grad():
        expected = (F.prelu(x, inner.weight) if isinstance(inner, nn.PReLU) else F.silu(x) * x.cos()) + 1
        torch.testing.assert_close(torch.compile(outer, backend=counter)(x), expected)
    assert counter.frame_count == 1 and not engine.calls


class Stack(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers, self.norms = nn.ModuleList([nn.Linear(4, 4)]), nn.ModuleList([nn.LayerNorm(4)])

    def forward(self, x: Tensor) -> Tensor:
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = x + layer(norm(x))
        q, k = (y.cos() for y in x.chunk(2, -1))
        return q + k


class Steps(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return self.steps(x)

    def steps(self, x: Tensor) -> Tensor:
        for row in x.unbind(1):
            x = x * row
        return x


def test_loops_over_layers_are_not_over_time() -> None:
    assert not goes_over_time(Stack.forward, Stack())
    assert not goes_over_time(gated.original)
    assert goes_over_time(scan) and goes_over_time(Scan.forward, Scan())

    class Named(Stack):
        def forward(this, x: torch.Tensor) -> torch.Tensor:  # noqa: N805  the object by another name is no local value either
            for layer in this.children():
                x = layer(x)
            return x

    assert not goes_over_time(Named.forward, Named())
    assert goes_over_time(Steps.forward, Steps()) and not goes_over_time(Steps.forward)


def test_a_scan_of_the_user_s_own_is_none_of_torch_s() -> None:
    assert not concerns(scan, None) and not concerns(Scan.forward, Scan()) and not concerns(Outer.forward, Outer(Scan()))


class Mixed(nn.Module):
    """A loop between products, of whose input each step reads what a generator made."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 18), nn.Linear(6, 6)
        self.mix = nn.Parameter(torch.rand(2, 6))

    def forward(self, x: Tensor) -> Tensor:
        u, d, skip = self.a(x).chunk(3, -1)
        before = F.pad(x, (0, 0, 1, -1))
        left, right = (x + before * m for m in self.mix)
        h = x.new_zeros(x.shape[0], x.shape[2])
        out = []
        for t in range(x.shape[1]):
            h = torch.sigmoid(d[:, t]) * h + u[:, t]
            out.append(h * right[:, t])
        return self.b(torch.stack(out, 1) + left * skip)


class Tower(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Mixed() for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(6) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = x + layer(norm(x))
        return x


def test_a_loop_between_products_is_a_kernel_in_inference(engine: ReferenceEngine) -> None:
    torch.manual_seed(0)
    model, x = Mixed(), torch.randn(2, LENGTH, 6)
    fast = ak.autokernel(copy.deepcopy(model), strict=True)
    with torch.no_grad():
        for length in (LENGTH, LENGTH, LENGTH + 5):
            x = torch.randn(2, length, 6)
            torch.testing.assert_close(fast(x), model(x))
    assert len(fast.forward.plans) == 2 and fast.forward._compiled is None, fast.forward.reason
    assert len(set(engine.calls)) == 1, "one kernel serves all lengths"


@pytest.mark.parametrize("pays", [True, False])
def test_what_stands_around_a_loop_is_one_graph_where_that_is_faster(
    pays: bool, engine: ReferenceEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs: dict[Any, Any] = {}
    asked = []

    def trial(whole: Any, decision: Any, compiled: Any, eager: Any, config: Any) -> bool:
        torch.testing.assert_close(compiled()(), eager())
        asked.append(whole.sizes)
        return pays

    monkeypatch.setattr(around, "compiling_around_pays", trial)
    monkeypatch.setattr(around, "_GRAPHS", graphs)
    torch.manual_seed(0)
    model = Tower()
    fast = ak.autokernel(copy.deepcopy(model), strict=True, rest="eager")
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            for length in (LENGTH, LENGTH, LENGTH + 5, LENGTH + 3):
                x = torch.randn(2, length, 6)
                torch.testing.assert_close(fast(x), model(x))
    assert len(graphs) == 2, "layers that are alike have one, each of two lengths; the third has none"
    assert len(asked) == 4 and all(len(layer.forward.plans) == 3 for layer in fast.layers)
    torch._dynamo.reset()
    before = len(engine.calls)
    with torch.no_grad():
        fast(torch.randn(2, LENGTH, 6))
    loops = {r.signature.digest for r in engine.regions if r.signature.ops[0].target == "loop"}
    assert sum(digest in loops for digest in engine.calls[before:]) == 2


def test_a_graph_around_a_loop_is_for_tensors_as_they_were(engine: ReferenceEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another dtype of arguments or parameters, of the same shapes: dynamo would compile it anew around a kernel for the first."""
    monkeypatch.setattr(around, "compiling_around_pays", lambda whole, decision, compiled, eager, config: compiled() is not None)
    monkeypatch.setattr(around, "_GRAPHS", {})
    torch.manual_seed(0)
    model = Mixed()
    fast = ak.autokernel(copy.deepcopy(model), strict=True, rest="eager")
    x = torch.randn(2, LENGTH, 6)
    with torch.no_grad():
        torch.testing.assert_close(fast(x), model(x))
        (plan,) = fast.forward.plans.values()
        assert isinstance(plan.kernel, around._Graph)
        for change in (nn.Module.double, nn.Module.float):
            change(model), change(fast)
            x = x.to(next(model.parameters()).dtype)
            got = fast(x)
            assert got.dtype == x.dtype
            torch.testing.assert_close(got, model(x))
        turned = x.transpose(0, 1).contiguous().transpose(0, 1)
        torch.testing.assert_close(fast(turned), model(turned))


def test_a_graph_around_a_loop_that_fails_is_not_asked_again(engine: ReferenceEngine) -> None:
    def fails(*given: Tensor) -> Any:
        calls.append(given)
        if len(calls) > 1:
            raise RuntimeError("no compiler")
        return given

    calls: list[Any] = []
    graph = around._Graph(fails)
    graph(torch.ones(2))
    for _ in range(3):
        with pytest.raises(GuardMiss):
            graph(torch.ones(2))
    assert len(calls) == 2


def test_a_graph_around_a_loop_that_differs_is_not_used(engine: ReferenceEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(around, "compiling_around_pays", lambda *given: True)
    monkeypatch.setattr(around, "_GRAPHS", {})
    monkeypatch.setattr(torch, "compile", lambda function, **options: lambda *given: [t + 1 for t in function(*given)])
    model, x = Mixed(), torch.randn(2, LENGTH, 6)
    fast = ak.autokernel(copy.deepcopy(model), strict=True)
    with torch.no_grad():
        torch.testing.assert_close(fast(x), model(x))
        assert len(fast.forward.plans) == 1
        torch.testing.assert_close(fast(x), model(x))


def test_the_looping_parts_of_a_decorated_model_are_kernels(engine: ReferenceEngine) -> None:
    torch.manual_seed(0)
    model = Tower()
    fast = ak.autokernel(copy.deepcopy(model), strict=True)
    x = torch.randn(2, LENGTH, 6)
    for _ in range(3):
        with torch.no_grad():
            torch.testing.assert_close(fast(x), model(x))
        for got, want in zip(gradients(fast, fast, x), gradients(model, model, x), strict=True):
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    parts = [layer.forward for layer in fast.layers]
    assert all(len(p.plans) == 1 and len(p.trainer.plans) == 1 and p._compiled is None for p in parts)
    again = copy.deepcopy(fast)
    with torch.no_grad():
        torch.testing.assert_close(again(x), model(x))
    assert again.layers[0].forward.module is again.layers[0]
    ak.restore(fast)
    assert not any("forward" in m.__dict__ for m in fast.modules())


def test_parts_without_a_kernel_stay_as_they_are(engine: ReferenceEngine) -> None:
    engine.wanted = lambda region: False
    model, x = Tower(), torch.randn(2, LENGTH, 6)
    fast = ak.autokernel(copy.deepcopy(model), rest="eager")
    with torch.no_grad():
        for _ in range(2):
            torch.testing.assert_close(fast(x), model(x))
    assert not any("forward" in m.__dict__ for m in fast.layers) and not engine.calls


class Normed(Tower):
    """Random numbers, buffers, and, where wanted, an argument that is changed."""

    def __init__(self, changes: bool = False) -> None:
        super().__init__()
        self.batch, self.changes = nn.BatchNorm1d(6), changes

    def forward(self, x: Tensor) -> Tensor:
        if self.changes:
            x = x.add_(1)
        return self.batch(super().forward(x).transpose(1, 2)) + torch.rand(x.shape[1])


@pytest.mark.parametrize("changes", [False, True])
def test_the_call_in_which_parts_look_for_kernels_happens_once(engine: ReferenceEngine, changes: bool) -> None:
    torch.manual_seed(0)
    model = Normed(changes)
    fast = ak.autokernel(copy.deepcopy(model), rest="eager")
    given = torch.randn(2, LENGTH, 6)
    for k in range(3):
        x, y = given.clone(), given.clone()
        torch.manual_seed(k)
        want = model(x)
        torch.manual_seed(k)
        got = fast(y)
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
        assert torch.equal(x, y)
        for a, b in zip(fast.buffers(), model.buffers(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert fast.batch.num_batches_tracked == 3 and engine.calls


class Remembering(Outer):
    def forward(self, x: Tensor, seen: Any = None) -> Tensor:
        if seen is not None:
            seen.append(1)
        return super().forward(x)


@pytest.mark.parametrize("keyword", [False, True])
def test_what_is_passed_on_is_changed_once(engine: ReferenceEngine, keyword: bool) -> None:
    """A list among the arguments is not understood: such a call is made once, whichever parts look for kernels."""
    module, seen = ak.autokernel(Remembering(Scan()).eval()), list[int]()
    with torch.no_grad():
        for n in range(1, 4):
            x = torch.randn(3, 9, 6)
            got = module(x, seen=seen) if keyword else module(x, seen)
            torch.testing.assert_close(got, Outer.forward(module, x))
            assert len(seen) == n
