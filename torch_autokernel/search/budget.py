"""What a search may spend, and has."""

from __future__ import annotations

import time
from collections.abc import Callable

from torch_autokernel.core.types import Budget, Cost

LEAST_SHARE_SECONDS = 20.0  # the first region waits for Inductor's start and, on a new machine, for its precompiled header


class Ledger:
    """Counts wall seconds from its making, and what is charged. Never overrun by more than the step under way.

    A limit of zero tokens or money forbids spending but does not stop a search that spends none."""

    def __init__(self, budget: Budget, clock: Callable[[], float] = time.monotonic) -> None:
        self.budget = budget
        self._clock = clock
        self._start = clock()
        self._charged = Cost()

    @property
    def spent(self) -> Cost:
        """Wall seconds since the start, tokens and money as charged."""
        return Cost(self._clock() - self._start, self._charged.tokens, self._charged.money)

    def charge(self, cost: Cost) -> None:
        """Tokens and money; the seconds of a cost are on the clock already."""
        self._charged = self._charged + cost

    def left(self) -> float:
        """Seconds; infinite without a limit."""
        limit = self.budget.seconds
        return float("inf") if limit is None else max(0.0, limit - self.spent.seconds)

    def exhausted(self) -> str | None:
        """Why nothing more may be started, or None."""
        spent = self.spent
        tokens = self.budget.tokens if spent.tokens else None
        money = self.budget.money if spent.money else None
        return Budget(self.budget.seconds, tokens, money).spent(spent)

    def share(self, count: int) -> Ledger:
        """A ledger for the next of `count` pieces of work: up to twice an equal part of the seconds left, but not less than
        a piece needs if there is as much; of tokens and money all."""
        part = max(LEAST_SHARE_SECONDS, 2 * self.left() / max(count, 1))
        seconds = None if self.budget.seconds is None else min(self.left(), part)
        spent = self._charged
        tokens = None if self.budget.tokens is None else max(0, self.budget.tokens - spent.tokens)
        money = None if self.budget.money is None else max(0.0, self.budget.money - spent.money)
        return Ledger(Budget(seconds, tokens, money), self._clock)
