"""The judge's mutation score: `python -m tests.verify.mutation --count 4 --seed 1`.

Makes mutants of the zoo's honest kernels, judges each, and lists those that were accepted, with what `survivors.json` says of
them: why each is right all the same. A survivor that the file does not explain makes the command fail.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.verify.build import artifact, names, specimen
from torch_autokernel.core.types import Arch
from torch_autokernel.machine.worker import Limits
from torch_autokernel.verify.judge import Judge
from torch_autokernel.verify.mutate import Mutant, sample

KNOWN = Path(__file__).with_name("survivors.json")


@dataclass(frozen=True)
class Tried:
    kernel: str
    mutant: Mutant
    outcome: str  # accepted, not compiled, or the check that rejected it

    @property
    def name(self) -> str:
        return f"{self.kernel}: {self.mutant}"


def explained() -> dict[str, str]:
    """Survivors that somebody has read, and why each is equivalent."""
    return json.loads(KNOWN.read_text()) if KNOWN.exists() else {}


def run(kernels: list[str], count: int, seed: int, folder: Path, level: str = "standard", log: bool = False) -> list[Tried]:
    """What became of `count` mutants of each kernel."""
    rng = random.Random(seed)
    chosen = [(name, mutant) for name in kernels for mutant in sample(specimen("honest", name).text, count, rng)]
    judge = Judge(Arch("cpu-test"), level=level, limits=Limits(seconds=1.0, threads=2))

    def one(item: tuple[str, Mutant]) -> Tried:
        name, mutant = item
        found = specimen("honest", name)
        built = artifact(found.region, mutant.text, folder, found.workspace)
        if not built.ok:
            return Tried(name, mutant, "not compiled")
        verdict = judge.judge(found.region, built)
        Path(built.path).unlink(missing_ok=True)
        if verdict.accepted and log:
            print(f"accepted: {name}: {mutant}", file=sys.stderr, flush=True)
        return Tried(name, mutant, "accepted" if verdict.accepted else verdict.why.partition(":")[0])

    try:
        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(one, chosen))
    finally:
        judge.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=4, help="mutants of each kernel")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--level", default="standard")
    parser.add_argument("kernels", nargs="*", help="names from tests/verify/zoo/honest; all by default")
    args = parser.parse_args()
    seed = random.SystemRandom().getrandbits(32) if args.seed is None else args.seed
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        tried = run(args.kernels or names("honest"), args.count, seed, Path(folder), args.level, log=True)
    compiled = [t for t in tried if t.outcome != "not compiled"]
    alive, known = [t for t in compiled if t.outcome == "accepted"], explained()
    open_ = [t for t in alive if t.name not in known]
    by = {o: sum(t.outcome == o for t in compiled) for o in sorted({t.outcome for t in compiled})}
    print(f"seed {seed}: {len(tried)} mutants, {len(compiled)} compiled, {len(compiled) - len(alive)} rejected, {len(alive)} accepted"
          f" ({len(alive) - len(open_)} known to be equivalent), {time.monotonic() - start:.0f} s")
    print(f"score {1 - len(alive) / max(1, len(compiled)):.3f}, without the equivalent ones "
          f"{1 - len(open_) / max(1, len(compiled) - len(alive) + len(open_)):.3f}")
    print("by check:", ", ".join(f"{k} {v}" for k, v in by.items()))
    for t in alive:
        print(f"  {'known  ' if t.name in known else 'UNKNOWN'} {t.name}" + (f"\n          {known[t.name]}" if t.name in known else ""))
    return 1 if open_ else 0


if __name__ == "__main__":
    sys.exit(main())
