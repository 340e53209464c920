"""A stack of GPT-2's blocks: layer norm, causal attention, layer norm, MLP with GELU."""

import torch
import torch.nn.functional as F
from torch import nn

ROWS = {"gpt2_blocks": {}}
PASSES = dict.fromkeys(ROWS, ("forward", "backward"))
SMALL = {"b": 2, "t": 5, "d": 16, "heads": 2, "blocks": 2}


class Block(nn.Module):
    def __init__(self, d, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.qkv, self.proj = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.up, self.down = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)

    def attention(self, x):
        b, t, d = x.shape
        q, k, v = (y.view(b, t, self.heads, d // self.heads).transpose(1, 2) for y in self.qkv(x).chunk(3, -1))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.proj(out.transpose(1, 2).reshape(b, t, d))

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


class Model(nn.Module):
    def __init__(self, d, heads, blocks):
        super().__init__()
        self.blocks = nn.ModuleList(Block(d, heads) for _ in range(blocks))
        self.norm = nn.LayerNorm(d)

    def forward(self, x):  # [B, T, D]
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


def get_init_inputs(d=384, heads=6, blocks=4):
    return [d, heads, blocks]


def get_inputs(b=2, t=128, d=384):
    return [torch.randn(b, t, d)]


def flop(b, t, d, blocks):
    return blocks * b * t * (24 * d * d + 2 * t * d)
