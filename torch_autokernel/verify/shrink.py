"""The smallest case on which a check still fails, found by trying smaller and plainer ones in a fixed order."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from typing import Any

from torch_autokernel.core import points
from torch_autokernel.core.types import Case, Finding, Status
from torch_autokernel.verify.oracle import one_thread

TRIES = 80
SLOW = 1.0  # a check that takes longer on one case is not run again and again
_PLAIN = ("normal", "shifted")


def shrunk(trial: Any, finding: Finding) -> Finding:
    """The finding on the smallest case that fails in the same way, with the first one beside it; the finding itself where it
    has no case, or is too slow to repeat."""
    data, name = finding.evidence.get("case"), finding.check
    if not isinstance(data, dict) or name in ("sanitizers", "races"):
        return finding
    case, best = Case.from_json(data), finding
    tried: set[str] = set()
    progress = True
    while progress:
        progress = False
        for smaller in _smaller(trial, case):
            key = str(smaller.to_json())
            if key in tried:
                continue
            tried.add(key)
            if len(tried) > TRIES:
                return _told(best, finding)
            start = time.monotonic()
            found = _fails(trial, name, smaller)
            if found is not None:
                case, best, progress = smaller, found, True
                break
            if time.monotonic() - start > SLOW:
                return _told(best, finding)
    return _told(best, finding)


def _told(best: Finding, first: Finding) -> Finding:
    if best is first:
        return first
    evidence = {**best.evidence, "first_case": first.evidence["case"]}
    return Finding(first.check, first.status, best.reason, evidence, first.seconds)


def _smaller(trial: Any, case: Case) -> Iterator[Case]:
    """Plainer inputs first, then smaller sizes: all at their least, then each symbol at little and at half."""
    if case.distribution not in _PLAIN:
        yield dataclasses.replace(case, distribution="normal", origin="shrunk")
    guards, symbols = trial.region.signature.guards, list(case.sizes)
    least = {s: max(1, int(guards.get(s, 1))) for s in symbols}
    yield dataclasses.replace(case, sizes=least, origin="shrunk")
    for symbol in symbols:
        now = case.sizes[symbol]
        low = least[symbol]
        for value in dict.fromkeys((low, low + 1, 3, now // 4, now // 2, now * 3 // 4, now * 15 // 16, now - 1)):
            if low <= value < now:
                yield dataclasses.replace(case, sizes={**case.sizes, symbol: value}, origin="shrunk")


def _fails(trial: Any, name: str, case: Case) -> Finding | None:
    with one_thread():
        prepared = trial.bank.prepare(trial.region, case)
        if prepared is None:
            return None
        found: Finding = points.checks.get(name)().run(trial.only(prepared))
    return found if found.status is Status.FAIL else None
