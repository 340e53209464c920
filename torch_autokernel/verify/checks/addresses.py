"""Check `addresses`."""

from __future__ import annotations

import random
from typing import Any

from torch_autokernel.core.types import Finding, Status
from torch_autokernel.verify.checks.repeatable import differs, middling
from torch_autokernel.verify.runner import How

PLACES = 12


class Addresses:
    """The result does not depend on where the buffers lie.

    What it checks: the same inputs with every buffer at another multiple of its promised alignment, twelve times, on a case of
    middling size and on the smallest one: results stay within the error budget of each other, nothing beside the buffers is
    written.
    Why it matters: a user's tensor is a view of another one and begins anywhere.
    What it misses: addresses that did not occur; inputs that share memory.
    Example: a vector path that is right only where input and output are aligned alike; a loop to the next multiple of 32 bytes
    that does not look where the output ends.
    """

    name = "addresses"

    def run(self, trial: Any) -> Finding:
        if not trial.runner.native:
            return Finding(self.name, Status.SKIP, "buffers are not placed here")
        ordinary = [p for p in trial.cases if not p.special]
        for prepared in dict.fromkeys([*middling(ordinary, 1), *sorted(ordinary, key=lambda p: p.nbytes)[:1]]):
            first, evidence = trial.runner.run(prepared, "end"), {"case": prepared.case.to_json()}
            if not first.ok:
                return Finding(self.name, Status.SKIP, "a call did not come back")
            for shift in random.Random(prepared.case.seed).sample(range(1, 61), PLACES):
                result = trial.runner.again(prepared, 1, How(shift=shift))
                where = f"with buffers moved by {shift}, {3 * shift % 61}, ... times their alignment"
                if reason := differs(prepared, first, result):
                    return Finding(self.name, Status.FAIL, f"{where}, {reason}", evidence)
                if result.outcome.strays:
                    stray = result.outcome.strays[0]
                    reason = f"{where}, byte {stray.offset} of buffer {stray.buffer} is written"
                    return Finding(self.name, Status.FAIL, reason, evidence)
        return Finding(self.name, Status.PASS)
