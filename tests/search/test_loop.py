"""The search on fakes: what is tried, in which order, what is kept, and why not."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.search.fakes import FakeJudge, FakeLanguage, FakeProposer, FakeStopwatch, region, searcher
from torch_autokernel.core import deadline, events
from torch_autokernel.core.errors import WorkerError
from torch_autokernel.core.types import (
    Arch,
    Artifact,
    Attempt,
    Budget,
    Candidate,
    Cost,
    Region,
    Signature,
    Status,
    Timing,
    Verdict,
)
from torch_autokernel.search.loop import JUDGED, START_SECONDS, Result, Searcher, ranges_around
from torch_autokernel.verify.timing import Suspect

FREE = Budget()


def only(search: Searcher, budget: Budget = FREE) -> Result:
    try:
        (result,) = search.search([region()], budget)
    finally:
        search.close()
    return result


def test_the_fastest_right_candidate_wins_and_is_timed_twice(tmp_path: Path) -> None:
    judge, stopwatch = FakeJudge(), FakeStopwatch()
    result = only(searcher(tmp_path, "90000", "50000", "70000", judge=judge, stopwatch=stopwatch))
    assert result.best is not None and result.best.candidate.source.text == "50000"
    assert result.best.verdict is not None and result.best.verdict.accepted and result.best.verdict.timing is not None
    assert result.vectors == b"vectors" and len(result.attempts) == 3
    assert stopwatch.calls == [("50000", False), ("50000", True)] and judge.judged == ["50000"]
    assert "2.00x of inductor" in result.reason


class FailingProposer(FakeProposer):
    """Fails where it is asked to: in `refuses`, or else in `propose`."""

    def propose(self, region: Region, arch: Arch, parents: Sequence[Attempt], n: int) -> list[Candidate]:
        raise KeyError(11)

    def refuses(self, region: Region, arch: Arch) -> str | None:
        if self.reason is not None:
            raise KeyError(11)
        return None


@pytest.mark.parametrize("reason", [None, "in refuses"])
def test_a_proposer_that_fails_does_not_end_the_search(tmp_path: Path, reason: str | None) -> None:
    failing = FailingProposer(name="failing", reason=reason)
    result = only(searcher(tmp_path, proposers=[failing, FakeProposer("50000")]))
    assert result.best is not None and result.best.candidate.source.text == "50000"
    result = only(searcher(tmp_path, proposers=[failing]))
    assert result.best is None and "failing failed: KeyError: 11" in result.reason
    assert not result.final, "a fault of ours is not to be remembered"


def test_the_timing_that_is_kept_is_the_second(tmp_path: Path) -> None:
    result = only(searcher(tmp_path, "50000", stopwatch=FakeStopwatch(second=80000.0)))
    assert result.best is not None and result.best.verdict is not None and result.best.verdict.timing is not None
    assert result.best.verdict.timing.speedup == pytest.approx(1.25)


def test_luck_in_the_first_timing_is_not_enough(tmp_path: Path) -> None:
    result = only(searcher(tmp_path, "50000", stopwatch=FakeStopwatch(second=100_500.0)))
    assert result.best is None and "fastest candidate 1.00x of inductor" in result.reason and result.final


def test_a_wrong_candidate_gives_way_to_the_next(tmp_path: Path) -> None:
    judge = FakeJudge()
    result = only(searcher(tmp_path, "20000 wrong", "40000", "10000 crash", "5000 broken", judge=judge))
    assert judge.judged == ["20000 wrong", "40000"]
    assert result.best is not None and result.best.candidate.source.text == "40000"
    by_text = {a.candidate.source.text: a for a in result.attempts}
    wrong = by_text["20000 wrong"].verdict
    assert wrong is not None and not wrong.accepted and wrong.timing is None
    assert by_text["10000 crash"].verdict is None and not by_text["5000 broken"].artifact.ok  # type: ignore[union-attr]


def test_only_a_few_are_judged_in_a_round(tmp_path: Path) -> None:
    judge = FakeJudge()
    result = only(searcher(tmp_path, *(f"{1000 + i} wrong" for i in range(9)), judge=judge))
    assert result.best is None and "numerics: planted" in result.reason
    assert len(judge.judged) == JUDGED


def test_slower_than_the_baseline_is_refused_for_good(tmp_path: Path) -> None:
    result = only(searcher(tmp_path, "200000", "300000"))
    assert result.best is None and result.final and result.reason.startswith("fastest candidate 0.50x of inductor")
    verdict = result.attempts[0].verdict
    assert verdict is not None and verdict.timing is not None and verdict.timing.speedup == pytest.approx(0.5)


def test_a_close_loser_gets_a_second_round_with_the_first_as_parents(tmp_path: Path) -> None:
    proposer = FakeProposer(*(str(101_000 + i) for i in range(10)), "60000")
    result = only(searcher(tmp_path, proposers=[proposer]))
    assert proposer.asked == [0, 10] and len(result.attempts) == 11
    assert result.best is not None and result.best.candidate.source.text == "60000"


def test_a_clear_loser_gets_no_second_round(tmp_path: Path) -> None:
    proposer = FakeProposer(*(str(300_000 + i) for i in range(10)), "60000")
    assert only(searcher(tmp_path, proposers=[proposer])).best is None
    assert proposer.asked == [0]


def test_the_compilers_word_is_the_reason(tmp_path: Path) -> None:
    result = only(searcher(tmp_path, "1 broken", "2 broken"))
    assert result.best is None and result.reason == "no candidate compiles: error: broken"


def test_nothing_ran(tmp_path: Path) -> None:
    result = only(searcher(tmp_path, "1 crash", "2 crash"))
    assert result.best is None and result.reason == "none of 2 compiled candidates ran through"


def test_a_refusing_proposer_costs_nothing(tmp_path: Path) -> None:
    language, stopwatch = FakeLanguage(), FakeStopwatch()
    search = searcher(tmp_path, proposers=[FakeProposer("1", reason="too odd")], language=language, stopwatch=stopwatch)
    result = only(search)
    assert result.best is None and result.final and result.reason == "fake: too odd"
    assert not language.batches and not stopwatch.prepared


def test_one_batch_a_round_and_proposers_share_the_room(tmp_path: Path) -> None:
    language = FakeLanguage()
    one = FakeProposer(*(str(50_000 + i) for i in range(7)), name="one")
    two = FakeProposer(*(str(60_000 + i) for i in range(7)))
    result = only(searcher(tmp_path, proposers=[one, two], language=language))
    assert language.batches == [10]
    assert [a.candidate.proposer for a in result.attempts] == ["one"] * 7 + ["fake"] * 3


def test_a_suspect_timing_is_an_error_finding(tmp_path: Path) -> None:
    result = only(searcher(tmp_path, "1", stopwatch=FakeStopwatch(Suspect("faster than possible: planted"))))
    verdict = result.attempts[0].verdict
    assert result.best is None and result.final and "faster than possible" in result.reason
    assert verdict is not None and verdict.findings[-1].status is Status.ERROR and not verdict.accepted


def test_a_missing_timing_is_no_final_word(tmp_path: Path) -> None:
    result = only(searcher(tmp_path, "1", stopwatch=FakeStopwatch("a round takes too long")))
    assert result.best is None and not result.final and "a round takes too long" in result.reason


@pytest.mark.parametrize(("low", "high", "final"), [(0.7, 1.05, False), (0.98, 1.02, True), (0.5, 0.9, True)])
def test_an_interval_that_decides_nothing_is_no_final_word(tmp_path: Path, low: float, high: float, final: bool) -> None:
    timing = Timing((1.0,) * 8, (1.0,) * 8, "inductor", (low * high) ** 0.5, low, high, "fake")
    result = only(searcher(tmp_path, "1", stopwatch=FakeStopwatch(timing)))
    assert result.best is None and result.final is final


def test_failing_infrastructure_is_no_final_word(tmp_path: Path) -> None:
    stopwatch = FakeStopwatch()
    result = only(searcher(tmp_path, "1", judge=FakeJudge(WorkerError("no worker")), stopwatch=stopwatch))
    assert result.best is None and not result.final and "no worker" in result.reason
    assert len(stopwatch.forgotten) == 1


def test_an_unforeseen_error_is_not_swallowed(tmp_path: Path) -> None:
    search = searcher(tmp_path, "1", judge=FakeJudge(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        only(search)


# ---------------------------------------------------------------------- several regions
def test_small_regions_are_refused_and_the_greatest_comes_first(tmp_path: Path) -> None:
    regions = [region(8, 8), region(512, 512), region(2048, 2048)]
    stopwatch = FakeStopwatch()
    search = searcher(tmp_path, "50000", stopwatch=stopwatch)
    results = list(search.search(regions, FREE))
    search.close()
    assert [r.region for r in results] == [regions[0], regions[2], regions[1]]
    assert results[0].reason.startswith("too small: it moves 512 bytes")
    assert stopwatch.prepared == [regions[2], regions[1]] and stopwatch.forgotten == [regions[2], regions[1]]


def test_a_spent_budget_keeps_what_was_found(tmp_path: Path) -> None:
    proposer = FakeProposer("50000", cost=Cost(tokens=60))
    search = searcher(tmp_path, proposers=[proposer])
    results = list(search.search([region(2048, 2048), region(1024, 2048), region()], Budget(tokens=100)))
    search.close()
    assert [r.best is not None for r in results] == [True, False, False]
    assert "tokens used up" in results[-1].reason and not results[-1].final
    assert len(results[1].attempts) == 1 and results[1].attempts[0].verdict is None


def test_no_seconds_means_no_work(tmp_path: Path) -> None:
    language = FakeLanguage()
    result = only(searcher(tmp_path, "50000", language=language), Budget(seconds=0.0))
    assert result.best is None and not result.final and "seconds used up" in result.reason and not language.batches


class SlowLanguage(FakeLanguage):
    """Is still at work when the time is over."""

    def compile(self, candidates: Sequence[Candidate], signature: Signature, arch: Arch, folder: Path) -> list[Artifact]:
        while (left := deadline.left()) is None or left > 0:
            time.sleep(0.05)
        return [Artifact(c, "", "", "kernel", log=deadline.ENDED) for c in candidates]


def test_compilers_have_as_long_as_the_budget(tmp_path: Path) -> None:
    """What is not ready then was not tried: another search will compile it."""
    result = only(searcher(tmp_path, "50000", language=SlowLanguage()), Budget(seconds=0.5))
    assert result.best is None and not result.final and "seconds used up" in result.reason and not result.attempts


class SlowProposer(FakeProposer):
    """Generates until the time is over: at once, or only when candidates are wanted."""

    def __init__(self, *texts: str, at_once: bool) -> None:
        super().__init__(*texts)
        self.at_once = at_once

    def refuses(self, region: Region, arch: Arch) -> str | None:
        return self._ended() if self.at_once else None

    def propose(self, region: Region, arch: Arch, parents: Sequence[Attempt], n: int) -> list[Candidate]:
        self._ended()
        return []

    @staticmethod
    def _ended() -> str:
        while True:
            time.sleep(0.01)
            try:
                deadline.check()
            except deadline.Over as over:
                return str(over)


@pytest.mark.parametrize("at_once", [True, False])
def test_proposers_have_as_long_as_the_budget(tmp_path: Path, at_once: bool) -> None:
    """What was not generated in time may be the next time."""
    result = only(searcher(tmp_path, proposers=[SlowProposer("50000", at_once=at_once)]), Budget(seconds=0.5))
    assert result.best is None and not result.final and (deadline.ENDED if at_once else "seconds used up") in result.reason


def test_the_judge_has_as_long_as_the_budget(tmp_path: Path) -> None:
    """It gives no verdict then, and nothing is kept or refused."""

    class Slow(FakeJudge):
        def judge(self, region: Region, artifact: Artifact) -> Verdict:
            while deadline.left() != 0:
                time.sleep(0.01)
            return super().judge(region, artifact)

    judge, stopwatch = Slow(), FakeStopwatch()
    result = only(searcher(tmp_path, "50000", judge=judge, stopwatch=stopwatch), Budget(seconds=0.5))
    assert result.best is None and not result.final and "seconds used up" in result.reason
    assert not judge.judged and not stopwatch.calls and [a.verdict for a in result.attempts] == [None]


@pytest.mark.parametrize("second", [50_000.0, 100_500.0])
def test_a_winner_is_timed_again_when_the_time_is_over(tmp_path: Path, second: float) -> None:
    """Or all that was found would be lost; it gets as long as the first timing took, and decides alone."""
    given: list[float] = []

    class Slow(FakeStopwatch):
        def time(self, region: Region, artifacts: Sequence[Artifact], budget_seconds: float, fresh: bool = False) -> list[Timing | str]:
            given.append(budget_seconds)
            time.sleep(0.6)
            return super().time(region, artifacts, budget_seconds, fresh)

    result = only(searcher(tmp_path, "50000", stopwatch=Slow(second=second)), Budget(seconds=0.5))
    assert len(given) == 2 and given[0] <= 0.5 and 0.6 + START_SECONDS <= given[1] < 2 + START_SECONDS
    assert (result.best is not None) == (second < 100_000)


def test_no_tokens_does_not_stop_a_search_that_needs_none(tmp_path: Path) -> None:
    assert only(searcher(tmp_path, "50000"), Budget(seconds=60.0, tokens=0)).best is not None


# ---------------------------------------------------------------------- traces
def test_the_journal_holds_every_attempt_and_close_removes_the_rest(tmp_path: Path) -> None:
    search = searcher(tmp_path, "50000", "60000 wrong", "1 broken")
    result = only(search)
    lines = list(search.journal.read())
    assert [Attempt.from_json(line["attempt"]) for line in lines] == list(result.attempts)
    assert {line["signature"] for line in lines} == {region().signature.digest}
    assert [p.name for p in tmp_path.iterdir()] == ["journal.jsonl"]


def test_a_torn_line_in_the_journal_is_skipped(tmp_path: Path) -> None:
    search = searcher(tmp_path, "50000")
    (tmp_path / "journal.jsonl").write_text('{"torn')
    with open(tmp_path / "journal.jsonl", "a") as file:
        file.write("\n")
    only(search)
    assert len(list(search.journal.read())) == 1


def test_events_tell_the_story(tmp_path: Path) -> None:
    seen: list[events.Event] = []
    lines: list[str] = []
    with events.subscribed(seen.append):
        only(searcher(tmp_path, "50000", "70000", progress=lines.append))
    assert [e.name for e in seen] == [
        "search.region", "search.proposed", "search.compiled", "search.screened", "search.judged", "search.timed",
        "search.timed", "search.accepted",
    ]  # fmt: skip
    assert len(lines) == len(seen) and all(e.facts["signature"] == region().signature.digest for e in seen)


def test_close_ends_the_parts(tmp_path: Path) -> None:
    judge, stopwatch = FakeJudge(), FakeStopwatch()
    only(searcher(tmp_path, "1", judge=judge, stopwatch=stopwatch))
    assert judge.closed and stopwatch.closed


def test_ranges_around_the_sizes() -> None:
    assert ranges_around(region(1024, 3)) == {"s0": (256, 4096), "s1": (1, 12)}
