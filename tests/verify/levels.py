"""What each level costs for a typical region: `python -m tests.verify.levels [ROUNDS]`. Compilation is not counted.

Processor seconds are the judge's own, on one thread; they do not depend on what else the machine does, wall seconds do.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

from tests.verify import regions
from tests.verify.build import artifact, specimen
from torch_autokernel.core.types import Arch, Artifact, Region
from torch_autokernel.verify.cases import LEVELS
from torch_autokernel.verify.judge import Judge


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    with tempfile.TemporaryDirectory() as folder:
        for name, region in (("softmax", regions.softmax(m=1024, n=768)), ("layer_norm", regions.layer_norm(m=1024, n=768))):
            built = artifact(region, specimen("honest", name).text, Path(folder))
            for level in LEVELS:
                taken = [once(level, region, built) for _ in range(rounds)]
                wall, processor, again = (statistics.median(t[k] for t in taken) for k in range(3))
                print(f"{name} [1024, 768], {level}: {wall:.2f} s, {processor:.2f} processor s; the next candidate {again:.2f} s")


def once(level: str, region: Region, built: Artifact) -> tuple[float, float, float]:
    """Wall and processor seconds of the first candidate, wall seconds of the second."""
    judge = Judge(Arch("cpu-test"), level=level)
    start, processor = time.perf_counter(), time.process_time()
    assert judge.judge(region, built).accepted
    middle, processor = time.perf_counter(), time.process_time() - processor
    assert judge.judge(region, built).accepted
    judge.close()
    return middle - start, processor, time.perf_counter() - middle


if __name__ == "__main__":
    main()
