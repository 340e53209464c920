"""The gate of a SwiGLU block."""

import torch
import torch.nn.functional as F
from torch import nn


class Model(nn.Module):
    """gate, up: [M, N]."""

    def forward(self, gate, up):
        return F.silu(gate) * up


def get_inputs():
    return [torch.randn(512, 2752), torch.randn(512, 2752)]


def get_init_inputs():
    return []
