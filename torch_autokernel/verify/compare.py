"""A candidate's raw outputs against what is expected, and against each other.

With y the candidate's output, o and e from the oracle, f D the deviation that an honest kernel may show there:

    an element passes within 4 (f D + l) of o, or of e (a decision at a tie may fall either way), l the least error of a
    rounding (`rounding.LEAST`): the smallest normal number, but in fp16 half the distance of its denormals
    an output passes if besides the root mean square of |y - o| / (f D) is at most 2 (64 elements or more), and, in bf16 and
    fp16, its errors are not all on one side (`verify/bias.py`)

Where o in the output's dtype, or e, is not finite, an element must be what one of them is. So a fused kernel that does not
overflow in an intermediate bf16 or fp16 rounding passes, and one that turns NaN into a number does not. Anywhere it may be o
with means taken as sums (eager's running mean makes NaN of an infinite element), with attention by its definition
(`attention.py`), and with a convolution's padding as zeros (NaN under an infinite weight). The other way round, an element may
be infinite or NaN where it would be if every intermediate result within 8 roundings of the largest number overflowed. Integers
and booleans must equal o, e or one of the m_j.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from torch_autokernel.verify.bias import bias
from torch_autokernel.verify.oracle import Target
from torch_autokernel.verify.rounding import LEAST, UNIT

FACTOR = 4.0
RMS_LIMIT = 2.0
RMS_LEAST = 64  # elements; of fewer, each one's own limit is enough


@dataclass(frozen=True)
class Difference:
    """`bad` elements of an output do not pass; `index` is the worst one. `worst` and `rms` are in units of f D."""

    bad: int
    total: int
    worst: float = 0.0
    rms: float = 0.0
    index: tuple[int, ...] = ()
    got: float = 0.0
    want: float = 0.0
    allowed: float = 0.0
    kind: str = "value"
    bias: float = 0.0
    most_bias: float = math.inf

    @property
    def ok(self) -> bool:
        return self.bad == 0 and (self.rms <= RMS_LIMIT or self.total < RMS_LEAST) and abs(self.bias) <= self.most_bias

    def describe(self) -> str:
        if self.bad == 0 and abs(self.bias) > self.most_bias:
            side = "larger" if self.bias > 0 else "smaller"
            return f"results are {side} on the whole: by {abs(self.bias):.2g} units of rounding, limit {self.most_bias:.2g}"
        if self.bad == 0:
            return f"errors are too large on the whole: rms {self.rms:.3g} times the expected deviation, limit {RMS_LIMIT:g}"
        where = f"[{', '.join(map(str, self.index))}]"
        values = f"got {self.got:.9g}, expected {self.want:.9g}, allowed error {self.allowed:.3g}"
        return f"{self.bad} of {self.total} elements are wrong; worst at {where}: {values}"

    def evidence(self) -> Mapping[str, Any]:
        return {"bad": self.bad, "total": self.total, "worst": self.worst, "rms": self.rms, "index": list(self.index),
                "got": self.got, "want": self.want, "allowed": self.allowed}  # fmt: skip


def compare(got: torch.Tensor, target: Target) -> Difference:
    """A candidate's output against what is expected."""
    if target.deviation is None:
        ok = _equals_one(got, target)
        return Difference(0, got.numel()) if bool(ok.all()) else _worst(ok, (~ok).double(), got, target.eager)
    y, o, e, deviation = got.double(), target.exact, target.eager.double(), target.deviation
    allowed = FACTOR * (deviation + LEAST[got.dtype])
    error = (y - o).abs()
    ok = (error <= allowed) | ((y - e).abs() <= allowed)
    rounded = o.to(got.dtype).double()
    regular = rounded.isfinite() & e.isfinite()
    ratio = error / deviation
    if not bool(regular.all()):
        found = ok | _near_overflow(y, o, got.dtype)
        for want in (rounded, e):
            found |= _same(y, want)
        ok = torch.where(regular, ok, found)
        ratio = torch.where(regular, ratio, 0.0)
    for want in target.others:
        other = ~ok & (_same(y, want) | want.isfinite() & ((y - want).abs() <= allowed))
        ok, ratio = ok | other, torch.where(other, 0.0, ratio)
    if target.brim is not None:
        over = _same(y, target.brim)
        ok, ratio = ok | over, torch.where(over, 0.0, ratio)
    rms = _rms(ratio, ok)
    if bool(ok.all()):
        worst = float(ratio.max()) if ratio.numel() else 0.0
        side = bias(y, o, deviation, got.dtype) if target.bias < math.inf else 0.0
        return Difference(0, got.numel(), worst, rms, bias=side, most_bias=target.bias)
    score = (error / deviation).nan_to_num(math.inf, math.inf, math.inf).clamp_min(1e-9)
    return _worst(ok, score, y, torch.where(rounded.isfinite(), rounded, e), allowed, rms)


def consistent(one: torch.Tensor, other: torch.Tensor, target: Target, flushed: bool = False) -> Difference:
    """Two results of the same candidate on the same inputs: each within the budget of the other. `flushed` says that denormals
    may be zero in one of them, those of fp16 too."""
    if target.deviation is None:
        ok = (one == other) | (_equals_one(one, target) & _equals_one(other, target))
        return Difference(0, one.numel()) if bool(ok.all()) else _worst(ok, (~ok).double(), other, one)
    a, b = one.double(), other.double()
    least = torch.finfo(one.dtype).tiny if flushed else LEAST[one.dtype]
    allowed = 2 * FACTOR * (target.deviation + least)
    ok = ((a - b).abs() <= allowed) | (a == b) | (a.isnan() & b.isnan())
    if bool(ok.all()):
        return Difference(0, one.numel())
    return _worst(ok, ((a - b).abs() / allowed).nan_to_num(math.inf, math.inf, math.inf).clamp_min(1e-9), b, a, allowed)


def _worst(
    ok: torch.Tensor, score: torch.Tensor, got: torch.Tensor, want: torch.Tensor, allowed: torch.Tensor | None = None,
    rms: float = 0.0,
) -> Difference:  # fmt: skip
    """The difference whose index is the element of the highest score among those that are not ok."""
    score = torch.where(ok, 0.0, score).reshape(-1)
    at = int(score.argmax())
    index = tuple(int(i) for i in torch.unravel_index(torch.tensor(at), got.shape)) if got.dim() else ()
    budget = 0.0 if allowed is None else float(allowed.reshape(-1)[at])
    values = float(got.reshape(-1)[at]), float(want.reshape(-1)[at])
    return Difference(int((~ok).sum()), got.numel(), float(score[at]), rms, index, *values, budget)


def _rms(ratio: torch.Tensor, ok: torch.Tensor) -> float:
    """Over all elements, but for those that took eager's side of a tie."""
    near = torch.where(ok & (ratio <= 2 * FACTOR), ratio, 0.0)
    return float(near.square().mean().sqrt()) if near.numel() else 0.0


def _same(y: torch.Tensor, want: torch.Tensor) -> torch.Tensor:
    return ((y == want) | (y.isnan() & want.isnan())) & ~want.isfinite()


def _near_overflow(y: torch.Tensor, o: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Around the largest number, infinity and the largest finite values are the same answer."""
    least, most = (torch.finfo(dtype).max * (1 + sign * 8 * UNIT[dtype]) for sign in (-1, 1))
    return (o.abs() >= least) & (o.abs() <= most) & (y.abs() >= least) & (y.sign() == o.sign())


def _equals_one(got: torch.Tensor, target: Target) -> torch.Tensor:
    ok = (got == target.exact) | (got == target.eager)
    for other in target.others:
        ok |= got == other
    return ok
