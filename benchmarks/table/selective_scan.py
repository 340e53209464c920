"""Mamba's selective scan, written as a loop over time."""

import torch
import torch.nn.functional as F
from torch import nn

ROWS = {"selective_scan_128": {}}
SMALL = {"b": 2, "t": 5, "d": 6, "state": 4}
STEP = "cell"


class Model(nn.Module):
    def __init__(self, d, state):
        super().__init__()
        self.log_a = nn.Parameter(torch.log(torch.arange(1.0, state + 1)).repeat(d, 1))
        self.skip = nn.Parameter(torch.randn(d))

    def cell(self, h, x, delta, b, c):
        decay = torch.exp(delta[..., None] * -torch.exp(self.log_a))
        h = decay * h + (delta * x)[..., None] * b[:, None, :]
        return h, (h * c[:, None, :]).sum(-1) + self.skip * x

    def forward(self, x, delta, b, c):  # [B, T, D] twice, [B, T, N] twice
        h = x.new_zeros(len(x), x.shape[2], b.shape[2])
        delta = F.softplus(delta)
        out = []
        for t in range(x.shape[1]):
            h, y = self.cell(h, x[:, t], delta[:, t], b[:, t], c[:, t])
            out.append(y)
        return torch.stack(out, 1)


def get_init_inputs(d=768, state=16):
    return [d, state]


def get_inputs(b=2, t=128, d=768, state=16):
    return [torch.randn(b, t, d), torch.randn(b, t, d) - 2, torch.randn(b, t, state), torch.randn(b, t, state)]


def flop(b, t, d, state):
    return b * t * d * (7 * state + 4)
