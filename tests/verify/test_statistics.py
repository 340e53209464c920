"""Intervals against the binomial distribution itself, and interleaving against what it promises."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from torch_autokernel.verify.statistics import (
    LEAST_ROUNDS,
    Ratio,
    calls_for,
    interleave,
    paired_ratio,
    ratio,
    sign_depth,
    weaker,
)


@pytest.mark.parametrize(("count", "depth"), [(1, 0), (5, 0), (6, 1), (8, 1), (9, 2), (15, 4), (20, 6), (48, 17)])
def test_depth_as_in_the_tables(count: int, depth: int) -> None:
    assert sign_depth(count) == depth


@pytest.mark.parametrize("count", range(1, 13))
def test_depth_covers_the_median_by_enumeration(count: int) -> None:
    """Every way in which `count` values can lie below or above the median is equally likely."""
    depth = sign_depth(count)
    for d, enough in ((depth, True), (depth + 1, False)):
        if d == 0 or 2 * d > count:
            continue
        below = (sum(signs) for signs in itertools.product((0, 1), repeat=count))
        inside = sum(d <= k <= count - d for k in below) / 2**count
        assert (inside >= 0.95) is enough


def test_a_ratio_is_baseline_over_sample() -> None:
    found = paired_ratio([10.0] * 20, [15.0] * 20)
    assert found == pytest.approx(Ratio(1.5, 1.5, 1.5))


def test_few_pairs_carry_no_interval() -> None:
    assert paired_ratio([1.0] * 5, [2.0] * 5) == pytest.approx(Ratio(2.0, 0.0, math.inf))


def test_swapping_the_sides_inverts_the_ratio() -> None:
    rng = random.Random(7)
    a, b = ([rng.uniform(1, 2) for _ in range(25)] for _ in range(2))
    there, back = paired_ratio(a, b), paired_ratio(b, a)
    assert (there.median, there.low, there.high) == pytest.approx((1 / back.median, 1 / back.high, 1 / back.low))


def test_drift_that_both_sides_share_cancels() -> None:
    drift = [1.0 + 3.0 * i / 20 for i in range(20)]
    found = paired_ratio([100 * d for d in drift], [120 * d for d in drift])
    assert found == pytest.approx(Ratio(1.2, 1.2, 1.2))


def test_a_few_wild_samples_do_not_move_the_interval_across_one() -> None:
    sleepy = [130.0] * 20
    sleepy[3] = sleepy[11] = 1.0
    found = paired_ratio(sleepy, [100.0] * 20)
    assert found.high < 1


def test_noise_alone_is_no_speedup() -> None:
    rng = random.Random(20261124)
    wrong = 0
    for _ in range(200):
        a, b = ([100 * math.exp(rng.gauss(0, 0.1)) for _ in range(20)] for _ in range(2))
        found = paired_ratio(a, b)
        wrong += not found.low <= 1 <= found.high
    assert wrong <= 20  # 4.1% expected; 20 of 200 is five standard deviations off


@pytest.mark.parametrize(("a", "b"), [([], []), ([1.0], [1.0, 2.0]), ([0.0], [1.0]), ([1.0], [-1.0])])
def test_what_is_no_pairing_is_an_error(a: list[float], b: list[float]) -> None:
    with pytest.raises(ValueError):
        paired_ratio(a, b)


def test_weaker_takes_the_worse_of_each_end() -> None:
    assert weaker(Ratio(1.5, 1.4, 1.6), Ratio(1.45, 1.2, 1.9)) == Ratio(1.45, 1.2, 1.6)


def test_calls_fill_a_block() -> None:
    assert calls_for(1000, 5e6) == 5000 and calls_for(1e9, 5e6) == 1 and calls_for(0, 5e6, most=70) == 70


def test_interleave_runs_everybody_once_a_round_in_changing_order() -> None:
    order: list[str] = []
    contenders = {name: (lambda name=name: order.append(name)) for name in "abc"}
    samples = interleave(contenders, seconds=60.0, rounds=12, block_seconds=0.0, seed=1)
    assert {name: len(s) for name, s in samples.items()} == {"a": 12, "b": 12, "c": 12}
    rounds = ["".join(order[i : i + 3]) for i in range(len(order) - 36, len(order), 3)]
    assert all(sorted(r) == ["a", "b", "c"] for r in rounds) and len(set(rounds)) > 1
    assert ratio(samples, "a", "b").median > 0


def test_interleave_ends_with_its_seconds_but_has_an_interval() -> None:
    samples = interleave({"a": lambda: None, "b": lambda: None}, seconds=0.0, rounds=50)
    assert {len(s) for s in samples.values()} == {LEAST_ROUNDS}
    assert 0 < ratio(samples, "a", "b").low and ratio(samples, "a", "b").high < math.inf
