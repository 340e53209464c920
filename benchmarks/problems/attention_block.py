"""A small causal attention block, written out."""

import torch
from torch import nn


class Model(nn.Module):
    """x: [B, T, D]."""

    def __init__(self, width, heads, length):
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.register_buffer("mask", torch.ones(length, length, dtype=torch.bool).triu(1))

    def forward(self, x):
        batch, length, width = x.shape
        q, k, v = self.qkv(self.norm(x)).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-1, -2) * (width // self.heads) ** -0.5
        weights = torch.softmax(scores.masked_fill(self.mask, float("-inf")), dim=-1)
        return x + self.out((weights @ v).transpose(1, 2).reshape(batch, length, width))


def get_inputs():
    return [torch.randn(2, 128, 256)]


def get_init_inputs():
    return [256, 4, 128]
