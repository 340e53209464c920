"""RMS norm of queries and keys over each head."""

import torch
from torch import nn


class Model(nn.Module):
    """q, k: [B, T, H, D]."""

    def __init__(self, width, eps):
        super().__init__()
        self.eps = eps
        self.q_weight = nn.Parameter(torch.empty(width).uniform_(0.5, 1.5))
        self.k_weight = nn.Parameter(torch.empty(width).uniform_(0.5, 1.5))

    def forward(self, q, k):
        q = q * torch.rsqrt(q.square().mean(-1, keepdim=True) + self.eps) * self.q_weight
        k = k * torch.rsqrt(k.square().mean(-1, keepdim=True) + self.eps) * self.k_weight
        return q, k


def get_inputs():
    return [torch.randn(1, 512, 12, 64), torch.randn(1, 512, 12, 64)]


def get_init_inputs():
    return [64, 1e-6]
