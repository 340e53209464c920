"""Pairs of forward and backward: right ones pass, each kind of wrong one fails its own check."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from torch_autokernel.core.types import Status
from torch_autokernel.verify.gradients import check_pair

GENERATOR = torch.Generator().manual_seed(3)
X, W = torch.randn(4, 5, generator=GENERATOR), torch.randn(5, generator=GENERATOR)


def reference(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return torch.tanh(x) * w


def forward(x: torch.Tensor, w: torch.Tensor) -> Any:
    t = torch.tanh(x)
    return (t * w,), (x, w)


def backward(saved: Any, dy: torch.Tensor) -> Any:
    x, w = saved
    t = torch.tanh(x)
    return dy * w * (1 - t * t), (dy * t).sum(0)


def failed(**changed: Any) -> set[str]:
    pair = {"reference": reference, "forward": forward, "backward": backward, "inputs": (X, W), "double_backward": True} | changed
    return {f.check for f in check_pair(**pair) if f.status is Status.FAIL}


def test_right_pair_passes() -> None:
    assert failed() == set()


WRONG = {
    "sign": (lambda s, dy: (-backward(s, dy)[0], backward(s, dy)[1]), {"gradcheck", "autograd", "double_backward"}),
    "mean for sum": (lambda s, dy: (backward(s, dy)[0], backward(s, dy)[1] / 4), {"gradcheck", "autograd", "double_backward"}),
    "a gradient forgotten": (lambda s, dy: (backward(s, dy)[0], None), {"gradcheck", "autograd", "double_backward"}),
    "a shape": (lambda s, dy: (backward(s, dy)[0][:2], backward(s, dy)[1]), {"gradcheck", "autograd", "double_backward"}),
    "no second derivative": (lambda s, dy: tuple(g.detach() for g in backward(s, dy)), {"double_backward"}),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_backward_fails(name: str) -> None:
    change, checks = WRONG[name]
    got = failed(backward=change)
    assert got and got <= checks and (checks - {"double_backward"}) <= got


def test_forward_is_compared_with_the_reference() -> None:
    assert "forward" in failed(forward=lambda x, w: ((torch.tanh(x) * w * 1.0001,), (x, w)))


def test_a_raising_function_is_a_finding() -> None:
    def broken(saved: Any, dy: torch.Tensor) -> Any:
        raise KeyError("no such thing")

    assert "autograd" in failed(backward=broken)


def test_integer_inputs_have_no_gradient() -> None:
    index = torch.tensor([0, 2, 2])
    findings = check_pair(
        lambda x, i: x[i],
        lambda x, i: ((x[i],), (i, x.shape[0])),
        lambda s, dy: (torch.zeros(s[1], dy.shape[1], dtype=dy.dtype).index_add(0, s[0], dy), None),
        (X, index),
        double_backward=True,
    )
    assert [f.status for f in findings] == [Status.PASS] * 4, findings
