"""`autokernel bench` over our problems, with the results kept in benchmarks/results/<date>.json.

    python benchmarks/run.py [--backward] [further options of bench]
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from torch_autokernel.app.cli import main

HERE = Path(__file__).parent


def arguments(given: list[str]) -> list[str]:
    """Those of bench: our folder, and a file for the results unless one is given."""
    if any(word == "--out" or word.startswith("--out=") for word in given):
        return ["bench", str(HERE / "problems"), *given]
    kind = "training" if "--backward" in given else "inference"
    out = HERE / "results" / f"{time.strftime('%Y-%m-%d')}-{kind}.json"
    return ["bench", str(HERE / "problems"), "--out", str(out), *given]


if __name__ == "__main__":
    sys.exit(main(arguments(sys.argv[1:])))
