"""Layer norm over the last dimension."""

import torch
from torch import nn


class Model(nn.Module):
    """x: [B, T, D]."""

    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        with torch.no_grad():
            self.norm.weight.uniform_(0.5, 1.5)
            self.norm.bias.normal_()

    def forward(self, x):
        return self.norm(x)


def get_inputs():
    return [torch.randn(8, 256, 768)]


def get_init_inputs():
    return [768]
