"""What evolution with a scripted model reaches on problems, and what the built-in proposer reaches alone.

python benchmarks/agents.py                            # ten problems
python benchmarks/agents.py --problems softmax mish    # some
python benchmarks/agents.py --model                    # the configured model instead of the scripted one

The scripted model edits what it is shown (`examples/scripted_author.py`), so the figures say what the loop makes of an author
who knows little: right edits, wrong ones, cheats and talk. Both sides get the same seconds a region.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "examples"))

from agents import author, hunt  # noqa: E402

from torch_autokernel.app.problems import load_one  # noqa: E402
from torch_autokernel.app.report import table  # noqa: E402
from torch_autokernel.capture.whole import region_of  # noqa: E402
from torch_autokernel.core.types import Attempt, Budget  # noqa: E402
from torch_autokernel.propose.schedule import ScheduleProposer  # noqa: E402
from torch_autokernel.search.hunt import Result  # noqa: E402

PROBLEMS = (
    "softmax", "layer_norm", "mish", "hardswish", "l2_normalize", "logsumexp", "bias_gelu", "huber_loss", "rms_norm_residual",
    "swiglu",
)  # fmt: skip
CHEATS = ("writes nothing", "only the sizes at hand", "half of the rows")


def speed(result: Result) -> tuple[float, str]:
    """The accepted speedup against the best baseline, 1 where nothing was accepted, and its interval."""
    timing = result.best.verdict.timing if result.best and result.best.verdict else None
    return (timing.speedup, f"{timing.low:.3f}-{timing.high:.3f}") if timing else (1.0, "none faster")


def strategy(attempt: Attempt) -> str:
    return str(attempt.candidate.source.schedule.get("strategy", ""))


def compare(name: str, seconds: float, tokens: int) -> dict[str, Any]:
    problem = load_one(str(HERE / "problems" / f"{name}.py"))
    region = region_of(problem.model, problem.inputs, problem.static_sizes)
    with tempfile.TemporaryDirectory() as folder:
        alone = hunt(region, [ScheduleProposer()], Path(folder), Budget(seconds))
    with tempfile.TemporaryDirectory() as folder:
        both = hunt(region, [ScheduleProposer(), author(Path(folder))], Path(folder), Budget(seconds, tokens))
    accepted = [a for a in both.attempts if a.verdict is not None and a.verdict.accepted]
    (one, one_range), (two, two_range) = speed(alone), speed(both)
    return {
        "problem": name, "alone": one, "alone_interval": one_range, "both": two, "both_interval": two_range,
        "by": both.best.candidate.proposer if both.best else "", "attempts": len(both.attempts),
        "author_attempts": sum(a.candidate.proposer.startswith("llm") for a in both.attempts),
        "rejected": sum(a.verdict is not None and not a.verdict.accepted for a in both.attempts),
        "cheats": sum(strategy(a) in CHEATS for a in both.attempts),
        "cheats_accepted": sum(strategy(a) in CHEATS for a in accepted),
        "tokens": both.cost.tokens, "seconds_alone": alone.cost.seconds, "seconds": both.cost.seconds,
        "reason": both.reason, "reason_alone": alone.reason,
    }  # fmt: skip


def mean(rows: list[dict[str, Any]], key: str) -> float:
    return math.exp(sum(math.log(r[key]) for r in rows) / len(rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", nargs="+", default=list(PROBLEMS))
    parser.add_argument("--max-seconds", type=float, default=60.0, help="for each search")
    parser.add_argument("--max-tokens", type=int, default=200_000, help="for each search")
    parser.add_argument("--model", action="store_true", help="ask the configured model, not the scripted one")
    parser.add_argument("--out", help="a JSON file for the rows")
    options = parser.parse_args()
    if not options.model:
        os.environ.pop("TORCH_AUTOKERNEL_LLM_MODEL", None)
    rows = []
    for name in options.problems:
        with torch.no_grad():
            rows.append(compare(name, options.max_seconds, options.max_tokens))
        row = rows[-1]
        print(f"{name}: alone {row['alone']:.3f}, both {row['both']:.3f}", file=sys.stderr)
        if options.out:
            Path(options.out).write_text(json.dumps(rows, indent=2) + "\n")
    counts = ("attempts", "rejected", "cheats", "cheats_accepted", "tokens")
    header = ["problem", "built-in alone", "with the model", "by", *(c.replace("_", " ") for c in counts)]
    cells = []
    for r in rows:
        speeds = (f"{r[k]:.2f} ({r[f'{k}_interval']})" for k in ("alone", "both"))
        cells.append([r["problem"], *speeds, r["by"], *(str(r[c]) for c in counts)])
    print(table(header, cells, right=range(4, 9)))
    print("geometric mean against the best of eager and Inductor: "
          f"alone {mean(rows, 'alone'):.3f}, with the model {mean(rows, 'both'):.3f}")  # fmt: skip


if __name__ == "__main__":
    main()
