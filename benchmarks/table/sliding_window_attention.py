"""Attention to the last 128 positions, with a mask over all scores; 12 heads of 64."""

import torch
from torch import nn

ROWS = {"sliding_window_attention": {}}
GOALS = {"sliding_window_attention": 7.2}
SMALL = {"heads": 2, "length": 12, "d": 8, "window": 4}


class Model(nn.Module):
    def __init__(self, window):
        super().__init__()
        self.window = window

    def forward(self, q, k, v):  # [B, H, T, D]
        place = torch.arange(q.shape[-2])
        back = place[:, None] - place[None, :]
        scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
        return torch.softmax(scores.masked_fill((back < 0) | (back >= self.window), float("-inf")), -1) @ v


def get_init_inputs(window=128):
    return [window]


def get_inputs(heads=12, length=1024, d=64):
    return [torch.randn(1, heads, length, d) for _ in range(3)]


def flop(heads, length, d, window):
    """Of the band alone."""
    return heads * (length * window - window * (window - 1) / 2) * (4 * d + 6)
