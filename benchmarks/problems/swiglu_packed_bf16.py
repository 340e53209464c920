"""The gate of a SwiGLU block, gate and up in one bf16 tensor."""

import torch
import torch.nn.functional as F
from torch import nn


class Model(nn.Module):
    """x: [M, 2 N] to [M, N], bf16."""

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        return F.silu(gate) * up


def get_inputs():
    return [torch.randn(512, 2 * 2752).bfloat16()]


def get_init_inputs():
    return []
