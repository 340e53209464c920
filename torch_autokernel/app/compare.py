"""Whether two results of one model are the same up to rounding."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from torch_autokernel.app.problems import Problem, user_code
from torch_autokernel.core.errors import UsageError

# Allowed error as a share of |expected| + rms(expected): some hundred roundings in float32 (KernelBench's 1e-4), a few in
# the short types, whose intermediate results a fused kernel keeps in float32 while eager rounds each of them.
SHARE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 4e-2, torch.float16: 5e-3}
OWN = 10.0  # how many times eager's own distance (rms) from float64 is allowed on top: gradients that cancel are all rounding


def difference(got: Sequence[Any], expected: Sequence[Any], exact: Sequence[Any] | None = None) -> tuple[float, str]:
    """The largest error in parts of what is allowed, and where it lies: at most 1 is equal. `exact` is the same in float64."""
    if len(got) != len(expected):
        return float("inf"), f"{len(got)} results instead of {len(expected)}"
    truths = exact if exact is not None and len(exact) == len(expected) else [None] * len(expected)
    told = [_leaf(g, e, x) for g, e, x in zip(got, expected, truths, strict=True)]
    worst = max(range(len(told)), key=lambda i: told[i][0], default=None)
    if worst is None:
        return float("inf"), "there are no results"
    return told[worst][0], f"result {worst}: {told[worst][1]}"


def _leaf(got: Any, expected: Any, exact: Any) -> tuple[float, str]:
    if not isinstance(expected, torch.Tensor) or not isinstance(got, torch.Tensor):
        same = type(got) is type(expected) and got == expected
        return (0.0, "equal") if same else (float("inf"), f"{got!r} instead of {expected!r}")
    if got.shape != expected.shape or got.dtype != expected.dtype:
        return float("inf"), f"{got.dtype} {list(got.shape)} instead of {expected.dtype} {list(expected.shape)}"
    if expected.dtype not in SHARE:
        wrong = int((got != expected).sum())
        return (0.0, "equal") if not wrong else (float("inf"), f"{wrong} of {expected.numel()} values differ")
    if expected.numel() == 0:
        return 0.0, "empty"
    return _floating(got.detach().double(), expected.detach().double(), SHARE[expected.dtype], exact)


def _floating(got: torch.Tensor, expected: torch.Tensor, share: float, exact: Any) -> tuple[float, str]:
    if not bool((_specials(got) == _specials(expected)).all()):
        return float("inf"), "infinities and NaNs are not where they are expected"
    finite = expected.isfinite()
    e, g = expected[finite], got[finite]
    if e.numel() == 0:
        return 0.0, "no finite values"
    allowed = share * (e.abs() + _rms(e))
    if isinstance(exact, torch.Tensor) and exact.shape == expected.shape:
        own = e - exact.detach().double()[finite]
        allowed = allowed + OWN * _rms(own[own.isfinite()])
    error = (g - e).abs()
    parts = error / allowed.clamp_min(torch.finfo(torch.float64).tiny)
    at = int(parts.argmax())
    where = f"{float(g[at]):.7g} where {float(e[at]):.7g} is expected, {float(allowed[at]):.2g} apart is allowed"
    return float(parts[at]), where


def _specials(value: torch.Tensor) -> torch.Tensor:
    """1 at NaNs, 2 and 3 at infinities, 0 elsewhere."""
    return value.isnan().int() + 2 * value.isposinf().int() + 3 * value.isneginf().int()


def _rms(value: torch.Tensor) -> float:
    return float(value.square().mean().sqrt()) if value.numel() else 0.0


def in_float64(problem: Problem) -> Problem:
    """The problem with its parameters and floating inputs in float64."""

    def wide(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or not value.is_floating_point():
            return value
        return value.detach().double().requires_grad_(value.requires_grad)

    model = copy.deepcopy(problem.model).double() if isinstance(problem.model, nn.Module) else problem.model
    inputs, kwargs = pytree.tree_map(wide, (problem.inputs, problem.kwargs))
    return replace(problem, model=model, inputs=inputs, kwargs=kwargs)


def exact_results(problem: Problem, run: Callable[[Problem], Sequence[Any]]) -> Sequence[Any] | None:
    """What `run` gives in float64; None for a problem that does not run there (one that fixes dtypes itself)."""
    try:
        with user_code("running in float64"):
            return run(in_float64(problem))
    except UsageError:
        return None
