"""One region through the real parts: schedule proposer, compiler, judge, stopwatch. How fast it was is not asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from torch_autokernel.capture.reference import print_reference
from torch_autokernel.core import points
from torch_autokernel.core.config import Config
from torch_autokernel.core.types import Attempt, Budget, Op, Ref, Region, Signature, TensorSpec
from torch_autokernel.search.loop import Searcher


def softmax(rows: int, columns: int) -> Region:
    size, row = ("s0", "s1"), ("s0", 1)
    spec = TensorSpec.contiguous(size, "float32")
    ops = (
        Op("aten.amax.default", (Ref(0), (1,), True), {}, row, "float32"),
        Op("aten.sub.Tensor", (Ref(0), Ref(1)), {}, size, "float32"),
        Op("aten.exp.default", (Ref(2),), {}, size, "float32"),
        Op("aten.sum.dim_IntList", (Ref(3), (1,), True), {}, row, "float32"),
        Op("aten.div.Tensor", (Ref(3), Ref(4)), {}, size, "float32"),
    )
    signature = Signature(ops, (spec,), (5,), (spec,), size)
    return Region(signature, print_reference(signature), {"s0": rows, "s1": columns})


@pytest.mark.slow
def test_softmax_from_region_to_result(tmp_path: Path) -> None:
    arch = points.archs.get("cpu")().probe()
    if reason := points.languages.get("cpp")().missing(arch):
        pytest.skip(reason)
    search = Searcher(arch, Config(), folder=tmp_path)
    try:
        (result,) = search.search([softmax(128, 500)], Budget(seconds=240.0, tokens=0))
        assert result.attempts and all(a.artifact is not None and a.artifact.ok for a in result.attempts)
        judged = [a.verdict for a in result.attempts if a.verdict is not None]
        assert [v.why for v in judged if not v.accepted] == []
        if result.best is None:  # slower here, or the machine is busy
            assert result.reason.startswith(("fastest candidate", "no timing")), result.reason
        else:
            timing = result.best.verdict.timing  # type: ignore[union-attr]
            assert timing is not None and timing.low > 1 and timing.baseline in ("eager", "inductor")
            assert Path(result.best.artifact.path).exists()  # type: ignore[union-attr]
            assert len(result.vectors) > 100
        lines = [Attempt.from_json(line["attempt"]) for line in search.journal.read()]
        assert [a.candidate.id for a in lines] == [a.candidate.id for a in result.attempts]
    finally:
        search.close()
    assert not list(tmp_path.glob("search-*"))
