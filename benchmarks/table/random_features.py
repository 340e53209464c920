"""Random Fourier features of 2048 points."""

import math

import torch
from torch import nn

ROWS = {"random_features": {}}
GOALS = {"random_features": 1.2}
SMALL = {"points": 6, "d": 8, "features": 24}


class Model(nn.Module):
    def __init__(self, d, features):
        super().__init__()
        self.w = nn.Parameter(torch.randn(features, d) / d**0.5)
        self.b = nn.Parameter(2 * math.pi * torch.rand(features))

    def forward(self, x):
        return math.sqrt(2 / len(self.b)) * torch.cos(x @ self.w.T + self.b)


def get_init_inputs(d=64, features=2048):
    return [d, features]


def get_inputs(points=2048, d=64):
    return [torch.randn(points, d)]


def flop(points, d, features):
    return points * features * (2 * d + 12)
