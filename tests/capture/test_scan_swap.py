"""Scans within the graphs of torch.compile, forward and backward."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch._higher_order_ops import scan

from tests.capture.engines import ReferenceEngine
from torch_autokernel.capture.record import recording

Tensor = torch.Tensor


def around(x: Tensor, h: Tensor, w: Tensor) -> Any:
    def step(h: Tensor, xt: Tensor) -> Any:
        h = torch.tanh(xt + h @ w)
        return h.clone(), h * 2

    h, y = scan(step, h, x.sin(), reverse=True)
    return y.exp(), h + 1


def inputs() -> list[Tensor]:
    return [torch.randn(9, 3, 6), torch.randn(3, 6), torch.randn(6, 6) * 0.3]


def test_inference(engine: ReferenceEngine) -> None:
    args = inputs()
    want = around(*args)
    with recording() as records:
        got = torch.compile(around, backend="autokernel")(*args)
    torch.testing.assert_close(got, want)
    loops = [r for r in engine.regions if "for t in" in r.reference]
    assert len(loops) == 1 and loops[0].signature.digest in engine.calls
    assert any(r.swapped and "for t in" in d.region.reference for r in records for d in r.decisions)


def test_training(engine: ReferenceEngine) -> None:
    """torch makes scans of the gradient too."""
    mine, theirs = inputs(), inputs()
    for a, b in zip(mine, theirs, strict=True):
        b.copy_(a)
    for t in (*mine, *theirs):
        t.requires_grad_()
    y, h = torch.compile(around, backend="autokernel")(*mine)
    (y.sum() + h.square().sum()).backward()
    want, state = plain(*theirs)
    torch.testing.assert_close((y, h), (want, state))
    (want.sum() + state.square().sum()).backward()
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-4)
    assert {r.phase for r in engine.regions if "for t in" in r.reference} == {"forward", "backward"}


def plain(x: Tensor, h: Tensor, w: Tensor) -> Any:
    ys = []
    for xt in reversed(x.sin().unbind(0)):
        h = torch.tanh(xt + h @ w)
        ys.append(h * 2)
    return torch.stack(ys[::-1]).exp(), h + 1


def test_a_scan_without_a_kernel_stays(monkeypatch: pytest.MonkeyPatch, engine: ReferenceEngine) -> None:
    engine.wanted = lambda region: "for t in" not in region.reference
    with recording() as records, pytest.raises(torch._dynamo.exc.BackendCompilerFailed):  # Inductor cannot do it either
        torch.compile(around, backend="autokernel")(*inputs())
    assert any(d.outcome == "refused" for r in records for d in r.decisions)
