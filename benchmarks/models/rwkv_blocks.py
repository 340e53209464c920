"""RWKV-7's blocks: a time mix with a matrix state, written as a loop over time, and a channel mix."""

import torch
import torch.nn.functional as F
from torch import nn

ROWS = {"rwkv_blocks": {}}
PASSES = dict.fromkeys(ROWS, ("forward", "backward"))
SMALL = {"b": 2, "t": 5, "d": 16, "heads": 2, "blocks": 2}


def shifted(x):
    """Each step's predecessor, zeros before the first."""
    return F.pad(x, (0, 0, 1, -1))


class TimeMix(nn.Module):
    def __init__(self, d, heads):
        super().__init__()
        self.heads = heads
        self.mix = nn.Parameter(torch.rand(6, d))
        self.r, self.k, self.v, self.o = (nn.Linear(d, d, bias=False) for _ in range(4))
        self.w, self.a, self.g = (nn.Sequential(nn.Linear(d, 32, bias=False), nn.Tanh(), nn.Linear(32, d)) for _ in range(3))
        self.norm = nn.GroupNorm(heads, d, eps=64e-5)

    def forward(self, x):  # [B, T, D]
        b, t, d = x.shape
        near = shifted(x) - x
        xr, xw, xk, xv, xa, xg = (x + near * m for m in self.mix)
        heads = (b, t, self.heads, d // self.heads)
        r, k, v = self.r(xr).view(heads), self.k(xk).view(heads), self.v(xv).view(heads)
        w = torch.exp(-0.6065 * torch.sigmoid(self.w(xw))).view(heads)
        a = torch.sigmoid(self.a(xa)).view(heads)
        key = F.normalize(k, dim=-1)
        left, right = -key, key * a
        S = x.new_zeros(b, self.heads, heads[3], heads[3])
        out = []
        for i in range(t):
            sa = (S * left[:, i, :, None, :]).sum(-1)
            S = S * w[:, i, :, None, :] + sa[..., None] * right[:, i, :, None, :] + v[:, i, ..., None] * k[:, i, :, None, :]
            out.append((S * r[:, i, :, None, :]).sum(-1))
        y = torch.stack(out, 1).view(b * t, d)
        return self.o(self.norm(y).view(b, t, d) * torch.sigmoid(self.g(xg)))


class ChannelMix(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.mix = nn.Parameter(torch.rand(d))
        self.key, self.value = nn.Linear(d, 4 * d, bias=False), nn.Linear(4 * d, d, bias=False)

    def forward(self, x):
        return self.value(F.relu(self.key(x + (shifted(x) - x) * self.mix)).square())


class Block(nn.Module):
    def __init__(self, d, heads):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.time, self.channel = TimeMix(d, heads), ChannelMix(d)

    def forward(self, x):
        x = x + self.time(self.norm1(x))
        return x + self.channel(self.norm2(x))


class Model(nn.Module):
    def __init__(self, d, heads, blocks):
        super().__init__()
        self.blocks = nn.ModuleList(Block(d, heads) for _ in range(blocks))
        self.norm = nn.LayerNorm(d)

    def forward(self, x):  # [B, T, D]
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


def get_init_inputs(d=256, heads=4, blocks=2):
    return [d, heads, blocks]


def get_inputs(b=2, t=64, d=256):
    return [torch.randn(b, t, d)]


def flop(b, t, d, heads, blocks):
    return blocks * b * t * d * (24 * d + 6 * 64 + 9 * d // heads)
