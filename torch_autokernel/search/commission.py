"""The search's dealings with authors: assignments out, candidates in, opinions and suspicions heard, rounds written down.

Nothing here accepts a kernel. Opinions order candidates and may drop some; suspicions may reject some.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch_autokernel.core.protocols import Author
from torch_autokernel.core.types import (
    Arch,
    Artifact,
    Assignment,
    Attempt,
    CacheEntry,
    Candidate,
    Case,
    Region,
    Verdict,
    digest,
)
from torch_autokernel.search import calibrate, suspects
from torch_autokernel.search.authors import Authors, Work
from torch_autokernel.search.hunt import Hunt
from torch_autokernel.search.related import related
from torch_autokernel.search.run import Round, Run
from torch_autokernel.verify.floor import compulsory_bytes, floor_ns
from torch_autokernel.verify.mutate import sample

ASSIGNED = 6  # assignments at a time
MUTABLE = "cpp"  # the language whose kernels `verify.mutate` can change
MUTANTS = 8
DOUBT = 0.2  # candidates that reviewers give less are judged last


class Commission:
    """Deals with the authors among `proposers`, for any hunt. What it keeps lies in `folder`: runs and proven cases."""

    def __init__(
        self, proposers: Sequence[Any], arch: Arch, language: Any, strategy: Any, folder: Path, *, models: str = "",
        library: Callable[[], Sequence[CacheEntry]] = tuple, second_judge: Any = None,
    ) -> None:  # fmt: skip
        self._proposers, self._arch, self._language, self._strategy = proposers, arch, language, strategy
        self._folder, self._models, self._library = folder, models, library
        self._authors = [p for p in proposers if isinstance(p, Author)]
        self._proven = suspects.Shelf(folder / "cases")
        self._second_judge = second_judge

    def close(self) -> None:
        for part in (self._second_judge, *self._authors):
            if part is not None:
                part.close()
        self._second_judge = None

    def open(self, hunt: Hunt) -> None:
        """Find the hunt's authors and what is written down of it. Without authors nothing here does anything."""
        if authors := Authors(self._authors, hunt.region, self._arch, self._language):
            hunt.authors = authors
            hunt.run = Run(self._folder / "runs" / f"{self._identity(hunt.region)}.jsonl")

    def _identity(self, region: Region) -> str:
        names = [self._language.name, self._strategy.name, self._models, *(p.name for p in self._proposers)]
        return digest([region.signature.digest, sorted(region.sizes.items()), self._arch.key, names])[:32]

    # ------------------------------------------------------------------ out
    def assign(self, hunt: Hunt, state: Any) -> tuple[Any, int]:
        """The next assignments, with what is known of the region; testers are asked once."""
        if hunt.authors is None:
            return state, 0
        state, assignments = self._strategy.assign(state, ASSIGNED)
        self._begin(hunt, assignments)
        return state, len(assignments)

    def _begin(self, hunt: Hunt, assignments: Sequence[Assignment]) -> None:
        assert hunt.authors is not None
        if assignments:
            hunt.under_way = hunt.authors.begin(self._briefed(hunt.region, assignments), hunt.ledger)
        if hunt.cases is None and hunt.testers is None:
            hunt.testers = hunt.authors.suspect(suspects.KNOWN, hunt.ledger)

    def _briefed(self, region: Region, assignments: Sequence[Assignment]) -> list[Assignment]:
        us = floor_ns(region, self._arch, max(1, self._arch.limits.get("threads", 1))) / 1e3
        moved = f"every call must move at least {compulsory_bytes(region)} bytes, which takes {us:.1f} us or more here"
        examples = related(region, self._library(), self._language.name)
        return [replace(a, notes=(moved, *a.notes), examples=examples if a.kind == "translate" else ()) for a in assignments]

    # ------------------------------------------------------------------ in
    def collect(self, hunt: Hunt, work: Work[Candidate] | None) -> list[Candidate]:
        """What authors hand in, each kernel once, and not what was tried before. Reviewers read it if they are asked to."""
        if work is None or hunt.authors is None:
            return []
        found, book = work.collect()
        hunt.book += book
        known = {a.candidate.id for a in hunt.attempts}
        new = list({c.id: c for c in found if c.id not in known}.values())
        kernels = [c for c in new if c.source.language != "none"]
        if kernels and not hunt.ledger.exhausted():
            opinions, book = hunt.authors.review(kernels, hunt.ledger).collect()
            hunt.book += book
            hunt.opinions |= {c.id: o for c, o in zip(kernels, opinions, strict=False) if o}
        if hunt.ledger.denied:
            hunt.reasons.append(f"not all authors could be asked: {hunt.ledger.denied}")
            hunt.final = False
        return new

    def made(self, candidate: Candidate) -> bool:
        """Whether an author wrote it."""
        return any(candidate.proposer.partition(":")[0] == a.name for a in self._authors)

    def worth_judging(self, hunt: Hunt, ranked: list[Artifact]) -> list[Artifact]:
        """Without those that are no faster than the best so far; those that reviewers doubt come last or, where the
        reviewers have been right often enough, not at all."""
        if hunt.authors is None:
            return ranked
        if hunt.best is not None and (best := hunt.rough.get(hunt.best.candidate.id)) is not None:
            ranked = [a for a in ranked if hunt.rough[a.candidate.id] < best]
        scores = {a.candidate.id: calibrate.score(hunt.opinions.get(a.candidate.id, {})) for a in ranked}
        kept = [a for a in ranked if (s := scores[a.candidate.id]) is None or not calibrate.drops(s, hunt.scores)]
        return sorted(kept, key=lambda a: (s := scores[a.candidate.id]) is not None and s < DOUBT)

    def suspected(self, hunt: Hunt, artifact: Artifact, verdict: Verdict) -> Verdict:
        """An accepted author's candidate after the cases that testers suspect; those that reject it are kept for later."""
        if not verdict.accepted or not self.made(artifact.candidate):
            return verdict
        if hunt.cases is None:
            found: list[Case] = []
            if hunt.testers is not None:
                (found, book), hunt.testers = hunt.testers.collect(), None
                hunt.book += book
            hunt.cases = suspects.possible(hunt.region, [*self._proven.read(hunt.region), *found])
        if hunt.cases:
            self._second_judge = self._second_judge or suspects.SecondJudge(self._arch)
            verdict, killers = suspects.second_opinion(self._second_judge, hunt.region, artifact, verdict, hunt.cases)
            self._proven.keep(hunt.region, killers)
        if verdict.accepted and (opinions := hunt.opinions.get(artifact.candidate.id)):
            hunt.scores.append(calibrate.score(opinions) or 0.0)
        return verdict

    def prove(self, hunt: Hunt, compiled: Callable[[Hunt, list[Candidate]], list[Artifact]], judge: Any) -> None:
        """Keep the suspected cases that tell a mutant of the best kernel from it, where the judge does not: a later candidate
        may have the mutant's fault."""
        if not hunt.cases or hunt.best is None or hunt.best.candidate.source.language != MUTABLE:
            return
        self._second_judge = self._second_judge or suspects.SecondJudge(self._arch)
        source, chance = hunt.best.candidate.source, random.Random(hunt.best.candidate.id)
        texts = [m.text for m in sample(source.text, MUTANTS, chance)]
        mutants = [Candidate(hunt.region.signature.digest, replace(source, text=t), "mutant") for t in texts]
        for artifact in compiled(hunt, mutants) if mutants and not hunt.ledger.exhausted() else ():
            if hunt.ledger.exhausted():
                return
            if artifact.ok and (verdict := judge.judge(hunt.region, artifact)).accepted:
                _, killers = suspects.second_opinion(self._second_judge, hunt.region, artifact, verdict, hunt.cases)
                self._proven.keep(hunt.region, killers)

    # ------------------------------------------------------------------ written down
    def write_down(self, hunt: Hunt, attempts: Sequence[Attempt], assigned: int) -> None:
        hunt.run.write(Round(
            tuple(attempts), assigned, hunt.under_way is not None, tuple(hunt.book), hunt.cases,
            hunt.best.candidate.id if hunt.best else "", hunt.close, hunt.final, tuple(hunt.reasons[-4:]), tuple(hunt.scores),
        ))  # fmt: skip
        hunt.book = []

    def take_up(self, hunt: Hunt, state: Any) -> Any:
        """The state after the rounds that are written down, and the hunt as it stood. What was under way is begun again;
        answers that were paid for come from the authors' record."""
        pending: Sequence[Assignment] = ()
        for done in hunt.run.rounds:
            if done.assigned:
                state, pending = self._strategy.assign(state, done.assigned)
            pending = pending if done.pending else ()
            state = self._strategy.tell(state, done.attempts)
            hunt.attempts += done.attempts
        hunt.ledger.take_over(e for done in hunt.run.sitting for e in done.book)
        if hunt.run.rounds:
            last = hunt.run.rounds[-1]
            hunt.close, hunt.final, hunt.reasons = last.close, last.final, list(last.reasons)
            hunt.cases, hunt.scores = last.cases, list(last.scores)
            facts = {a.candidate.id: a.artifact.facts for a in hunt.attempts if a.artifact is not None}
            hunt.rough = {i: f["rough_ns"] for i, f in facts.items() if "rough_ns" in f}
            self._begin(hunt, pending)
        return state

    def end(self, hunt: Hunt, reason: str, broke_off: bool = False) -> None:
        """Nothing is under way any more; what the budget ended, or what broke off, can be taken up again."""
        for work in (hunt.under_way, hunt.testers):
            if work is not None:
                work.cancel()
        out_of_budget = hunt.ledger.exhausted() or hunt.ledger.denied
        hunt.run.end(reason or out_of_budget or "nothing more was proposed", resumable=broke_off or bool(out_of_budget))
