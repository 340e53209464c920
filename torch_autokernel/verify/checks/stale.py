"""Check `stale`."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from torch_autokernel.core.types import Finding, Status
from torch_autokernel.verify.bank import Prepared
from torch_autokernel.verify.checks.repeatable import differs, middling
from torch_autokernel.verify.runner import How, Result, storage_bytes


class Stale:
    """Outputs that already hold a result, or zeros, are computed like any other.

    What it checks: outputs that hold the right result but for their last part, but for their first part, but for a stretch
    in between (numbers near the right ones stand there); and outputs and workspace of zeros, as fresh memory has them.
    Why it matters: an allocator hands the same memory out again, so it often holds an earlier result: a kernel that looks and
    finds its work done is fast while it is timed.
    What it misses: a kernel that compares every element with what it would write, which costs as much as writing it.
    Example: `if (y[0] == f(x[0])) return;`.
    """

    name = "stale"

    def run(self, trial: Any) -> Finding:
        if not trial.runner.native:
            return Finding(self.name, Status.SKIP, "outputs are not filled here")
        for prepared in middling([p for p in trial.cases if not p.special], 2):
            first = trial.runner.run(prepared, "end")
            if not first.ok:
                return Finding(self.name, Status.SKIP, "a call did not come back")
            for label, fill in _fills(first, prepared):
                result = trial.runner.again(prepared, 1, How(fill=fill))
                if reason := differs(prepared, first, result):
                    evidence = {"case": prepared.case.to_json()}
                    return Finding(self.name, Status.FAIL, f"on outputs that hold {label}, {reason}", evidence)
        return Finding(self.name, Status.PASS)


def _fills(first: Result, prepared: Prepared) -> Iterator[tuple[str, tuple[bytes, ...]]]:
    rng = random.Random(prepared.case.seed)
    right = [bytes(storage_bytes(output)) for output in first.outputs]
    yield "zeros", tuple(bytes(max(1, len(data))) for data in right)
    sizes = [output.element_size() for output in first.outputs]
    for label, low, high in (("the start of the result", 0.5, 1.0), ("the end of it", 0.0, 0.5), ("most of it", 0.4, 0.6)):
        low, high = low + rng.uniform(0, 0.1), high - rng.uniform(0, 0.1)
        yield label, tuple(_spoiled(data, size, low, high) for data, size in zip(right, sizes, strict=True))


def _spoiled(data: bytes, size: int, low: float, high: float) -> bytes:
    """The data with other numbers in that part: the top byte's low bit turned, which is another exponent."""
    out, count = bytearray(data), len(data) // size
    first, end = int(count * low), max(int(count * high), int(count * low) + 1)
    for at in range(first * size + size - 1, min(end * size, len(data)), size):
        out[at] ^= 1
    return bytes(out) or b"\0"
