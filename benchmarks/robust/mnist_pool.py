"""Max-pooling of a small network for digits."""

import torch
import torch.nn.functional as F
from torch import nn

ROWS = {"mnist_pool": {}}
PASSES = {"mnist_pool": ("forward", "backward")}
SMALL = {"b": 2, "channels": 3, "size": 8}


class Model(nn.Module):
    def forward(self, x):
        return F.max_pool2d(x, 2)


def get_inputs(b=64, channels=64, size=24):
    return [torch.randn(b, channels, size, size)]


def flop(b, channels, size):
    return b * channels * size * size
