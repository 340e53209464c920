"""Layer norm, feed-forward with GELU, residual: half a transformer layer."""

import torch
import torch.nn.functional as F
from torch import nn


class Model(nn.Module):
    """x: [B, T, D]."""

    def __init__(self, width, hidden):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)

    def forward(self, x):
        return x + self.down(F.gelu(self.up(self.norm(x))))


def get_inputs():
    return [torch.randn(2, 128, 256)]


def get_init_inputs():
    return [256, 1024]
