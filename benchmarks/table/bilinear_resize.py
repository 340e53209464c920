"""An image resized bilinearly to twice its size."""

import torch
import torch.nn.functional as F
from torch import nn

ROWS = {"bilinear_resize": {}}
SMALL = {"b": 1, "channels": 2, "size": 6}


class Model(nn.Module):
    def forward(self, x):
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def get_inputs(b=4, channels=64, size=64):
    return [torch.randn(b, channels, size, size)]


def flop(b, channels, size):
    return 9 * b * channels * 4 * size * size
