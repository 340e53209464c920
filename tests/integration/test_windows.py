"""Pools and small convolutions as the built-in proposer writes and the toolchain compiles them, before the judge; and through the
decorator."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.integration.child import GenerousClock
from tests.propose import test_windows as written
from torch_autokernel.capture.direct import Plan, make_plan
from torch_autokernel.core.config import config
from torch_autokernel.lang.cpp import Cpp
from torch_autokernel.machine.cpu import Cpu
from torch_autokernel.propose.schedule import ScheduleProposer
from torch_autokernel.verify.judge import Judge

ARCH = Cpu().probe()
QUICK = ("conv_relu_pool", "offsets3s2p1", "max_gradient2")


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    if ARCH is None or Cpp().missing(ARCH):
        pytest.skip("no compiler for this machine")
    judge = Judge(ARCH)
    yield judge
    judge.close()


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in written.CASES])
def test_judge_accepts_candidates(name: str, judge: Judge, tmp_path: Path) -> None:
    found, _inputs = written.region_of(name)
    assert ARCH is not None
    (candidate,) = ScheduleProposer().propose(found, ARCH, [], 1)
    (artifact,) = Cpp().compile([candidate], found.signature, ARCH, tmp_path)
    verdict = judge.judge(found, artifact)
    assert verdict.accepted, f"{verdict.why}; seed {verdict.seed}"


@pytest.mark.parametrize("name", ["max2", "conv_relu_pool"])
def test_a_direct_call_runs_the_generated_kernel(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if ARCH is None or Cpp().missing(ARCH):
        pytest.skip("no compiler for this machine")
    monkeypatch.setattr("torch_autokernel.search.loop.Stopwatch", GenerousClock)
    torch.manual_seed(written.SEED)
    fn, make = written.CASES[name]
    inputs = make()
    plan = make_plan(fn, tuple(inputs), None, config.resolve({"cache_dir": str(tmp_path), "max_seconds": 120}))
    assert isinstance(plan, Plan), plan
    torch.testing.assert_close(plan(tuple(inputs)), fn(*inputs), rtol=1e-4, atol=1e-5)
