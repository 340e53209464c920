"""The whole loop with a scripted model: it finds what is planted, promotes no cheat, keeps its budgets and can be killed."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.search.fakes import FakeJudge, FakeLanguage, FakeProposer, region, searcher
from tests.search.ladder import RUNGS, Ladder
from torch_autokernel.core.types import (
    Artifact,
    Assignment,
    Attempt,
    Budget,
    Candidate,
    Case,
    Cost,
    Region,
    Source,
    Status,
    Verdict,
)
from torch_autokernel.propose.llm.author import LlmProposer
from torch_autokernel.propose.llm.desk import Desk, Model
from torch_autokernel.propose.llm.prices import Prices
from torch_autokernel.propose.llm.receipts import Receipts
from torch_autokernel.propose.llm.scripted import Scripted, reply
from torch_autokernel.propose.llm.talk import Reply, Request, Usage
from torch_autokernel.search import commission, evolution
from torch_autokernel.search.evolution import Evolution
from torch_autokernel.search.hunt import Result
from torch_autokernel.search.loop import Searcher
from torch_autokernel.verify.mutate import Mutant

TARGETS = ("exp", "log", "sin", "cos", "tanh", "sqrt", "abs", "neg", "erf", "sigmoid", "relu", "floor")
PROBLEMS = [region(1024 + 16 * i, 1024, f"aten.{name}.default") for i, name in enumerate(TARGETS)]
TOKENS = 120_000


def author(script: Callable[[Request], str | Reply] | None = None, receipts: Path | None = None, **parts: Any) -> LlmProposer:
    llm = Scripted(script or Ladder(), parts.pop("delay", None))
    prices = Prices({"m": {"prompt": 1.0, "completion": 4.0}}) if parts.pop("priced", False) else None
    return LlmProposer(Desk([Model("m", llm)], Receipts(receipts), prices), kernel_tokens=200, **parts)


def hunt(folder: Path, of: Region, *proposers: Any, budget: Budget = Budget(tokens=TOKENS), **parts: Any) -> Result:  # noqa: B008
    folder.mkdir(parents=True, exist_ok=True)
    judge = FakeJudge()
    search = searcher(folder, proposers=list(proposers), judge=judge, second_judge=judge, **parts)
    try:
        (result,) = search.search([of], budget)
    finally:
        search.close()
    return result


def essence(result: Result) -> Any:
    """All of a result that does not depend on the clock or on where its files lie."""
    attempts = [(a.candidate.id, a.artifact.ok if a.artifact else None, a.verdict.to_json() if a.verdict else None) for a in result.attempts]
    book = sorted((e.role, e.model, e.calls, e.failed, e.prompt_tokens, e.completion_tokens) for e in result.book)
    best = result.best.candidate.id if result.best else ""
    return attempts, book, best, result.cost.tokens, result.final, result.reason


# ---------------------------------------------------------------------- what it finds
@pytest.mark.parametrize("problem", range(len(PROBLEMS)))
def test_the_planted_best_is_found_and_no_cheat_promoted(tmp_path: Path, problem: int) -> None:
    of, script = PROBLEMS[problem], Ladder(problem)
    result = hunt(tmp_path / "a", of, author(script))
    assert result.best is not None and result.best.candidate.source.text.split()[0] == str(RUNGS[-1])
    texts = [a.candidate.source.text for a in result.attempts]
    assert any("wrong" in t for t in texts) and any("broken" in t for t in texts)
    assert any(a.candidate.source.language == "none" for a in result.attempts)
    promoted = [a.candidate.source.text for a in result.attempts if a.verdict is not None and a.verdict.accepted]
    assert promoted and not [t for t in promoted if "wrong" in t or "crash" in t or "broken" in t]
    assert 0 < result.cost.tokens <= TOKENS and "LLM calls" in result.reason
    assert essence(hunt(tmp_path / "b", of, author(Ladder(problem)))) == essence(result)


def test_kernels_of_other_proposers_are_parents_too(tmp_path: Path) -> None:
    """The model gives nothing by itself; what it is shown of the other proposer's it makes faster."""

    def script(request: Request) -> str:
        return Ladder()(request) if "```fake\n9" in request.messages[-1].text or "```fake\n8" in request.messages[-1].text else "no"

    result = hunt(tmp_path, region(), FakeProposer("90000", "99000"), author(script))
    by = {a.candidate.id: a.candidate for a in result.attempts}
    children = [c for c in by.values() if any(by[p].proposer == "fake" for p in c.parents)]
    assert children and result.best is not None and result.best.candidate.proposer == "llm:m"
    assert "by llm:m" in result.reason


def test_a_generation_builds_on_what_is_there() -> None:
    strategy = Evolution(seed=3)
    state = strategy.init(region(), None)  # type: ignore[arg-type]
    state, first = strategy.assign(state, 6)
    assert {a.kind for a in first} == {"translate"} and len({a.approach for a in first}) == 6
    attempts = [attempt(f"{n} {s}", s) for n, s in ((50_000, "rows"), (60_000, "tiles"), (70_000, "rows"))]
    state = strategy.tell(state, [*attempts, attempt("5 wrong", "x", "numerics: off by one")])
    kinds: dict[str, list[Assignment]] = {}
    for _ in range(40):
        state, some = strategy.assign(state, 6)
        for a in some:
            kinds.setdefault(a.kind, []).append(a)
    assert {"improve", "combine", "differ", "repair"} <= set(kinds)
    assert all(len(a.parents) == 2 and a.parents[0] != a.parents[1] for a in kinds["combine"])
    assert all(a.parents[0].candidate.source.text == "5 wrong" for a in kinds["repair"])
    assert all(a.avoid for a in kinds["differ"])
    parents = [a.parents[0].candidate.source.text for a in kinds["improve"]]
    assert "70000 rows" not in parents, "a cell keeps its best only"
    assert any("off by one" in n for a in kinds["improve"] for n in a.notes)
    samples = [a.sample for some in kinds.values() for a in some]
    assert len(set(samples)) == len(samples)


def attempt(text: str, strategy: str, why: str = "") -> Attempt:
    from torch_autokernel.core.types import Finding

    source = Source("fake", text, schedule={"strategy": strategy})
    candidate = Candidate(region().signature.digest, source, "llm:m")
    artifact = Artifact(candidate, "x", "0", "kernel", facts={"rough_ns": float(text.split()[0])})
    verdict = Verdict(candidate.id, "null", (Finding("numerics", Status.FAIL, why),), ("numerics",)) if why else None
    return Attempt(candidate, artifact, verdict)


def test_the_state_is_a_value() -> None:
    strategy = Evolution()
    state = strategy.tell(strategy.init(region(), None), [attempt("5 a", "rows")])  # type: ignore[arg-type]
    again = evolution.State.from_json(json.loads(json.dumps(state.to_json())))
    assert again == state and strategy.assign(again, 4) == strategy.assign(state, 4)


def test_it_stops_without_improvement_and_after_enough_rounds() -> None:
    strategy = Evolution(rounds=6, patience=2)
    state = strategy.init(region(), None)  # type: ignore[arg-type]
    for speed in (9, 8, 7):
        assert strategy.stop(state, False) is None
        state = strategy.tell(state, [attempt(str(speed), "rows")])
    stuck = state
    for _ in range(2):
        stuck = strategy.tell(stuck, [attempt("8", "rows")])
    assert strategy.stop(stuck, True) == "no improvement in 2 rounds"
    for speed in (6, 5, 4):
        state = strategy.tell(state, [attempt(str(speed), "rows")])
    assert strategy.stop(state, True) == "6 rounds"


# ---------------------------------------------------------------------- at the same time
def test_calls_overlap_with_the_work_on_candidates(tmp_path: Path) -> None:
    """The model answers only after a candidate of the same round has been judged: without overlap nobody would go on."""
    judged = threading.Event()

    class Judge(FakeJudge):
        def judge(self, region: Region, artifact: Artifact) -> Verdict:
            judged.set()
            return super().judge(region, artifact)

    def script(request: Request) -> str:
        assert judged.wait(30), "nothing was judged while the model was asked"
        return Ladder()(request)

    judge = Judge()
    search = searcher(tmp_path, proposers=[FakeProposer("90000"), author(script)], judge=judge, second_judge=judge)
    try:
        (result,) = search.search([region()], Budget(tokens=TOKENS))
    finally:
        search.close()
    assert result.best is not None and judged.is_set()


def test_a_slow_model_ends_with_the_seconds(tmp_path: Path) -> None:
    slow = author(Ladder(), delay=lambda request: 60.0)
    result = hunt(tmp_path, region(), FakeProposer("50000"), slow, budget=Budget(seconds=0.6, tokens=TOKENS))
    assert result.best is not None and result.best.candidate.source.text == "50000" and not result.final


# ---------------------------------------------------------------------- budgets
def test_no_limit_is_passed_in_fifty_runs(tmp_path: Path) -> None:
    rng = random.Random(11)
    stopped = 0
    for number in range(50):
        tokens, money = rng.choice([None, rng.randrange(0, 60_000)]), rng.choice([None, rng.uniform(0, 0.05)])
        of = rng.choice(PROBLEMS)
        result = hunt(tmp_path / str(number), of, author(Ladder(number), priced=True), budget=Budget(tokens=tokens, money=money),
                      strategy=Evolution(rounds=5))  # fmt: skip
        spent = Cost(0.0, sum(e.cost.tokens for e in result.book), sum(e.money for e in result.book))
        assert (result.cost.tokens, result.cost.money) == (spent.tokens, pytest.approx(spent.money))
        assert tokens is None or spent.tokens <= tokens
        assert money is None or spent.money <= money + 1e-12
        if not result.final:
            stopped += 1
            assert "does not fit into" in result.reason or result.best is not None
    assert 5 < stopped < 50


def test_cost_is_told_by_role_model_and_region(tmp_path: Path) -> None:
    result = hunt(tmp_path, region(), author(priced=True, reviews=True))
    roles = {e.role for e in result.book}
    assert {"translator", "optimiser", "tester", "verifier compile", "verifier memory", "verifier numerics"} == roles
    assert {e.region for e in result.book} == {region().signature.digest} and {e.model for e in result.book} == {"m"}
    assert all(e.money == pytest.approx((e.prompt_tokens + 4 * e.completion_tokens) / 1e6) for e in result.book)


def test_without_tokens_nothing_is_asked(tmp_path: Path) -> None:
    llm = Scripted(Ladder())
    proposer = LlmProposer(Desk([Model("m", llm)]))
    result = hunt(tmp_path, region(), FakeProposer("50000"), proposer, budget=Budget(tokens=0))
    assert not llm.asked and result.best is not None and not result.book


# ---------------------------------------------------------------------- opinions and suspicions
def test_a_suspected_case_rejects_and_is_kept_with_the_signature(tmp_path: Path) -> None:
    def script(request: Request) -> str:
        return Ladder()(request) if request.schema else "strategy: s\n```fake\n40000 subtle 17\n```"

    result = hunt(tmp_path, region(), FakeProposer("90000"), author(script))
    assert result.best is not None and result.best.candidate.source.text == "90000"
    verdicts = [a.verdict for a in result.attempts if "subtle" in a.candidate.source.text and a.verdict is not None]
    assert verdicts and all(not v.accepted and v.why.startswith("suspected_case: numerics") for v in verdicts)
    (kept,) = (tmp_path / "cases").iterdir()
    assert kept.name == f"{region().signature.digest}.json" and Case.from_json(json.loads(kept.read_text())[0]).sizes["s0"] == 17

    def no_tester(request: Request) -> str:
        return "no cases today" if request.schema else script(request)

    again = hunt(tmp_path, region(), FakeProposer("80000"), author(no_tester))
    assert again.best is not None and again.best.candidate.source.text == "80000"


def test_a_suspected_case_that_kills_a_mutant_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The judge accepts the planted mutants; a case of the tester tells one of them from the best kernel, none the other."""
    texts = ("40000 subtle 17", "40000 subtle 9999", "broken", "1 wrong")
    made = [Mutant("planted", 1, "", t, t) for t in texts]
    monkeypatch.setattr(commission, "MUTABLE", "fake")
    monkeypatch.setattr(commission, "sample", lambda text, count, chance: made[:count])
    result = hunt(tmp_path, region(), author())
    assert result.best is not None and not [a for a in result.attempts if a.candidate.proposer == "mutant"]
    (kept,) = (tmp_path / "cases").iterdir()
    assert {Case.from_json(c).sizes["s0"] for c in json.loads(kept.read_text())} == {17}


def test_doubted_candidates_come_last_and_opinions_accept_nothing(tmp_path: Path) -> None:
    """Reviewers love the cheats and doubt what is right: that changes the order, not what is accepted."""

    def script(request: Request) -> str:
        if request.schema is None:
            return Ladder()(request)
        return json.dumps({"probability": 1.0 if "wrong" in request.messages[-1].text else 0.05, "reasons": []})

    result = hunt(tmp_path, region(), author(script, reviews=True))
    promoted = [a.candidate.source.text for a in result.attempts if a.verdict is not None and a.verdict.accepted]
    assert promoted and not [t for t in promoted if "wrong" in t]


def test_two_regions_share_the_tokens(tmp_path: Path) -> None:
    judge = FakeJudge()
    search = searcher(tmp_path, proposers=[author()], judge=judge, second_judge=judge)
    results = list(search.search(PROBLEMS[:3], Budget(tokens=TOKENS)))
    search.close()
    assert sum(r.cost.tokens for r in results) <= TOKENS and all(r.best for r in results)


# ---------------------------------------------------------------------- killed and taken up again
class Point(Exception):
    pass


def run_until(folder: Path, point: int | None) -> Result:
    """The search; it kills its own process at the given event: a question, an answer, a line on the disk, a compilation, a verdict."""
    count = 0

    def event() -> None:
        nonlocal count
        count += 1
        if count == point:
            os.kill(os.getpid(), signal.SIGKILL)

    class Language(FakeLanguage):
        def compile(self, *args: Any) -> list[Artifact]:
            event()
            return super().compile(*args)

    class Judge(FakeJudge):
        def judge(self, region: Region, artifact: Artifact) -> Verdict:
            event()
            return super().judge(region, artifact)

    def script(request: Request) -> str:
        event()
        with open(folder / "asked", "a") as file:
            file.write(request.digest + "\n")
        return Ladder(7)(request)

    receipts = Receipts(folder / "conversation.jsonl")
    append = receipts._append

    def half_written(raw: bytes) -> None:
        event()
        if count + 1 == point:  # torn: a part of the line is all that reaches the disk
            append(raw[: len(raw) // 2])
            event()
        append(raw)
        event()

    receipts._append = half_written  # type: ignore[method-assign]
    proposer = LlmProposer(Desk([Model("m", Scripted(script))], receipts), kernel_tokens=200)
    judge = Judge()
    search = searcher(folder, proposers=[FakeProposer("97000"), proposer], judge=judge, second_judge=judge, language=Language())
    try:
        (result,) = search.search([region()], Budget(tokens=TOKENS))
    finally:
        search.close()
    return result


def in_child(work: Callable[[], Any]) -> int:
    """The exit status of a forked process that did the work."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def asked(folder: Path) -> list[str]:
    return (folder / "asked").read_text().split()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, int]]:
    folder = tmp_path_factory.mktemp("whole")
    result = run_until(folder, None)
    assert len(asked(folder)) == len(set(asked(folder))) > 20
    yield essence(result), len(asked(folder))


@pytest.mark.parametrize("number", range(20))
def test_killed_anywhere_it_ends_the_same_and_pays_for_nothing_twice(tmp_path: Path, uninterrupted: tuple[Any, int], number: int) -> None:
    wanted, questions = uninterrupted
    point = random.Random(number).randrange(1, questions * 3)
    assert in_child(lambda: run_until(tmp_path, point)) == -signal.SIGKILL
    paid = {line["request"]["sample"]: line["key"] for line in Receipts(tmp_path / "conversation.jsonl").lines()}
    before = asked(tmp_path) if (tmp_path / "asked").exists() else []
    result = run_until(tmp_path, None)
    assert essence(result) == wanted
    lines = list(Receipts(tmp_path / "conversation.jsonl").lines())
    assert len({line["key"] for line in lines}) == len(lines) >= len(paid)
    again = asked(tmp_path)[len(before) :]
    repeated = [d for d in again if d in before]
    kept = {Request.from_json(line["request"]).digest for line in lines[: len(paid)]}
    assert not kept & set(again) and len(repeated) <= len(before) - len(kept)


def test_an_interruption_can_be_taken_up(tmp_path: Path) -> None:
    class Judge(FakeJudge):
        def judge(self, region: Region, artifact: Artifact) -> Verdict:
            if len(self.judged) == 4:
                raise KeyboardInterrupt
            return super().judge(region, artifact)

    llm = Scripted(Ladder())

    def search(judge: FakeJudge) -> Result:
        author = LlmProposer(Desk([Model("m", llm)], Receipts(tmp_path / "c")), kernel_tokens=200)
        found = searcher(tmp_path, proposers=[author], judge=judge, second_judge=judge)
        try:
            return next(iter(found.search([region()], Budget(tokens=TOKENS))))
        finally:
            found.close()

    with pytest.raises(KeyboardInterrupt):
        search(Judge())
    asked = len(llm.asked)
    result = search(FakeJudge())
    assert result.best is not None and result.best.candidate.source.text.startswith(str(RUNGS[-1]))
    digests = [r.digest for r in llm.asked]
    assert len(set(digests)) == len(digests) > asked


def test_what_the_budget_ended_goes_on_with_the_next(tmp_path: Path) -> None:
    first = hunt(tmp_path, region(), author(receipts=tmp_path / "c"), budget=Budget(tokens=9_000))
    assert not first.final and first.cost.tokens <= 9_000
    second = hunt(tmp_path, region(), author(receipts=tmp_path / "c"))
    assert len(second.attempts) > len(first.attempts) and second.cost.tokens <= TOKENS
    assert [a.candidate.id for a in second.attempts[: len(first.attempts)]] == [a.candidate.id for a in first.attempts]
    assert second.best is not None and second.best.candidate.source.text.startswith(str(RUNGS[-1]))
    assert not list((tmp_path / "runs").glob("*.jsonl"))


# ---------------------------------------------------------------------- failures of the model
def test_a_model_that_always_fails_costs_attempts_and_nothing_else(tmp_path: Path) -> None:
    def script(request: Request) -> Reply:
        return Reply("half a ker", "", Usage(10, 3, 0, 13), 1, problem="the stream ended without a finish reason")

    result = hunt(tmp_path, region(), FakeProposer("50000"), author(script))
    assert result.best is not None and result.best.candidate.source.text == "50000"
    failed = [a for a in result.attempts if a.candidate.source.language == "none"]
    assert failed and all(a.artifact is not None and "without a finish reason" in a.artifact.log for a in failed)
    assert sum(e.failed for e in result.book) == sum(e.calls for e in result.book)
    assert sum(a.candidate.cost.tokens for a in failed) + 13 == result.cost.tokens  # and the tester's


def test_the_scripted_model_cuts_what_is_too_long() -> None:
    answer = reply(Request("m", (), 5), "x" * 100)
    assert answer.finish == "length" and answer.usage.completion == 5 and len(answer.text) == 20


def test_the_searcher_takes_its_author_from_the_configuration(tmp_path: Path) -> None:
    from torch_autokernel.core.config import Config
    from torch_autokernel.machine.null import NullArch

    arch = NullArch().probe()
    assert arch is not None
    plain = Searcher(arch, Config(), folder=tmp_path)
    assert plain._strategy.name == "best_of_n"
    given = Searcher(arch, Config(llm_model="m", llm_base_url="http://127.0.0.1:9", proposers=("schedule", "llm")), folder=tmp_path)
    assert given._strategy.name == "evolution" and [p.name for p in given._proposers] == ["schedule", "llm"]
    for search in (plain, given):
        search.close()
