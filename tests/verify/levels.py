"""What each level costs for a typical region: `python -m tests.verify.levels`. Compilation is not counted."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

from tests.verify import regions
from tests.verify.build import artifact, specimen
from torch_autokernel.core.types import Arch
from torch_autokernel.verify.cases import LEVELS
from torch_autokernel.verify.judge import Judge

ROUNDS = 5


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name, region in (("softmax", regions.softmax(m=1024, n=768)), ("layer_norm", regions.layer_norm(m=1024, n=768))):
            built = artifact(region, specimen("honest", name).text, Path(folder))
            for level in LEVELS:
                first, next_ = zip(*(once(level, region, built) for _ in range(ROUNDS)), strict=True)
                print(f"{name} [1024, 768], {level}: {statistics.median(first):.2f} s for the first candidate "
                      f"({min(first):.2f} to {max(first):.2f}), {statistics.median(next_):.2f} s for the next")


def once(level: str, region: object, built: object) -> tuple[float, float]:
    judge, seconds = Judge(Arch("cpu-test"), level=level), []
    for _ in range(2):
        start = time.perf_counter()
        verdict = judge.judge(region, built)  # type: ignore[arg-type]
        seconds.append(time.perf_counter() - start)
        assert verdict.accepted, verdict.why
    judge.close()
    return seconds[0], seconds[1]


if __name__ == "__main__":
    main()
