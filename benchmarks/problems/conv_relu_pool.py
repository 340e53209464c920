"""Convolution, ReLU and max pooling, as in a small image classifier."""

import torch
import torch.nn.functional as F
from torch import nn


class Model(nn.Module):
    """x: [B, C, H, W] to [B, C', H / 2, W / 2]."""

    def __init__(self, channels, filters):
        super().__init__()
        self.conv = nn.Conv2d(channels, filters, 3, padding=1)

    def forward(self, x):
        return F.max_pool2d(torch.relu(self.conv(x)), 2)


def get_inputs():
    return [torch.randn(8, 16, 28, 28)]


def get_init_inputs():
    return [16, 32]
