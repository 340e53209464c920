"""Cross-entropy of each token, bf16 logits, computed in fp32."""

import torch
import torch.nn.functional as F
from torch import nn


class Model(nn.Module):
    """logits: [M, V], bf16; target: [M]; gives [M]."""

    def forward(self, logits, target):
        return F.cross_entropy(logits.float(), target, reduction="none")


def get_inputs():
    return [(3.0 * torch.randn(256, 8192)).bfloat16(), torch.randint(0, 8192, (256,))]


def get_init_inputs():
    return []
