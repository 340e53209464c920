"""Random loops: faithful or refused. The seed is in the message."""

from __future__ import annotations

import random

import pytest

from tests.fuzz import scans
from tests.fuzz.loops import check, check_gradients


def test_a_few_random_loops() -> None:
    start = random.SystemRandom().randrange(1 << 30)
    for seed in range(start, start + 3):
        check(seed)
        check_gradients(seed)


@pytest.mark.slow
def test_many_random_loops() -> None:
    start = random.SystemRandom().randrange(1 << 30)
    outcomes = [check(seed) for seed in range(start, start + 40)]
    assert outcomes.count("same") >= 5, outcomes


def test_a_few_random_scans_and_layers() -> None:
    start = random.SystemRandom().randrange(1 << 30)
    for seed in range(start, start + 2):
        scans.check(seed)


@pytest.mark.slow
def test_many_random_scans_and_layers() -> None:
    start = random.SystemRandom().randrange(1 << 30)
    outcomes = [scans.check(seed) for seed in range(start, start + 30)]
    assert outcomes.count("same") >= 15, outcomes


def test_gradients_where_states_trade_places() -> None:
    """What a result depends on changes with each step, and comes round."""
    assert check_gradients(391830083) == "same"


@pytest.mark.slow
def test_gradients_of_many_random_loops() -> None:
    start = random.SystemRandom().randrange(1 << 30)
    outcomes = [check_gradients(seed) for seed in range(start, start + 40)]
    assert outcomes.count("same") >= 5, outcomes
