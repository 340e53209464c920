"""Log-softmax over the last dimension, bf16."""

import torch
from torch import nn


class Model(nn.Module):
    """x: [M, N]."""

    def forward(self, x):
        return torch.log_softmax(x, dim=-1)


def get_inputs():
    return [(4.0 * torch.randn(512, 2048)).bfloat16()]


def get_init_inputs():
    return []
