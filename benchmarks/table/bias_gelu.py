"""A bias and GELU, between two halves of a transformer's MLP."""

import torch
import torch.nn.functional as F
from torch import nn

ROWS = {"bias_gelu": {}}
PASSES = {"bias_gelu": ("forward", "backward")}
GOALS = {"bias_gelu": 1.4, "bias_gelu backward": 1.7}
SMALL = {"rows": 3, "d": 40}


class Model(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.bias = nn.Parameter(torch.randn(d))

    def forward(self, x):
        return F.gelu(x + self.bias)


def get_init_inputs(d=3072):
    return [d]


def get_inputs(rows=4096, d=3072):
    return [torch.randn(rows, d)]


def flop(rows, d):
    return 10 * rows * d
