"""A convolutional network with group norm and SiLU: inference and one training step.

python examples/convnet.py
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from compare import arguments, compare
from torch import nn


class Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm1, self.norm2 = nn.GroupNorm(8, channels), nn.GroupNorm(8, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.first(F.silu(self.norm1(x)))
        return x + self.second(F.silu(self.norm2(h)))


class Net(nn.Module):
    """x: [B, 3, H, W] to logits [B, 10]."""

    def __init__(self, channels: int = 32) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, padding=1)
        self.blocks = nn.Sequential(Block(channels), Block(channels))
        self.norm = nn.GroupNorm(8, channels)
        self.head = nn.Linear(channels, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = F.silu(self.norm(self.blocks(self.stem(x))))
        return self.head(h.mean((2, 3)))


def main() -> None:
    options = arguments(__doc__)
    generator = torch.Generator().manual_seed(1)
    images, labels = torch.randn(8, 3, 32, 32, generator=generator), torch.randint(0, 10, (8,), generator=generator)
    for name in options.dtype:
        dtype = getattr(torch, name)
        torch.manual_seed(0)
        model = Net().to(dtype)
        x = images.to(dtype)

        def inference(call: Callable[..., Any], x: torch.Tensor = x) -> Callable[[], list[torch.Tensor]]:
            def step() -> list[torch.Tensor]:
                with torch.no_grad():
                    return [call(x)]

            return step

        def training(call: Callable[..., Any], x: torch.Tensor = x, model: Net = model) -> Callable[[], list[torch.Tensor]]:
            def step() -> list[torch.Tensor]:
                model.zero_grad(set_to_none=True)
                loss = F.cross_entropy(call(x), labels)
                loss.backward()
                return [loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]

            return step

        compare("convolutional network inference", inference, model.eval(), options, dtype)
        compare("convolutional network training step", training, model.train(), options, dtype)


if __name__ == "__main__":
    main()
