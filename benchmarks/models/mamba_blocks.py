"""Mamba's blocks: a depthwise causal convolution and a selective scan, written as a loop over time, between two products."""

import torch
import torch.nn.functional as F
from torch import nn

ROWS = {"mamba_blocks": {}}
PASSES = dict.fromkeys(ROWS, ("forward", "backward"))
SMALL = {"b": 2, "t": 5, "d": 8, "state": 4, "rank": 2, "blocks": 2}
WIDTH = 4  # of the convolution


class RMSNorm(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d))

    def forward(self, x):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5) * self.weight


class Mixer(nn.Module):
    def __init__(self, d, state, rank):
        super().__init__()
        inner = 2 * d
        self.rank, self.state = rank, state
        self.in_proj, self.out_proj = nn.Linear(d, 2 * inner, bias=False), nn.Linear(inner, d, bias=False)
        self.conv = nn.Conv1d(inner, inner, WIDTH, groups=inner, padding=WIDTH - 1)
        self.x_proj, self.dt_proj = nn.Linear(inner, rank + 2 * state, bias=False), nn.Linear(rank, inner)
        self.log_a = nn.Parameter(torch.log(torch.arange(1.0, state + 1)).repeat(inner, 1))
        self.skip = nn.Parameter(torch.ones(inner))
        nn.init.uniform_(self.dt_proj.bias, -4, -1)

    def forward(self, u):  # [B, T, D]
        steps = u.shape[1]
        x, gate = self.in_proj(u).chunk(2, -1)
        x = F.silu(self.conv(x.transpose(1, 2))[..., :steps].transpose(1, 2))
        delta, b, c = self.x_proj(x).split([self.rank, self.state, self.state], -1)
        delta = F.softplus(self.dt_proj(delta))
        a = -torch.exp(self.log_a)
        h = x.new_zeros(x.shape[0], x.shape[2], self.state)
        out = []
        for t in range(steps):
            h = torch.exp(delta[:, t, :, None] * a) * h + (delta[:, t] * x[:, t])[..., None] * b[:, t, None, :]
            out.append((h * c[:, t, None, :]).sum(-1))
        y = torch.stack(out, 1) + self.skip * x
        return self.out_proj(y * F.silu(gate))


class Model(nn.Module):
    def __init__(self, d, state, rank, blocks):
        super().__init__()
        self.norms = nn.ModuleList(RMSNorm(d) for _ in range(blocks))
        self.mixers = nn.ModuleList(Mixer(d, state, rank) for _ in range(blocks))
        self.norm = RMSNorm(d)

    def forward(self, x):  # [B, T, D]
        for norm, mixer in zip(self.norms, self.mixers, strict=True):
            x = x + mixer(norm(x))
        return self.norm(x)


def get_init_inputs(d=192, state=16, rank=12, blocks=2):
    return [d, state, rank, blocks]


def get_inputs(b=2, t=128, d=192):
    return [torch.randn(b, t, d)]


def flop(b, t, d, state, rank, blocks):
    inner = 2 * d
    return blocks * b * t * inner * (6 * d + 2 * WIDTH + 4 * rank + 11 * state)
