"""A U-Net's convolution."""

import torch
from torch import nn

ROWS = {"unet_conv2d": {}}
SMALL = {"b": 2, "channels": 3, "out": 4, "size": 6}


class Model(nn.Module):
    def __init__(self, channels, out):
        super().__init__()
        self.conv = nn.Conv2d(channels, out, 3, padding=1)

    def forward(self, x):
        return self.conv(x)


def get_init_inputs(channels=128, out=128):
    return [channels, out]


def get_inputs(b=2, channels=128, size=32):
    return [torch.randn(b, channels, size, size)]


def flop(b, channels, out, size):
    """Without Winograd's or Fourier's savings, which the libraries make here and there."""
    return 18 * b * channels * out * size * size
