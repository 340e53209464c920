"""SiLU of one tensor times another."""

import torch
import torch.nn.functional as F
from torch import nn

ROWS = {"swiglu": {}}
PASSES = {"swiglu": ("forward", "backward")}
GOALS = {"swiglu": 1.4, "swiglu backward": 1.25}
SMALL = {"rows": 3, "d": 40}


class Model(nn.Module):
    def forward(self, gate, up):
        return F.silu(gate) * up


def get_inputs(rows=4096, d=3072):
    return [torch.randn(rows, d), torch.randn(rows, d)]


def flop(rows, d):
    return 8 * rows * d
