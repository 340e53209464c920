"""Cross-entropy over a vocabulary."""

import torch
import torch.nn.functional as F
from torch import nn


class Model(nn.Module):
    """logits: [M, V]; target: [M]."""

    def forward(self, logits, target):
        return F.cross_entropy(logits, target)


def get_inputs():
    return [3.0 * torch.randn(256, 8192), torch.randint(0, 8192, (256,))]


def get_init_inputs():
    return []
