"""Check `writes_all`."""

from __future__ import annotations

from typing import Any

import torch

from torch_autokernel.core.types import Finding, Status
from torch_autokernel.verify.runner import untouched


class WritesAll:
    """Every element of every output is written.

    What it checks: outputs hold one pattern before the first call and another before the second; no element may still hold
    both.
    Why it matters: fresh memory often still holds an earlier, right result, so a kernel that writes nothing can look right.
    What it misses: nothing within the cases; other sizes.
    Example: a kernel that returns at once; one whose vector loop drops the remainder.
    """

    name = "writes_all"

    def run(self, trial: Any) -> Finding:
        if not trial.runner.native:
            return Finding(self.name, Status.SKIP, "outputs are not poisoned here")
        for prepared in trial.cases:
            end, start = trial.runner.run(prepared, "end"), trial.runner.run(prepared, "start")
            if not (end.ok and start.ok):
                return Finding(self.name, Status.SKIP, "a call did not come back")
            for i in range(len(end.outputs)):
                left = untouched(end, prepared, trial.region, i) & untouched(start, prepared, trial.region, i)
                if bool(left.any()):
                    at = [int(k) for k in torch.nonzero(left)[0]]
                    reason = f"{int(left.sum())} of {left.numel()} elements of output {i} are never written, first {at}"
                    return Finding(self.name, Status.FAIL, reason, {"case": prepared.case.to_json(), "output": i, "index": at})
        return Finding(self.name, Status.PASS)
