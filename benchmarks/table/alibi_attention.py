"""Causal attention with ALiBi's bias, written out; 12 heads of 64."""

import torch
from torch import nn

ROWS = {"alibi_attention_1024": {"length": 1024}, "alibi_attention_128": {"length": 128}}
GOALS = {"alibi_attention_1024": 3.4, "alibi_attention_128": 2.6}
SMALL = {"heads": 2, "length": 9, "d": 8}


class Model(nn.Module):
    def forward(self, q, k, v, slopes):  # [B, H, T, D] three times, [H, 1, 1]
        length = q.shape[-2]
        place = torch.arange(length)
        distance = place[None, :] - place[:, None]
        scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5 + slopes * distance
        return torch.softmax(scores.masked_fill(distance > 0, float("-inf")), -1) @ v


def get_inputs(heads=12, length=1024, d=64):
    slopes = 2.0 ** (-8 * torch.arange(1, heads + 1) / heads)
    return [*(torch.randn(1, heads, length, d) for _ in range(3)), slopes[:, None, None]]


def flop(heads, length, d):
    return heads * length * (length + 1) / 2 * (4 * d + 8)
