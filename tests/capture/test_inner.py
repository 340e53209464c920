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
from torch_autokernel.capture.inner import goes_over_time

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
    expected = copy.deepcopy(F.prelu(x, inner.weight) if isinstance(inner, nn.PReLU) else F.silu(x) * x.cos()) + 1
    with torch.no_grad():
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
    assert goes_over_time(Steps.forward, Steps()) and not goes_over_time(Steps.forward)
