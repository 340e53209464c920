"""Convolution, ReLU and max-pooling of a small network for digits."""

import torch
import torch.nn.functional as F
from torch import nn

ROWS = {"mnist_conv_relu_pool": {}}
PASSES = {"mnist_conv_relu_pool": ("forward", "backward")}
SMALL = {"b": 2, "channels": 2, "out": 4, "size": 8}


class Model(nn.Module):
    def __init__(self, channels, out):
        super().__init__()
        self.conv = nn.Conv2d(channels, out, 3)

    def forward(self, x):
        return F.max_pool2d(F.relu(self.conv(x)), 2)


def get_init_inputs(channels=1, out=32):
    return [channels, out]


def get_inputs(b=64, channels=1, size=28):
    return [torch.randn(b, channels, size, size)]


def flop(b, channels, out, size):
    return 18 * b * channels * out * (size - 2) ** 2
