"""Check `control_state`."""

from __future__ import annotations

from typing import Any

from torch_autokernel.core.types import Finding, Status
from torch_autokernel.verify.checks.repeatable import differs, middling
from torch_autokernel.verify.runner import How

USUAL, FLUSHING, X87 = 0x1F80, 0x9FC0, 0x37F


class ControlState:
    """The floating-point control state is left as it was, and the result does not hang on it.

    What it checks: MXCSR and the x87 control word of the calling thread and of every thread of OpenMP's team after each call;
    and a call with denormals flushed to zero, as after `torch.set_flush_denormal(True)`: its result must be within the error
    budget of the usual one, and the state must still be that one afterwards.
    Why it matters: a thread that rounds up or flushes denormals changes what the user's later operations give.
    What it misses: a change that is undone before the call returns; other rounding modes on entry; other machines than x86-64.
    Example: `_MM_SET_FLUSH_ZERO_MODE` to be faster on small numbers; `_mm_setcsr` without setting it back.
    """

    name = "control_state"

    def run(self, trial: Any) -> Finding:
        if not trial.runner.native:
            return Finding(self.name, Status.SKIP, "there is no state to look at here")
        for prepared, result in trial.results():
            if not result.ok:
                return Finding(self.name, Status.SKIP, "a call did not come back")
            if not result.outcome.control:
                return Finding(self.name, Status.PASS, "not looked at on this machine")
            if reason := _changed(result.outcome.control, USUAL):
                return Finding(self.name, Status.FAIL, reason, {"case": prepared.case.to_json()})
        for prepared in middling([p for p in trial.cases if not p.special], 1):
            result = trial.runner.again(prepared, 1, How(control=FLUSHING))
            evidence = {"case": prepared.case.to_json()}
            if reason := differs(prepared, trial.runner.run(prepared, "end"), result):
                return Finding(self.name, Status.FAIL, f"with denormals flushed to zero {reason}", evidence)
            if reason := _changed(result.outcome.control, FLUSHING):
                return Finding(self.name, Status.FAIL, reason, evidence)
        return Finding(self.name, Status.PASS)


def _changed(found: tuple[int, ...], mxcsr: int) -> str:
    for number, (have, want) in enumerate(zip(found, (mxcsr, mxcsr, X87, X87), strict=True)):
        if have != want:
            return f"it leaves {'MXCSR' if number < 2 else 'the x87 control word'} at {have:#x} instead of {want:#x}"
    return ""
