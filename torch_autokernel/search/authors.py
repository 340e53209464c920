"""Work that is given to authors and comes back later, with what it cost.

Each piece of work has a tab of its own: a run's record holds the costs of the work that it has used, no more, so that a run
that is taken up again counts nothing twice.
"""

from __future__ import annotations

import concurrent.futures
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from torch_autokernel.core.protocols import Author, Language
from torch_autokernel.core.types import Arch, Assignment, Candidate, Case, Cost, Expense, Region
from torch_autokernel.search.budget import Ledger

log = logging.getLogger(__name__)

T = TypeVar("T")
SETTLE_SECONDS = 5.0  # for calls that were cancelled to say what they cost


class Tab:
    """A purse that passes everything on to the ledger and keeps the expenses of one piece of work."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._lock = threading.Condition()
        self._book: list[Expense] = []
        self._open = 0

    def reserve(self, most: Cost) -> str | None:
        reason = self._ledger.reserve(most)
        with self._lock:
            self._open += reason is None
        return reason

    def waiting(self) -> bool:
        return self._ledger.waiting()

    def settle(self, most: Cost, expense: Expense) -> None:
        self._ledger.settle(most, expense)
        with self._lock:
            self._book.append(expense)
            self._open -= not expense.replayed
            self._lock.notify_all()

    def settled(self, seconds: float) -> bool:
        """Wait until every call has been accounted for; False where that takes longer."""
        with self._lock:
            return self._lock.wait_for(lambda: self._open == 0, seconds)

    @property
    def book(self) -> tuple[Expense, ...]:
        """In an order that does not depend on which call ended first."""
        with self._lock:
            return tuple(sorted(self._book, key=lambda e: (e.role, e.model, e.prompt_tokens, e.completion_tokens, e.failed)))


@dataclass
class Work(Generic[T]):
    """Pieces of work under way, in the order in which they were given out."""

    ledger: Ledger
    pieces: list[tuple[Future[list[T]], Tab]] = field(default_factory=list)

    def collect(self) -> tuple[list[T], tuple[Expense, ...]]:
        """The results, waiting for them as long as the budget's seconds allow; what is not ready then is cancelled."""
        out: list[T] = []
        left = self.ledger.left()
        try:
            for future, _tab in self.pieces:
                out += future.result(None if left == float("inf") else max(0.0, self.ledger.left()))
        except concurrent.futures.TimeoutError:
            self.cancel()
        return out, tuple(e for _future, tab in self.pieces for e in tab.book)

    def cancel(self) -> None:
        """End what is under way and wait for its bill."""
        for future, _tab in self.pieces:
            future.cancel()
        if not all(tab.settled(SETTLE_SECONDS) for _future, tab in self.pieces):
            log.warning("calls that were cancelled have not been accounted for")


class Authors:
    """The authors among the proposers that can do something for a region."""

    def __init__(self, proposers: Sequence[Any], region: Region, arch: Arch, language: Language) -> None:
        self._region, self._arch, self._language = region, arch, language
        self._authors = [p for p in proposers if isinstance(p, Author) and not p.refuses(region, arch)]

    def __bool__(self) -> bool:
        return bool(self._authors)

    def begin(self, assignments: Sequence[Assignment], ledger: Ledger) -> Work[Candidate]:
        """Give the assignments out, in turn where there are several authors."""
        count = len(self._authors)
        shares = [list(assignments)[i::count] for i in range(count)]

        def start(author: Any, number: int, tab: Tab) -> Future[list[Candidate]]:
            return author.begin(self._region, self._arch, self._language, shares[number], tab)  # type: ignore[no-any-return]

        return self._work(start, ledger)

    def suspect(self, distributions: Sequence[str], ledger: Ledger) -> Work[Case]:
        def start(author: Any, _number: int, tab: Tab) -> Future[list[Case]]:
            return author.suspect(self._region, self._arch, self._language, distributions, tab)  # type: ignore[no-any-return]

        return self._work(start, ledger)

    def review(self, candidates: Sequence[Candidate], ledger: Ledger) -> Work[dict[str, float]]:
        """By the first author only: one opinion of each kind on each candidate."""

        def start(author: Any, _number: int, tab: Tab) -> Future[list[dict[str, float]]]:
            return author.review(self._region, self._arch, self._language, candidates, tab)  # type: ignore[no-any-return]

        return self._work(start, ledger, 1)

    def _work(self, start: Callable[[Any, int, Tab], Future[list[T]]], ledger: Ledger, most: int | None = None) -> Work[T]:
        work: Work[T] = Work(ledger)
        for number, author in enumerate(self._authors[:most]):
            tab = Tab(ledger)
            work.pieces.append((start(author, number, tab), tab))
        return work
