"""The whole zoo again and again, each round under a fresh seed: `python -m tests.verify.rounds 20`. Prints each kernel that was
accepted though it is wrong, rejected for another reason than its own, or rejected though it is honest, with the seed."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from tests.verify.build import names, specimen
from tests.verify.conftest import ARCH
from torch_autokernel.machine.worker import Limits
from torch_autokernel.verify.judge import Judge


def one_round(objects: Path) -> tuple[int, int]:
    """(kernels judged, those judged amiss)."""
    judged = amiss = 0
    judge = Judge(ARCH, limits=Limits(seconds=2.0, threads=2))
    for kind in ("wrong", "honest"):
        for name in names(kind):
            planted = specimen(kind, name)
            verdict = judge.judge(planted.region, planted.build(objects))
            right = verdict.accepted if kind == "honest" else verdict.why.partition(":")[0] in planted.checks
            judged, amiss = judged + 1, amiss + (not right)
            if not right:
                print(f"{kind} {name}: {'accepted' if verdict.accepted else verdict.why} (seed {judge.seed})", flush=True)
    judge.close()
    return judged, amiss


def main(rounds: int) -> int:
    total = 0
    with tempfile.TemporaryDirectory() as objects:
        for k in range(rounds):
            start = time.monotonic()
            judged, amiss = one_round(Path(objects))
            total += amiss
            print(f"round {k + 1}: {judged} kernels, {amiss} judged amiss, {time.monotonic() - start:.0f} s", flush=True)
    return 1 if total else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1))
