"""Check `runs`."""

from __future__ import annotations

from typing import Any

from torch_autokernel.core.types import Finding, Status
from torch_autokernel.verify.checks.bounds import in_guard


class Runs:
    """Every call comes back, quietly.

    What it checks: on all cases the entry returns within the time limit, without a signal, a forbidden system call, an exit or
    a line of output. Accesses to a buffer's guard are left to `bounds`.
    Why it matters: an accepted kernel runs in the user's process, and takes it down with it.
    What it misses: crashes that need other sizes or values than the cases have.
    Example: a null pointer; an endless loop; `exit(0)` before the result is written; `write(1, ...)` by a raw system call.
    """

    name = "runs"

    def run(self, trial: Any) -> Finding:
        count = 0
        for prepared, result in trial.results():
            count += 1
            outcome = result.outcome
            if not outcome.ok and not in_guard(result):
                where = f" at {outcome.fault.address:#x}" if outcome.fault else ""
                evidence = {"case": prepared.case.to_json(), "kind": outcome.kind, "signature": outcome.signature,
                            "log": outcome.log.decode(errors="replace")}  # fmt: skip
                return Finding(self.name, Status.FAIL, f"{outcome.kind}: {outcome.reason}{where}", evidence)
            if outcome.log:
                text = outcome.log[:200].decode(errors="replace")
                return Finding(self.name, Status.FAIL, f"it printed {text!r}", {"case": prepared.case.to_json()})
        if not count:
            return Finding(self.name, Status.SKIP, "there is no case to run: eager refuses all, or they are too large")
        return Finding(self.name, Status.PASS, "", {"calls": count, "sandbox": dict(trial.layers)})
