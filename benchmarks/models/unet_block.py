"""A level of a diffusion U-Net: a residual block with the time's embedding, attention at half the size, and a skip."""

import torch
import torch.nn.functional as F
from torch import nn

ROWS = {"unet_level": {}}
PASSES = dict.fromkeys(ROWS, ("forward", "backward"))
SMALL = {"b": 2, "channels": 8, "size": 4, "time": 6, "groups": 2, "heads": 2}


class Residual(nn.Module):
    def __init__(self, channels, out, time, groups):
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(groups, channels), nn.GroupNorm(groups, out)
        self.conv1, self.conv2 = nn.Conv2d(channels, out, 3, padding=1), nn.Conv2d(out, out, 3, padding=1)
        self.time = nn.Linear(time, out)
        self.skip = nn.Conv2d(channels, out, 1) if channels != out else nn.Identity()

    def forward(self, x, emb):
        h = self.conv1(F.silu(self.norm1(x)))
        h = h + self.time(F.silu(emb))[:, :, None, None]
        return self.conv2(F.silu(self.norm2(h))) + self.skip(x)


class Attention(nn.Module):
    def __init__(self, channels, groups, heads):
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(groups, channels)
        self.qkv, self.proj = nn.Conv2d(channels, 3 * channels, 1), nn.Conv2d(channels, channels, 1)

    def forward(self, x):
        b, c, h, w = x.shape
        q, k, v = self.qkv(self.norm(x)).view(b, 3, self.heads, c // self.heads, h * w).transpose(3, 4).unbind(1)
        scores = q @ k.transpose(-2, -1) * (c // self.heads) ** -0.5
        out = torch.softmax(scores, -1) @ v
        return x + self.proj(out.transpose(2, 3).reshape(b, c, h, w))


class Model(nn.Module):
    def __init__(self, channels, time, groups, heads):
        super().__init__()
        self.down = Residual(channels, channels, time, groups)
        self.shrink = nn.Conv2d(channels, channels, 3, 2, padding=1)
        self.middle, self.attention = Residual(channels, channels, time, groups), Attention(channels, groups, heads)
        self.grow = nn.Conv2d(channels, channels, 3, padding=1)
        self.up = Residual(2 * channels, channels, time, groups)

    def forward(self, x, emb):  # [B, C, H, W], [B, E]
        skip = self.down(x, emb)
        h = self.attention(self.middle(self.shrink(skip), emb))
        h = self.grow(F.interpolate(h, scale_factor=2.0, mode="nearest"))
        return self.up(torch.cat([h, skip], 1), emb)


def get_init_inputs(channels=64, time=256, groups=8, heads=4):
    return [channels, time, groups, heads]


def get_inputs(b=2, channels=64, size=32, time=256):
    return [torch.randn(b, channels, size, size), torch.randn(b, time)]


def flop(b, channels, size, time, heads):
    pixels, c = size * size, channels
    residuals = pixels * c * c * (36 + 36 / 4 + 36 + 18 + 4)
    between = pixels * c * c * (18 / 4 + 18) + (pixels / 4) * c * (8 * c + 4 * pixels / 4)
    return b * (residuals + between + 6 * time * c)
