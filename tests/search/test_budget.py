"""The ledger on a clock of its own."""

from __future__ import annotations

import pytest

from torch_autokernel.core.types import Budget, Cost
from torch_autokernel.search.budget import LEAST_SHARE_SECONDS, Ledger


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_seconds_run_by_themselves() -> None:
    clock = Clock()
    ledger = Ledger(Budget(seconds=10.0), clock)
    clock.now += 4
    assert ledger.left() == pytest.approx(6) and ledger.exhausted() is None
    clock.now += 6
    assert ledger.left() == 0 and ledger.exhausted() == "seconds used up: 10 of 10"


def test_charged_seconds_are_not_counted_twice() -> None:
    clock = Clock()
    ledger = Ledger(Budget(seconds=10.0), clock)
    ledger.charge(Cost(seconds=50.0, tokens=3))
    assert ledger.exhausted() is None and ledger.spent == Cost(0.0, 3, 0.0)


@pytest.mark.parametrize(("budget", "cost", "word"), [
    (Budget(tokens=10), Cost(tokens=10), "tokens"),
    (Budget(money=1.0), Cost(money=1.5), "money"),
    (Budget(tokens=0), Cost(tokens=1), "tokens"),
])  # fmt: skip
def test_what_is_charged_counts(budget: Budget, cost: Cost, word: str) -> None:
    ledger = Ledger(budget, Clock())
    assert ledger.exhausted() is None
    ledger.charge(cost)
    assert (ledger.exhausted() or "").startswith(word)


def test_without_limits_nothing_ends() -> None:
    clock = Clock()
    ledger = Ledger(Budget(), clock)
    clock.now += 1e9
    ledger.charge(Cost(tokens=10**9, money=1e9))
    assert ledger.exhausted() is None and ledger.left() == float("inf")


def test_shares_leave_something_for_the_others() -> None:
    clock = Clock()
    ledger = Ledger(Budget(seconds=100.0, tokens=50), clock)
    assert ledger.share(5).left() == pytest.approx(40)
    assert ledger.share(50).left() == pytest.approx(LEAST_SHARE_SECONDS)
    clock.now += 90
    ledger.charge(Cost(tokens=20))
    last = ledger.share(1)
    assert last.left() == pytest.approx(10) and last.budget.tokens == 30
