"""The search: for each region propose, compile, rank, judge, time, and keep what beats the best baseline.

    ask the strategy -> propose -> compile in one batch -> screen (rough speed) -> judge the fastest -> time -> time again

What is expensive is done for few candidates: all are compiled and screened, one to three are judged, one is timed. While
candidates are made, the baselines of this region and of the next are compiled in their own processes. The winner is timed
twice, in fresh processes on fresh inputs: the best of many is biased, and the second timing is the one that is kept.

Authors (language models) get their assignments at the beginning of a round and hand in at its end, for the next one: while
they write, this round's candidates are compiled, judged and timed. Such a hunt goes on while its strategy finds it worth while,
and each round is written down, so that it can be taken up after a kill. See `commission`, `run`, `evolution`.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch_autokernel.core import deadline, events, points
from torch_autokernel.core.config import Config
from torch_autokernel.core.errors import ToolchainError, WorkerError
from torch_autokernel.core.protocols import Author, Proposer
from torch_autokernel.core.types import (
    Arch,
    Artifact,
    Attempt,
    Budget,
    CacheEntry,
    Candidate,
    Cost,
    Expense,
    Finding,
    Region,
    Status,
    Timing,
    Verdict,
)
from torch_autokernel.search import gates
from torch_autokernel.search.budget import Ledger
from torch_autokernel.search.commission import Commission
from torch_autokernel.search.hunt import Hunt, Result
from torch_autokernel.search.journal import Journal
from torch_autokernel.verify.floor import compulsory_bytes
from torch_autokernel.verify.timing import Stopwatch, Suspect

log = logging.getLogger(__name__)

CANDIDATES = 10  # proposed at a time
CLOSE = 0.9  # upper end of the interval from which another round may pay
JUDGED = 3  # candidates of one round that are judged fully, fastest first, until one is accepted
SCREEN_SECONDS = 1.5
START_SECONDS = 15.0  # of processes and baselines for a second timing
UNDECIDED = 1.3  # an interval around 1 whose ends differ by this factor decides nothing
RANGE = 4  # a kernel is chosen for sizes up to this factor below and above those it was timed at


class Searcher:
    """Shared by all regions: judge, stopwatch, language, proposers. Its files lie in a folder of its own below `folder`, until
    `close`; the journal and Inductor's compiled baselines stay."""

    def __init__(
        self, arch: Arch, config: Config, *, folder: Path, language: Any = None, proposers: Sequence[Any] | None = None,
        judge: Any = None, stopwatch: Any = None, strategy: Any = None, progress: Callable[[str], None] | None = None,
        second_judge: Any = None, library: Callable[[], Sequence[CacheEntry]] = tuple,
    ) -> None:  # fmt: skip
        self.arch = arch
        self.config = config
        self.journal = Journal(Path(folder) / "journal.jsonl")
        self._shared = Path(folder)
        self._folder = Path(tempfile.mkdtemp(prefix="search-", dir=folder))
        self._language = language or points.languages.get("cpp")()
        self._proposers = [self._proposer(n) for n in config.proposers] if proposers is None else list(proposers)
        authors = any(isinstance(p, Author) for p in self._proposers)
        self._strategy = strategy or points.strategies.get("evolution" if authors else "best_of_n")()
        self._commission = Commission(self._proposers, arch, self._language, self._strategy, self._shared,
                                      models=config.llm_model, library=library, second_judge=second_judge)  # fmt: skip
        self._judge = judge
        self._stopwatch = stopwatch
        self._progress = progress

    def _proposer(self, name: str) -> Any:
        proposer = points.proposers.get(name)()
        return proposer.configured(self.config, self._shared) if isinstance(proposer, Author) else proposer

    @property
    def judge(self) -> Any:
        if self._judge is None:
            from torch_autokernel.verify.judge import Judge  # imported here: it starts processes

            self._judge = Judge(self.arch, level="standard")
        return self._judge

    @property
    def stopwatch(self) -> Any:
        if self._stopwatch is None:
            self._stopwatch = Stopwatch(self.arch, folder=self._shared / "timing")
        return self._stopwatch

    def close(self) -> None:
        """End the processes and delete the candidates' files."""
        for part in (self._judge, self._stopwatch, self._commission):
            if part is not None:
                part.close()
        self._judge = self._stopwatch = None
        shutil.rmtree(self._folder, ignore_errors=True)

    # ------------------------------------------------------------------ all regions
    def search(self, regions: Sequence[Region], budget: Budget) -> Iterator[Result]:
        """A result for each region as it is found: those refused at once first, then the longest first."""
        ledger = Ledger(budget)
        hunts: list[Region] = []
        for region in sorted(regions, key=gates.expected_ns, reverse=True):
            with deadline.within(ledger.left()):
                reason = self._refusal(region)
            if reason:
                final = deadline.ENDED not in reason and not isinstance(reason, _Mistake)
                yield self._result(Hunt(region, ledger.share(1), self._folder, reasons=[reason], final=final))
            else:
                hunts.append(region)
        for number, region in enumerate(hunts):
            hunt = Hunt(region, ledger.share(len(hunts) - number), self._folder / str(number))
            if reason := ledger.exhausted():
                hunt.reasons, hunt.final = [reason], False
            else:
                self._hunt(hunt, hunts[number + 1 : number + 2])
            ledger.absorb(hunt.ledger)
            yield self._result(hunt)

    def _refusal(self, region: Region) -> str | None:
        """Why the region is not searched at all, or None."""
        if reason := gates.refusal(region, self.arch):
            return reason
        refusals = {p.name: _refused_by(p, region, self.arch) for p in self._proposers}
        if not all(refusals.values()):
            return None
        text = "; ".join(f"{name}: {reason}" for name, reason in refusals.items()) or "no proposer is configured"
        return _Mistake(text) if any(isinstance(reason, _Mistake) for reason in refusals.values()) else text

    def _result(self, hunt: Hunt) -> Result:
        best, vectors = hunt.best, b""
        if best is not None:
            assert best.verdict is not None and best.verdict.timing is not None
            reason = f"{_told(best.verdict.timing)}, best of {len(hunt.attempts)} candidates, by {best.candidate.proposer}"
            vectors = self.judge.vectors(hunt.region, best.artifact)
        else:
            reason = "; ".join(list(dict.fromkeys(hunt.reasons))[-2:]) or "no candidate was proposed"
        cost, book = hunt.ledger.spent, hunt.ledger.book
        reason += bill(book)
        self._tell("search.accepted" if best else "search.refused", hunt.region, reason=reason, seconds=cost.seconds)
        ranges = ranges_around(hunt.region)
        return Result(hunt.region, best, vectors, ranges, tuple(hunt.attempts), reason, cost, hunt.final, book)

    # ------------------------------------------------------------------ one region
    def _hunt(self, hunt: Hunt, upcoming: Sequence[Region]) -> None:
        """Fill in the hunt. Failing infrastructure ends it without a final word."""
        self._tell("search.region", hunt.region, sizes=dict(hunt.region.sizes), bytes=compulsory_bytes(hunt.region))
        try:
            for region in (hunt.region, *upcoming):
                self.stopwatch.prepare(region)
            self._rounds(hunt)
        except (WorkerError, ToolchainError, OSError) as error:
            log.warning("the search for a region broke off", exc_info=True)
            hunt.reasons.append(f"the search broke off: {error}")
            hunt.final = False
        finally:
            self.stopwatch.forget(hunt.region)

    def _rounds(self, hunt: Hunt) -> None:
        commission, reason = self._commission, ""
        commission.open(hunt)
        try:
            state = commission.take_up(hunt, self._strategy.init(hunt.region, self.arch))
            self._revive(hunt)
            while not self._out_of_budget(hunt):
                reason = self._strategy.stop(state, hunt.close) or ""
                if reason and hunt.under_way is None:
                    break
                state, candidates, assigned = self._candidates(hunt, state, bool(reason))
                if not candidates:
                    self._out_of_budget(hunt)  # which may be why
                    break
                attempts = self._try(hunt, candidates)
                for attempt in attempts:
                    note = " ".join(f"{k} {v:.2f}" for k, v in hunt.opinions.get(attempt.candidate.id, {}).items())
                    self.journal.write(hunt.region, attempt, note)
                state = self._strategy.tell(state, attempts)
                hunt.attempts += attempts
                commission.write_down(hunt, attempts, assigned)
        except BaseException:  # an interruption too: the hunt can be taken up
            commission.end(hunt, "it broke off", broke_off=True)
            raise
        commission.prove(hunt, self._compile, self.judge)
        commission.end(hunt, reason)

    def _candidates(self, hunt: Hunt, state: Any, stopping: bool) -> tuple[Any, list[Candidate], int]:
        """What this round tries: what authors handed in, and the other proposers' next. Authors get their next assignments
        before anything is tried. Once the strategy wants to stop, only what is paid for already is tried."""
        arrived, hunt.under_way = hunt.under_way, None
        if stopping:
            return state, self._commission.collect(hunt, arrived), 0
        state, parents = self._strategy.ask(state, CANDIDATES)
        state, assigned = self._commission.assign(hunt, state)
        candidates = self._commission.collect(hunt, arrived)
        candidates += self._propose(hunt, parents, {c.id for c in candidates})
        if not candidates:  # nothing else to do: wait for the authors
            arrived, hunt.under_way = hunt.under_way, None
            candidates = self._commission.collect(hunt, arrived)
        return state, candidates, assigned

    def _propose(self, hunt: Hunt, parents: Sequence[Attempt], have: set[str]) -> list[Candidate]:
        out: dict[str, Candidate] = {}
        known = {a.candidate.id for a in parents} | have
        for proposer in self._proposers:
            wanted = CANDIDATES - len(out)
            if wanted <= 0 or isinstance(proposer, Author) or self._out_of_budget(hunt):
                continue
            try:
                with deadline.within(hunt.ledger.left()):
                    refused = _refused_by(proposer, hunt.region, self.arch)
                    proposed = [] if refused else proposer.propose(hunt.region, self.arch, parents, wanted)
            except Exception as error:  # a proposer's own mistake must not end the search of the others
                hunt.reasons.append(_mistake(proposer, error))
                hunt.final = False
                continue
            for candidate in proposed:
                hunt.ledger.charge(candidate.cost)
                if candidate.id not in known:
                    out.setdefault(candidate.id, candidate)
        self._tell("search.proposed", hunt.region, candidates=len(out) + len(have))
        return list(out.values())

    def _try(self, hunt: Hunt, candidates: list[Candidate]) -> list[Attempt]:
        """One attempt for each candidate. Sets the hunt's `best` and says what kept the others back."""
        hunt.folder.mkdir(parents=True, exist_ok=True)
        with deadline.within(hunt.ledger.left()):
            artifacts = self._compile(hunt, candidates)
        compiled = [a for a in artifacts if a.ok]
        self._tell("search.compiled", hunt.region, compiled=len(compiled), of=len(artifacts))
        verdicts: dict[str, Verdict] = {}
        hunt.close = False
        if not compiled:
            hunt.reasons.append(f"no candidate compiles: {_first_line(artifacts[0].log)}")
            self._out_of_budget(hunt)
        elif not self._out_of_budget(hunt):
            self._contest(hunt, self._rank(hunt, compiled), verdicts)
        pairs = [(c, a) for c, a in zip(candidates, artifacts, strict=True) if a.log != deadline.ENDED]
        attempts = [Attempt(c, self._with_rough(hunt, a), verdicts.get(c.id), Cost(a.seconds) + c.cost) for c, a in pairs]
        if (best := hunt.best) is not None:
            hunt.best = next((a for a in attempts if a.candidate.id == best.candidate.id), best)
        return attempts

    def _compile(self, hunt: Hunt, candidates: list[Candidate]) -> list[Artifact]:
        """An artifact for each, in order. Answers without a kernel never reach a compiler."""
        texts = [c for c in candidates if c.source.language != "none"]
        made = self._language.compile(texts, hunt.region.signature, self.arch, hunt.folder) if texts else []
        by_id = {a.candidate.id: a for a in made}
        return [by_id.get(c.id) or Artifact(c, "", "", "", log=_no_kernel(c)) for c in candidates]

    def _with_rough(self, hunt: Hunt, artifact: Artifact) -> Artifact:
        """The artifact with its rough speed among its facts, where parents are chosen by it."""
        rough = hunt.rough.get(artifact.candidate.id)
        if rough is None or not hunt.authors:
            return artifact
        return replace(artifact, facts={**artifact.facts, "rough_ns": rough})

    def _rank(self, hunt: Hunt, compiled: list[Artifact]) -> list[Artifact]:
        """Those that ran, fastest first by rough speed."""
        if len(compiled) == 1 and not hunt.authors:
            return compiled
        seconds = min(SCREEN_SECONDS, hunt.ledger.left())
        speeds = self.judge.screen(hunt.region, compiled, seconds)
        ran = [(ns, i) for i, ns in enumerate(speeds) if ns is not None]
        self._tell("search.screened", hunt.region, ran=len(ran), of=len(compiled), fastest_ns=min(ran)[0] if ran else None)
        if not ran:
            hunt.reasons.append(f"none of {len(compiled)} compiled candidates ran through")
        hunt.rough |= {compiled[i].candidate.id: ns for ns, i in ran}
        return self._commission.worth_judging(hunt, [compiled[i] for _ns, i in sorted(ran)])

    def _contest(self, hunt: Hunt, ranked: list[Artifact], verdicts: dict[str, Verdict]) -> None:
        """Judge in order until one is accepted, and time that one."""
        for artifact in ranked[:JUDGED]:
            if self._out_of_budget(hunt):
                return
            try:
                with deadline.within(hunt.ledger.left()):
                    verdict: Verdict = self.judge.judge(hunt.region, artifact)
            except deadline.Over:
                self._out_of_budget(hunt)
                return
            verdict = self._commission.suspected(hunt, artifact, verdict)
            verdicts[artifact.candidate.id] = verdict
            facts = {"candidate": artifact.candidate.id, "accepted": verdict.accepted, "why": verdict.why}
            self._tell("search.judged", hunt.region, **facts)
            if verdict.accepted:
                verdicts[artifact.candidate.id] = self._race(hunt, artifact, verdict)
                return
            hunt.reasons.append(f"no candidate was accepted: {verdict.why}")
            hunt.close = True  # other schedules may be right

    # ------------------------------------------------------------------ timing
    def _race(self, hunt: Hunt, artifact: Artifact, verdict: Verdict) -> Verdict:
        """The verdict with its timing. A winner is timed again, and only the second timing counts: it gets as much time as the
        first one took and new baselines need, even where none is left, or all that was found would be lost."""
        took = 0.0
        for fresh in (False, True):
            if not fresh and self._out_of_budget(hunt):
                return verdict
            begun = hunt.ledger.spent.seconds
            (timing,) = self.stopwatch.time(hunt.region, [artifact], max(took, hunt.ledger.left()), fresh=fresh)
            took = hunt.ledger.spent.seconds - begun + START_SECONDS
            if isinstance(timing, str):
                return self._untimed(hunt, verdict, timing)
            verdict = replace(verdict, timing=timing)
            self._tell("search.timed", hunt.region, candidate=artifact.candidate.id, speedup=timing.speedup, low=timing.low,
                       high=timing.high, baseline=timing.baseline, ns=timing.others, fresh=fresh)  # fmt: skip
            if timing.low <= 1:
                hunt.reasons.append(f"fastest candidate {_told(timing)}")
                hunt.close = timing.high >= CLOSE
                hunt.final = hunt.final and not _undecided(timing)
                return verdict
        if _low(verdict) > _low(hunt.best.verdict if hunt.best else None):
            hunt.best = Attempt(artifact.candidate, artifact, verdict)
            if hunt.authors:  # others may follow
                facts = {"speedup": timing.speedup, "baseline": timing.baseline, "by": artifact.candidate.proposer}
                self._tell("search.best", hunt.region, **facts)
        return verdict

    def _revive(self, hunt: Hunt) -> None:
        """The best kernel of a hunt that is taken up again: compiled anew; another binary than the one judged is judged."""
        if not hunt.run.rounds:
            return
        name = hunt.run.rounds[-1].best
        self._tell("search.resumed", hunt.region, rounds=len(hunt.run.rounds), attempts=len(hunt.attempts), best=name)
        best = next((a for a in hunt.attempts if a.candidate.id == name), None)
        if best is None or best.artifact is None:
            return
        hunt.folder.mkdir(parents=True, exist_ok=True)
        (artifact,) = self._compile(hunt, [best.candidate])
        if artifact.ok and artifact.sha256 == best.artifact.sha256:
            hunt.best = replace(best, artifact=replace(best.artifact, path=artifact.path))
        elif artifact.ok and (verdict := self.judge.judge(hunt.region, artifact)).accepted:
            self._race(hunt, artifact, verdict)

    def _untimed(self, hunt: Hunt, verdict: Verdict, reason: str) -> Verdict:
        hunt.reasons.append(f"no timing: {reason}")
        suspect = isinstance(reason, Suspect)
        hunt.final = hunt.final and suspect
        status = Status.ERROR if suspect else Status.SKIP
        return replace(verdict, findings=(*verdict.findings, Finding("timing", status, reason)))

    def _out_of_budget(self, hunt: Hunt) -> bool:
        reason = hunt.ledger.exhausted()
        if reason:
            hunt.reasons.append(f"the budget ended the search: {reason}")
            hunt.final = False
        return reason is not None

    def _tell(self, name: str, region: Region, **facts: Any) -> None:
        signature = region.signature.digest
        events.emit(name, signature=signature, **facts)
        text = ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in facts.items())
        log.debug("%s %s: %s", name, signature[:12], text)
        if self._progress:
            self._progress(f"{name} {signature[:12]}: {text}")


def bill(book: Sequence[Expense]) -> str:
    """What authors have cost, as the end of a sentence; nothing where none was asked."""
    if not book:
        return ""
    calls, tokens, money = (sum(getattr(e, n) for e in book) for n in ("calls", "prompt_tokens", "money"))
    tokens += sum(e.completion_tokens for e in book)
    return f"; {calls} LLM calls, {tokens} tokens" + (f", {money:.4g} in money" if money else "")


def _low(verdict: Verdict | None) -> float:
    return verdict.timing.low if verdict is not None and verdict.timing is not None else 1.0


def _no_kernel(candidate: Candidate) -> str:
    return f"error: the answer holds no kernel: {candidate.source.schedule.get('problem', 'nothing was said')}"


def ranges_around(region: Region) -> dict[str, tuple[int, int]]:
    """For which sizes a kernel timed at the region's sizes is chosen: a quarter of each to four times each."""
    return {name: (max(1, size // RANGE), size * RANGE) for name, size in region.sizes.items()}


def _undecided(timing: Timing) -> bool:
    """Whether the interval reaches to both sides of 1 and is so wide (a busy machine) that it says nothing."""
    return timing.high > 1 and timing.high > timing.low * UNDECIDED


def _told(timing: Timing) -> str:
    return f"{timing.speedup:.2f}x of {timing.baseline} ({timing.low:.2f} to {timing.high:.2f})"


def _refused_by(proposer: Proposer, region: Region, arch: Arch) -> str | None:
    """Why the proposer proposes nothing for this region: that it fails is a reason, too."""
    try:
        return proposer.refuses(region, arch)
    except Exception as error:
        return _mistake(proposer, error)


class _Mistake(str):
    """A reason that is a fault of a proposer's own: not to be remembered."""


def _mistake(proposer: Proposer, error: Exception) -> str:
    log.warning("the proposer %s failed", proposer.name, exc_info=error)
    return _Mistake(f"{proposer.name} failed: {type(error).__name__}: {error}")


def _first_line(text: str) -> str:
    return next((line for line in text.splitlines() if line.strip()), "the compiler gave no reason")
