"""torch's own recurrent layers as scans: within the mode, `torch.lstm`, `gru`, `rnn_tanh` and `rnn_relu` are written out.

    for every layer and direction: xw = linear(x, w_ih, b_ih); scan(cell, states, xw)

So a trace has one product for all steps of a layer, and a loop whose body is known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from torch_autokernel.core.errors import CaptureError

Tensor = torch.Tensor
Cell = Callable[..., list[Tensor]]  # states, this step's input, weights -> next states, this step's result


def _lstm(h: Tensor, c: Tensor, xw: Tensor, w: Tensor, *rest: Tensor) -> list[Tensor]:
    """`rest`: the bias, the projection, or both."""
    b = rest[0] if rest and rest[0].dim() == 1 else None
    i, f, z, o = (xw + F.linear(h, w, b)).chunk(4, 1)
    c = f.sigmoid() * c + i.sigmoid() * z.tanh()
    h = o.sigmoid() * c.tanh()
    if rest and rest[-1].dim() == 2:
        h = F.linear(h, rest[-1])
    return [h, c, h.clone()]


def _gru(h: Tensor, xw: Tensor, w: Tensor, *b: Tensor) -> list[Tensor]:
    x, g = xw.chunk(3, 1), F.linear(h, w, *b).chunk(3, 1)
    r, z = (x[0] + g[0]).sigmoid(), (x[1] + g[1]).sigmoid()
    n = (x[2] + r * g[2]).tanh()
    h = (h - n) * z + n
    return [h, h.clone()]


def _tanh(h: Tensor, xw: Tensor, w: Tensor, *b: Tensor) -> list[Tensor]:
    h = torch.tanh(xw + F.linear(h, w, *b))
    return [h, h.clone()]


def _relu(h: Tensor, xw: Tensor, w: Tensor, *b: Tensor) -> list[Tensor]:
    h = torch.relu(xw + F.linear(h, w, *b))
    return [h, h.clone()]


_KINDS: dict[str, Cell] = {"lstm": _lstm, "gru": _gru, "rnn_tanh": _tanh, "rnn_relu": _relu}
FUNCTIONS = {getattr(torch, name): name for name in _KINDS}


class as_scans(TorchFunctionMode):
    """Raises CaptureError for what is not written out: packed sequences, dropout between layers."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if isinstance(func, type(torch.lstm)) and (name := FUNCTIONS.get(func)):
            return _layers(name, *args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _layers(
    name: str, x: Tensor, hx: Any, params: Any, has_biases: Any, num_layers: Any, dropout: Any, train: Any, bidirectional: Any,
    batch_first: Any = None,
) -> tuple[Tensor, ...]:  # fmt: skip
    """(y, h_n) or, for an LSTM, (y, h_n, c_n), as `torch.lstm` and the others give it."""
    if not isinstance(has_biases, bool) or batch_first is None:
        raise CaptureError(f"{name} of a packed sequence")
    if dropout and train and num_layers > 1:
        raise CaptureError(f"{name} with dropout draws random numbers")
    if x.dim() != 3 or not x.shape[0] or not x.shape[1]:
        raise CaptureError(f"{name} of an input of shape {tuple(x.shape)}")
    first = tuple(hx) if name == "lstm" else (hx,)
    directions = 2 if bidirectional else 1
    each = len(params) // (num_layers * directions)
    x = x.transpose(0, 1) if batch_first else x
    last: list[tuple[Tensor, ...]] = []
    for layer in range(num_layers):
        ys = []
        for back in range(directions):
            k = layer * directions + back
            y, states = _one(name, x, tuple(s[k] for s in first), params[k * each : (k + 1) * each], has_biases, bool(back))
            ys.append(y)
            last.append(states)
        x = torch.cat(ys, -1) if bidirectional else ys[0]
    ends = (s[0].unsqueeze(0) if len(last) == 1 else torch.stack(s) for s in zip(*last, strict=True))
    return (x.transpose(0, 1) if batch_first else x, *ends)


def _one(
    name: str, x: Tensor, states: tuple[Tensor, ...], params: Sequence[Tensor], has_biases: bool, back: bool
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """One direction of one layer over x [T, B, I]: its results [T, B, H], and its states after the last step."""
    from torch._higher_order_ops.scan import scan_op  # imported here: a warm direct call never needs it

    w_ih, w_hh, *rest = params
    given = [s.contiguous() for s in states]
    if x.shape[0] == 1 and x.shape[1] == 1:  # the products of one vector are sums: the kernel's, too
        *last, y = scan_op(_with_product(name, has_biases), given, [x], params)
        return y, tuple(last)
    # made dense first: of a transposed x torch makes a batch of small products, at half the speed
    xw = F.linear(x.contiguous(), w_ih, rest.pop(0) if has_biases else None)
    *last, y = scan_op(_KINDS[name], given, [xw.flip(0) if back else xw], (w_hh, *rest))
    return y.flip(0) if back else y, tuple(last)


def _with_product(name: str, has_biases: bool) -> Cell:
    """The cell over a step's input itself, with all of the layer's weights."""
    cell, count = _KINDS[name], 2 if name == "lstm" else 1

    def step(*given: Tensor) -> list[Tensor]:
        states, (x, w_ih, w_hh, *rest) = given[:count], given[count:]
        return cell(*states, F.linear(x, w_ih, rest.pop(0) if has_biases else None), w_hh, *rest)

    return step
