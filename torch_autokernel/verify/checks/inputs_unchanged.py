"""Check `inputs_unchanged`."""

from __future__ import annotations

from typing import Any

from torch_autokernel.core.types import Finding, Status
from torch_autokernel.verify.checks.repeatable import middling
from torch_autokernel.verify.runner import How, storage_bytes


class InputsUnchanged:
    """Inputs hold the same bytes after the call.

    What it checks: every byte of every input's storage, gaps between strided elements included, on all cases; and one call with
    inputs that cannot be written.
    Why it matters: an input is the user's tensor, saved for backward, or a weight.
    What it misses: writes that are undone before the call returns, where they need other sizes or values than that one call's.
    Example: a softmax that subtracts the maximum in place; a sentinel written behind a row and taken away again.
    """

    name = "inputs_unchanged"

    def run(self, trial: Any) -> Finding:
        for prepared, result in trial.results():
            if not result.ok:
                return Finding(self.name, Status.SKIP, "a call did not come back")
            for i, after in enumerate(result.inputs):
                before = storage_bytes(prepared.inputs[i])
                if bytes(before) != after:
                    at = next(k for k in range(len(after)) if after[k] != before[k])
                    evidence = {"case": prepared.case.to_json(), "input": i, "byte": at}
                    return Finding(self.name, Status.FAIL, f"input {i} was changed, first at byte {at}", evidence)
        for prepared in middling([p for p in trial.cases if not p.special], 1) if trial.runner.native else ():
            fault = trial.runner.again(prepared, 1, How(readonly=True)).outcome.fault
            if fault is not None and 0 <= fault.buffer < len(prepared.inputs) and fault.offset >= 0:
                evidence = {"case": prepared.case.to_json(), "input": fault.buffer, "byte": fault.offset}
                return Finding(self.name, Status.FAIL, f"input {fault.buffer} is written at byte {fault.offset}", evidence)
        return Finding(self.name, Status.PASS)
