"""Check `bounds`."""

from __future__ import annotations

from typing import Any

from torch_autokernel.core.types import Finding, Status


class Bounds:
    """Nothing outside of the buffers is read or written.

    What it checks: each buffer lies between two guards, once with its last byte at the upper one and once with its first
    byte at the lower one; what alignment leaves between buffer and guard holds a pattern that must not change.
    Why it matters: a stray write corrupts the user's tensors; a stray read returns what is not the kernel's to see, or faults.
    What it misses: reads of the few bytes that alignment leaves between buffer and guard (their contents are secret and
    different in every call; `sanitizers` sees the reads); accesses further away than a guard is wide (1 MiB) that hit another
    buffer; reads of elements within a buffer that the result should not depend on.
    Example: `x[i + 1]` in the last row; a vector store that runs over the end of an odd row.
    """

    name = "bounds"

    def run(self, trial: Any) -> Finding:
        for prepared, result in trial.results():
            outcome, evidence = result.outcome, {"case": prepared.case.to_json()}
            if in_guard(result):
                fault = outcome.fault
                reason = f"{fault.access or 'access'} {_beside(trial, fault.buffer, fault.offset)}"
                return Finding(self.name, Status.FAIL, reason, evidence)
            if not outcome.ok:
                return Finding(self.name, Status.SKIP, "a call did not come back")
            if outcome.strays:
                stray = outcome.strays[0]
                return Finding(self.name, Status.FAIL, f"write {_beside(trial, stray.buffer, stray.offset)}", evidence)
        return Finding(self.name, Status.PASS)


def in_guard(result: Any) -> bool:
    """Whether the call ended by touching the guard of a buffer."""
    fault = result.outcome.fault
    return fault is not None and fault.buffer >= 0 and fault.signal in ("SIGSEGV", "SIGBUS")


def _beside(trial: Any, buffer: int, offset: int) -> str:
    inputs, outputs = len(trial.region.signature.inputs), len(trial.region.signature.output_specs)
    if buffer < inputs:
        name = f"input {buffer}"
    elif buffer < inputs + outputs:
        name = f"output {buffer - inputs}"
    else:
        name = "the workspace"
    return f"{-offset} bytes before the start of {name}" if offset < 0 else f"at byte {offset} of {name}, behind its end"
