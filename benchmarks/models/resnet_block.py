"""A stage of a residual network: a block that halves the image and projects its shortcut, and one that does not."""

import torch
import torch.nn.functional as F
from torch import nn

ROWS = {"resnet_stage": {}}
PASSES = dict.fromkeys(ROWS, ("forward", "backward"))
SMALL = {"b": 3, "channels": 4, "size": 8}


class Block(nn.Module):
    def __init__(self, channels, out, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(out), nn.BatchNorm2d(out)
        self.shortcut = nn.Identity()
        if stride > 1:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x):
        h = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(h)) + self.shortcut(x))


class Model(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.first, self.second = Block(channels, 2 * channels, 2), Block(2 * channels, 2 * channels, 1)
        for norm in (m for m in self.modules() if isinstance(m, nn.BatchNorm2d)):
            nn.init.normal_(norm.weight, 1, 0.1)
            norm.running_mean.normal_(0, 0.1)
            norm.running_var.uniform_(0.2, 0.5)

    def forward(self, x):  # [B, C, H, W]
        return self.second(self.first(x))


def get_init_inputs(channels=64):
    return [channels]


def get_inputs(b=2, channels=64, size=56):
    return [torch.randn(b, channels, size, size)]


def flop(b, channels, size):
    return 65 * b * channels * channels * size * size
