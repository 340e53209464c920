"""RMSNorm over the model's width, then rotary embedding of each head: a video transformer's queries (the keys alike)."""

import torch
from torch import nn

ROWS = {"09_qk_norm_rope": {}}
SMALL = {"length": 6, "heads": 3, "d": 8}


class Model(nn.Module):
    def __init__(self, heads, d):
        super().__init__()
        self.heads = heads
        self.weight = nn.Parameter(1 + 0.1 * torch.randn(heads * d))

    def forward(self, x, cos, sin):  # [1, L, H * D], [L, 1, D / 2] twice
        h = x.to(torch.promote_types(x.dtype, torch.float32))
        h = (h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype) * self.weight
        even, odd = h.unflatten(-1, (self.heads, -1, 2)).unbind(-1)
        return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2)


def get_init_inputs(heads=12, d=128):
    return [heads, d]


def get_inputs(length=4096, heads=12, d=128):
    angle = torch.arange(length)[:, None, None] * 10000 ** (-torch.arange(0, d, 2) / d)
    return [torch.randn(1, length, heads * d), angle.cos(), angle.sin()]


def flop(length, heads, d):
    return 8 * length * heads * d
