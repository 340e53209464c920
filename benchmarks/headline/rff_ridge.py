"""Kernel ridge regression on random Fourier features, fitted to a context and asked for queries."""

import math

import torch
from torch import nn

ROWS = {"16_rff_ridge": {}}
SMALL = {"context": 12, "queries": 10, "d": 8, "features": 64, "outputs": 5}
DTYPES = ("float32",)  # a kernel matrix rounded to bf16 is not positive definite


class Model(nn.Module):
    def __init__(self, d, features):
        super().__init__()
        self.w = nn.Parameter(torch.randn(features, d) / d**0.5)
        self.b = nn.Parameter(2 * math.pi * torch.rand(features))
        self.ridge = nn.Parameter(torch.tensor(0.1))
        self.scale = nn.Parameter(torch.tensor(1.2))
        self.shift = nn.Parameter(torch.tensor(0.1))

    def phi(self, x):
        return math.sqrt(2 / len(self.b)) * torch.cos(x @ self.w.T + self.b)

    def forward(self, context, targets, queries):  # [C, d], [C, K], [Q, d]
        c, q = self.phi(context), self.phi(queries)
        kernel = c @ c.T + (self.ridge.abs() + 0.01) * torch.eye(len(c), dtype=c.dtype)
        alpha = torch.cholesky_solve(targets, torch.linalg.cholesky(kernel))
        return self.scale * (q @ c.T @ alpha) + self.shift


def get_init_inputs(d=256, features=2048):
    return [d, features]


def get_inputs(context=512, queries=512, d=256, outputs=100):
    return [torch.randn(context, d), torch.randn(context, outputs), torch.randn(queries, d)]


def flop(context, queries, d, features, outputs):
    phi = (context + queries) * features * (2 * d + 2)
    gram = 2 * (context + queries) * context * features
    return phi + gram + context**3 / 3 + 2 * context * outputs * (context + queries)
