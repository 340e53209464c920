"""Check `uninitialised`."""

from __future__ import annotations

from typing import Any

from torch_autokernel.core.types import Finding, Status
from torch_autokernel.verify.compare import consistent


class Uninitialised:
    """The result does not depend on what outputs, workspace and stack held before.

    What it checks: the same inputs with outputs, workspace and the unused part of every thread's stack full of ordinary
    numbers, then full of NaN: each result must be within the error budget of the other.
    Why it matters: memory that is zero in a fresh process is not in a user's.
    What it misses: reads whose value has no influence on the result; variables that a compiler keeps in registers.
    Example: `y[i] += x[i]` on an output that was never set; a workspace expected to be zero.
    """

    name = "uninitialised"

    def run(self, trial: Any) -> Finding:
        for prepared in trial.cases:
            end, start = trial.runner.run(prepared, "end"), trial.runner.run(prepared, "start")
            if not (end.ok and start.ok):
                return Finding(self.name, Status.SKIP, "a call did not come back")
            for i, target in enumerate(prepared.expected.targets):
                difference = consistent(end.outputs[i], start.outputs[i], target)
                if not difference.ok:
                    either = f"{difference.got:.9g} or {difference.want:.9g}"
                    reason = f"output {i} depends on what memory held before: {either} at {list(difference.index)}"
                    return Finding(self.name, Status.FAIL, reason, {"case": prepared.case.to_json(), **difference.evidence()})
        return Finding(self.name, Status.PASS)
