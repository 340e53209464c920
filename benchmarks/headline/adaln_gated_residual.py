"""A gated residual and the modulated norm after it, as between two halves of a diffusion transformer's block."""

import torch
import torch.nn.functional as F
from torch import nn

ROWS = {"10_adaln_gated_residual": {}}
SMALL = {"b": 2, "length": 5, "d": 24}


class Model(nn.Module):
    def forward(self, x, y, gate, scale, shift):
        x = x + y * gate
        return x, F.layer_norm(x, x.shape[-1:]) * (1 + scale) + shift


def get_inputs(b=1, length=4096, d=1536):
    return [torch.randn(b, length, d), torch.randn(b, length, d), *(torch.randn(b, 1, d) for _ in range(3))]


def flop(b, length, d):
    return 10 * b * length * d
