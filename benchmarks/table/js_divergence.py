"""Jensen-Shannon divergence of two models' predictions, as in distillation."""

import math

import torch
from torch import nn

ROWS = {"js_divergence_256x32000": {}}
PASSES = {"js_divergence_256x32000": ("forward", "backward")}
GOALS = {"js_divergence_256x32000": 2.9, "js_divergence_256x32000 backward": 2.5}
SMALL = {"rows": 4, "classes": 40}


class Model(nn.Module):
    def forward(self, student, teacher):
        p, q = torch.log_softmax(student, -1), torch.log_softmax(teacher, -1)
        m = torch.logaddexp(p, q) - math.log(2)
        return 0.5 * (p.exp() * (p - m) + q.exp() * (q - m)).sum(-1).mean()


def get_inputs(rows=256, classes=32000):
    return [2 * torch.randn(rows, classes), 2 * torch.randn(rows, classes)]


def flop(rows, classes):
    return 20 * rows * classes
