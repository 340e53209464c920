"""LaCT: a gated MLP whose weights are trained, chunk by chunk, by Muon while the sequence is read."""

import torch
import torch.nn.functional as F
from torch import nn

ROWS = {"13_lact_muon": {}}
SMALL = {"b": 2, "length": 96, "d": 8, "chunk": 32}
COEFFICIENTS = (
    (4.0848, -6.8946, 2.9270), (3.9505, -6.3029, 2.6377), (3.7418, -5.5913, 2.3037), (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
)  # fmt: skip


def orthogonal(g):
    x = g / g.norm(dim=(-2, -1), keepdim=True)
    for a, b, c in COEFFICIENTS:
        m = x @ x.mT
        x = a * x + (b * m + c * (m @ m)) @ x
    return x


class Model(nn.Module):
    def __init__(self, d, chunk, momentum):
        super().__init__()
        self.chunk, self.momentum = chunk, momentum
        self.weights = nn.ParameterList(torch.randn(d, d) / d**0.5 for _ in range(3))

    def forward(self, q, k, v, lr0, lr1, lr2):  # [B, L, D] three times, [B, L, 1] three times
        w0, w1, w2 = (w.expand(len(q), -1, -1) for w in self.weights)
        norms = [w.norm(dim=-1, keepdim=True) for w in (w0, w1, w2)]
        moments = [torch.zeros_like(w) for w in (w0, w1, w2)]
        chunks = list(zip(*(x.split(self.chunk, 1) for x in (q, k, v, lr0, lr1, lr2)), strict=True))
        out = []
        for number, (cq, ck, cv, l0, l1, l2) in enumerate(chunks):
            out.append((w1 @ (F.silu(w0 @ cq.mT) * (w2 @ cq.mT))).mT)
            if number == len(chunks) - 1:
                break
            g, u, dh = w0 @ ck.mT, w2 @ ck.mT, w1.mT @ cv.mT
            s = torch.sigmoid(g)
            steps = (
                (dh * u * s * (1 + g * (1 - s))) @ (ck * l0),
                cv.mT @ ((g * s * u).mT * l1),
                (dh * g * s) @ (ck * l2),
            )
            moments = [orthogonal(step + self.momentum * m) for step, m in zip(steps, moments, strict=True)]
            w0, w1, w2 = (F.normalize(w + m, dim=-1) * n for w, m, n in zip((w0, w1, w2), moments, norms, strict=True))
        return torch.cat(out, 1), w0, w1, w2


def get_init_inputs(d=192, chunk=512, momentum=0.9):
    return [d, chunk, momentum]


def get_inputs(b=4, length=2048, d=192):
    rates = (0.01 + 0.02 * torch.rand(b, length, 1) for _ in range(3))
    return [*(torch.randn(b, length, d) for _ in range(3)), *rates]


def flop(b, length, d, chunk):
    updates = length // chunk - 1
    applied, learnt = 6 * length * d * d, updates * 12 * chunk * d * d
    return b * (applied + learnt + updates * 3 * 5 * 6 * d**3)
