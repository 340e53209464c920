from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.app.conftest import SOFTMAX, Run
from torch_autokernel.app.commands import verify as command
from torch_autokernel.core.types import Finding, Status, Timing, Verdict

Go = Callable[..., Run]
Write = Callable[[str, str], Path]

GOOD = Finding("numerics", Status.PASS, "largest error 0.3 of what is allowed", {"cases": 12}, 0.25)
BAD = Finding("bounds", Status.FAIL, "writes behind output 0", {"case": "M=3", "offset": 12}, 0.01)
NOT_RUN = Finding("repeatable", Status.SKIP, "an earlier check failed")


def verdict(*findings: Finding, timing: Timing | None = None) -> Verdict:
    return Verdict("c", "cpu", findings, ("numerics", "bounds"), timing)


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The verdicts to give, and the arguments that came."""
    queue: list[Any] = []

    def judge(reference: Any, source: Path, inputs: Any, *rest: Any, **named: Any) -> Verdict:
        queue.append((source, inputs, rest, named))
        return queue.pop(0)  # type: ignore[no-any-return]

    monkeypatch.setattr(command, "verify", judge)
    return queue


def test_accepted(run: Go, write: Write, judged: list[Any]) -> None:
    problem, kernel = write("soft.py", SOFTMAX + "\nstatic_sizes = (6,)\n"), write("k.cpp", "// nothing")
    timing = Timing((1.0,), (2.0,), "inductor", 2.0, 1.9, 2.1, "paired")
    judged.append(verdict(GOOD, Finding("bounds", Status.PASS), timing=timing))
    ran = run("verify", problem, kernel, "--level", "quick")
    assert ran.code == 0, ran.err
    assert "k.cpp for soft: accepted" in ran.out and "2.00x of inductor" in ran.out
    source, inputs, rest, named = judged[0]
    assert (source, rest, named) == (kernel, ("cpp", None, "quick"), {"static_sizes": (6,)})
    assert inputs[0].shape == (4, 6)


def test_rejected_with_the_evidence(run: Go, write: Write, judged: list[Any]) -> None:
    problem, kernel = write("soft.py", SOFTMAX), write("k.cpp", "// nothing")
    judged.append(verdict(BAD, GOOD, NOT_RUN))
    ran = run("verify", problem, kernel)
    assert ran.code == 1
    assert "REJECTED" in ran.out and "FAIL  bounds" in ran.out and "offset: 12" in ran.out and "case: M=3" in ran.out
    judged[:] = [verdict(BAD, GOOD, NOT_RUN)]
    data = run("verify", problem, kernel, "--json").json
    assert data["accepted"] is False and data["why"] == "bounds: writes behind output 0"
    assert Verdict.from_json(data["verdict"]) == verdict(BAD, GOOD, NOT_RUN)


def test_what_cannot_be_judged(run: Go, write: Write) -> None:
    problem = write("soft.py", SOFTMAX)
    ran = run("verify", problem, write("k.cu", "// nothing"))
    assert ran.code == 2 and "known endings: .cpp" in ran.err
    named = write("named.py", "import torch\ndef f(x):\n    return x\ndef example_inputs():\n    return {'x': torch.ones(2)}\n")
    ran = run("verify", named, write("k.cpp", "// nothing"))
    assert ran.code == 2 and "by name" in ran.err


RIGHT = """
#include <cstdint>
#include <cmath>
extern "C" void kernel(const float* x, const float* w, float* y, int64_t M, int64_t N) {
  for (int64_t i = 0; i < M; ++i) {
    float most = -INFINITY, sum = 0;
    for (int64_t j = 0; j < N; ++j) most = std::fmax(most, x[i * N + j] * 2.0f * w[j]);
    for (int64_t j = 0; j < N; ++j) sum += y[i * N + j] = std::exp(x[i * N + j] * 2.0f * w[j] - most);
    for (int64_t j = 0; j < N; ++j) y[i * N + j] /= sum;
  }
}
"""


def test_a_right_and_a_wrong_kernel_end_to_end(run: Go, write: Write) -> None:
    problem = write("soft.py", SOFTMAX)
    ran = run("verify", problem, write("right.cpp", RIGHT), "--level", "quick")
    assert ran.code == 0, ran.out + ran.err
    ran = run(
        "verify", problem, write("wrong.cpp", RIGHT.replace("2.0f * w[j] - most", "1.5f * w[j] - most")), "--level", "quick"
    )
    assert ran.code == 1 and "numerics" in ran.out
    ran = run("verify", problem, write("refused.cpp", "int x = ;"), "--level", "quick")
    assert ran.code == 1 and "compiles" in ran.out
