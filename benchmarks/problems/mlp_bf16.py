"""Three linear layers with GELU, bf16."""

import torch
import torch.nn.functional as F
from torch import nn


class Model(nn.Module):
    """x: [M, K] to [M, N], bf16."""

    def __init__(self, inner, hidden, outer):
        super().__init__()
        self.first = nn.Linear(inner, hidden)
        self.second = nn.Linear(hidden, hidden)
        self.third = nn.Linear(hidden, outer)
        self.bfloat16()

    def forward(self, x):
        h = F.gelu(self.first(x))
        return self.third(F.gelu(self.second(h)))


def get_inputs():
    return [torch.randn(128, 256).bfloat16()]


def get_init_inputs():
    return [256, 512, 128]
