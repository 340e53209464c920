"""GELU by its tanh formula, bf16."""

import torch
import torch.nn.functional as F
from torch import nn


class Model(nn.Module):
    """x: [M, N], bf16."""

    def forward(self, x):
        return F.gelu(x, approximate="tanh")


def get_inputs():
    return [(2.0 * torch.randn(512, 3072)).bfloat16()]


def get_init_inputs():
    return []
