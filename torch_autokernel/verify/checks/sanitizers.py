"""Check `sanitizers`."""

from __future__ import annotations

from typing import Any

from torch_autokernel.core.types import Finding, Status
from torch_autokernel.verify import sanitize


class Sanitizers:
    """A build with AddressSanitizer and UndefinedBehaviorSanitizer runs without a word.

    What it checks: the text compiled again with both, on small cases: every access to a buffer to the byte, whatever alignment
    leaves around it; arrays and variables of the kernel's own; signed overflow, shifts, misaligned and null pointers.
    Why it matters: an access that does no harm today, and undefined behaviour that the next compiler takes at its word.
    What it misses: large cases; reads of uninitialised variables. At level `full` only.
    Example: `x[n]` read and not used; `float part[8]` with nine written; `int` indices that overflow.
    """

    name = "sanitizers"

    def run(self, trial: Any) -> Finding:
        for library in ("libasan.so", "libubsan.so"):
            if reason := sanitize.missing(library):
                return Finding(self.name, Status.SKIP, reason)
        preload = f"{sanitize.run_time('libasan.so')}:{sanitize.run_time('libubsan.so')}"
        options = {"LD_PRELOAD": preload, "ASAN_OPTIONS": sanitize.OPTIONS, "UBSAN_OPTIONS": "print_stacktrace=0:symbolize=0"}
        return sanitize.watch(trial, "addresses", options) or Finding(self.name, Status.PASS)
