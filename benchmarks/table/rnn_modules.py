"""torch's own LSTM and GRU: one step, a long sequence, a batch."""

import torch
from torch import nn

ROWS = {
    "nn_lstm_step_b1_h256": {"kind": "LSTM", "b": 1, "t": 1},
    "nn_gru_b1_t256_h256": {"kind": "GRU", "b": 1, "t": 256},
    "nn_lstm_b16_t256_h256": {"kind": "LSTM", "b": 16, "t": 256},
}
GOALS = {"nn_lstm_step_b1_h256": 5.3, "nn_gru_b1_t256_h256": 2.7, "nn_lstm_b16_t256_h256": 1.0}
SMALL = {"b": 2, "t": 3, "d": 8}


class Model(nn.Module):
    def __init__(self, kind, d):
        super().__init__()
        self.layer = getattr(nn, kind)(d, d, batch_first=True)

    def forward(self, x):
        return self.layer(x)


def get_init_inputs(kind="LSTM", d=256):
    return [kind, d]


def get_inputs(b=16, t=256, d=256):
    return [torch.randn(b, t, d)]


def flop(kind, b, t, d):
    gates = {"LSTM": 4, "GRU": 3}[kind]
    return b * t * gates * (4 * d * d + 8 * d)
