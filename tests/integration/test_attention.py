"""Attention kernels as the built-in proposer writes and the toolchain compiles them, before the judge."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.propose import test_attention as written
from torch_autokernel.core.types import Region
from torch_autokernel.lang.cpp import Cpp
from torch_autokernel.machine.cpu import Cpu
from torch_autokernel.propose.schedule import ScheduleProposer
from torch_autokernel.verify.judge import Judge

ARCH = Cpu().probe()
CASES: dict[str, tuple[Callable[..., Any], Callable[[], list[torch.Tensor]]]] = {
    n: case[:2] for n, case in (written.CASES | written.MORE).items()
}
SLOW = set(CASES) - {"window"}


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    if ARCH is None or Cpp().missing(ARCH):
        pytest.skip("no compiler for this machine")
    judge = Judge(ARCH)
    yield judge
    judge.close()


def region(name: str) -> Region:
    torch.manual_seed(written.SEED)
    fn, make = CASES[name]
    return written.region_of(fn, make())


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in CASES])
def test_judge_accepts_candidates(name: str, judge: Judge, tmp_path: Path) -> None:
    found = region(name)
    assert ARCH is not None
    candidates = ScheduleProposer().propose(found, ARCH, [], 3)
    for artifact in Cpp().compile(candidates, found.signature, ARCH, tmp_path)[: None if name in SLOW else 2]:
        verdict = judge.judge(found, artifact)
        assert verdict.accepted, f"{artifact.candidate.source.schedule}: {verdict.why}; seed {verdict.seed}"
