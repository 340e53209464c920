"""One token through a linear layer in bf16."""

import torch
from torch import nn

ROWS = {"matvec_bf16_1024": {"d": 1024}, "matvec_bf16_4096": {"d": 4096}}
GOALS = {"matvec_bf16_1024": 2.5, "matvec_bf16_4096": 1.3}
DTYPES = ("bfloat16",)
GRADIENTS = False
SMALL = {"d": 24}


class Model(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.linear = nn.Linear(d, d, bias=False)

    def forward(self, x):
        return self.linear(x)


def get_init_inputs(d=4096):
    return [d]


def get_inputs(d=4096):
    return [torch.randn(1, d)]


def flop(d):
    return 2 * d * d
