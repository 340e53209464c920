"""Beside convolutions regions have the strides that Inductor gives images there."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.capture.engines import ReferenceEngine
from torch_autokernel.capture.backend import autokernel


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.Conv2d(8, 8, 3, padding=1)
        self.norm = torch.nn.GroupNorm(4, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.first(x)
        return h + self.second(F.silu(self.norm(h)))


@pytest.mark.parametrize("rest", ["inductor", "eager"])
@pytest.mark.parametrize("dynamic", [False, True])
def test_kernels_between_convolutions_run(
    engine: ReferenceEngine, caplog: pytest.LogCaptureFixture, rest: str, dynamic: bool
) -> None:
    torch.manual_seed(0)
    model, x = Net(), torch.randn(2, 3, 10, 12)
    compiled: Any = torch.compile(model, backend=autokernel, dynamic=dynamic, options={"rest": rest})
    with torch.no_grad():
        got, want = compiled(x), model(x)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    assert got.stride() == want.stride()
    got, want = compiled(x), model(x)
    gradients = [torch.autograd.grad(y.square().mean(), list(model.parameters())) for y in (got, want)]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
    assert engine.calls and "the reference runs" not in caplog.text
    for phase in ("inference", "forward", "backward"):
        images = [s for r in engine.regions if r.phase == phase for s in r.signature.inputs if len(s.shape) == 4 and s.shape[1] == 8]
        assert images and any(s.natural_stride()[1] == 1 for s in images) == (rest == "inductor"), phase


def test_a_norm_that_views_images_otherwise(engine: ReferenceEngine, caplog: pytest.LogCaptureFixture) -> None:
    """Instance norm joins batch and channels, which no view of channels-last images can."""
    model, x = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.InstanceNorm2d(8)), torch.randn(2, 3, 10, 12)
    compiled: Any = torch.compile(model, backend=autokernel, options={"strict": True})
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), model(x), rtol=1e-4, atol=1e-5)
    assert engine.calls and "the reference runs" not in caplog.text
