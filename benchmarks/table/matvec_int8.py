"""One token through a linear layer whose weights are int8 with a scale for each output."""

import torch
import torch.nn.functional as F
from torch import nn

ROWS = {"matvec_int8_4096": {}}
GOALS = {"matvec_int8_4096": 2.9}
GRADIENTS = False
SMALL = {"d": 24}


class Model(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.register_buffer("weight", torch.randint(-127, 128, (d, d), dtype=torch.int8))
        self.register_buffer("scale", (0.5 + torch.rand(d)) / (64 * d**0.5))

    def forward(self, x):
        return F.linear(x, self.weight.to(x.dtype)) * self.scale


def get_init_inputs(d=4096):
    return [d]


def get_inputs(d=4096):
    return [torch.randn(1, d)]


def flop(d):
    return 2 * d * d
