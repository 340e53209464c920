"""Ratios of interleaved samples, with intervals that assume no distribution.

Contenders are measured in rounds: in each round every contender runs once, in random order. Slow drift of the machine then
enters both sides of a round's ratio and cancels. The median of the paired log ratios is reported with the interval of the
sign test: order statistics whose coverage follows from the binomial distribution alone (Conover, Practical Nonparametric
Statistics, 3rd edition, section 3.2). Fewer than six pairs carry no 95% interval; it is then (0, inf).
"""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

CONFIDENCE = 0.95
LEAST_ROUNDS = 9  # of `interleave`, however slow the contenders are: fewer give no useful interval


class Ratio(NamedTuple):
    """How many times faster: median, and the ends of the interval."""

    median: float
    low: float
    high: float


def paired_ratio(samples_ns: Sequence[float], baseline_ns: Sequence[float], confidence: float = CONFIDENCE) -> Ratio:
    """baseline over samples, pair by pair; above 1 means that `samples_ns` is the faster side. Raises ValueError where the
    sequences are empty, of different length, or hold a time that is not positive."""
    if not samples_ns or len(samples_ns) != len(baseline_ns):
        raise ValueError(f"{len(samples_ns)} samples cannot be paired with {len(baseline_ns)}; expected equal, not zero")
    if min(*samples_ns, *baseline_ns) <= 0:
        raise ValueError("a time of zero or less cannot be a sample")
    logs = sorted(math.log(b / s) for s, b in zip(samples_ns, baseline_ns, strict=True))
    depth = sign_depth(len(logs), confidence)
    low, high = (math.exp(logs[depth - 1]), math.exp(logs[-depth])) if depth else (0.0, math.inf)
    return Ratio(math.exp(statistics.median(logs)), low, high)


def sign_depth(count: int, confidence: float = CONFIDENCE) -> int:
    """The greatest d for which the d-th smallest and d-th largest of `count` values enclose the median with at least this
    confidence; 0 where even the extremes do not."""
    tail, depth = 0.0, 0
    for k in range(count // 2):
        tail += math.comb(count, k) * 0.5**count
        if 2 * tail > 1 - confidence:
            break
        depth = k + 1
    return depth


def ratio(samples: Mapping[str, Sequence[float]], a: str, b: str) -> Ratio:
    """How many times faster contender `a` is than `b`, from the samples that `interleave` gave."""
    return paired_ratio(samples[a], samples[b])


def weaker(first: Ratio, second: Ratio) -> Ratio:
    """The less favourable of two ratios, end by end."""
    return Ratio(*(min(p, q) for p, q in zip(first, second, strict=True)))


def interleave(
    contenders: Mapping[str, Callable[[], Any]], seconds: float = 5.0, rounds: int = 20, *, block_seconds: float = 0.005,
    seed: int | None = None,
) -> dict[str, list[float]]:  # fmt: skip
    """Nanoseconds a call of every contender, one sample a round, in random order within each round. Each sample is a block
    of calls that lasts about `block_seconds`. Ends after `rounds`, or with the round in which `seconds` are used up, but not
    before nine rounds."""
    deadline = time.perf_counter() + seconds
    order, shuffler = list(contenders), random.Random(seed)
    calls = {name: _calls(contenders[name], block_seconds) for name in order}
    samples: dict[str, list[float]] = {name: [] for name in order}
    for count in range(1, rounds + 1):
        shuffler.shuffle(order)
        for name in order:
            samples[name].append(_block_ns(contenders[name], calls[name]) / calls[name])
        if count >= LEAST_ROUNDS and time.perf_counter() >= deadline:
            break
    return samples


def _calls(function: Callable[[], Any], block_seconds: float) -> int:
    function()
    once = min(_block_ns(function, 1) for _ in range(3))
    return calls_for(once, block_seconds * 1e9)


def calls_for(once_ns: float, block_ns: float, most: int = 20_000) -> int:
    """How many calls make a block at least `block_ns` long."""
    return max(1, min(most, math.ceil(block_ns / max(once_ns, 1.0))))


def _block_ns(function: Callable[[], Any], calls: int) -> int:
    start = time.perf_counter_ns()
    for _ in range(calls):
        function()
    return time.perf_counter_ns() - start
