"""Muon's Newton-Schulz iteration: five steps towards the nearest orthogonal matrix."""

import torch
from torch import nn

ROWS = {"14_muon_ns5": {}}
SMALL = {"b": 2, "n": 12}
GRADIENTS = False


class Model(nn.Module):
    def forward(self, g):
        x = g / (g.norm(dim=(-2, -1), keepdim=True) + 1e-7)
        for _ in range(5):
            m = x @ x.mT
            x = 3.4445 * x + (-4.7750 * m + 2.0315 * (m @ m)) @ x
        return x


def get_inputs(b=4, n=384):
    return [torch.randn(b, n, n)]


def flop(b, n):
    return 5 * 6 * b * n**3
