"""Check `races`."""

from __future__ import annotations

from typing import Any

from torch_autokernel.core.types import Finding, Status
from torch_autokernel.verify import sanitize
from torch_autokernel.verify.checks.repeatable import starts_threads


class Races:
    """No two threads touch the same byte without a barrier, a lock or an atomic operation between them.

    What it checks: the text compiled again with ThreadSanitizer's instrumentation over a run time of our own, which runs a team
    of four as fibers and compares all accesses since the last barrier, on small cases. It finds a race whether or not it shows.
    Why it matters: a race is right on most days.
    What it misses: tasks and other parts of OpenMP beyond loops, sections, single, critical, atomic and barriers, for which the
    finding is a SKIP; accesses by masked vector instructions; what only cases beyond 256 KB show. At levels `standard` (four
    cases, about a second) and `full`.
    Example: `y[0] += x[i]` in a parallel loop; a shared temporary; a missing barrier between two loops with `nowait`.
    """

    name = "races"

    def run(self, trial: Any) -> Finding:
        if not trial.runner.native or not starts_threads(trial.artifact.path):
            return Finding(self.name, Status.PASS)
        return sanitize.watch(trial, "races", {}) or Finding(self.name, Status.PASS)
