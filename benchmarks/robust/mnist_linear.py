"""Linear layers of a small network for digits, without and with ReLU behind."""

import torch
import torch.nn.functional as F
from torch import nn

ROWS = {
    "mnist_linear": {"b": 64, "d": 784, "out": 128, "relu": False},
    "mnist_linear_relu": {"b": 64, "d": 5408, "out": 128, "relu": True},
    "unet_linear": {"b": 1024, "d": 320, "out": 1280, "relu": False},
}
PASSES = dict.fromkeys(ROWS, ("forward", "backward"))
SMALL = {"b": 3, "d": 16, "out": 12}


class Model(nn.Module):
    def __init__(self, d, out, relu):
        super().__init__()
        self.linear = nn.Linear(d, out)
        self.relu = relu

    def forward(self, x):
        x = self.linear(x)
        return F.relu(x) if self.relu else x


def get_init_inputs(d=784, out=128, relu=False):
    return [d, out, relu]


def get_inputs(b=64, d=784):
    return [torch.randn(b, d)]


def flop(b, d, out):
    return 2 * b * d * out
