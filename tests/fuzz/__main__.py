"""Long runs: `python -m tests.fuzz graphs 0 2000` checks capture on the programs of seeds 0 to 1999; `python -m tests.fuzz
kernels 0 200` compiles and runs what the generator makes of their regions; `... decorated 0 500` trains them as decorated
functions. A failing program is printed, shrunk."""

from __future__ import annotations

import sys
import time

import torch

from tests.fuzz import graphs


def run_graphs(first: int, last: int) -> int:
    failed = 0
    start = time.perf_counter()
    for seed in range(first, last):
        program, dynamic = graphs.drawn(seed)
        if graphs.outcome(program, seed, dynamic):
            failed += 1
            small, complaint = graphs.smallest(program, seed, dynamic)
            print(f"== seed {seed} dynamic={dynamic}\n{small}\n{complaint}\n", flush=True)
        if (seed - first) % 100 == 99:
            print(f"{seed + 1 - first} programs so far, {time.perf_counter() - start:.0f} s", flush=True)
    print(f"{last - first} programs, {failed} failed, {time.perf_counter() - start:.0f} s")
    return int(failed > 0)


if __name__ == "__main__":
    torch.set_num_threads(1)
    what, first, last = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    if what == "graphs":
        sys.exit(run_graphs(first, last))
    if what == "decorated":
        from tests.fuzz import decorated

        sys.exit(decorated.run(first, last))
    from tests.fuzz import kernels

    sys.exit(kernels.main(first, last))
