from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import cases
from benchmarks.cases import Case, choose
from torch_autokernel.app import contest
from torch_autokernel.app.compare import difference, in_float64
from torch_autokernel.app.problem import Problem
from torch_autokernel.app.problems import expand
from torch_autokernel.core.errors import UsageError

ROWS = [case for group in cases.DEFAULT_SETS for case in cases.cases(group)]
# WORKLOADS.md, section 4: Gflop of each row at its CPU shape.
GFLOP = [0.036, 0.21, 0.10, 0.11, 0.35, 0.13, 0.14, 0.08, 0.06, 0.08, 0.17, 0.27, 12.2, 6.8, 1.2, 3.4, 1.7, 5.6, 0.54, 1.6]


def results(problem: Problem, backward: bool) -> list[torch.Tensor]:
    with torch.set_grad_enabled(backward):
        return contest.flat(contest.step(problem.model, problem, backward)())


def passes(case: Case) -> list[bool]:
    return [False, True] if case.said("GRADIENTS", True) else [False]


def test_the_headline_has_its_twenty_rows() -> None:
    rows = [c.name.partition("/")[2] for c in cases.cases("headline")]
    assert [int(r[:2]) for r in rows] == list(range(1, 21))


def test_operations_are_those_of_the_workloads() -> None:
    for case, expected in zip(cases.cases("headline"), GFLOP, strict=True):
        assert case.flop("backward" in case.listed) / 1e9 == pytest.approx(expected, rel=0.3), case.name


@pytest.mark.parametrize("case", ROWS, ids=lambda c: c.name)
def test_a_small_row_agrees_with_itself_in_float64_and_is_not_degenerate(case: Case) -> None:
    case = case.small()
    for backward in passes(case):
        dtype = case.dtypes[0]
        problem = case.problem(dtype, backward)
        got, again, exact = results(problem, backward), results(problem, backward), results(in_float64(problem), backward)
        assert difference(again, got)[0] == 0
        for number, (g, e) in enumerate(zip(got, exact, strict=True)):
            if g is None:
                continue
            assert bool(g.isfinite().all()) and float(g.double().abs().max()) > 0, (backward, number)
            close = (1e-4 if dtype == "fp32" else 4e-2) * (float(e.double().square().mean().sqrt()) + 1e-6)
            assert float((g.double() - e.double()).square().mean().sqrt()) <= close, (backward, number)
        varies = got[0].double()
        assert float(varies.std() if varies.dim() else varies.abs()) > 1e-2 * float(varies.abs().mean())


@pytest.mark.parametrize("case", [c for c in ROWS if "bf16" in c.dtypes], ids=lambda c: c.name)
def test_a_small_row_runs_in_bf16(case: Case) -> None:
    problem = case.small().problem("bf16", False)
    assert all(t.dtype != torch.float32 for t in problem.inputs if isinstance(t, torch.Tensor))
    got, exact = results(problem, False), results(in_float64(problem), False)
    for g, e in zip(got, exact, strict=True):
        apart = float((g.double() - e.double()).square().mean().sqrt()) / float(e.double().square().mean().sqrt())
        assert apart < 0.05


@pytest.mark.parametrize("case", [c for c in ROWS if c.said("REWRITTEN", "")], ids=lambda c: c.name)
def test_a_better_algorithm_gives_the_same(case: Case) -> None:
    case = case.small()
    plain, better = (results(case.problem("fp32", False, model), False) for model in ("Model", "Rewritten"))
    assert difference(better, plain)[0] <= 1


def test_a_better_algorithm_has_the_same_weights(tmp_path: Path) -> None:
    path = tmp_path / "two.py"
    path.write_text(
        "import torch\nfrom torch import nn\nclass Model(nn.Linear):\n    pass\nclass Rewritten(nn.Linear):\n    pass\n"
        "def get_init_inputs():\n    return [4, 3]\ndef get_inputs():\n    return [torch.randn(2, 4)]\n"
    )
    (case,) = cases._cases("mine", path)
    plain, better = (results(case.problem("fp32", True, model), True) for model in ("Model", "Rewritten"))
    assert all(torch.equal(a, b) for a, b in zip(plain, better, strict=True)) and case.name == "mine/two"


@pytest.mark.parametrize("case", ROWS, ids=lambda c: c.name)
def test_what_a_file_says_has_a_meaning(case: Case) -> None:
    module = case.module
    known = {p for f in (module.get_inputs, getattr(module, "get_init_inputs", cases._none)) for p in inspect.signature(f).parameters}
    for sizes in (*module.ROWS.values(), module.SMALL):
        assert set(sizes) <= known
    assert {n.removesuffix(" backward") for n in (*case.said("PASSES", {}), *case.said("GOALS", {}))} <= set(module.ROWS)
    assert not any(d == "backward" for d in case.listed) or case.said("GRADIENTS", True)
    assert case.flop(False) > 0 and case.dtypes and case.title
    if step := case.said("STEP", ""):
        assert callable(getattr(module.Model, step))


def test_only_the_state_is_tuned() -> None:
    problem = cases.find("headline/04_wkv7_state_tuning").small().problem("fp32", True)
    assert [t.requires_grad for t in problem.inputs] == [False] * 6 + [True]
    forward = cases.find("headline/03_wkv7").small().problem("fp32", False)
    assert not any(t.requires_grad for t in forward.inputs)


def test_the_files_are_read_by_the_command_line_too() -> None:
    folder = Path(cases.__file__).parent
    assert len(expand([str(folder / "headline")])) == len({c.path for c in cases.cases("headline")})


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("8", ["headline/08_rms_norm"]),
        ("rms_norm", []),
        ("08_rms_norm, 9", ["headline/08_rms_norm", "headline/09_qk_norm_rope"]),
        ("table/softmax*", ["table/softmax_2048x4096", "table/softmax_64x512"]),
        ("problems/softmax", ["problems/softmax"]),
        ("bias_gelu", ["table/bias_gelu"]),
        ("mish", ["problems/mish"]),
    ],
)
def test_rows_are_chosen(wanted: str, found: list[str]) -> None:
    if not found:
        with pytest.raises(UsageError, match="no row named"):
            choose(wanted)
    else:
        assert [c.name for c in choose(wanted)] == found


def test_sets_are_chosen() -> None:
    assert [c.name for c in choose("")] == [c.name for c in ROWS]
    assert {c.name.partition("/")[0] for c in choose("problems,robust")} == {"problems", "robust"}
    with pytest.raises(UsageError, match="names no row"):
        choose(" , ")


def test_goals() -> None:
    assert cases.find("headline/01_lstm_latency").goal(False) == {"best": 1.3, "eager": 25}
    assert cases.find("table/softmax_2048x4096").goal(True) == {"best": 1.4}
    assert cases.find("headline/08_rms_norm").goal(False) == {"best": 1.0}
    assert cases.find("table/bilinear_resize").goal(False) == {}
    assert cases.find("models/mamba_blocks").goal(True) == {"best": 0.97}


def test_whole_models_run_forward_and_backward() -> None:
    rows = cases.cases("models")
    assert len(rows) >= 6
    for case in rows:
        assert case.listed == ("forward", "backward"), case.name
        _, *gradients = results(case.small().problem("fp32", True), True)
        assert gradients and all(g is not None and bool(g.any()) for g in gradients), case.name


def test_operations_of_whole_models_are_those_that_torch_counts() -> None:
    """Products and convolutions alone; torch counts neither its recurrent layers nor attention on a CPU."""
    for case in (c for c in cases.cases("models") if "lstm" not in c.name):
        problem = case.problem("fp32", False)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            problem.call()
        assert counter.get_total_flops() == pytest.approx(case.flop(False), rel=0.15), case.name
