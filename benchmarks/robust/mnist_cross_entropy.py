"""Cross-entropy over ten digits: one small batch, where a call's cost is everything, and a large one."""

import torch
import torch.nn.functional as F
from torch import nn

ROWS = {"mnist_cross_entropy_64": {"b": 64}, "mnist_cross_entropy_65536": {"b": 65536}}
PASSES = dict.fromkeys(ROWS, ("forward", "backward"))
SMALL = {"b": 7, "classes": 10}


class Model(nn.Module):
    def forward(self, predictions, target):
        return F.cross_entropy(predictions, target)


def get_inputs(b=64, classes=10):
    return [2 * torch.randn(b, classes), torch.randint(classes, (b,))]


def flop(b, classes):
    return 5 * b * classes
