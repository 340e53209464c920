"""The smallest failing case, replay from the seed, and the line of a crash."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.verify.build import specimen
from tests.verify.conftest import ARCH
from torch_autokernel.core.types import Case, Finding, Status
from torch_autokernel.machine.cpu import Cpu
from torch_autokernel.machine.worker import Limits
from torch_autokernel.verify.judge import Judge
from torch_autokernel.verify.single import judge_text


def failed(name: str, objects: Path, seed: int | None = None) -> tuple[Finding, int]:
    found = specimen("wrong", name)
    judge = Judge(ARCH, limits=Limits(seconds=2.0, threads=2), seed=seed, shrink=True)
    verdict = judge.judge(found.region, found.build(objects))
    judge.close()
    return next(f for f in verdict.findings if f.status is Status.FAIL), verdict.seed


# the kernel -> what its smallest failing sizes must be, as a condition on (rows, columns)
SMALLEST = {
    "uniform": lambda m, n: m == 1 and n <= 4,
    "drops_last_addend": lambda m, n: m == 1 and n in (1, 3),
    "long_rows": lambda m, n: m == 1 and n <= 4400,
    "row_37": lambda m, n: m == 38 and n <= 3,
    "writes_nothing": lambda m, n: m == n == 1,
    "half_of_the_rows": lambda m, n: m == 2 and n == 1,
}


@pytest.mark.parametrize("name", SMALLEST)
def test_smallest_case(name: str, objects: Path) -> None:
    finding, seed = failed(name, objects)
    case = Case.from_json(finding.evidence["case"])
    m, n = case.sizes["s0"], case.sizes["s1"]
    assert SMALLEST[name](m, n), f"{case}; seed {seed}"
    assert case.distribution in ("normal", "shifted"), case


def test_a_verdict_is_replayed_from_its_seed(objects: Path) -> None:
    first, seed = failed("wrong_row", objects)
    again, _ = failed("wrong_row", objects, seed)
    assert (again.check, again.reason, again.evidence) == (first.check, first.reason, first.evidence)


CRASH = """#include <cstdint>
extern "C" void kernel(const float* x, float* y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] = x[i];

  for (int64_t i = 0; i < 5000; ++i) ((volatile float*)y)[n + i] = 1;
}
"""


def test_a_crash_tells_its_line() -> None:
    arch = Cpu().probe()
    if arch is None or not arch.key.startswith("cpu-x86_64"):
        pytest.skip("the faulting instruction is recorded on x86-64 only")
    verdict = judge_text(specimen("honest", "gelu").region, CRASH, "cpp", arch, "quick")
    finding = next(f for f in verdict.findings if f.status is Status.FAIL)
    assert finding.check == "bounds" and finding.evidence["source"] == "kernel.cpp:5", finding
    assert Case.from_json(finding.evidence["case"]).sizes == {"s0": 1}
