"""Whether the errors of a bf16 or fp16 output lie on one side: rounding to nearest does not, cutting bits off does.

With t = sign(o) (y - o) / (u |o|), cut off at 2 either way, over the elements whose o is a normal number and whose deviation is
at most 2u |o| (others may be 0 for all that their budget says), the bias is the mean of t. Rounding to nearest gives errors of
either sign alike: the mean over n independent ones has the deviation 0.6 / sqrt n (uniform in half the distance of two numbers,
which is between u and 2u of them: at most u / sqrt 3 = 0.58 u). Equal results have equal errors, so n is the participation
number of the distinct results, 1 / sum p^2. Roundings that elements share (of a scale, of a row's mean) are in the noisy runs
m_j: S is the root mean square of their biases. Allowed is

    0.3 + 4 max(S, 0.6 / sqrt n) + |bias of eager|          where n is at least 64

Cutting off errs by half a distance on average, between u/2 and u of the result: 0.72 where leading digits are spread evenly on
a logarithmic scale. 0.3 lies between that and what ties rounded upwards give.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

from torch_autokernel.verify.rounding import UNIT

LEAST = 64
_SIDE = 0.3
_SHARE = 0.6


def bias(y: torch.Tensor, exact: torch.Tensor, deviation: torch.Tensor, dtype: torch.dtype) -> float:
    """The mean of t: see above. All in float64."""
    kept = _regular(exact, deviation, dtype) & y.isfinite()
    o = exact[kept]
    t = (y[kept] - o) * o.sign() / (o.abs() * UNIT[dtype])
    return float(t.clamp_(-2, 2).mean()) if t.numel() else 0.0


def allowed(
    eager: torch.Tensor, exact: torch.Tensor, deviation: torch.Tensor, noisy: Iterable[torch.Tensor]
) -> float:  # fmt: skip
    """The largest bias of an honest kernel; infinite where the output cannot tell, or is wide."""
    if eager.dtype not in (torch.float16, torch.bfloat16):
        return math.inf
    kept = _regular(exact, deviation, eager.dtype) & eager.isfinite()
    counts = eager[kept].view(torch.int16).unique(return_counts=True)[1].double()
    if not counts.numel() or (number := float(counts.sum() ** 2 / counts.square().sum())) < LEAST:
        return math.inf
    squares = [bias(m, exact, deviation, eager.dtype) ** 2 for m in noisy]
    shared = math.sqrt(sum(squares) / max(1, len(squares)))
    return _SIDE + 4 * max(shared, _SHARE / math.sqrt(number)) + abs(bias(eager.double(), exact, deviation, eager.dtype))


def _regular(exact: torch.Tensor, deviation: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    size = exact.abs()
    return (size >= torch.finfo(dtype).tiny) & (size <= torch.finfo(dtype).max / 2) & (deviation <= 2 * UNIT[dtype] * size)
