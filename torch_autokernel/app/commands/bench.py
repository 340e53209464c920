"""`autokernel bench`."""

from __future__ import annotations

import argparse
import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from torch_autokernel.app.book import Book
from torch_autokernel.app.contest import BASELINES, KNOWN, Row, Settings, compete
from torch_autokernel.app.problems import Problem, expand, load
from torch_autokernel.app.progress import Progress
from torch_autokernel.app.report import Report, duration, table
from torch_autokernel.core.errors import AutoKernelError, UsageError

EXAMPLE = "autokernel bench benchmarks/problems --against eager,inductor --backward --json out.json"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", nargs="+", help="package.module:callable, a problem file, or a folder of them")
    parser.add_argument("--against", default=",".join(BASELINES), metavar="LIST", help="baselines (default: %(default)s)")
    parser.add_argument("--backward", action="store_true", help="time forward and backward, and check the gradients too")
    parser.add_argument("--via", choices=("compile", "decorator"), default="compile", help="how the model is accelerated")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="threads for every contender (default: torch's)")
    parser.add_argument(
        "--seconds", type=float, default=5.0, metavar="S", help="time for each interleaved measurement (default: 5)"
    )
    parser.add_argument("--out", metavar="FILE.json", help="write results there as they come")
    parser.add_argument("--resume", action="store_true", help="keep the finished results in --out and go on after them")


def run(args: argparse.Namespace, progress: Progress) -> Report:
    settings = Settings(_baselines(args.against), args.backward, args.threads, args.via, args.seconds)
    targets = expand(args.target)
    book = Book(args.out, settings, Row, partial(_means, settings), args.resume)
    with _threads(settings.threads):
        for number, target in enumerate(targets, 1):
            mark = f"[{number}/{len(targets)}]"
            for row in _rows(target, settings, book, partial(_status, progress, mark)):
                progress.line(f"{mark} {_told(row)}")
    rows = book.rows
    return Report(all(r.ok for r in rows), book.data(), _text(rows, settings))


def _status(progress: Progress, mark: str, text: str) -> None:
    progress.status(f"{mark} {text}")


def _baselines(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(n.strip() for n in text.split(",") if n.strip()))
    if unknown := [n for n in names if n not in KNOWN]:
        raise UsageError(
            f"no baseline named {unknown[0]!r}; known: {', '.join(KNOWN)}", hint="for example --against eager,inductor"
        )
    return names


@contextmanager
def _threads(count: int) -> Iterator[None]:
    if count < 0:
        raise UsageError(f"--threads {count} is negative", hint="give 1 or more, or 0 for torch's default")
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _means(settings: Settings, rows: Sequence[Row]) -> dict[str, Any]:
    means = {name: m for name in settings.against if (m := geometric_mean(rows, name)) is not None}
    return {"geometric_mean": means}


def _rows(target: str, settings: Settings, book: Book[Settings, Row], status: Callable[[str], None]) -> Iterator[Row]:
    """A new row for each problem of the target that is not in the book yet."""
    try:
        problems = load(target)
    except AutoKernelError as error:
        yield book.add(Row(target, "error", str(error), path=target))
        return
    for problem in problems:
        path, digest = str(problem.path or ""), _digest(problem)
        if not book.holds((problem.name, path), digest):
            yield book.add(replace(compete(problem, settings, status), path=path, digest=digest))


def _digest(problem: Problem) -> str:
    return hashlib.sha256(problem.path.read_bytes()).hexdigest() if problem.path else ""


def geometric_mean(rows: Sequence[Row], baseline: str) -> float | None:
    """Of the median ratios of the rows that were timed."""
    logs = [math.log(r.ratios[baseline][0]) for r in rows if baseline in r.ratios]
    return math.exp(sum(logs) / len(logs)) if logs else None


# ------------------------------------------------------------------------------------------- for a person
def _told(row: Row) -> str:
    if not row.ratios:
        return f"{row.problem}: {row.outputs}: {row.reason}"
    ratios = ", ".join(f"{_interval(r)} of {name}" for name, r in row.ratios.items())
    return f"{row.problem}: {row.outputs}, {row.replaced} of {row.regions} regions replaced, {ratios}"


def _interval(values: Sequence[float]) -> str:
    middle, low, high = values
    return f"{middle:.2f}x [{low:.2f}, {'inf' if high >= 1e300 else format(high, '.2f')}]"


def _text(rows: Sequence[Row], settings: Settings) -> str:
    names = [*settings.against]
    header = ["problem", "outputs", "replaced", "autokernel", *names, *(f"x {n} [95%]" for n in names)]
    body = []
    for r in rows:
        times = [duration(r.times_ns[n] / 1e9) if n in r.times_ns else "-" for n in ("autokernel", *names)]
        ratios = [_interval(r.ratios[n]) if n in r.ratios else "-" for n in names]
        body.append([r.problem, r.outputs, f"{r.replaced}/{r.regions}", *times, *ratios])
    lines = [table(header, body, right=range(2, len(header)))]
    means = [f"{m:.2f}x of {n}" for n in names if (m := geometric_mean(rows, n)) is not None]
    bad = [f"{r.problem}: {r.outputs}: {r.reason}" for r in rows if not r.ok]
    if means:
        timed = sum(1 for r in rows if r.ratios)
        lines.append(f"geometric mean over {timed} problems: {', '.join(means)}")
    return "\n".join([*lines, *bad])
