"""Sums of products in which zeros that stand for nothing (padding, masked weights) meet infinities."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

Product = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def beside(product: Product, left: torch.Tensor, right: torch.Tensor, zeros: torch.Tensor) -> torch.Tensor:
    """What the factors that are not finite add to a bilinear `product` of the others: 0, an infinity, or NaN. `zeros` are the
    zeros of `left` that times infinity are NaN; others bring nothing."""

    def count(*pairs: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return sum((product(a.double(), b.double()) for a, b in pairs), torch.zeros((), dtype=torch.float64))

    inf = math.inf
    up = count((left > 0, right == inf), (left < 0, right == -inf), (left == inf, right > 0), (left == -inf, right < 0))
    down = count((left > 0, right == -inf), (left < 0, right == inf), (left == inf, right < 0), (left == -inf, right > 0))
    lost = count(
        (zeros, right.isinf()), (left.isinf(), right == 0), (left.isnan(), torch.ones_like(right)),
        (zeros | (left != 0), right.isnan()),
    )  # fmt: skip
    infinite = torch.where(up > 0.5, inf, 0.0) + torch.where(down > 0.5, -inf, 0.0)  # both: NaN
    return torch.where(lost > 0.5, math.nan, infinite)


def finite(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor with 0 for what is not finite."""
    return torch.where(tensor.isfinite(), tensor, 0.0)
