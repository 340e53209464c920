"""Linear layer and ReLU."""

import torch
from torch import nn


class Model(nn.Module):
    """x: [M, K] to [M, N]."""

    def __init__(self, inner, outer):
        super().__init__()
        self.linear = nn.Linear(inner, outer)

    def forward(self, x):
        return torch.relu(self.linear(x))


def get_inputs():
    return [torch.randn(512, 512)]


def get_init_inputs():
    return [512, 1024]
