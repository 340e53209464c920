"""RMSNorm of a Llama."""

import torch
from torch import nn

ROWS = {"08_rms_norm": {}}
SMALL = {"b": 2, "t": 3, "d": 40}


class Model(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.weight = nn.Parameter(1 + 0.1 * torch.randn(d))

    def forward(self, x):
        h = x.to(torch.promote_types(x.dtype, torch.float32))
        return self.weight * (h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype)


def get_init_inputs(d=4096):
    return [d]


def get_inputs(b=4, t=1024, d=4096):
    return [torch.randn(b, t, d)]


def flop(b, t, d):
    return 4 * b * t * d
