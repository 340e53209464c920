"""A language model of two LSTM layers, its head tied to the embedding; the cross-entropy loss where it is trained."""

import torch
import torch.nn.functional as F
from torch import nn

ROWS = {"lstm_language_model": {}}
PASSES = dict.fromkeys(ROWS, ("forward", "backward"))
SMALL = {"b": 2, "t": 5, "d": 8, "vocab": 11}


class Model(nn.Module):
    def __init__(self, d, vocab):
        super().__init__()
        self.embedding = nn.Embedding(vocab, d)
        self.lstm = nn.LSTM(d, d, num_layers=2, batch_first=True)
        self.bias = nn.Parameter(torch.zeros(vocab))

    def forward(self, tokens, following):  # [B, T] twice
        h, _ = self.lstm(self.embedding(tokens))
        logits = F.linear(h, self.embedding.weight, self.bias)
        if self.training:
            return F.cross_entropy(logits.flatten(0, 1), following.flatten())
        return logits


def get_init_inputs(d=256, vocab=2000):
    return [d, vocab]


def get_inputs(b=8, t=64, vocab=2000):
    tokens = torch.randint(vocab, (b, t + 1))
    return [tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()]


def flop(b, t, d, vocab):
    return b * t * (32 * d * d + 2 * d * vocab)
