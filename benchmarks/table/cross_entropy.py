"""Cross-entropy over a vocabulary."""

import torch
import torch.nn.functional as F
from torch import nn

ROWS = {"cross_entropy_512x32000": {}}
PASSES = {"cross_entropy_512x32000": ("forward", "backward")}
GOALS = {"cross_entropy_512x32000": 2.1, "cross_entropy_512x32000 backward": 3.2}
SMALL = {"rows": 5, "classes": 40}
BACKWARD_FLOP = 2.0


class Model(nn.Module):
    def forward(self, logits, target):
        return F.cross_entropy(logits, target)


def get_inputs(rows=512, classes=32000):
    return [2 * torch.randn(rows, classes), torch.randint(classes, (rows,))]


def flop(rows, classes):
    return 5 * rows * classes
