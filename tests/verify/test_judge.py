"""The judge as a whole: verdicts, seeds, levels, screening, vectors, the null architecture."""

from __future__ import annotations

import dataclasses
import hashlib
import threading
import time
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.verify import regions
from tests.verify.build import artifact, specimen
from tests.verify.conftest import ARCH
from torch_autokernel.core import deadline
from torch_autokernel.core.errors import UsageError
from torch_autokernel.core.types import Arch, Artifact, Candidate, Region, Source, Status, Verdict
from torch_autokernel.machine.worker import Limits
from torch_autokernel.verify import bank as banking
from torch_autokernel.verify import cases as planning
from torch_autokernel.verify import judge as judging
from torch_autokernel.verify import screen as screening
from torch_autokernel.verify.bank import Bank
from torch_autokernel.verify.checks.state import STRETCHES, with_neighbours
from torch_autokernel.verify.judge import Judge, Trial
from torch_autokernel.verify.oracle import Expected

NULL = Arch("null")


def test_verdict_records_what_it_rests_on(judge: Judge, objects: Path) -> None:
    found = specimen("honest", "softmax")
    verdict = judge.judge(found.region, found.build(objects))
    assert verdict.accepted and verdict.seed == judge.seed and verdict.verifier == judging.VERIFIER
    assert verdict.required == judging.REQUIRED and verdict.arch == ARCH.key and verdict.timing is None
    assert Verdict.from_json(verdict.to_json()) == verdict
    (runs,) = (f for f in verdict.findings if f.check == "runs")
    assert runs.evidence["calls"] > 20 and set(runs.evidence["sandbox"]) >= {"seccomp", "landlock"}


@pytest.mark.parametrize("calls", [3, 101])  # in the first walk over the cases, in a later one
def test_no_verdict_when_the_time_is_over(judge: Judge, objects: Path, monkeypatch: pytest.MonkeyPatch, calls: int) -> None:
    """Neither before the first check nor in the midst of one; with time enough the verdict is as without."""
    found = specimen("honest", "softmax")
    built = found.build(objects)
    with deadline.within(0.0), pytest.raises(deadline.Over):
        judge.judge(found.region, built)
    ran: list[int] = []
    run = judging.WorkerRunner.run
    monkeypatch.setattr(judging.WorkerRunner, "run", lambda *args: ran.append(1) or run(*args))
    monkeypatch.setattr(deadline, "left", lambda: float(len(ran) < calls))
    with pytest.raises(deadline.Over):
        judge.judge(found.region, built)
    assert calls <= len(ran) <= calls + 1
    monkeypatch.undo()
    with deadline.within(100.0):
        assert judge.judge(found.region, built).accepted


def test_after_a_failure_the_rest_is_skipped(judge: Judge, objects: Path) -> None:
    found = specimen("wrong", "null_pointer")
    verdict = judge.judge(found.region, found.build(objects))
    statuses = {f.check: f.status for f in verdict.findings}
    assert statuses["runs"] is Status.FAIL and statuses["numerics"] is Status.SKIP
    assert set(statuses) == {*judging.REQUIRED, *judging.FURTHER["standard"]}


def test_level_full_looks_at_everything(objects: Path) -> None:
    found = specimen("wrong", "adds_to_output")
    judge = Judge(ARCH, level="full", limits=Limits(seconds=2.0))
    verdict = judge.judge(found.region, found.build(objects))
    judge.close()
    failed = {f.check for f in verdict.findings if f.status is Status.FAIL}
    assert {"uninitialised", "numerics"} <= failed


def test_seeds_differ_and_replay(objects: Path) -> None:
    assert Judge(ARCH).seed != Judge(ARCH).seed
    found = specimen("wrong", "uniform")
    built = found.build(objects)
    reasons = []
    for seed in (4, 4):
        judge = Judge(ARCH, seed=seed)
        reasons.append(judge.judge(found.region, built).why)
        judge.close()
    assert reasons[0] == reasons[1]


def test_quick_level_accepts_and_rejects(objects: Path) -> None:
    judge = Judge(ARCH, level="quick", limits=Limits(seconds=2.0))
    good, bad = specimen("honest", "layer_norm"), specimen("wrong", "no_bias")
    assert judge.judge(good.region, good.build(objects)).accepted
    assert not judge.judge(bad.region, bad.build(objects)).accepted
    judge.close()


def test_judging_from_several_threads(judge: Judge, objects: Path) -> None:
    pairs = [(specimen("honest", "gelu"), True), (specimen("wrong", "identity"), False), (specimen("honest", "swiglu"), True),
             (specimen("wrong", "trap"), False)]  # fmt: skip
    built = [(s.region, s.build(objects), want) for s, want in pairs]
    got: list[bool] = []

    def work(region: Region, candidate: Artifact, want: bool) -> None:
        got.append(judge.judge(region, candidate).accepted is want)

    threads = [threading.Thread(target=work, args=b) for b in built]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [True] * 4


def test_typical_region_takes_about_a_second(judge: Judge, objects: Path) -> None:
    found = specimen("honest", "softmax")
    region = regions.softmax(m=1024, n=768)
    built = found.build(objects)
    start = time.process_time()
    assert judge.judge(region, built).accepted
    assert time.process_time() - start < 4  # of this process; the machine may be busy, so the limit is loose


def test_a_disturbance_of_one_group_does_not_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight candidates in two groups, the second of which was measured while the machine was slow."""
    true = dict(zip("abcdefgh", (300.0, 320.0, 340.0, 900.0, 800.0, 700.0, 200.0, None), strict=True))
    turns: list[list[str]] = []

    def group(_pool: object, _region: object, names: list[str], *_more: object) -> list[float | None]:
        turns.append(names)
        return [None if (ns := true[n]) is None else ns * (1.7 if len(turns) == 2 else 1.0) for n in names]

    monkeypatch.setattr(screening, "_group", group)
    found = screening.screen(None, None, list(true), None, 1.0)  # type: ignore[arg-type]
    assert found == list(true.values()) and turns == [list("abcdef"), list("gh"), list("abcg")]
    turns.clear()
    screening.screen(None, None, list("abc"), None, 1.0)  # type: ignore[arg-type]
    assert turns == [list("abc")]


def test_screening_ranks_by_speed(judge: Judge, objects: Path) -> None:
    region = regions.add_relu(m=256, n=256)
    body = "for (int64_t i = 0; i < s0 * s1; ++i) y0[i] = relu(x0[i] + x1[i]);"
    head = '#include <kernel.h>\nextern "C" void kernel(const float* x0, const float* x1, float* y0, int64_t s0, int64_t s1) {'
    fast = artifact(region, f"{head} {body} }}", objects)
    slow = artifact(region, f"{head} for (int k = 0; k < 40; ++k) {{ {body} asm volatile(\"\" ::: \"memory\"); }} }}", objects)
    crash = artifact(region, f"{head} __builtin_trap(); }}", objects)
    refused = artifact(region, "no", objects)
    speeds = judge.screen(region, [slow, crash, fast, refused], 0.5)
    assert speeds[1] is None and speeds[3] is None
    assert speeds[0] is not None and speeds[2] is not None and speeds[0] > 5 * speeds[2]
    assert judge.screen(region, [], 1.0) == []


def test_screening_sees_the_sizes_at_hand(judge: Judge, objects: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One candidate is slow where there is more than a case of the judge may have; the judge's own cases stay small."""
    monkeypatch.setattr(planning, "LARGEST", 1 << 14)
    region = regions.add_relu(m=512, n=512)
    body = "for (int64_t i = 0; i < s0 * s1; ++i) y0[i] = relu(x0[i] + x1[i]);"
    head = '#include <kernel.h>\nextern "C" void kernel(const float* x0, const float* x1, float* y0, int64_t s0, int64_t s1) {'
    even = artifact(region, f"{head} for (int k = 0; k < 20; ++k) {{ {body} asm volatile(\"\" ::: \"memory\"); }} }}", objects)
    often = "const int n = s0 * s1 > 200000 ? 200 : 1; for (int k = 0; k < n; ++k)"
    uneven = artifact(region, f"{head} {often} {{ {body} asm volatile(\"\" ::: \"memory\"); }} }}", objects)
    monkeypatch.setattr(screening, "NEAR", 100.0)
    first, second = judge.screen(region, [even, uneven], 0.5)
    assert first is not None and second is not None and second > 3 * first
    monkeypatch.setattr(banking, "MOST_AT_HAND", 1 << 16)
    first, second = judge.screen(region, [even, uneven], 0.5)
    assert first is not None and second is not None and first > 2 * second


def test_the_order_of_the_front_is_that_of_large_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only candidates in front are measured again; one that does not come back is none, and where
    none does, or time is up, nothing changes."""
    large = {"a": 900.0, "b": 300.0, "c": 600.0}
    asked: list[str] = []

    def alone(_pool: object, _region: object, name: str, _large: object) -> float | None:
        asked.append(name)
        return large.get(name)

    monkeypatch.setattr(screening, "_alone", alone)
    order = lambda names, speeds: screening.at_large(None, None, names, speeds, None, 1.0)  # type: ignore[arg-type]  # noqa: E731
    assert order("abcd", [11.0, 12.0, 10.0, 90.0]) == [16.0, 10.0, 16.0, 90.0] and asked == list("cabcab")
    large["c"] = 450.0
    assert order("abcd", [11.0, 12.0, 10.0, 90.0]) == [16.0, 10.0, 15.0, 90.0]
    assert order("abxc", [10.0, 12.0, 11.0, None]) == [16.0, 10.0, None, None]
    assert order("xy", [10.0, 12.0]) == [10.0, 12.0]
    asked.clear()
    assert order("ad", [10.0, 90.0]) == [10.0, 90.0] and order("a", [None]) == [None] and not asked
    monkeypatch.setattr(screening, "LATE", 0)
    assert order("ab", [10.0, 12.0]) == [10.0, 12.0] and not asked


def test_vectors_are_readable_safetensors(judge: Judge, objects: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    for name, count in (("layer_norm", 3), ("greater", 1), ("rms_norm_bf16", 1)):
        found = specimen("honest", name)
        tensors = safetensors.load(judge.vectors(found.region, found.build(objects)))
        assert {f"{kind}.{i}" for kind in ("output", "eager", "oracle") for i in range(count)} < set(tensors)
        assert all(tensors[f"output.{i}"].dtype == tensors[f"eager.{i}"].dtype for i in range(count))
    found = specimen("wrong", "trap")
    assert judge.vectors(found.region, found.build(objects)) == b""


def test_region_undefined_on_all_inputs_is_not_accepted(judge: Judge, objects: Path) -> None:
    g = regions.Graph()
    x = g.input("s0")
    region = g.region(g.op("aten.log.default", g.op("aten.mul.Tensor", g.op("aten.abs.default", x), -1)), s0=50)
    text = '#include <kernel.h>\nextern "C" void kernel(const float* x0, float* y0, int64_t s0) { for (int64_t i = 0; i < s0; ++i) y0[i] = logf(-fabsf(x0[i])); }'
    verdict = judge.judge(region, artifact(region, text, objects))
    assert not verdict.accepted and "unfit" in {f.check: f.reason for f in verdict.findings}["numerics"]


# --------------------------------------------------------------------------------------------- the null architecture
def null_artifact(region: Region, text: str, folder: Path) -> Artifact:
    path = folder / "kernel.txt"
    path.write_text(text)
    candidate = Candidate(region.signature.digest, Source("null", text), "test")
    return Artifact(candidate, str(path), hashlib.sha256(text.encode()).hexdigest(), "reference")


def test_null_runs_the_whole_story(tmp_path: Path) -> None:
    region = regions.softmax(m=8, n=9)
    judge = Judge(NULL)
    good = null_artifact(region, region.reference, tmp_path)
    start = time.perf_counter()
    verdict = judge.judge(region, good)
    assert verdict.accepted, verdict.why
    assert verdict.required == judging.REQUIRED_NULL and time.perf_counter() - start < 5
    assert judge.vectors(region, good) and judge.screen(region, [good], 1.0) == [1.0]
    for change, check in ((("amax", "amin"), "numerics"), (("aten.exp.default(", "aten.exp_.default("), ""), (("v3", "v99"), "runs")):
        bad = judge.judge(region, null_artifact(region, region.reference.replace(*change, 1), tmp_path))
        assert bad.accepted is (check == "") and bad.why.startswith(check), bad.why
    judge.close()


def test_null_is_refused_for_any_other_arch_and_language(tmp_path: Path) -> None:
    from torch_autokernel.verify.null import NullRunner

    region = regions.softmax(m=8, n=9)
    good = null_artifact(region, region.reference, tmp_path)
    with pytest.raises(UsageError, match="do not run in this process"):
        NullRunner(ARCH, region, good)
    foreign = dataclasses.replace(good, candidate=Candidate("", Source("cpp", ""), "test"))
    with pytest.raises(UsageError, match="do not run in this process"):
        Judge(NULL).judge(region, foreign)


def test_masks_are_fit_for_judging(objects: Path) -> None:
    """Of where(mask, 0, -inf) most is infinite, by definition and not by overflow."""
    region = regions.mask()
    kernel = """#include <kernel.h>
extern "C" void kernel(const bool* x0, const bool* x1, const bool* x2, const bool* x3, float* y0, int64_t s0) {
  for (int64_t i = 0; i < s0; ++i) y0[i] = %s;
}
"""
    mask = "x0[i] && x1[i] && x2[i] && x3[i]"
    assert Expected((), 0.0, 0.3, 1.0).fit and not Expected((), 0.0, 0.3, 0.9).fit and not Expected((), 0.0, 0.0, 1.0).fit
    for text, right in (
        (f"{mask} ? 0.0f : -INFINITY", True), ("-INFINITY", False), ("0.0f", False), (f"{mask} ? NAN : -INFINITY", False),
        ("x0[i] && x1[i] && x2[i] ? 0.0f : -INFINITY", False),
    ):  # fmt: skip
        for _ in range(3):
            with closing(Judge(ARCH, limits=Limits(seconds=2.0))) as judge:
                verdict = judge.judge(region, artifact(region, kernel % text, objects))
            assert verdict.accepted is right, f"{text}: {verdict.why}; seed {verdict.seed}"


@pytest.mark.parametrize("seed", [4575752747653777741, 1, 2, 3])
def test_neighbours_differ_in_a_stretch_alone(seed: int) -> None:
    """A kernel that knows its inputs again by a few of them must meet inputs that are the same but for a stretch. Under the first
    seed the case of middling size had an input redrawn, and its neighbours would have had all of that input drawn anew."""
    region, bank = regions.rms_norm(), Bank("standard", seed)
    (chosen,) = with_neighbours(list(bank.ready(region)))
    trial: Any = SimpleNamespace(bank=bank, region=region)
    for turn in range(STRETCHES):
        other = Trial.nearly(trial, chosen, turn)
        assert other is not None
        for x, y in zip(chosen.inputs, other.inputs, strict=True):
            assert 0 < int((x != y).sum()) <= max(1, x.numel() // 8)
