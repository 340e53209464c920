"""A Llama's feed-forward layer for a short batch of sequences."""

import torch
import torch.nn.functional as F
from torch import nn

ROWS = {"llama_ffw": {}}
SMALL = {"b": 2, "t": 3, "d": 16, "hidden": 24}


class Model(nn.Module):
    def __init__(self, d, hidden):
        super().__init__()
        self.w1 = nn.Linear(d, hidden, bias=False)
        self.w2 = nn.Linear(hidden, d, bias=False)
        self.w3 = nn.Linear(d, hidden, bias=False)

    def forward(self, x):
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


def get_init_inputs(d=1024, hidden=2816):
    return [d, hidden]


def get_inputs(b=4, t=64, d=1024):
    return [torch.randn(b, t, d)]


def flop(b, t, d, hidden):
    return b * t * hidden * (6 * d + 6)
