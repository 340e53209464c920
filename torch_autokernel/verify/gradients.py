"""Forward and backward that a user wrote, as plain functions: are the gradients right?

A backward *region* needs none of this: it is a region like any other. This is for a pair that claims to belong together:

    def forward(x, w): return (y,), (x, w)            # outputs, and what is kept for backward
    def backward(saved, dy): return dx, dw            # one gradient for each input, None where there is none

    findings = check_pair(reference, forward, backward, inputs)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.autograd import gradcheck, gradgradcheck

from torch_autokernel.core.types import Finding, Status

Forward = Callable[..., tuple[tuple[torch.Tensor, ...], tuple[Any, ...]]]
Backward = Callable[..., Any]
RELATIVE = 1e-9  # of a gradient's largest element, in float64


def check_pair(
    reference: Callable[..., Any], forward: Forward, backward: Backward, inputs: Sequence[torch.Tensor],
    double_backward: bool = False, seed: int = 0,
) -> list[Finding]:  # fmt: skip
    """Findings `forward`, `gradcheck` (finite differences in float64), `autograd` (against the reference's gradients in
    float64) and, where claimed, `double_backward`. The functions are called with float64 copies of the float inputs."""
    double = [_leaf(t) for t in inputs]
    function = _function(forward, backward)
    checks: list[tuple[str, Callable[[], str]]] = [
        ("forward", lambda: _values(reference, function, double)),
        ("gradcheck", lambda: _numeric(gradcheck, function, double)),
        ("autograd", lambda: _against(reference, function, double, seed)),
    ]
    if double_backward:
        checks.append(("double_backward", lambda: _numeric(gradgradcheck, function, double)))
    findings = []
    for name, check in checks:
        try:
            reason = check()
        except Exception as error:  # the user's functions: whatever they raise is the finding
            reason = f"{type(error).__name__}: {error}"
        findings.append(Finding(name, Status.FAIL if reason else Status.PASS, reason))
    return findings


def _leaf(tensor: torch.Tensor) -> torch.Tensor:
    if not tensor.is_floating_point():
        return tensor.detach().clone()
    return tensor.detach().to(torch.float64, copy=True).requires_grad_()


def _function(forward: Forward, backward: Backward) -> Callable[..., tuple[torch.Tensor, ...]]:
    class Pair(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *args: Any) -> Any:
            outputs, saved = forward(*args)
            tensors = [s for s in saved if isinstance(s, torch.Tensor)]
            ctx.save_for_backward(*tensors)
            ctx.rest = [None if isinstance(s, torch.Tensor) else s for s in saved]
            ctx.places = [i for i, s in enumerate(saved) if isinstance(s, torch.Tensor)]
            return tuple(outputs)

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            saved = list(ctx.rest)
            for place, tensor in zip(ctx.places, ctx.saved_tensors, strict=True):
                saved[place] = tensor
            out = backward(tuple(saved), *grads)
            return out if isinstance(out, tuple) else (out,)

    return Pair.apply


def _outputs(result: Any) -> tuple[torch.Tensor, ...]:
    return tuple(result) if isinstance(result, (tuple, list)) else (result,)


def _values(reference: Callable[..., Any], function: Callable[..., Any], inputs: Sequence[torch.Tensor]) -> str:
    return _first_difference("output", _outputs(function(*inputs)), _outputs(reference(*inputs)))


def _numeric(check: Callable[..., bool], function: Callable[..., Any], inputs: Sequence[torch.Tensor]) -> str:
    try:
        return "" if check(function, tuple(inputs), raise_exception=True) else "the gradients are wrong"
    except RuntimeError as error:
        return " ".join(str(error).split())[:500]


def _against(reference: Callable[..., Any], function: Callable[..., Any], inputs: Sequence[torch.Tensor], seed: int) -> str:
    wanted = [t for t in inputs if t.requires_grad]
    generator = torch.Generator().manual_seed(seed)
    grads = []
    for call in (reference, function):
        outputs = [o for o in _outputs(call(*inputs)) if o.requires_grad]
        generator.manual_seed(seed)
        weights = [torch.randn(o.shape, generator=generator, dtype=torch.float64) for o in outputs]
        grads.append(torch.autograd.grad(outputs, wanted, weights, allow_unused=True))
    return _first_difference("gradient", grads[1], grads[0])


def _first_difference(what: str, have: Sequence[torch.Tensor | None], want: Sequence[torch.Tensor | None]) -> str:
    if len(have) != len(want):
        return f"{len(have)} {what}s where the reference has {len(want)}"
    for i, (a, b) in enumerate(zip(have, want, strict=True)):
        a = torch.zeros_like(b) if a is None and b is not None else a
        b = torch.zeros_like(a) if b is None and a is not None else b
        if a is None or b is None:
            continue
        if a.shape != b.shape:
            return f"{what} {i} has shape {tuple(a.shape)}, the reference's has {tuple(b.shape)}"
        a, b = a.detach(), b.detach()
        error, scale = float((a - b).abs().max()) if a.numel() else 0.0, float(b.abs().max()) if b.numel() else 0.0
        if not error <= RELATIVE * max(scale, 1e-30):
            return f"{what} {i} differs by {error:.3g}, where the largest element is {scale:.3g}"
    return ""
