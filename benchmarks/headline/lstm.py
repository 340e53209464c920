"""FlashRNN's LSTM with a block-diagonal recurrent matrix, written as a loop over time."""

import torch
from torch import nn

ROWS = {
    "01_lstm_latency": {"b": 1, "t": 1024, "n": 1, "d": 64},
    "02_lstm_training": {"b": 4, "t": 128, "n": 4, "d": 64},
    "17_lstm_throughput": {"b": 16, "t": 256, "n": 12, "d": 64},
}
PASSES = {"02_lstm_training": ("backward",)}
GOALS = {"01_lstm_latency": {"best": 1.3, "eager": 25}}
SMALL = {"b": 2, "t": 5, "n": 2, "d": 8}
STEP = "cell"


class Model(nn.Module):
    def __init__(self, n, d):
        super().__init__()
        self.R = nn.Parameter(torch.randn(4, n, d, d) / d**0.5)
        self.b = nn.Parameter(torch.randn(4, n, d) * 0.1)

    def cell(self, x, h, c):
        i, f, z, o = (x + torch.einsum("bnp,gndp->bgnd", h, self.R) + self.b).unbind(1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(z)
        return torch.sigmoid(o) * torch.tanh(c), c

    def forward(self, wx):  # [B, T, G, N, D]
        b, t, _, n, d = wx.shape
        h = c = wx.new_zeros(b, n, d)
        out = []
        for step in range(t):
            h, c = self.cell(wx[:, step], h, c)
            out.append(h)
        return torch.stack(out, 1)


def get_init_inputs(n=1, d=64):
    return [n, d]


def get_inputs(b=1, t=1024, n=1, d=64):
    return [torch.randn(b, t, 4, n, d)]


def flop(b, t, n, d):
    return b * t * n * (8 * d * d + 25 * d)
