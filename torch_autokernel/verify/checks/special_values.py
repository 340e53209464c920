"""Check `special_values`."""

from __future__ import annotations

from typing import Any

from torch_autokernel.core.types import Finding, Status
from torch_autokernel.verify.checks.numerics import judge_cases


class SpecialValues:
    """NaN, infinities, signed zeros and denormals give what eager gives.

    What it checks: inputs with a few such elements; NaN and Inf must stand where eager or the float64 reference has them, and
    everything else must be right as in `numerics`.
    Why it matters: a swallowed NaN hides a diverged training run; a mask is made of -inf.
    What it misses: the sign of zero; the bits of a NaN.
    Example: `x > 0 ? x : 0` for relu; `fmaxf` for a maximum.
    """

    name = "special_values"

    def run(self, trial: Any) -> Finding:
        special = [p for p in trial.cases if p.special]
        if not special or not any(t.is_floating_point() for t in special[0].inputs):
            return Finding(self.name, Status.PASS, "no float inputs")
        return judge_cases(self.name, trial, special)
