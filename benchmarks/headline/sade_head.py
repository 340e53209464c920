"""SADE's head: three experts' cosine classifiers, mixed; backward, only the mixture's weights are trained."""

import torch
import torch.nn.functional as F
from torch import nn

ROWS = {"15_sade_head": {}}
SMALL = {"b": 4, "d": 24, "classes": 10}
BACKWARD_FLOP = 2.0


class Model(nn.Module):
    def __init__(self, d, classes):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, d, classes), requires_grad=False)

    def forward(self, features, mixture):  # [3, B, d], [3]
        share = torch.softmax(mixture, 0)
        logits = 0.0
        for expert in range(3):
            x, w = F.normalize(features[expert], dim=1), F.normalize(self.weight[expert], dim=0)
            logits = logits + share[expert] * 30 * (x @ w)
        return torch.softmax(logits, -1)


def get_init_inputs(d=1536, classes=1000):
    return [d, classes]


def get_inputs(b=128, d=1536, classes=1000):
    return [torch.randn(3, b, d), torch.randn(3).requires_grad_()]


def flop(b, d, classes):
    return 3 * b * classes * (2 * d + 4)
