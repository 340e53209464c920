"""Forwards with a Python loop over time, as users write them, and inputs for them: `CELLS[name]()` is (function, arguments, module)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

Tensor = torch.Tensor
Made = tuple[Callable[..., Any], list[Tensor], torch.nn.Module | None]
B, G, N, D = 3, 4, 2, 10


def rn(*shape: int) -> Tensor:
    return torch.randn(*shape)


def lstm(wx: Tensor, r: Tensor, b: Tensor, h: Tensor, c: Tensor) -> Any:
    """Multi-head, wx [B, T, G, N, D]."""
    ys = []
    for t in range(wx.shape[1]):
        raw = wx[:, t] + torch.einsum("bnp,gndp->bgnd", h, r) + b
        i, f, z, o = raw.unbind(1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(z)
        h = torch.sigmoid(o) * torch.tanh(c)
        ys.append(h)
    return torch.stack(ys, 1), h, c


def slstm(wx: Tensor, r: Tensor, b: Tensor) -> Tensor:
    """Four states that all begin at zero."""
    batch, length, _g, heads, d = wx.shape
    h, c, n, m = (wx.new_zeros(batch, heads, d) for _ in range(4))
    ys = []
    for t in range(length):
        i, f, z, o = (wx[:, t] + torch.einsum("bnp,gndp->bgnd", h, r) + b).unbind(1)
        lf = F.logsigmoid(f) + m
        top = torch.where(torch.all(n == 0), i, torch.maximum(i, lf))
        left, right = torch.exp(lf - top), torch.exp(i - top)
        c, n, m = left * c + right * torch.tanh(z), torch.clamp(left * n + right, min=1.0), top
        h = torch.sigmoid(o) * c / n
        ys.append(h)
    return torch.stack(ys, 1)


def elman(x: Tensor, wi: Tensor, w: Tensor, b: Tensor, h: Tensor) -> Tensor:
    """Only the last state."""
    for t in range(x.shape[1]):
        h = torch.tanh(x[:, t] @ wi + h @ w.t() + b)
    return h


def wkv7(r: Tensor, w: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, s: Tensor) -> Any:
    """RWKV-7, [B, H, T, D] each, s [B, H, V, K]."""
    ys = []
    for t in range(r.shape[2]):
        d = torch.exp(-torch.exp(w[:, :, t]))
        sa = torch.einsum("bhvk,bhk->bhv", s, a[:, :, t])
        s = s * d[:, :, None, :] + sa[..., None] * b[:, :, t, None, :] + v[:, :, t][..., None] * k[:, :, t, None, :]
        ys.append(torch.einsum("bhvk,bhk->bhv", s, r[:, :, t]))
    return torch.stack(ys, 2), s


def gated(f: Tensor, x: Tensor, h: Tensor) -> Tensor:
    """Time comes first."""
    ys = []
    for t in range(f.shape[0]):
        h = torch.sigmoid(f[t]) * h + x[t]
        ys.append(h)
    return torch.stack(ys)


def selective(u: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    h, ys = u.new_zeros(u.shape[0], u.shape[2], a.shape[1]), []
    for t in range(u.shape[1]):
        h = torch.exp(dt[:, t, :, None] * a) * h + (dt[:, t] * u[:, t])[..., None] * b[:, t, None, :]
        ys.append((h * c[:, t, None, :]).sum(-1) + u[:, t] * d)
    return torch.stack(ys, 1)


class GRU(torch.nn.Module):
    """torch's cell, whose decomposition works in place; time taken apart by unbind."""

    def __init__(self, inputs: int = 6, size: int = 12) -> None:
        super().__init__()
        self.cell, self.size = torch.nn.GRUCell(inputs, size), size

    def forward(self, x: Tensor) -> Tensor:
        h, ys = x.new_zeros(x.shape[0], self.size), []
        for xt in x.unbind(1):
            h = self.cell(xt, h)
            ys.append(h)
        return torch.stack(ys, 1)


class BackwardLSTM(torch.nn.Module):
    """From the end to the beginning."""

    def __init__(self, inputs: int = 6, size: int = 12) -> None:
        super().__init__()
        self.cell, self.size = torch.nn.LSTMCell(inputs, size), size

    def forward(self, x: Tensor) -> Any:
        h, ys = x.new_zeros(x.shape[0], self.size), []
        c = h
        for t in reversed(range(x.shape[1])):
            h, c = self.cell(x[:, t], (h, c))
            ys.insert(0, h)
        return torch.stack(ys, 1), h


def differences(x: Tensor, h: Tensor) -> Tensor:
    """Reads two positions, from the second step on."""
    ys = []
    for t in range(1, x.shape[1]):
        h = 0.5 * h + (x[:, t] - x[:, t - 1]).abs()
        ys.append(h)
    return torch.stack(ys, -1)


def _module(made: torch.nn.Module, *inputs: Tensor) -> Made:
    return type(made).forward, list(inputs), made


def make(name: str, t: int = 29) -> Made:
    """The cell with inputs of length t."""
    heads = [rn(B, t, G, N, D), rn(G, N, D, D) * 0.3, rn(G, N, D)]
    match name:
        case "lstm":
            return lstm, [*heads, rn(B, N, D), rn(B, N, D)], None
        case "slstm":
            return slstm, heads, None
        case "elman":
            return elman, [rn(B, t, 6), rn(6, D) * 0.3, rn(D, D) * 0.3, rn(D), rn(B, D)], None
        case "wkv7":
            return wkv7, [*(rn(B, N, t, D) * 0.5 for _ in range(4)), *(rn(B, N, t, D) * 0.1 for _ in range(2)), rn(B, N, D, D)], None
        case "gated":
            return gated, [rn(t, B, D), rn(t, B, D), rn(B, D)], None
        case "selective":
            return selective, [rn(B, t, D), rn(B, t, D).abs(), -rn(D, 6).abs(), rn(B, t, 6), rn(B, t, 6), rn(D)], None
        case "differences":
            return differences, [rn(B, t, D), rn(B, D)], None
        case "gru":
            return _module(GRU(), rn(B, t, 6))
        case "backward_lstm":
            return _module(BackwardLSTM(), rn(B, t, 6))
    raise KeyError(name)


CELLS = ("lstm", "slstm", "elman", "wkv7", "gated", "selective", "differences", "gru", "backward_lstm")
