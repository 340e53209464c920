"""A residual network's basic block."""

import torch
import torch.nn.functional as F
from torch import nn

ROWS = {"resnet_block": {}}
SMALL = {"b": 2, "channels": 4, "size": 6}


class Model(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        for norm in (self.bn1, self.bn2):
            nn.init.normal_(norm.weight, 1, 0.1)
            norm.running_mean.normal_(0, 0.1)
            norm.running_var.uniform_(0.2, 0.5)

    def forward(self, x):
        h = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(h)) + x)


def get_init_inputs(channels=64):
    return [channels]


def get_inputs(b=4, channels=64, size=56):
    return [torch.randn(b, channels, size, size)]


def flop(b, channels, size):
    return 36 * b * channels * channels * size * size
