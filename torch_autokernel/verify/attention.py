"""Torch's attention in float64: what may differ from kernel to kernel, and how far.

Behind a causal mask torch multiplies weights of 0 by the values of some keys, as its blocks fall, and by those of others not; a
NaN there may reach a row or not. With few keys, a query that holds a NaN has a result of 0, with more of them NaN. So a kernel
may do as the definition says, too: what is masked has no part in a result, all else has.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from torch_autokernel.verify import extended

if TYPE_CHECKING:
    from torch_autokernel.verify.rounding import Noise


def defined(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *more: Any, **options: Any) -> torch.Tensor:
    """The result as it is defined, without any value of a masked key in it."""
    scores, live = _masked(query @ key.transpose(-2, -1), more, options, query.shape[-1])
    weights = _exp(scores)
    usual = weights @ extended.finite(value) / _total(weights)
    return usual + extended.beside(torch.matmul, weights, value, live & (weights == 0))


def noisy(
    noise: Noise, args: Any, options: dict[str, Any], out: torch.Tensor, unit: float, narrow: torch.dtype | None,
    growth: Callable[[int], float],
) -> torch.Tensor:  # fmt: skip
    """The result `out` with simulated rounding: scores and results as sums of products, exponentials as such, weights in the
    narrow dtype where there is one; finite also where only what is masked makes `out` NaN. `growth(K)` is how a sum over K
    errs, in units."""
    query, key, value, *more = args
    scores = query @ key.transpose(-2, -1)
    size = torch.maximum(scores.abs(), (query.square() @ key.square().transpose(-2, -1)).sqrt())
    scores = noise.absolute(scores, size, unit * growth(query.shape[-1]))
    scores, _live = _masked(scores, more, options, query.shape[-1])
    scores = noise.relative(scores, 4 * unit)
    weights = noise.relative(_exp(scores), 8 * unit)
    total = _total(weights)
    total = noise.absolute(total, total, unit * growth(key.shape[-2]))
    if narrow is not None:
        weights = noise.rounded(weights, narrow)
    value = extended.finite(value)
    sums = weights @ value
    size = torch.maximum(sums.abs(), (weights.square() @ value.square()).sqrt())
    sums = noise.absolute(sums, size, unit * growth(key.shape[-2]))
    found = noise.relative(sums / total, 2 * unit)
    return torch.where(found.isfinite(), found, out)


def _masked(scores: torch.Tensor, more: Any, options: dict[str, Any], depth: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Scaled scores with -inf where the causal mask is, and what it leaves."""
    scale, mask = options.get("scale"), options.get("attn_mask")
    scores = scores * (1 / math.sqrt(depth) if scale is None else scale)
    if mask is not None:
        scores = scores + mask
    live = torch.ones(scores.shape[-2:], dtype=torch.bool)
    if len(more) > 1 and more[1] or options.get("is_causal"):
        live = live.tril()
    return torch.where(live, scores, -math.inf), live


def _exp(scores: torch.Tensor) -> torch.Tensor:
    top = scores.amax(-1, keepdim=True)
    return torch.where(top == -math.inf, 0.0, (scores - top).exp())


def _total(weights: torch.Tensor) -> torch.Tensor:
    total = weights.sum(-1, keepdim=True)
    return torch.where(total == 0, 1.0, total)
