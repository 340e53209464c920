"""`python -m tests` is exactly what CI runs: style, types, then the tests, the quick ones first.

Any further arguments go to pytest (`python -m tests -k softmax` skips style and types).
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
STEPS = [
    ["ruff", "check", "."],
    ["mypy", "torch_autokernel"],
    ["pytest", "-q", "-n", str(os.cpu_count() or 1), "--dist", "worksteal", "-m", "not slow", "tests"],
    ["pytest", "-q", "-n", str(os.cpu_count() or 1), "--dist", "worksteal", "-m", "slow", "tests"],
]


def main() -> int:
    os.chdir(ROOT)
    steps = [["pytest", *sys.argv[1:]]] if sys.argv[1:] else STEPS
    for step in steps:
        start = time.perf_counter()
        print(f"== {' '.join(step)}", flush=True)
        code = subprocess.call([sys.executable, "-m", *step])
        print(f"== {'ok' if code == 0 else f'FAILED ({code})'} after {time.perf_counter() - start:.0f} s", flush=True)
        if code:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
