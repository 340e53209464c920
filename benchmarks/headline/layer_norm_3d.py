"""LayerNorm over channels and both image axes."""

import torch
from torch import nn

ROWS = {"12_layer_norm_3d": {}}
SMALL = {"b": 2, "channels": 3, "size": 8}


class Model(nn.Module):
    def __init__(self, channels, size):
        super().__init__()
        self.norm = nn.LayerNorm((channels, size, size))
        nn.init.normal_(self.norm.weight, 1, 0.1)
        nn.init.normal_(self.norm.bias, 0, 0.1)

    def forward(self, x):
        return self.norm(x)


def get_init_inputs(channels=64, size=256):
    return [channels, size]


def get_inputs(b=8, channels=64, size=256):
    return [torch.randn(b, channels, size, size)]


def flop(b, channels, size):
    return 8 * b * channels * size * size
