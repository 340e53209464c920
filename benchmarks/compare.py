"""Two runs of the suite, row by row: python benchmarks/compare.py A.json B.json

What is compared is how many times faster we are than a contender that ran beside us (eager unless --against names another),
so that runs under different load can be compared. The interval of the quotient is made of two at 97.5%, so it has 95% or more.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.result import BASELINES, Result, Settings  # noqa: E402
from benchmarks.tables import interval  # noqa: E402
from torch_autokernel.app.book import read  # noqa: E402
from torch_autokernel.app.cli import Parser  # noqa: E402
from torch_autokernel.app.report import COULD_NOT_RUN, DONE, NOT_SO, table  # noqa: E402
from torch_autokernel.core.errors import AutoKernelError, UsageError  # noqa: E402
from torch_autokernel.core.types import Json  # noqa: E402
from torch_autokernel.verify.statistics import Ratio  # noqa: E402

FASTER, SLOWER, SAME = "faster", "slower", "same within noise"
BROKEN, MENDED, NEW, GONE, UNTIMED = "no longer right", "right now", "new", "gone", "not timed"
BAD = (SLOWER, BROKEN)
DIFFERENT = ("name", "arch", "torch", "cpus")


@dataclass(frozen=True)
class Change(Json):
    """One row in both runs. `ratio`: how many times faster the second is, 95% interval."""

    row: str
    verdict: str
    ratio: tuple[float, float, float] | None = None
    note: str = ""


def changes(before: Sequence[Result], after: Sequence[Result], against: str) -> list[Change]:
    old, new = ({r.key: r for r in rows} for rows in (before, after))
    return [_change(name, old.get(key), new.get(key), against) for key, name in _names(before, after).items()]


def _names(before: Sequence[Result], after: Sequence[Result]) -> dict[tuple[str, ...], str]:
    return {r.key: f"{r.row} {r.direction} {r.dtype} {r.threads}t {r.allocation}" for r in (*before, *after)}


def _change(name: str, old: Result | None, new: Result | None, against: str) -> Change:
    if old is None or new is None:
        return Change(name, NEW if old is None else GONE)
    if old.ok and not new.ok:
        return Change(name, BROKEN, note=f"{new.outputs}: {new.reason}")
    if new.ok and not old.ok:
        return Change(name, MENDED)
    note = "the row's file has changed" if old.digest != new.digest else ""
    if against not in old.wide or against not in new.wide:
        return Change(name, UNTIMED, note=note or f"{against} was not timed in both")
    found = quotient(new.wide[against], old.wide[against])
    verdict = FASTER if found.low > 1 else SLOWER if found.high < 1 else SAME
    return Change(name, verdict, tuple(found), note)  # type: ignore[arg-type]


def quotient(a: Sequence[float], b: Sequence[float]) -> Ratio:
    """a / b; where each interval has confidence 1 - p, this one has at least 1 - 2p."""
    return Ratio(a[0] / b[0], a[1] / b[2], a[2] / b[1] if b[1] else float("inf"))


def text(found: Sequence[Change], machines: Sequence[dict[str, Any]], against: str) -> str:
    lines = [f"{n}: {machines[0].get(n)} before, {machines[1].get(n)} after" for n in DIFFERENT
             if machines[0].get(n) != machines[1].get(n)]  # fmt: skip
    if lines:
        lines = ["these runs differ in more than our code:", *lines, ""]
    lines.append(table(("row", f"x before [95%], by {against}", "verdict", ""),
                       [(c.row, interval(c.ratio), c.verdict, c.note) for c in found]))  # fmt: skip
    counts = {v: sum(1 for c in found if c.verdict == v) for v in dict.fromkeys(c.verdict for c in found)}
    lines += ["", ", ".join(f"{count} {verdict}" for verdict, count in counts.items())]
    if bad := [c for c in found if c.verdict in BAD]:
        told = (f"  {c.row}: {c.verdict} {interval(c.ratio)} {c.note}".rstrip() for c in bad)
        lines += ["slower beyond noise, or broken:", *told]
    return "\n".join(lines)


def parse(words: Sequence[str]) -> Any:
    p = Parser("compare.py", description="What changed between two runs of the suite.", allow_abbrev=False,
               epilog="exit codes: 0 nothing got slower or broke, 1 something did, 2 could not compare")  # fmt: skip
    p.add_argument("before", metavar="A.json")
    p.add_argument("after", metavar="B.json")
    p.add_argument("--against", default="eager", choices=BASELINES, help="the contender to measure by (default: eager)")
    p.add_argument("--json", action="store_true", help="the changes as JSON")
    args, extra = p.parse_known_args(list(words))
    if extra:
        p.unknown(extra)
    return args


def main(words: Sequence[str]) -> int:
    try:
        args = parse(words)
        paths = Path(args.before), Path(args.after)
        (first, before), (second, after) = (read(path, Settings, Result) for path in paths)
        if first.via != second.via:
            raise UsageError(f"one run was by {first.via}, the other by {second.via}", hint="compare runs with the same --via")
        found = changes(before, after, args.against)
        machines = [json.loads(path.read_text())["machine"] for path in paths]
    except SystemExit as stop:  # argparse, after --help
        return int(stop.code or 0)
    except AutoKernelError as error:
        sys.stderr.write(f"error: {error}\n")
        return COULD_NOT_RUN
    print(json.dumps([c.to_json() for c in found], indent=2) if args.json else text(found, machines, args.against))
    return NOT_SO if any(c.verdict in BAD for c in found) else DONE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
