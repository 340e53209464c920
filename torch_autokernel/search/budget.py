"""What a search may spend, and has."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

from torch_autokernel.core.types import Budget, Cost, Expense

LEAST_SHARE_SECONDS = 20.0  # the first region waits for Inductor's start and, on a new machine, for its precompiled header
LEAST_SHARE_TOKENS = 20_000  # a few calls


class Ledger:
    """Counts wall seconds from its making, and what is charged. Never overrun by more than the step under way.

    It is the purse of authors too: what a call may cost at most is set aside before the call, so calls at once cannot pass a
    limit together, and what it did cost stands in the `book`, a row for each role, model and region. A limit of zero tokens or
    money forbids spending but does not stop a search that spends none. Usable from several threads."""

    def __init__(self, budget: Budget, clock: Callable[[], float] = time.monotonic) -> None:
        self.budget = budget
        self._clock = clock
        self._start = clock()
        self._charged = Cost()
        self._aside = Cost()
        self._rows: dict[tuple[str, str, str], Expense] = {}
        self._lock = threading.Lock()
        self._calls = 0  # under way
        self.denied = ""  # why a call was not allowed

    @property
    def spent(self) -> Cost:
        """Wall seconds since the start, tokens and money as charged."""
        return Cost(self._clock() - self._start, self._charged.tokens, self._charged.money)

    @property
    def book(self) -> tuple[Expense, ...]:
        with self._lock:
            return tuple(self._rows.values())

    def charge(self, cost: Cost) -> None:
        """Tokens and money; the seconds of a cost are on the clock already."""
        with self._lock:
            self._charged = self._charged + cost

    # ------------------------------------------------------------------ as a purse
    def reserve(self, most: Cost) -> str | None:
        with self._lock:
            reason = self._why_not(most)
            if reason is None:
                self._aside = self._aside + most
                self._calls += 1
            elif not self._calls:
                self.denied = reason
            return reason

    def waiting(self) -> bool:
        """Whether calls are under way that may give back some of what was set aside for them, in time."""
        return self._calls > 0 and self.left() > 0

    def _why_not(self, most: Cost) -> str | None:
        if self.left() <= 0:
            return f"seconds used up: {self.spent.seconds:.6g} of {self.budget.seconds:.6g}"
        for name in ("tokens", "money"):
            limit = getattr(self.budget, name)
            taken = getattr(self._charged, name) + getattr(self._aside, name)
            if limit is not None and taken + getattr(most, name) > limit:
                return f"{name}: a call of up to {getattr(most, name):.6g} does not fit into {limit:.6g}, {taken:.6g} are taken"
        return None

    def settle(self, most: Cost, expense: Expense) -> None:
        with self._lock:
            if most != Cost():
                self._aside = Cost(0.0, self._aside.tokens - most.tokens, self._aside.money - most.money)
                self._calls -= 1
            self._charged = self._charged + expense.cost
            self._write(expense)

    def take_over(self, book: Iterable[Expense]) -> None:
        """Expenses of an earlier sitting, as spent here."""
        with self._lock:
            for expense in book:
                self._charged = self._charged + expense.cost
                self._write(expense)

    def absorb(self, other: Ledger) -> None:
        """All that another ledger has charged and written down; the seconds are on the clock already."""
        with self._lock:
            self._charged = self._charged + other._charged
            for expense in other.book:
                self._write(expense)

    def _write(self, expense: Expense) -> None:
        key = (expense.role, expense.model, expense.region)
        self._rows[key] = self._rows[key] + expense if key in self._rows else expense

    # ------------------------------------------------------------------ limits
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
        a piece needs if there is as much; of tokens and money likewise."""
        count = max(count, 1)
        seconds = None if self.budget.seconds is None else min(self.left(), max(LEAST_SHARE_SECONDS, 2 * self.left() / count))
        spent, tokens, money = self._charged, None, None
        if self.budget.tokens is not None:
            left = max(0, self.budget.tokens - spent.tokens)
            tokens = min(left, max(LEAST_SHARE_TOKENS, 2 * left // count))
        if self.budget.money is not None:
            money = max(0.0, self.budget.money - spent.money) * min(1.0, 2 / count)
        return Ledger(Budget(seconds, tokens, money), self._clock)
