"""RMSNorm of a Llama."""

import torch
from torch import nn

ROWS = {"llama_rmsnorm": {}}
PASSES = {"llama_rmsnorm": ("forward", "backward")}
SMALL = {"b": 2, "t": 3, "d": 40}


class Model(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.weight = nn.Parameter(1 + 0.1 * torch.randn(d))

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * self.weight


def get_init_inputs(d=2048):
    return [d]


def get_inputs(b=4, t=512, d=2048):
    return [torch.randn(b, t, d)]


def flop(b, t, d):
    return 4 * b * t * d
