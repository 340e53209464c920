"""An embedding bag written out: gather, weight, sum."""

import torch
from torch import nn

ROWS = {"embedding_bag": {}}
SMALL = {"bags": 4, "size": 3, "table": 20, "d": 8}


class Model(nn.Module):
    def __init__(self, table, d):
        super().__init__()
        self.table = nn.Parameter(torch.randn(table, d))

    def forward(self, index, weights):  # [bags, size] twice
        return (self.table[index] * weights[..., None]).sum(1)


def get_init_inputs(table=100000, d=64):
    return [table, d]


def get_inputs(bags=2048, size=32, table=100000):
    return [torch.randint(table, (bags, size)), torch.rand(bags, size)]


def flop(bags, size, d):
    return 2 * bags * size * d


def untouched(model, index, weights):
    """Bytes of the table that no bag asks for."""
    return (len(model.table) - len(index.unique())) * model.table[0].nbytes
