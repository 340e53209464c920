"""Check `repeatable`."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch_autokernel.core.types import Finding, Status
from torch_autokernel.lang.elf import read_elf
from torch_autokernel.verify.bank import Prepared
from torch_autokernel.verify.compare import consistent
from torch_autokernel.verify.runner import How, Result

CALLS = 2000
CALL_SECONDS = 0.3  # no more calls in a row than fit into this
TIMES = 6
SHORT_CALLS = 60


class Repeatable:
    """A call's result depends on its inputs alone.

    What it checks: the same inputs in a fresh process, after other inputs at the same addresses, after up to 2000 calls, with
    one thread, with some secret number of threads and with one more than the machine has cores, outputs and workspace full of
    ordinary numbers or of NaN, and the largest case several times: results stay within the error budget of each other.
    Why it matters: state kept between calls, a race, a cache keyed by an address: each is right in a short test.
    What it misses: state that shows after more calls than are made; races that did not happen here (`races` finds them).
    Differences within the error budget (an order of summation that depends on the threads) are allowed.
    Example: a static buffer that keeps the first result; `y[0] += ...` from all threads.
    """

    name = "repeatable"

    def run(self, trial: Any) -> Finding:
        ordinary = [p for p in trial.cases if not p.special]
        pairs = [(p, twin) for p in middling(ordinary, 1) if (twin := trial.twin(p)) is not None]
        for prepared, twin in pairs:
            finding = self._pair(trial, prepared, twin)
            if finding.status is not Status.PASS:
                return finding
        for prepared in sorted(ordinary, key=lambda p: -p.nbytes)[:1]:
            first = trial.runner.run(prepared, "end")
            for _ in range(min(TIMES, _calls(first))):
                if reason := differs(prepared, first, trial.runner.again(prepared, 1)):
                    return Finding(self.name, Status.FAIL, f"run again {reason}", {"case": prepared.case.to_json()})
        return self._threads(trial, middling(ordinary, 1))

    def _threads(self, trial: Any, cases: list[Prepared]) -> Finding:
        """Many short calls, where threads that all have little to do arrive at the same place together."""
        if not trial.runner.native or not starts_threads(trial.artifact.path):
            return Finding(self.name, Status.PASS)
        for prepared in cases:
            first, start = trial.runner.run(prepared, "end"), time.monotonic()
            for turn in range(SHORT_CALLS):
                if time.monotonic() - start > CALL_SECONDS:
                    break
                if reason := differs(prepared, first, trial.runner.again(prepared, 1, How(threads=2 + turn % 3))):
                    return Finding(self.name, Status.FAIL, f"run again {reason}", {"case": prepared.case.to_json()})
        return Finding(self.name, Status.PASS)

    def _pair(self, trial: Any, prepared: Prepared, twin: Prepared) -> Finding:
        runner = trial.runner
        first = runner.run(prepared, "end")
        runner.fresh()
        attempts = [("in a fresh process", prepared, runner.again(prepared, 1))]
        attempts.append(("on other inputs at the same addresses", twin, runner.again(twin, 1)))
        attempts.append(("after other inputs at the same addresses", prepared, runner.again(prepared, 1)))
        attempts += _many(runner, prepared, _calls(first))
        attempts.append(("with one thread", prepared, runner.again(prepared, 1, How(threads=1))))
        attempts.append(("with more threads than cores", prepared, runner.again(prepared, 1, How(threads=-1))))
        for threads in random.Random(prepared.case.seed).sample(range(3, 12), 2):
            attempts.append((f"with {threads} threads", prepared, runner.again(prepared, 1, How(threads=threads))))
        for threads in (random.Random(prepared.case.seed).randrange(9, 17), 1):
            label = f"with {threads} threads, in memory that held NaN,"
            attempts.append((label, prepared, runner.again(prepared, 1, How(threads=threads, nan=True))))
        runner.fresh()
        wanted = {id(prepared): first, id(twin): runner.again(twin, 1)}
        for label, case, result in attempts:
            if reason := differs(case, wanted[id(case)], result):
                return Finding(self.name, Status.FAIL, f"{label} {reason}", {"case": case.case.to_json()})
        return Finding(self.name, Status.PASS)


def middling(cases: list[Prepared], count: int) -> list[Prepared]:
    """Cases of middling size, as many as there are up to `count`, first of all of numbers near 1: beside 1e9 a result that is
    wrong by 1 is right."""
    plain = _central([p for p in cases if _plain(p)], count)
    return plain + _central([p for p in cases if not _plain(p)], count - len(plain))


def _plain(prepared: Prepared) -> bool:
    return prepared.case.distribution.removesuffix("+") in ("normal", "shifted")


def _central(cases: list[Prepared], count: int) -> list[Prepared]:
    start = max(0, min(len(cases) // 2, len(cases) - count))
    return sorted(cases, key=lambda p: p.nbytes)[start:][:count]


def starts_threads(path: str) -> bool:
    """Whether the object starts threads."""
    imports = read_elf(Path(path).read_bytes()).imports
    return any(name.startswith(("GOMP_parallel", "__kmpc_fork")) for name in imports)


def _calls(first: Result) -> int:
    """As many as `CALL_SECONDS` allow at the speed of the first call."""
    nanoseconds = max(first.outcome.inside_ns, default=0)
    return max(3, min(CALLS, int(CALL_SECONDS * 1e9 / max(nanoseconds, 1))))


def _many(runner: Any, prepared: Prepared, most: int) -> Iterator[tuple[str, Prepared, Result]]:
    """Up to so many calls, in growing batches until the time is up. Batches, because one call may take a hundred times what the
    first one took, where threads wait for each other and others want the cores."""
    start, done, batch = time.monotonic(), 0, 4
    while done < most and time.monotonic() - start < CALL_SECONDS:
        yield "after many calls", prepared, runner.again(prepared, batch)
        done, batch = done + batch, min(2 * batch, 256)


def differs(case: Prepared, wanted: Result, result: Result) -> str:
    if not result.ok:
        return f"the call does not come back: {result.outcome.kind}, {result.outcome.reason}"
    if not wanted.ok:
        return f"the call does not come back: {wanted.outcome.kind}, {wanted.outcome.reason}"
    for i, target in enumerate(case.expected.targets):
        difference = consistent(wanted.outputs[i], result.outputs[i], target)
        if not difference.ok:
            return f"output {i} is another: {difference.got:.9g} instead of {difference.want:.9g} at {list(difference.index)}"
    return ""
