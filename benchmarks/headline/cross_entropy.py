"""Cross-entropy of logits, forward and backward."""

import torch
import torch.nn.functional as F
from torch import nn

ROWS = {"11_cross_entropy": {}}
PASSES = {"11_cross_entropy": ("backward",)}
SMALL = {"rows": 5, "classes": 40}
BACKWARD_FLOP = 2.0


class Model(nn.Module):
    def forward(self, logits, target):
        return F.cross_entropy(logits, target)


def get_inputs(rows=4096, classes=4096):
    return [2 * torch.randn(rows, classes), torch.randint(classes, (rows,))]


def flop(rows, classes):
    return 5 * rows * classes
