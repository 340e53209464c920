"""GroupNorm and SiLU of a diffusion model's U-Net."""

import torch
import torch.nn.functional as F
from torch import nn

ROWS = {
    "group_norm_silu_1x64x32x32": {"b": 1, "channels": 64, "size": 32},
    "group_norm_silu_4x256x64x64": {"b": 4, "channels": 256, "size": 64},
}
GOALS = {"group_norm_silu_1x64x32x32": 2.05, "group_norm_silu_4x256x64x64": 1.56}
SMALL = {"b": 2, "channels": 32, "size": 4}


class Model(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.norm = nn.GroupNorm(16, channels)
        nn.init.normal_(self.norm.weight, 1, 0.1)
        nn.init.normal_(self.norm.bias, 0, 0.1)

    def forward(self, x):
        return F.silu(self.norm(x))


def get_init_inputs(channels=256):
    return [channels]


def get_inputs(b=4, channels=256, size=64):
    return [torch.randn(b, channels, size, size)]


def flop(b, channels, size):
    return 14 * b * channels * size * size
