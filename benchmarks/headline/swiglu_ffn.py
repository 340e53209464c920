"""A Llama's feed-forward layer for 64 tokens."""

import torch
import torch.nn.functional as F
from torch import nn

ROWS = {"18_swiglu_ffn": {}}
SMALL = {"tokens": 3, "d": 16, "hidden": 24}


class Model(nn.Module):
    def __init__(self, d, hidden):
        super().__init__()
        self.gate = nn.Linear(d, hidden, bias=False)
        self.up = nn.Linear(d, hidden, bias=False)
        self.down = nn.Linear(hidden, d, bias=False)

    def forward(self, x):
        return self.down(F.silu(self.gate(x)) * self.up(x))


def get_init_inputs(d=2048, hidden=7168):
    return [d, hidden]


def get_inputs(tokens=64, d=2048):
    return [torch.randn(tokens, d)]


def flop(tokens, d, hidden):
    return tokens * hidden * (6 * d + 6)
