"""A decorated function: its calls go straight to one kernel, without dynamo, AOTAutograd or Inductor in between.

python examples/decorated.py
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from compare import arguments, compare

import torch_autokernel as ak


def residual_norm(x: torch.Tensor, y: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """x, y: [B, T, D]; weight: [D]. The residual stream and its RMS norm."""
    h = x + F.gelu(y)
    return h, h * torch.rsqrt(h.square().mean(-1, keepdim=True) + 1e-6) * weight


def main() -> None:
    options = arguments(__doc__)
    for name in options.dtype:
        dtype = getattr(torch, name)
        generator = torch.Generator().manual_seed(1)
        x, y = (torch.randn(2, 128, 512, generator=generator).to(dtype) for _ in range(2))
        weight = torch.randn(512, generator=generator).to(dtype)

        def inference(
            call: Callable[..., Any], inputs: tuple[torch.Tensor, ...] = (x, y, weight)
        ) -> Callable[[], list[torch.Tensor]]:
            return lambda: list(call(*inputs))

        def training(
            call: Callable[..., Any], inputs: tuple[torch.Tensor, ...] = (x, y, weight)
        ) -> Callable[[], list[torch.Tensor]]:
            leaves = [t.clone().requires_grad_() for t in inputs]

            def step() -> list[torch.Tensor]:
                h, n = call(*leaves)
                return list(torch.autograd.grad((h * n).sum(), leaves))

            return step

        decorate = ak.autokernel(max_seconds=options.max_seconds)
        compare("decorated function, inference", inference, residual_norm, options, dtype, decorate)
        compare("decorated function, forward and backward", training, residual_norm, options, dtype, decorate)


if __name__ == "__main__":
    main()
