"""Rotary position embedding of queries and keys."""

import torch
from torch import nn


class Model(nn.Module):
    """q, k: [B, H, T, D]; the tables of cosines and sines are buffers [T, D]."""

    def __init__(self, length, width):
        super().__init__()
        frequency = 10000.0 ** (-torch.arange(0, width, 2) / width)
        angle = torch.outer(torch.arange(length).float(), frequency).repeat(1, 2)
        self.register_buffer("cos", angle.cos())
        self.register_buffer("sin", angle.sin())

    def rotate(self, x):
        first, second = x.chunk(2, dim=-1)
        return x * self.cos + torch.cat((-second, first), dim=-1) * self.sin

    def forward(self, q, k):
        return self.rotate(q), self.rotate(k)


def get_inputs():
    return [torch.randn(1, 12, 512, 64), torch.randn(1, 12, 512, 64)]


def get_init_inputs():
    return [512, 64]
