"""A convolution, ReLU and max-pooling."""

import torch
import torch.nn.functional as F
from torch import nn

ROWS = {"20_conv_relu_pool": {}}
SMALL = {"b": 2, "channels": 3, "size": 8, "out": 4}


class Model(nn.Module):
    def __init__(self, channels, out):
        super().__init__()
        self.conv = nn.Conv2d(channels, out, 3)

    def forward(self, x):
        return F.max_pool2d(F.relu(self.conv(x)), 2)


def get_init_inputs(channels=32, out=64):
    return [channels, out]


def get_inputs(b=64, channels=32, size=28):
    return [torch.randn(b, channels, size, size)]


def flop(b, channels, size, out):
    return 18 * b * channels * out * (size - 2) ** 2
