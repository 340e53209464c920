"""Softmax of rows."""

import torch
from torch import nn

ROWS = {"softmax_64x512": {"rows": 64, "cols": 512}, "softmax_2048x4096": {"rows": 2048, "cols": 4096}}
PASSES = {"softmax_2048x4096": ("forward", "backward")}
GOALS = {"softmax_64x512": 1.9, "softmax_2048x4096": 1.6, "softmax_2048x4096 backward": 1.4}
SMALL = {"rows": 3, "cols": 40}


class Model(nn.Module):
    def forward(self, x):
        return torch.softmax(x, -1)


def get_inputs(rows=2048, cols=4096):
    return [2 * torch.randn(rows, cols)]


def flop(rows, cols):
    return 5 * rows * cols
