"""Check `numerics`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch_autokernel.core.types import Finding, Status
from torch_autokernel.verify.compare import compare


class Numerics:
    """Results are right within a budget derived from dtype, operations and inputs.

    What it checks: every element of every output against the reference in float64, on several distributions and sizes;
    the worst element and the root mean square. The budget is derived in `verify/oracle.py`.
    Why it matters: it is what the kernel is for.
    What it misses: errors below the budget; values that only other distributions would reach.
    Example: a wrong epsilon (seen on small inputs); bf16 arithmetic in an fp32 region; a hard-coded size; a constant.
    """

    name = "numerics"

    def run(self, trial: Any) -> Finding:
        ordinary = (p for p in trial.cases if not p.special)
        return judge_cases(self.name, trial, ordinary)


def judge_cases(name: str, trial: Any, cases: Iterable[Any]) -> Finding:
    """PASS where every output of every case passes; at least one case must have mostly finite results."""
    worst, count, fit = 0.0, 0, False
    for prepared in cases:
        result = trial.runner.run(prepared, "end")
        if not result.ok:
            return Finding(name, Status.SKIP, "a call did not come back")
        for i, target in enumerate(prepared.expected.targets):
            difference = compare(result.outputs[i], target)
            if not difference.ok:
                sizes = " ".join(f"{k}={v}" for k, v in prepared.case.sizes.items())
                reason = f"output {i}, {prepared.case.distribution} inputs, {sizes or 'fixed sizes'}: {difference.describe()}"
                evidence = {"case": prepared.case.to_json(), "output": i, **difference.evidence()}
                return Finding(name, Status.FAIL, reason, evidence)
            worst = max(worst, difference.worst)
        count += 1
        fit |= prepared.special or prepared.expected.fit
    if not fit:
        return Finding(name, Status.SKIP, "the region is unfit for judging: on no inputs tried is eager's result mostly finite")
    return Finding(name, Status.PASS, "", {"cases": count, "worst": worst})
