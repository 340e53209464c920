from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.app.conftest import SOFTMAX, Run
from tests.capture.engines import ReferenceEngine
from torch_autokernel.app import contest
from torch_autokernel.app.commands import bench
from torch_autokernel.app.compare import in_float64
from torch_autokernel.app.contest import Row, Settings, compete
from torch_autokernel.app.problems import load_one
from torch_autokernel.core.config import config
from torch_autokernel.core.errors import UsageError
from torch_autokernel.engine import Engine

Go = Callable[..., Run]
Write = Callable[[str, str], Path]
QUICK = ("--against", "eager", "--seconds", "0.05")


@pytest.fixture
def engine(run: Go, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ReferenceEngine]:
    """Every region is replaced by its reference; the rest runs in eager mode, so that nothing is compiled."""
    found = ReferenceEngine(salt=str(tmp_path))  # operators stay registered for the whole process
    monkeypatch.setattr(Engine, "current", classmethod(lambda cls, config: found))
    with config.patch(rest="eager"):
        torch._dynamo.reset()
        yield found
        torch._dynamo.reset()


def silent(text: str) -> None:
    del text


def test_a_problem_is_checked_and_timed(engine: ReferenceEngine, write: Write) -> None:
    row = compete(load_one(str(write("soft.py", SOFTMAX))), Settings(("eager",), seconds=0.05), silent)
    assert (row.outputs, row.replaced, row.regions) == ("ok", 1, 1), row
    assert set(row.times_ns) == {"eager", "autokernel"}
    middle, low, high = row.ratios["eager"]
    assert low <= middle <= high
    assert engine.calls


def test_a_busy_machine_still_gives_an_interval(engine: ReferenceEngine, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(steps: dict[str, Any], seconds: float, rounds: int) -> dict[str, list[float]]:
        return {name: [2.0 if name == "eager" else 1.0] * min(rounds, 5) for name in steps}

    monkeypatch.setattr(contest, "interleave", slow)
    row = compete(load_one(str(write("soft.py", SOFTMAX))), Settings(("eager",)), silent)
    assert row.ratios["eager"] == (2.0, 2.0, 2.0)


def test_backward_checks_gradients(engine: ReferenceEngine, write: Write) -> None:
    row = compete(load_one(str(write("soft.py", SOFTMAX))), Settings(("eager",), backward=True, seconds=0.05), silent)
    assert row.outputs == "ok" and row.replaced >= 2, row


@pytest.mark.parametrize("backward", [False, True])
def test_a_wrong_kernel_is_told_and_not_timed(
    engine: ReferenceEngine, write: Write, monkeypatch: pytest.MonkeyPatch, backward: bool
) -> None:
    honest = engine.load

    def wrong(entry: Any) -> Callable[..., Any]:
        call = honest(entry)
        return lambda *tensors: tuple(r * (1 + 1e-2) for r in call(*tensors))

    monkeypatch.setattr(engine, "load", wrong)
    row = compete(load_one(str(write("soft.py", SOFTMAX))), Settings(("eager",), backward=backward, seconds=0.05), silent)
    assert row.outputs == "wrong" and not row.ratios and "is expected" in row.reason
    assert not row.ok


def test_gradients_in_float64_are_of_the_same_problem(write: Write) -> None:
    """Otherwise eager's own distance from float64, which is allowed on top, would excuse any gradient."""
    problem = load_one(str(write("soft.py", SOFTMAX))).training()
    plain, exact = (contest.flat(contest.step(p.model, p, True)()) for p in (problem, in_float64(problem)))
    for single, double in zip(plain, exact, strict=True):
        assert torch.allclose(single.double(), double, atol=1e-6)


def test_random_outputs_are_not_called_wrong(engine: ReferenceEngine, write: Write) -> None:
    text = SOFTMAX.replace("return torch.softmax", "return torch.rand(4, 6) + torch.softmax")
    row = compete(load_one(str(write("noise.py", text))), Settings(("eager",), seconds=0.05), silent)
    assert row.outputs == "random" and row.ok and row.ratios


def test_nothing_to_differentiate(engine: ReferenceEngine, write: Write) -> None:
    text = SOFTMAX.replace("return torch.softmax(x * self.scale * self.weight, -1)", "return x.argmax(-1)")
    row = compete(load_one(str(write("index.py", text))), Settings(("eager",), backward=True, seconds=0.05), silent)
    assert row.outputs == "error" and "records gradients" in row.reason


def test_the_command(engine: ReferenceEngine, run: Go, write: Write) -> None:
    folder = write("set/a.py", SOFTMAX).parent
    write("set/b.py", SOFTMAX)
    ran = run("bench", folder, *QUICK, "--json", "out.json")
    assert ran.code == 0, ran.err
    assert "geometric mean over 2 problems" in ran.out and "1/1" in ran.out
    assert "[2/2] b: ok" in ran.err
    data = json.loads(Path("out.json").read_text())
    assert [r["problem"] for r in data["rows"]] == ["a", "b"]
    assert data["geometric_mean"]["eager"] > 0 and data["machine"]["torch"] == torch.__version__


def test_one_bad_problem_does_not_stop_the_others(engine: ReferenceEngine, run: Go, write: Write) -> None:
    folder = write("set/a.py", SOFTMAX.replace("torch.randn(4, 6)", "torch.randn(4, 5)")).parent
    write("set/b.py", "def get_inputs(:\n")
    write("set/c.py", SOFTMAX)
    ran = run("bench", folder, *QUICK, "--json")
    assert ran.code == 1
    assert [r["outputs"] for r in ran.json["rows"]] == ["error", "error", "ok"]


def test_resume_keeps_what_is_done_and_unchanged(
    engine: ReferenceEngine, run: Go, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def fake(problem: Any, settings: Settings, status: Callable[[str], None]) -> Row:
        seen.append(problem.name)
        if problem.name == "b" and len(seen) == 2:
            raise KeyboardInterrupt
        return Row(problem.name, "wrong" if problem.name == "c" else "ok", ratios={"eager": (2.0, 1.9, 2.1)})

    monkeypatch.setattr(bench, "compete", fake)
    files = [write(f"set/{n}.py", SOFTMAX) for n in "abc"]
    words = ("bench", "set", "--against", "eager", "--out", "results/out.json", "--resume")
    ran = run(*words)
    assert ran.code == 130 and "--resume" in ran.err
    assert [r["problem"] for r in json.loads(Path("results/out.json").read_text())["rows"]] == ["a"]
    assert run(*words).code == 1
    assert seen == ["a", "b", "b", "c"]
    files[1].write_text(SOFTMAX + "\n# changed\n")
    assert run(*words).code == 1  # a changed and a wrong one are run again
    assert seen == ["a", "b", "b", "c", "b", "c"]
    ran = run(*words, "--backward")
    assert ran.code == 2 and "other settings" in ran.err
    Path("results/out.json").write_text("{")
    assert run(*words).code == 2


def test_out_that_cannot_be_written(engine: ReferenceEngine, run: Go, write: Write) -> None:
    write("a.py", SOFTMAX)
    write("file", "")
    ran = run("bench", "a.py", *QUICK, "--out", "file/out.json")
    assert ran.code == 2 and "cannot be" in ran.err and "Traceback" not in ran.err


def test_threads_are_put_back(run: Go) -> None:
    before = torch.get_num_threads()
    with bench._threads(1):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before
    with pytest.raises(UsageError), bench._threads(-1):
        pass


def test_geometric_mean() -> None:
    rows = [
        Row("a", "ok", ratios={"eager": (2.0, 1.0, 3.0)}),
        Row("b", "ok", ratios={"eager": (0.5, 0.1, 1.0)}),
        Row("c", "wrong"),
    ]
    assert bench.geometric_mean(rows, "eager") == pytest.approx(1.0)
    assert bench.geometric_mean(rows, "inductor") is None


def test_rows_and_settings_round_trip() -> None:
    row = Row("a", "ok", regions=2, replaced=1, times_ns={"eager": 3.0}, ratios={"eager": (1.0, 0.9, 1.1)})
    assert Row.from_json(json.loads(json.dumps(row.to_json()))) == row
    settings = Settings(("eager",), True, 2, "decorator", 1.0)
    assert Settings.from_json(json.loads(json.dumps(settings.to_json()))) == settings
    assert contest.BASELINES == ("eager", "inductor")
