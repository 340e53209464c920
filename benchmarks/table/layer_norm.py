"""LayerNorm of a transformer."""

import torch
from torch import nn

ROWS = {"layer_norm_64x768": {"rows": 64}, "layer_norm_8192x768": {"rows": 8192}}
PASSES = dict.fromkeys(ROWS, ("forward", "backward"))
GOALS = {"layer_norm_64x768": 1.3, "layer_norm_64x768 backward": 3.0, "layer_norm_8192x768": 1.06,
         "layer_norm_8192x768 backward": 1.26}  # fmt: skip
SMALL = {"rows": 3, "d": 40}


class Model(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.norm = nn.LayerNorm(d)
        nn.init.normal_(self.norm.weight, 1, 0.1)
        nn.init.normal_(self.norm.bias, 0, 0.1)

    def forward(self, x):
        return self.norm(x)


def get_init_inputs(d=768):
    return [d]


def get_inputs(rows=8192, d=768):
    return [torch.randn(rows, d)]


def flop(rows, d):
    return 8 * rows * d
