"""Check `state`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch_autokernel.core.types import Finding, Status
from torch_autokernel.lang.elf import read_elf
from torch_autokernel.verify.bank import Prepared
from torch_autokernel.verify.checks.repeatable import differs, middling
from torch_autokernel.verify.runner import How

MOST_BYTES = 1 << 22  # of a case that is run here
STRETCHES = 4


class State:
    """Nothing stays in the object between calls.

    What it checks: it has no thread-local data; after every case has run once, its static data is made read-only, and every
    case runs again in the other order. A table that is filled at the first use is let through. A workspace is left as an
    earlier call on other inputs at the same addresses left it, once with all inputs drawn anew, then with stretches of them.
    Why it matters: a counter or a cache can be right for any number of calls that a judge makes; a static scratch buffer is
    right until two threads call the kernel at once.
    What it misses: what is left on the stack from an earlier call, beyond what `repeatable` sees; a counter in the workspace.
    Example: `static int calls; if (++calls > 1000000) ...`; a cache of the last result; `static float scratch[4096]`; a
    result kept in the workspace beside a pointer or a few of the inputs, to know them again.
    """

    name = "state"

    def run(self, trial: Any) -> Finding:
        if not trial.runner.native:
            return Finding(self.name, Status.SKIP, "there is no object to look at here")
        found = read_elf(Path(trial.artifact.path).read_bytes())
        if found.thread_bytes:
            reason = f"it keeps {found.thread_bytes} bytes of thread-local data; ask for a workspace"
            return Finding(self.name, Status.FAIL, reason)
        cases = [p for p in trial.cases if p.nbytes <= MOST_BYTES] or list(trial.cases)[:1]
        trial.runner.fresh()
        try:
            first = {id(p): trial.runner.again(p, 1) for p in cases}
            trial.runner.seal()
            for prepared in reversed(cases):
                if reason := self._again(trial, prepared, first[id(prepared)]):
                    return Finding(self.name, Status.FAIL, reason, {"case": prepared.case.to_json()})
            for prepared in with_neighbours(cases):
                if reason := self._kept(trial, prepared):
                    return Finding(self.name, Status.FAIL, reason, {"case": prepared.case.to_json()})
        finally:
            trial.runner.fresh()
        return Finding(self.name, Status.PASS)

    def _kept(self, trial: Any, prepared: Prepared) -> str:
        """What is wrong where the workspace stays as it is from one call to the next."""
        before = trial.runner.again(prepared, 1)
        if not before.workspace:
            return ""
        others = [trial.twin(prepared), *(trial.nearly(prepared, turn) for turn in range(STRETCHES))]
        for other in filter(None, others):
            wanted = trial.runner.again(other, 1)
            result = trial.runner.again(other, 1, How(kept=before.workspace))
            if reason := differs(other, wanted, result):
                return f"where the workspace is as a call on other inputs at the same addresses left it, {reason}"
        return ""

    def _again(self, trial: Any, prepared: Prepared, first: Any) -> str:
        result = trial.runner.again(prepared, 2)
        fault = result.outcome.fault
        if fault is not None and fault.sealed:
            return "it writes to static data in a later call: it keeps something, and two threads would disturb each other"
        return differs(prepared, first, result)


def with_neighbours(cases: list[Prepared]) -> list[Prepared]:
    """A case of middling size that stretches can be drawn anew of: one whose own note says something else has no neighbours."""
    return middling([p for p in cases if not p.special and not p.case.note], 1)
