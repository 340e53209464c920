"""A two-layer MLP in bf16 at batch 64."""

import torch
import torch.nn.functional as F
from torch import nn

ROWS = {"mlp_bf16_64": {}}
DTYPES = ("bfloat16",)
SMALL = {"b": 3, "d": 16, "hidden": 24}


class Model(nn.Module):
    def __init__(self, d, hidden):
        super().__init__()
        self.up = nn.Linear(d, hidden)
        self.down = nn.Linear(hidden, d)

    def forward(self, x):
        return self.down(F.gelu(self.up(x)))


def get_init_inputs(d=1024, hidden=4096):
    return [d, hidden]


def get_inputs(b=64, d=1024):
    return [torch.randn(b, d)]


def flop(b, d, hidden):
    return b * hidden * (4 * d + 10)
