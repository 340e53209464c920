"""One token's grouped-query attention over a cache, keys and values repeated for their heads."""

import torch
import torch.nn.functional as F
from torch import nn

ROWS = {"06_decode_gqa": {}}
SMALL = {"b": 2, "heads": 4, "groups": 2, "length": 9, "d": 8}
GRADIENTS = False
REWRITTEN = "scaled_dot_product_attention(enable_gqa=True), which repeats nothing"


class Model(nn.Module):
    def forward(self, q, k, v):  # [B, H, 1, D], [B, G, L, D] twice
        repeat = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1)
        scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
        return torch.softmax(scores, -1) @ v


class Rewritten(nn.Module):
    def forward(self, q, k, v):
        return F.scaled_dot_product_attention(q, k, v, enable_gqa=True)


def get_inputs(b=4, heads=32, groups=8, length=2048, d=128):
    return [torch.randn(b, heads, 1, d), torch.randn(b, groups, length, d), torch.randn(b, groups, length, d)]


def flop(b, heads, length, d):
    return b * heads * length * (4 * d + 6)
