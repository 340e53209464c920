"""Level `full`: sanitized builds and the race check find what the other checks cannot, and let honest kernels through."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.verify.build import artifact, names, specimen
from tests.verify.conftest import ARCH
from tests.verify.regions import gelu
from torch_autokernel.core.types import Finding, Status
from torch_autokernel.machine.worker import Limits
from torch_autokernel.verify import judge as judging
from torch_autokernel.verify import sanitize
from torch_autokernel.verify.judge import FURTHER, Judge

# One for each part of OpenMP that the honest zoo uses.
HONEST = ("softmax_dynamic", "column_sum_critical", "cross_entropy_threads", "gelu_backwards", "swiglu_table", "aligned_scale")


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    """Only what level `full` adds, so that a finding is the added checks' own."""
    judge = Judge(ARCH, level="full", limits=Limits(seconds=2.0, threads=2))
    judge.required = ("compiles",)
    yield judge
    judge.close()


def findings(judge: Judge, kind: str, name: str, objects: Path) -> dict[str, Finding]:
    found = specimen(kind, name)
    return {f.check: f for f in judge.judge(found.region, found.build(objects)).findings}


@pytest.mark.parametrize("name", names("full"))
def test_planted(name: str, judge: Judge, objects: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (check,) = specimen("full", name).checks
    monkeypatch.setattr(judging, "FURTHER", {"full": (check,)})
    got = findings(judge, "full", name, objects)
    if got[check].status is Status.SKIP:
        pytest.skip(got[check].reason)
    assert got[check].status is Status.FAIL, got[check]
    lines = specimen("full", name).text.splitlines()
    assert got[check].evidence["source"].startswith("kernel.cpp:") and len(lines) > 5


@pytest.mark.parametrize("name", HONEST)
def test_honest(name: str, judge: Judge, objects: Path) -> None:
    got = findings(judge, "honest", name, objects)
    assert {got[c].status for c in FURTHER["full"]} <= {Status.PASS, Status.SKIP}, [got[c] for c in FURTHER["full"]]
    assert got["races"].status is got["task"].status is Status.PASS, (got["races"], got["task"])


def test_race_that_shows_is_found_too(judge: Judge, objects: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "FURTHER", {"full": ("races",)})
    got = findings(judge, "wrong", "race", objects)
    assert got["races"].status is Status.FAIL and "without a barrier" in got["races"].reason


def test_missing_run_time_is_a_skip_that_says_what_to_install(
    judge: Judge, objects: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sanitize, "run_time", lambda library: "")
    monkeypatch.setattr(judging, "FURTHER", {"full": ("sanitizers",)})
    got = findings(judge, "honest", "gelu", objects)
    assert got["sanitizers"].status is Status.SKIP and "install" in got["sanitizers"].reason


def test_what_the_race_check_cannot_follow_is_a_skip(judge: Judge, objects: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "FURTHER", {"full": ("races",)})
    text = """#include <kernel.h>
extern "C" void kernel(const float* x0, float* y0, int64_t s0) {
  #pragma omp parallel
  #pragma omp single
  #pragma omp taskloop
  for (int64_t i = 0; i < s0; ++i) y0[i] = 0.5f * x0[i] * (1 + erff(x0[i] * 0.70710678f));
}
"""
    found = {f.check: f for f in judge.judge(gelu(), artifact(gelu(), text, objects)).findings}
    assert found["races"].status is Status.SKIP and "GOMP_taskloop" in found["races"].reason


@pytest.mark.parametrize("name", ["no_barrier", "shared_scratch", "half_a_lock"])
def test_races_are_looked_for_in_what_is_put_to_use(name: str, objects: Path) -> None:
    """At level `standard`, however many cores there are: none of the other checks has to meet the race."""
    judge = Judge(ARCH, level="standard", limits=Limits(seconds=2.0, threads=2))
    judge.required = ("compiles",)
    try:
        got = findings(judge, "full", name, objects)
    finally:
        judge.close()
    if got["races"].status is Status.SKIP:
        pytest.skip(got["races"].reason)
    assert got["races"].status is Status.FAIL and "without a barrier" in got["races"].reason
    assert set(got) == {"compiles", *FURTHER["standard"]}


def test_a_kernel_that_waits_for_its_team_is_no_finding(
    judge: Judge, objects: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fibers wait for nobody: a barrier of atomic operations, which is right with threads, never ends there."""
    monkeypatch.setattr(judging, "FURTHER", {"standard": ("races",)})
    monkeypatch.setattr(judge, "level", "standard")
    monkeypatch.setattr(judge._bank, "level", "standard")
    text = """#include <kernel.h>
extern "C" void kernel(const float* x0, float* y0, int64_t s0) {
  int there = 0;
  #pragma omp parallel
  {
    __atomic_fetch_add(&there, 1, __ATOMIC_ACQ_REL);
    while (__atomic_load_n(&there, __ATOMIC_ACQUIRE) < omp_get_num_threads()) {}
    #pragma omp for
    for (int64_t i = 0; i < s0; ++i) y0[i] = 0.5f * x0[i] * (1 + erff(x0[i] * 0.70710678f));
  }
}
"""
    found = {f.check: f for f in judge.judge(gelu(), artifact(gelu(), text, objects)).findings}
    assert found["races"].status is Status.SKIP and "in time" in found["races"].reason


def test_a_thread_may_have_two_megabytes_of_its_own(judge: Judge, objects: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "FURTHER", {"full": ("races",)})
    text = """#include <kernel.h>
extern "C" void kernel(const float* x0, float* y0, int64_t s0) {
  #pragma omp parallel
  {
    volatile float row[1 << 19];
    for (int64_t i = 0; i < (1 << 19); i += 512) row[i] = 0.5f;
    #pragma omp for
    for (int64_t i = 0; i < s0; ++i) y0[i] = row[512 * (i % 1024)] * x0[i] * (1 + erff(x0[i] * 0.70710678f));
  }
}
"""
    found = {f.check: f for f in judge.judge(gelu(), artifact(gelu(), text, objects)).findings}
    assert found["races"].status is Status.PASS, found["races"]
