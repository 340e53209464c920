"""One region's search: what came of it, and how it stands while it is under way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch_autokernel.core.types import Attempt, Candidate, Case, Cost, Expense, Region
from torch_autokernel.search.authors import Authors, Work
from torch_autokernel.search.budget import Ledger
from torch_autokernel.search.run import Run


@dataclass(frozen=True)
class Result:
    """What a search found for a region: `best` is accepted and faster than the best baseline, or None and `reason` says why.
    `final` says whether asking again under the same conditions would be in vain. `ranges`: see `CacheEntry`. `book` says what
    authors have cost, a row for each role and model."""

    region: Region
    best: Attempt | None
    vectors: bytes
    ranges: Mapping[str, tuple[int, int]]
    attempts: tuple[Attempt, ...]
    reason: str
    cost: Cost
    final: bool = True
    book: tuple[Expense, ...] = ()


@dataclass
class Hunt:
    """One region's search under way."""

    region: Region
    ledger: Ledger
    folder: Path
    attempts: list[Attempt] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    best: Attempt | None = None
    close: bool = False  # the last round came near
    final: bool = True
    authors: Authors | None = None
    run: Run = field(default_factory=lambda: Run(None))
    under_way: Work[Candidate] | None = None
    testers: Work[Case] | None = None
    cases: tuple[Case, ...] | None = None  # that testers suspect; None until they were asked
    scores: list[float] = field(default_factory=list)  # that reviewers gave to kernels which were then accepted
    opinions: dict[str, dict[str, float]] = field(default_factory=dict)
    rough: dict[str, float] = field(default_factory=dict)  # ns by candidate, from screening
    book: list[Expense] = field(default_factory=list)  # of the work that this round used
