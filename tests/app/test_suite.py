from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import child, roofline, suite, tables
from benchmarks.cases import find
from benchmarks.child import Task
from benchmarks.result import Result, Settings, best, geometric_mean, met, shares
from tests.capture.engines import ReferenceEngine
from torch_autokernel.app import contest
from torch_autokernel.app.problem import Problem
from torch_autokernel.core.config import config
from torch_autokernel.core.errors import ToolchainError
from torch_autokernel.engine import Engine
from torch_autokernel.verify.statistics import Ratio

TASK = Task("table/softmax_64x512", "fp32", 1, "forward", "default", Settings(limit=30, seconds=0.05))
ROW = Result(
    "table/softmax_64x512", "fp32", 1, "forward", "default", "ok", times_ns={"autokernel": 2.0, "eager": 4.0, "inductor": 3.0},
    ratios={"eager": (2.0, 1.9, 2.1), "inductor": (1.5, 1.4, 1.6)}, wide={"eager": (2.0, 1.8, 2.2), "inductor": (1.5, 1.3, 1.7)},
    states={"autokernel": "ok", "eager": "ok", "inductor": "ok"}, goal={"best": 1.4}, floor_ns=1.0, floor=(2.0, 1.9, 2.1),
    bytes=10.0, flop=4.0, rates={"copy": 10e9, "peak": 0.0, "gemm": 8e9}, digest="d",
)  # fmt: skip


def quiet(text: str) -> None:
    del text


# ---------------------------------------------------------------------------------------------------- arguments
def parsed(*words: str) -> Any:
    return suite.parse(["--out", "/tmp/none/of/these.json", *words])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--rows", "nothing"], "no row named 'nothing'"),
        (["--dtype", "fp8"], "no dtype named 'fp8'; known: fp32, bf16"),
        (["--dtype", ","], "no dtype named ','"),
        (["--allocation", "mine"], "known: default, kept, huge, own"),
        (["--against", "tvm"], "known: eager, inductor, max-autotune"),
        (["--threads", "0"], "no list of positive numbers"),
        (["--threads", "1,x"], "no list of positive numbers"),
        (["--seconds", "-1"], "no positive number of seconds"),
        (["--limit", "inf"], "no positive number of seconds"),
        (["--backward", "twice"], "invalid choice"),
        (["--bckward"], "unknown option '--bckward'"),
        (["--out", "results"], "does not end in .json"),
        (["--rows", "matvec_bf16_1024", "--backward", "only"], "nothing to run"),
    ],
)
def test_bad_input_is_told(words: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert suite.main(["--out", str(tmp_path / "out.json"), *words]) == 2
    told = capsys.readouterr().err
    assert said in told and "hint" in told and "Traceback" not in told


def names(*words: str) -> list[tuple[str, ...]]:
    args = parsed(*words)
    return [t.key for t in suite.plan(args, Settings())]


def test_the_plan_has_every_configuration() -> None:
    found = names("--rows", "8", "--dtype", "fp32,bf16", "--threads", "1,2", "--allocation", "default,kept")
    assert len(found) == len(set(found)) == 8
    assert found[0] == ("headline/08_rms_norm", "fp32", "1", "forward", "default")


def test_passes_are_those_listed_or_asked_for() -> None:
    rows = "1,2,5,bias_gelu"

    def passes(*words: str) -> list[str]:
        return [f"{key[0].partition('/')[2][:2]} {key[3]}" for key in names("--rows", rows, *words)]

    assert passes() == ["01 forward", "02 backward", "05 forward", "bi forward", "bi backward"]
    assert passes("--backward") == ["01 forward", "01 backward", "02 forward", "02 backward", "05 forward", "bi forward", "bi backward"]
    assert passes("--backward", "only") == ["01 backward", "02 backward", "bi backward"]
    assert passes("--backward", "none") == ["01 forward", "02 forward", "05 forward", "bi forward"]


def test_a_row_without_the_dtype_runs_in_its_own() -> None:
    assert [key[1] for key in names("--rows", "matvec_bf16_1024")] == ["bf16"]
    assert [key[1] for key in names("--rows", "matvec_bf16_1024", "--dtype", "fp32,bf16")] == ["bf16"]
    assert [key[1] for key in names("--rows", "5", "--dtype", "bf16")] == ["fp32"]


def test_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert suite.main(["--list", "--rows", "2"]) == 0
    assert "headline/02_lstm_training" in capsys.readouterr().out


# ---------------------------------------------------------------------------------------------- one row's process
@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[Task]]:
    """Other Python in the place of child.py; the tasks it was started with."""

    def put(text: str) -> list[Task]:
        seen: list[Task] = []

        def command(task: Task) -> list[str]:
            seen.append(task)
            head = "import json, os, sys, time\ntask = json.loads(sys.argv[1])\n"
            head += "def say(**facts): print(json.dumps(facts), flush=True)\n"
            tail = f"\nsay(result={{**{ROW.to_json()!r}, 'states': task['skip']}})"
            return [sys.executable, "-c", head + text + tail, json.dumps(task.to_json())]

        monkeypatch.setattr(suite, "command", command)
        return seen

    return put


def test_a_baseline_that_does_not_finish_is_left_out(script: Callable[[str], list[Task]]) -> None:
    seen = script("say(stage='eager')\nif 'inductor' not in task['skip']:\n    say(stage='inductor')\n    time.sleep(60)")
    result = suite.run_row(replace(TASK, settings=Settings(limit=1.0)), quiet)
    assert result.outputs == "ok" and len(seen) == 2
    assert result.states == {"inductor": "did not finish in 1 s", "max-autotune": "not tried: Inductor did not finish"}


def test_a_baseline_that_crashes_is_left_out(script: Callable[[str], list[Task]]) -> None:
    script("if 'inductor' not in task['skip']:\n    say(stage='inductor')\n    os.abort()")
    result = suite.run_row(TASK, quiet)
    assert result.outputs == "ok" and list(result.states) == ["inductor"]
    assert "SIGABRT" in result.states["inductor"]


def test_an_end_is_seen_though_a_fork_holds_the_pipe(script: Callable[[str], list[Task]]) -> None:
    script("say(stage='timing')\nif os.fork():\n    os._exit(5)\ntime.sleep(20)")
    result = suite.run_row(TASK, quiet)
    assert result.reason == "timing: ended with code 5: it said nothing"


@pytest.mark.parametrize("stage", ["autokernel", "eager", "timing"])
def test_what_is_not_a_baselines_fault_is_the_rows(script: Callable[[str], list[Task]], stage: str) -> None:
    script(f"say(stage={stage!r})\nsys.stderr.write('first\\nat last\\n')\nsys.exit(3)")
    result = suite.run_row(TASK, quiet)
    assert result.outputs == "crash" and not result.ok and result.reason == f"{stage}: ended with code 3: at last"
    assert result.key == TASK.key


def test_our_side_has_the_same_limit(script: Callable[[str], list[Task]]) -> None:
    script("say(stage='autokernel')\ntime.sleep(60)")
    result = suite.run_row(replace(TASK, settings=Settings(limit=1.0)), quiet)
    assert (result.outputs, result.reason) == ("timeout", "autokernel: did not finish in 1 s")


def test_the_row_has_its_threads_and_allocation(script: Callable[[str], list[Task]]) -> None:
    script("sys.stderr.write(os.environ['OMP_NUM_THREADS'] + os.environ.get('MALLOC_MMAP_MAX_', '-'))\nsys.exit(1)")
    assert suite.run_row(replace(TASK, threads=2, allocation="kept"), quiet).reason.endswith("20")
    assert suite.run_row(TASK, quiet).reason.endswith("1-")


def test_who_did_not_finish_is_not_waited_for_again() -> None:
    states = {"inductor": "did not finish in 600 s", "max-autotune": "not tried: x", "eager": "ok", "autokernel": "did not finish"}
    done = [replace(ROW, threads=2, states=states)]
    assert suite.known_failures(TASK, done) == {"inductor": "did not finish in 600 s", "max-autotune": "not tried: x"}
    assert not suite.known_failures(replace(TASK, direction="backward"), done)
    assert not suite.known_failures(TASK, [replace(ROW, states={"inductor": "wrong: x"}, threads=2)])


# -------------------------------------------------------------------------------------------------------- resume
def test_resume_goes_on_after_what_is_right(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[str] = []

    def fake(task: Task, status: Callable[[str], None]) -> Result:
        seen.append(task.row[-9:])
        if len(seen) == 2:
            raise KeyboardInterrupt
        wrong = task.row.endswith("64x512") and len(seen) < 4
        return replace(child.blank(task, find(task.row), "wrong" if wrong else "ok"), ratios={} if wrong else ROW.ratios,
                       times_ns={} if wrong else ROW.times_ns)  # fmt: skip

    monkeypatch.setattr(suite, "run_row", fake)
    out = tmp_path / "results" / "out.json"
    words = ["--rows", "table/softmax*", "--backward", "none", "--out", str(out)]
    assert suite.main(words) == 130
    assert "--resume" in capsys.readouterr().err
    assert [r["row"] for r in json.loads(out.read_text())["rows"]] == ["table/softmax_2048x4096"]
    assert suite.main(words) == 2 and "is there already" in capsys.readouterr().err
    assert suite.main([*words, "--resume"]) == 1
    assert suite.main([*words, "--resume"]) == 0  # the wrong one is run again
    assert seen == ["2048x4096", "ax_64x512", "ax_64x512", "ax_64x512"]
    assert suite.main([*words, "--resume"]) == 0 and len(seen) == 4
    assert suite.main([*words, "--resume", "--seconds", "9"]) == 2 and "other settings" in capsys.readouterr().err
    assert "table/softmax_64x512" in out.with_suffix(".md").read_text()
    assert suite.main([*words, "--replace"]) == 0 and len(seen) == 6


# ------------------------------------------------------------------------------------------------------ the child
@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ReferenceEngine]:
    """Every region is replaced by its reference; the rest runs in eager mode, so that nothing is compiled."""
    found = ReferenceEngine(salt=str(tmp_path))
    monkeypatch.setattr(Engine, "current", classmethod(lambda cls, config: found))
    for name, quick in (("LEAST_BYTES", 1 << 16), ("ROUNDS_FMA", 1000), ("N_GEMM", 32)):
        monkeypatch.setattr(roofline, name, quick)
    with config.patch(rest="eager", cache_dir=str(tmp_path / "cache")):
        torch._dynamo.reset()
        yield found
        torch._dynamo.reset()


def go(name: str, direction: str = "forward", against: tuple[str, ...] = ("eager",), dtype: str = "fp32") -> Result:
    task = Task(name, dtype, 1, direction, "default", Settings(against, "compile", 0.05))
    return child.run(task, find(name).small(), quiet)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_a_row_is_checked_and_timed(engine: ReferenceEngine, direction: str, dtype: str) -> None:
    result = go("table/swiglu", direction, dtype=dtype)
    assert result.outputs == "ok" and result.states == {"autokernel": "ok", "eager": "ok"}, result
    assert result.replaced == result.regions >= 1 and result.dtype == dtype
    low, middle, high = (result.ratios["eager"][i] for i in (1, 0, 2))
    assert low <= middle <= high and result.wide["eager"][1] <= low and high <= result.wide["eager"][2]
    assert result.floor_ns > 0 and result.floor[0] > 1 and result.rounds >= contest.LEAST_ROUNDS
    assert result.bytes == (3 if direction == "forward" else 6) * 3 * 40 * (4 if dtype == "fp32" else 2)
    assert set(result.times_ns) == {"autokernel", "eager"}


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_a_wrong_result_of_ours_is_told_and_nothing_timed(
    engine: ReferenceEngine, monkeypatch: pytest.MonkeyPatch, direction: str
) -> None:
    honest = engine.load

    def wrong(entry: Any) -> Callable[..., Any]:
        call = honest(entry)
        return lambda *tensors: tuple(r * (1 + 1e-2) for r in call(*tensors))

    monkeypatch.setattr(engine, "load", wrong)
    result = go("table/swiglu", direction)
    assert result.outputs == "wrong" and not result.ok and not result.ratios and "is expected" in result.reason


def spoilt(monkeypatch: pytest.MonkeyPatch, name: str, act: Callable[[Any], Any]) -> None:
    honest = contest.contender

    def made(who: str, problem: Problem, settings: contest.Settings) -> Callable[[], Any]:
        call = honest("eager" if who == name else who, problem, settings)
        return (lambda: act(call())) if who == name else call

    monkeypatch.setattr(contest, "contender", made)


def test_a_wrong_baseline_is_not_timed(engine: ReferenceEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    spoilt(monkeypatch, "inductor", lambda result: result * 1.01)
    result = go("table/swiglu", against=("eager", "inductor"))
    assert result.outputs == "ok" and result.states["inductor"].startswith("wrong: ")
    assert set(result.ratios) == {"eager"}


def test_a_baseline_that_raises_is_noted(engine: ReferenceEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(result: Any) -> Any:
        raise RuntimeError("no such layout")

    spoilt(monkeypatch, "inductor", fail)
    result = go("table/swiglu", against=("eager", "inductor"))
    assert result.ok and "no such layout" in result.states["inductor"] and set(result.ratios) == {"eager"}


def test_skipped_contenders_stay_out(engine: ReferenceEngine) -> None:
    task = replace(TASK, row="table/swiglu", settings=Settings(("eager", "inductor"), "compile", 0.05), skip={"inductor": "did not finish"})
    result = child.run(task, find("table/swiglu").small(), quiet)
    assert result.ok and result.states["inductor"] == "did not finish" and set(result.ratios) == {"eager"}


def test_a_better_algorithm_competes_but_is_no_baseline(engine: ReferenceEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    spoilt(monkeypatch, "inductor", lambda result: result)
    result = go("headline/06_decode_gqa")
    assert result.algorithmic and set(result.ratios) == {"eager", "rewritten", "rewritten, inductor"}
    assert best(result) == Ratio(*result.ratios["eager"])
    data = {"machine": {"name": "m", "date": "d", "torch": "t", "arch": "a", "load": 0}, "settings": result_settings()}
    text = tables.markdown(data, [result])
    assert "algorithmic, scaled_dot_product_attention(enable_gqa=True)" in text


def test_one_step_of_a_loop_is_compiled_alone(engine: ReferenceEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[str] = []
    honest = torch.compile

    def watched(target: Any, **options: Any) -> Any:
        if not options:
            compiled.append(getattr(target, "__name__", type(target).__name__))
            return target
        return honest(target, **options)

    monkeypatch.setattr(torch, "compile", watched)
    result = go("headline/01_lstm_latency")
    assert compiled == ["cell"] and "inductor, one step" in result.ratios


def test_max_autotune_freezes_for_inference_only() -> None:
    assert contest.max_autotune(False)["freezing"] and contest.max_autotune(False)["max_autotune"]
    assert not contest.max_autotune(True)["freezing"] and contest.max_autotune(True)["max_autotune"]


def result_settings() -> dict[str, Any]:
    return Settings().to_json()


# ------------------------------------------------------------------------------------------------------ roofline
def linear(backward: bool) -> tuple[Problem, Any]:
    with torch.set_grad_enabled(backward):
        model = torch.nn.Linear(8, 4)
        problem = Problem("p", model, (torch.randn(3, 8, requires_grad=backward),), "suite")
        return problem, contest.step(model, problem, backward)()


def test_compulsory_bytes() -> None:
    into, state, out = 3 * 8 * 4, (8 * 4 + 4) * 4, 3 * 4 * 4
    assert roofline.compulsory(*linear(False)) == into + state + out
    assert roofline.compulsory(*linear(True)) == 2 * (into + state + out)  # gradients of the same size, weights as the outputs
    x = torch.randn(5, 1).expand(5, 7)
    same = Problem("p", lambda a, b: a + b, (x, x), "suite")
    assert roofline.compulsory(same, x + x) == 5 * 4 + 35 * 4
    assert roofline.compulsory(same, x + x, untouched=8) == 5 * 4 + 35 * 4 - 8
    assert roofline.compulsory(same, x) == 5 * 4  # what goes in and comes out again does not move


def test_a_bag_reads_only_what_it_asks_for() -> None:
    case = find("table/embedding_bag")
    problem = case.small().problem("fp32", False)
    asked = len(problem.inputs[0].unique())
    assert case.module.untouched(problem.model, *problem.inputs) == (20 - asked) * 8 * 4


def test_the_floor_is_the_longer_side_of_the_faster_machine() -> None:
    samples = {"copy": [10.0, 10.0], "streaming copy": [5.0, 20.0], "fma": [2.0, 2.0], "gemm": [4.0, 1.0]}
    work = {"copy": 100.0, "streaming copy": 100.0, "fma": 8.0, "gemm": 8.0}
    floor = roofline.floor(samples, work, bytes_moved=200.0, flop=80.0)
    assert list(floor.bytes_ns) == [10.0, 20.0] and list(floor.flop_ns) == [20.0, 10.0] and list(floor.ns) == [20.0, 20.0]


def test_the_machine_does_what_it_counts() -> None:
    machine = roofline.Machine.probe(1e5, 1)
    assert machine.work["copy"] >= roofline.LEAST_BYTES and machine.work["copy"] % 1e5 == 0
    for step in machine.steps.values():
        step()
    source, target = torch.arange(1000, dtype=torch.uint8), torch.zeros(1000 + 64, dtype=torch.uint8)
    offset = -target.data_ptr() % 64
    for stream in (0, 1):
        for threads in (1, 2):
            target.zero_()
            roofline._library().copy(source.data_ptr(), target.data_ptr() + offset, 1000, 1, threads, stream)
            assert torch.equal(target[offset : offset + 1000], source) and not target[offset + 1000 :].any()


def test_shares() -> None:
    assert shares(ROW) == {"copy": pytest.approx(0.5), "gemm": pytest.approx(0.25)}


# ------------------------------------------------------------------------------------------- what follows from it
def test_the_best_baseline_is_the_least_favourable() -> None:
    assert best(ROW) == Ratio(1.5, 1.4, 1.6)
    assert best(replace(ROW, ratios={**ROW.ratios, "rewritten": (0.5, 0.4, 0.6)})) == Ratio(1.5, 1.4, 1.6)
    assert best(replace(ROW, ratios={})) is None
    assert geometric_mean([ROW, replace(ROW, ratios={"eager": (6.0, 5.0, 7.0)})]) == pytest.approx(3.0)
    assert geometric_mean([]) is None


def test_goals_are_met_by_the_lower_end() -> None:
    assert met(ROW) is True
    assert met(replace(ROW, goal={"best": 1.41})) is False
    assert met(replace(ROW, goal={"best": 1.3, "eager": 25})) is False
    assert met(replace(ROW, goal={})) is None
    assert met(replace(ROW, outputs="wrong", ratios={})) is False
    near = replace(ROW, row="headline/08_rms_norm", ratios={"inductor": (1.0, 0.98, 1.01)}, goal={"best": 1.0}, floor_ns=2.7)
    assert met(near) is True and met(replace(near, floor_ns=2.0)) is False
    assert met(replace(near, row="table/softmax_64x512")) is False


def test_the_table() -> None:
    data = {"machine": {"name": "m", "date": "d", "torch": "t", "arch": "a", "load": 0}, "settings": result_settings()}
    slow = replace(ROW, row="headline/01_lstm_latency", direction="backward", states={"inductor": "did not finish in 600 s"})
    text = tables.markdown(data, [ROW, slow, replace(ROW, threads=2, outputs="wrong", reason="result 0", ratios={}, times_ns={})])
    assert "| table/softmax_64x512 | ok | 0/0 | 2 ns | inductor 3 ns | 1.50 [1.40, 1.60] | 2.00 | 2.00 |" in text
    assert "headline/01_lstm_latency (fb)" in text and "headline/01_lstm_latency backward, inductor: did not finish in 600 s" in text
    assert "table, forward: geometric mean 1.50 over 1 of 1 rows" in text
    assert "## fp32, 2 threads, allocation default" in text and "table/softmax_64x512 forward: wrong: result 0" in text


def test_results_round_trip() -> None:
    assert Result.from_json(json.loads(json.dumps(ROW.to_json()))) == ROW
    assert Task.from_json(json.loads(json.dumps(TASK.to_json()))) == TASK


def test_plots_say_what_they_need(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ToolchainError, match="not installed"):
        tables.plots([ROW], tmp_path / "out.json")
    assert suite.main(["--rows", "8", "--plots", "--out", str(tmp_path / "o.json")]) == 2
    assert "pip install 'torch-autokernel[plots]'" in capsys.readouterr().err
    assert not (tmp_path / "o.json").exists()


def test_plots(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the extra `plots` is not installed")
    made = tables.plots([ROW, replace(ROW, threads=2, ratios={})], tmp_path / "out.json")
    assert [p.name for p in made] == ["out-fp32-1-default-best.png", "out-fp32-1-default-floor.png"]
    assert all(p.stat().st_size > 1000 for p in made)


# ------------------------------------------------------------------------------------------------- all of it once
@pytest.mark.slow
def test_a_row_from_end_to_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("TORCH_AUTOKERNEL_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_AUTOKERNEL_ON_MISS", "fallback")
    out = tmp_path / "out.json"
    words = ["--rows", "mnist_cross_entropy_64", "--backward", "none", "--against", "eager", "--seconds", "0.05", "--out", str(out)]
    assert suite.main(words) == 0, capfd.readouterr().err
    (row,) = json.loads(out.read_text())["rows"]
    assert row["outputs"] == "ok" and row["ratios"]["eager"][0] > 0 and row["floor_ns"] > 0
    assert "robust/mnist_cross_entropy_64" in capfd.readouterr().out
