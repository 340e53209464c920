"""What a run of the suite keeps, and what follows from it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

from torch_autokernel.app.contest import KNOWN, OURS
from torch_autokernel.core.types import Json
from torch_autokernel.verify.statistics import Ratio, weaker

REWRITTEN, REWRITTEN_INDUCTOR, STEP = "rewritten", "rewritten, inductor", "inductor, one step"
BASELINES = (*KNOWN, STEP)  # of the code as it is written
ALGORITHMIC = (REWRITTEN, REWRITTEN_INDUCTOR)
TIMED = "ok"
NEAR_FLOOR, NEARLY = 1.15, 0.97  # a baseline this close to the floor leaves no room: then this ratio will do
Interval = tuple[float, float, float]


@dataclass(frozen=True)
class Settings(Json):
    """What makes two runs comparable. `limit`: seconds a contender may take until its first results are there."""

    against: tuple[str, ...] = KNOWN
    via: str = "decorator"
    seconds: float = 5.0
    limit: float = 600.0


@dataclass(frozen=True)
class Result(Json):
    """One row under one dtype, count of threads, pass and allocation. `outputs` as in `bench`, and `crash` or `timeout` where
    our side ended so. `states`: for each contender `ok` or why it was not timed. `ratios` holds for each baseline how many
    times faster we are (median and 95% interval), `wide` the same at 97.5%, so that the quotient of two runs has 95%.
    `floor_ns` is the roofline floor, `floor` our distance from it; `rates` are measured bytes/s and flop/s."""

    row: str
    dtype: str
    threads: int
    direction: str
    allocation: str
    outputs: str
    title: str = ""
    reason: str = ""
    digest: str = ""
    states: Mapping[str, str] = field(default_factory=dict)
    regions: int = 0
    replaced: int = 0
    error_parts: float = 0.0
    first_call_s: Mapping[str, float] = field(default_factory=dict)
    times_ns: Mapping[str, float] = field(default_factory=dict)
    ratios: Mapping[str, Interval] = field(default_factory=dict)
    wide: Mapping[str, Interval] = field(default_factory=dict)
    flop: float = 0.0
    bytes: float = 0.0
    floor_ns: float = 0.0
    bound: str = ""
    floor: Interval = (0.0, 0.0, 0.0)
    rates: Mapping[str, float] = field(default_factory=dict)
    goal: Mapping[str, float] = field(default_factory=dict)
    algorithmic: str = ""
    rounds: int = 0
    load: float = 0.0

    @property
    def key(self) -> tuple[str, ...]:
        return self.row, self.dtype, str(self.threads), self.direction, self.allocation

    @property
    def ok(self) -> bool:
        return self.outputs in ("ok", "random")

    @property
    def group(self) -> str:
        return self.row.partition("/")[0]


def best(result: Result, names: Iterable[str] = BASELINES) -> Ratio | None:
    """The ratio to the best of the baselines that were timed: the least favourable of all, end by end."""
    found = [Ratio(*result.ratios[n]) for n in names if n in result.ratios]
    return reduce(weaker, found) if found else None


def best_name(result: Result, names: Iterable[str] = BASELINES) -> str:
    return min((n for n in names if n in result.ratios), key=lambda n: result.times_ns[n], default="")


def met(result: Result) -> bool | None:
    """Whether the lower ends of the intervals reach the row's goals; None where there is none, or nothing was timed."""
    ratio = best(result)
    if ratio is None:
        return None if result.ok else False
    if not result.goal:
        return None
    lows = {"best": ratio.low, **{name: interval[1] for name, interval in result.ratios.items()}}
    wanted = dict(result.goal)
    near = result.group == "headline" and result.floor_ns
    if near and result.times_ns[best_name(result)] <= NEAR_FLOOR * result.floor_ns:
        wanted["best"] = min(wanted.get("best", NEARLY), NEARLY)
    return all(lows.get(name, math.inf) >= least for name, least in wanted.items())


def shares(result: Result) -> dict[str, float]:
    """What share of a measured limit we reach: the copy's bandwidth, the peak of the floor, torch's own product."""
    ns = result.times_ns.get(OURS)
    if not ns:
        return {}
    done = {"copy": result.bytes, "peak": result.flop, "gemm": result.flop}
    return {name: done[name] / ns * 1e9 / rate for name, rate in result.rates.items() if rate > 0 and name in done}


def geometric_mean(results: Sequence[Result], ratio: Callable[[Result], Ratio | None] = best) -> float | None:
    """Of the median ratios of the rows that were timed."""
    logs = [math.log(r.median) for r in map(ratio, results) if r is not None]
    return math.exp(sum(logs) / len(logs)) if logs else None


def configurations(results: Sequence[Result]) -> list[tuple[str, int, str]]:
    """(dtype, threads, allocation) in the order in which they first appear."""
    return list(dict.fromkeys((r.dtype, r.threads, r.allocation) for r in results))


def summary(results: Sequence[Result]) -> dict[str, Any]:
    """Geometric means against the best baseline for each set, pass and configuration."""
    found: dict[str, Any] = {}
    for configuration in configurations(results):
        for result in results:
            if (result.dtype, result.threads, result.allocation) == configuration:
                name = f"{result.group} {result.direction} {label(configuration)}"
                found.setdefault(name, []).append(result)
    return {"geometric_mean": {n: m for n, rows in found.items() if (m := geometric_mean(rows)) is not None}}


def label(configuration: tuple[str, int, str]) -> str:
    dtype, threads, allocation = configuration
    return f"{dtype}, {threads} thread{'s' if threads != 1 else ''}, allocation {allocation}"
