"""Tasks that cannot tell a right kernel from a lazy one are named so; ordinary ones are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.verify import regions
from tests.verify.build import artifact
from tests.verify.conftest import ARCH
from torch_autokernel.core.types import Finding, Region, Status
from torch_autokernel.verify.checks.task import Task
from torch_autokernel.verify.judge import Judge, Trial


def looked_at(region: Region, objects: Path) -> Finding:
    judge = Judge(ARCH, seed=3)
    runner = judge._runner(region, artifact(region, "no", objects))  # noqa: SLF001
    try:
        return Task().run(Trial(region, artifact(region, "no", objects), ARCH, judge._bank, runner, {}))  # noqa: SLF001
    finally:
        judge.close()


def constant() -> Region:
    g = regions.Graph()
    x = g.input("s0", "s1")
    return g.region(g.op("aten.relu.default", g.op("aten.neg.default", g.op("aten.exp.default", x))), s0=9, s1=8)


def same_in_rows() -> Region:
    g = regions.Graph()
    x = g.input("s0", "s1")
    top = g.op("aten.amax.default", x, (1,), True, shape=("s0", 1))
    return g.region(g.op("aten.add.Tensor", top, g.op("aten.mul.Tensor", x, 0.0), shape=("s0", "s1")), s0=9, s1=8)


def idle_input() -> Region:
    g = regions.Graph()
    x, w = g.input("s0", "s1"), g.input("s0", "s1")
    return g.region(g.op("aten.add.Tensor", x, g.op("aten.mul.Tensor", w, 0.0)), s0=9, s1=8)


def clamped() -> Region:
    """Constant on most distributions, not on all."""
    g = regions.Graph()
    return g.region(g.op("aten.clamp_min.default", g.input("s0", "s1"), 1000.0), s0=9, s1=8)


UNFIT = {constant: "output 0 is constant", same_in_rows: "does not vary along dimension 1", idle_input: "input 1 has no influence"}


@pytest.mark.parametrize("region", UNFIT)
def test_unfit(region: object, objects: Path) -> None:
    finding = looked_at(region(), objects)  # type: ignore[operator]
    assert finding.status is Status.SKIP and UNFIT[region] in finding.reason, finding


@pytest.mark.parametrize("region", [clamped, regions.softmax, regions.layer_norm, regions.greater, regions.embedding,
                                    regions.cross_entropy, regions.swiglu])  # fmt: skip
def test_fit(region: object, objects: Path) -> None:
    finding = looked_at(region(), objects)  # type: ignore[operator]
    assert finding.status is Status.PASS, finding
