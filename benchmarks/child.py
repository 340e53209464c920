"""One row in a process of its own: run, compared with eager, timed interleaved. Started by suite.py with a task in JSON;
answers with lines of JSON on what was standard output: `{"stage": name}` before each step, then `{"result": ...}`."""

from __future__ import annotations

import copy
import ctypes
import json
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch  # noqa: E402

from benchmarks import roofline  # noqa: E402
from benchmarks.cases import BACKWARD, Case, find  # noqa: E402
from benchmarks.result import ALGORITHMIC, REWRITTEN, STEP, TIMED, Interval, Result, Settings  # noqa: E402
from torch_autokernel.app import contest  # noqa: E402
from torch_autokernel.app.compare import difference, exact_results  # noqa: E402
from torch_autokernel.app.contest import OURS  # noqa: E402
from torch_autokernel.app.fresh import fresh_compilation  # noqa: E402
from torch_autokernel.app.problem import Problem, user_code  # noqa: E402
from torch_autokernel.capture.record import recording  # noqa: E402
from torch_autokernel.core.errors import AutoKernelError  # noqa: E402
from torch_autokernel.core.types import Json  # noqa: E402
from torch_autokernel.verify.statistics import paired_ratio  # noqa: E402

EAGER, TIMING = "eager", "timing"
WIDE = 0.975
Step = Callable[[], Any]


@dataclass(frozen=True)
class Task(Json):
    """`skip`: contenders that are not to be tried, and why."""

    row: str
    dtype: str
    threads: int
    direction: str
    allocation: str
    settings: Settings
    skip: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, ...]:
        return self.row, self.dtype, str(self.threads), self.direction, self.allocation


def blank(task: Task, case: Case, outputs: str, reason: str = "") -> Result:
    """The row before anything was measured."""
    return Result(task.row, task.dtype, task.threads, task.direction, task.allocation, outputs, case.title, reason, case.digest,
                  goal=case.goal(task.direction == BACKWARD), algorithmic=case.said("REWRITTEN", ""),
                  load=round(os.getloadavg()[0], 2))  # fmt: skip


def run(task: Task, case: Case, tell: Callable[[str], None]) -> Result:
    """Never raises for what goes wrong within a contender: it is told in the row."""
    row = blank(task, case, "error")
    try:
        with torch.set_grad_enabled(task.direction == BACKWARD):
            return _run(task, case, row, tell)
    except AutoKernelError as error:
        return replace(row, reason=error.message)


def _run(task: Task, case: Case, row: Result, tell: Callable[[str], None]) -> Result:
    backward = task.direction == BACKWARD
    settings = contest.Settings((), backward, task.threads, task.settings.via, task.settings.seconds)
    problem = case.problem(task.dtype, backward)

    def once(p: Problem) -> list[Any]:
        return contest.flat(contest.step(p.model, p, backward)())

    tell(EAGER)
    with user_code(f"running {task.row} in eager mode", case.path):
        raw = contest.step(problem.model, problem, backward)()
        expected, again = contest.flat(raw), once(problem)
    untouched = case.module.untouched(problem.model, *problem.inputs) if hasattr(case.module, "untouched") else 0.0
    row = replace(row, bytes=roofline.compulsory(problem, raw, untouched), flop=case.flop(backward))
    del raw
    exact = exact_results(problem, once)
    random = difference(again, expected)[0] > 1

    steps: dict[str, Step] = {}
    states = dict(task.skip)
    seconds: dict[str, float] = {}
    for name in contenders(task, case):
        if name in states:
            continue
        tell(name)
        start = time.perf_counter()
        try:
            fresh = fresh_compilation() if name == OURS else nullcontext()
            with user_code(f"running {task.row} under {name}"), fresh, recording() as records:
                step = make(name, case, problem, settings, task.dtype)
                got = contest.flat(step())
        except AutoKernelError as error:
            states[name] = f"error: {error.message}"
        else:
            parts, where = difference(got, expected, exact)
            states[name] = TIMED if random or parts <= 1 else f"wrong: {where}"
            steps[name] = step
            if name == OURS:
                regions, replaced = contest.count(records)
                row = replace(row, regions=regions, replaced=replaced, error_parts=0.0 if random else contest.finite(parts))
        seconds[name] = round(time.perf_counter() - start, 3)
    row = replace(row, states=states, first_call_s=seconds)
    if states[OURS] != TIMED:
        kind, _, reason = states[OURS].partition(": ")
        return replace(row, outputs=kind, reason=reason)
    tell(TIMING)
    timed = {name: step for name, step in steps.items() if states[name] == TIMED}
    row = replace(row, outputs="random" if random else "ok")
    return replace(row, **measured(timed, task, row.bytes, row.flop))


def contenders(task: Task, case: Case) -> list[str]:
    """Ours first: what it compiles afresh would make the others compile again."""
    more = [STEP] if case.said("STEP", "") else []
    more += ALGORITHMIC if case.said("REWRITTEN", "") else []
    return [OURS, *task.settings.against, *more]


def make(name: str, case: Case, problem: Problem, settings: contest.Settings, dtype: str) -> Step:
    if name in ALGORITHMIC:
        problem = case.problem(dtype, settings.backward, "Rewritten")
        return contest.contender("eager" if name == REWRITTEN else "inductor", problem, settings)
    if name == STEP:
        model: Any = copy.deepcopy(problem.model)
        setattr(model, case.module.STEP, torch.compile(getattr(model, case.module.STEP)))
        return contest.step(model, problem, settings.backward)
    return contest.contender(name, problem, settings)


def measured(steps: Mapping[str, Step], task: Task, n_bytes: float, flop: float) -> dict[str, Any]:
    """Median times of all contenders, our ratios to the others, and the floor, all of one interleaved run."""
    machine = roofline.Machine.probe(n_bytes, task.threads)
    samples = contest.sampled({**steps, **machine.steps}, task.settings.seconds)
    floor = roofline.floor(samples, machine.work, n_bytes, flop)
    ours = samples[OURS]
    others = [name for name in steps if name != OURS]
    return {
        "times_ns": {name: statistics.median(samples[name]) for name in steps},
        "ratios": {name: _interval(ours, samples[name]) for name in others},
        "wide": {name: _interval(ours, samples[name], WIDE) for name in others},
        "floor_ns": statistics.median(floor.ns),
        "bound": "bytes" if statistics.median(floor.bytes_ns) >= statistics.median(floor.flop_ns) else "flop",
        "floor": _interval(floor.ns, ours),
        "rates": {
            "copy": _rate(n_bytes, floor.bytes_ns), "peak": _rate(flop, floor.flop_ns),
            "gemm": machine.work[roofline.GEMM] / statistics.median(samples[roofline.GEMM]) * 1e9,
        },
        "rounds": len(ours),
    }  # fmt: skip


def _rate(work: float, ns: Sequence[float]) -> float:
    """Work a second; 0 where the row has none."""
    return work / statistics.median(ns) * 1e9 if work else 0.0


def _interval(samples: Sequence[float], baseline: Sequence[float], confidence: float = 0.95) -> Interval:
    median, low, high = paired_ratio(samples, baseline, confidence)
    return contest.finite(median), contest.finite(low), contest.finite(high)


def main(words: Sequence[str]) -> int:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: end with the suite, however that ends
    task = Task.from_json(json.loads(words[0]))
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever else prints goes to the log

    def say(**facts: Any) -> None:
        answers.write(json.dumps(facts) + "\n")

    torch.set_num_threads(task.threads)
    result = run(task, find(task.row), lambda name: say(stage=name))
    say(result=result.to_json())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
