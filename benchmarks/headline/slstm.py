"""FlashRNN's sLSTM, exponential gates with a stabiliser, written as a loop over time."""

import torch
import torch.nn.functional as F
from torch import nn

ROWS = {"07_slstm": {"b": 4, "t": 256, "n": 4, "d": 64}}
GOALS = {"07_slstm": {"best": 1.3, "eager": 10}}
SMALL = {"b": 2, "t": 5, "n": 2, "d": 8}
STEP = "cell"


class Model(nn.Module):
    def __init__(self, n, d):
        super().__init__()
        self.R = nn.Parameter(torch.randn(4, n, d, d) / d**0.5)
        self.b = nn.Parameter(torch.randn(4, n, d) * 0.1)

    def cell(self, x, h, c, n, m):
        i, f, z, o = (x + torch.einsum("bnp,gndp->bgnd", h, self.R) + self.b).unbind(1)
        carried = F.logsigmoid(f) + m
        m = torch.maximum(i, carried)
        i, f = torch.exp(i - m), torch.exp(carried - m)
        c = f * c + i * torch.tanh(z)
        n = torch.clamp(f * n + i, min=1.0)
        return torch.sigmoid(o) * c / n, c, n, m

    def forward(self, wx):  # [B, T, G, N, D]
        b, t, _, heads, d = wx.shape
        h = c = n = wx.new_zeros(b, heads, d)
        m = torch.full_like(h, float("-inf"))  # the first maximum is then the input gate's
        out = []
        for step in range(t):
            h, c, n, m = self.cell(wx[:, step], h, c, n, m)
            out.append(h)
        return torch.stack(out, 1)


def get_init_inputs(n=4, d=64):
    return [n, d]


def get_inputs(b=4, t=256, n=4, d=64):
    return [torch.randn(b, t, 4, n, d)]


def flop(b, t, n, d):
    return b * t * n * (8 * d * d + 35 * d)
