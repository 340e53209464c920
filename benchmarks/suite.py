"""The suite against all baselines, one process a row, kept in benchmarks/results/<date>.json with a table and plots beside it.

    python benchmarks/suite.py                                            # headline, table, robust and models, passes as listed
    python benchmarks/suite.py --dtype fp32,bf16 --threads 1,2 --backward # all of the yardstick
    python benchmarks/suite.py --rows 8,9,'table/softmax*' --seconds 2    # some rows
    python benchmarks/suite.py --resume                                   # go on after an interruption
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from benchmarks import tables  # noqa: E402
from benchmarks.cases import BACKWARD, DTYPES, FORWARD, Case, choose, find  # noqa: E402
from benchmarks.child import EAGER, TIMING, Task, blank  # noqa: E402
from benchmarks.result import Result, Settings, best, summary  # noqa: E402
from torch_autokernel.app.book import Book  # noqa: E402
from torch_autokernel.app.cli import Parser  # noqa: E402
from torch_autokernel.app.contest import KNOWN, OURS  # noqa: E402
from torch_autokernel.app.progress import Progress  # noqa: E402
from torch_autokernel.app.report import COULD_NOT_RUN, DONE, INTERRUPTED, NOT_SO  # noqa: E402
from torch_autokernel.core.errors import AutoKernelError, UsageError  # noqa: E402

DEFAULT, KEPT, HUGE, OWN = "default", "kept", "huge", "own"
_ALIKE = {"TORCH_AUTOKERNEL_HUGE_PAGES": "0"}
# For every contender alike, but for `own`: glibc's defaults; what makes glibc give freed blocks back to the next caller instead
# of to the kernel; torch's allocations in huge pages. In `own`, only large outputs of our kernels are: as users have it.
ALLOCATION: dict[str, dict[str, str]] = {
    DEFAULT: _ALIKE,
    KEPT: {**_ALIKE, "MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "17179869184", "MALLOC_MMAP_MAX_": "0"},
    HUGE: {**_ALIKE, "THP_MEM_ALLOC_ENABLE": "1"},
    OWN: {},
}
PASSES = {"listed": None, "all": (FORWARD, BACKWARD), "only": (BACKWARD,), "none": (FORWARD,)}
GRACE = 10  # seconds for a row's process to end by itself
POLL = 0.5  # seconds; a process that was forked from the row's may keep its pipe open after it has ended
TIMING_FACTOR = 30  # a timing may take this many times `--seconds`, and the limit on top: slow contenders need nine rounds


# ------------------------------------------------------------------------------------------------------ the plan
def plan(args: Any, settings: Settings) -> list[Task]:
    """What is to be run, in order: all rows of one configuration before those of the next."""
    rows = choose(args.rows)
    return [
        Task(case.name, dtype, threads, direction, allocation, settings)
        for dtype in DTYPES for threads in args.threads for allocation in args.allocation for case in rows
        if dtype in dtypes(case, args.dtype) for direction in directions(case, args.backward)
    ]  # fmt: skip


def dtypes(case: Case, wanted: Sequence[str]) -> Sequence[str]:
    """A row that has none of those wanted runs in its own: a matrix-vector product in bf16 has no other."""
    return [d for d in wanted if d in case.dtypes] or case.dtypes


def directions(case: Case, backward: str) -> tuple[str, ...]:
    wanted = PASSES[backward] or case.listed
    return tuple(d for d in wanted if d == FORWARD or case.said("GRADIENTS", True))


def known_failures(task: Task, done: Sequence[Result]) -> dict[str, str]:
    """Baselines that did not finish for the same graph under other threads or allocation: to wait again tells nothing."""
    same = [r for r in done if (r.row, r.dtype, r.direction) == (task.row, task.dtype, task.direction) and r.key != task.key]
    return {n: s for r in same for n, s in r.states.items() if n != OURS and s.startswith(("did not finish", "not tried"))}


# ------------------------------------------------------------------------------------------------- one row's process
@dataclass(frozen=True)
class End:
    """How a process ended: with a result, or in a stage, and why."""

    stage: str
    reason: str = ""
    result: Result | None = None


def run_row(task: Task, status: Any) -> Result:
    """The row's result; a contender that crashes or does not finish is noted, and the row run again without it."""
    case = find(task.row)
    while True:
        end = attempt(task, status)
        if end.result is not None:
            return end.result
        if end.stage in ("", EAGER, OURS, TIMING):
            outputs = "timeout" if end.reason.startswith("did not finish") else "crash"
            return replace(blank(task, case, outputs, f"{end.stage or 'start'}: {end.reason}"), states=dict(task.skip))
        skip = {**task.skip, end.stage: end.reason}
        if end.stage == "inductor" and end.reason.startswith("did not finish"):
            skip |= {n: "not tried: Inductor did not finish" for n in task.settings.against if n == "max-autotune"}
        task = replace(task, skip=skip)


def attempt(task: Task, status: Any) -> End:
    """Start the row's process and listen to it; a stage that takes longer than its limit ends it."""
    with tempfile.TemporaryFile("w+") as log, child(task, log) as process:
        lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=_listen, args=(process.stdout, lines), daemon=True).start()
        stage, limit = "", task.settings.limit
        deadline = time.monotonic() + limit
        while True:
            ended = process.poll() is not None  # asked first: what it said last may still be on its way
            line: str | None = None
            try:
                line = lines.get(timeout=POLL)
            except queue.Empty:
                line = "" if ended else None
            if line is None:
                if time.monotonic() > deadline:
                    return End(stage, f"did not finish in {limit:.0f} s")
                continue
            if not line:
                return End(stage, f"ended with {_code(process.wait())}: {_tail(log)}")
            said = json.loads(line)
            if "result" in said:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(GRACE)
                return End(stage, result=Result.from_json(said["result"]))
            stage = said["stage"]
            limit = task.settings.limit + (TIMING_FACTOR * task.settings.seconds if stage == TIMING else 0)
            deadline = time.monotonic() + limit
            status(stage)


def _listen(stream: IO[str], lines: queue.SimpleQueue[str]) -> None:
    with stream:
        for line in stream:
            lines.put(line)
    lines.put("")


def command(task: Task) -> list[str]:
    return [sys.executable, str(HERE / "child.py"), json.dumps(task.to_json())]


@contextmanager
def child(task: Task, log: IO[str]) -> Iterator[Any]:
    """The row's process, in a session of its own that ends with the block."""
    environment = {**os.environ, **ALLOCATION[task.allocation], "OMP_NUM_THREADS": str(task.threads)}
    process = subprocess.Popen(command(task), stdout=subprocess.PIPE, stderr=log, text=True, env=environment,
                               start_new_session=True)  # fmt: skip
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # Inductor's compile workers too
        process.wait()


def _code(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"code {code}"


def _tail(log: IO[str]) -> str:
    log.seek(0)
    lines = log.read().strip().splitlines()
    return lines[-1][:300] if lines else "it said nothing"


# --------------------------------------------------------------------------------------------------- the command
def _list(known: Mapping[str, Any] | Sequence[str], what: str) -> Any:
    def read(text: str) -> list[str]:
        words = list(dict.fromkeys(w.strip() for w in text.split(",") if w.strip()))
        unknown = [w for w in words if w not in known]
        if unknown or not words:
            raise UsageError(f"no {what} named {(unknown or [text])[0]!r}; known: {', '.join(known)}",
                             hint="several are separated by commas")  # fmt: skip
        return words

    return read


def _threads(text: str) -> list[int]:
    words = [w.strip() for w in text.split(",")]
    if not all(w.isdigit() and int(w) for w in words):
        raise UsageError(f"--threads {text!r} is no list of positive numbers", hint="for example --threads 1,2")
    return list(dict.fromkeys(map(int, words)))


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise UsageError(f"{text!r} is no positive number of seconds", hint="for example --seconds 5")
    return value


def parser() -> Parser:
    p = Parser("suite.py", description="The suite against all baselines, interleaved, with intervals and the roofline floor.",
               epilog="exit codes: 0 done, 1 an output was wrong or a row failed, 2 could not run, 130 interrupted",
               allow_abbrev=False)  # fmt: skip
    p.add_argument("--rows", default="", metavar="LIST", help="sets, rows, patterns, numbers of the headline (default: "
                   "headline,table,robust,models)")  # fmt: skip
    p.add_argument("--list", action="store_true", help="show the rows and end")
    p.add_argument("--dtype", type=_list(DTYPES, "dtype"), default=["fp32"], metavar="LIST", help="fp32, bf16")
    p.add_argument("--threads", type=_threads, default=[1], metavar="LIST", help="of every contender (default: 1)")
    p.add_argument("--backward", nargs="?", const="all", default="listed", choices=PASSES,
                   help="`all`: forward, and forward and backward, of all rows that have gradients (the bare option); `only`: "
                   "the latter; `none`: the former; `listed`: what a row's table has (default)")  # fmt: skip
    p.add_argument("--allocation", type=_list(ALLOCATION, "allocation"), default=[DEFAULT], metavar="LIST",
                   help="default: glibc's; kept: freed blocks stay in the process; huge: in huge pages; "
                        "own: only our kernels' outputs are (default: default)")  # fmt: skip
    p.add_argument("--against", type=_list(KNOWN, "baseline"), default=list(KNOWN), metavar="LIST", help="default: all")
    p.add_argument("--via", choices=("decorator", "compile"), default="decorator", help="how a model is accelerated")
    p.add_argument("--seconds", type=_positive, default=5.0, metavar="S", help="of each interleaved timing (default: 5)")
    p.add_argument("--limit", type=_positive, default=600.0, metavar="S", help="for a contender's first results (default: 600)")
    p.add_argument("--out", metavar="FILE.json", help="default: benchmarks/results/<date>.json")
    p.add_argument("--resume", action="store_true", help="keep the finished rows of --out and go on after them")
    p.add_argument("--replace", action="store_true", help="begin --out anew")
    p.add_argument("--plots", action="store_true", help="write plots too (needs matplotlib: the extra `plots`)")
    return p


def parse(words: Sequence[str]) -> Any:
    p = parser()
    args, extra = p.parse_known_args(list(words))
    if extra:
        p.unknown(extra)
    args.out = args.out or str(HERE / "results" / f"{time.strftime('%Y-%m-%d')}.json")
    if not args.out.endswith(".json"):
        raise UsageError(f"--out {args.out} does not end in .json", hint="the table and the plots are named after it")
    if Path(args.out).exists() and not (args.resume or args.replace or args.list):
        hint = "--resume goes on with it, --replace begins anew, --out names another"
        raise UsageError(f"{args.out} is there already", hint=hint)
    return args


def suite(args: Any, progress: Progress) -> bool:
    """Runs what the file does not hold yet; whether all of its rows are right."""
    settings = Settings(tuple(args.against), args.via, args.seconds, args.limit)
    tasks = plan(args, settings)
    if not tasks:
        raise UsageError("nothing to run: none of these rows has such a dtype or pass", hint="--list shows what each row has")
    if args.plots:
        tables.need_matplotlib()
    book: Book[Settings, Result] = Book(args.out, settings, Result, summary, args.resume)
    book.machine["commit"] = _commit()
    for number, task in enumerate(tasks, 1):
        if book.holds(task.key, find(task.row).digest):
            continue
        mark = f"[{number}/{len(tasks)}] {task.row} {task.dtype} {task.direction} {task.threads}t {task.allocation}"
        task = replace(task, skip=known_failures(task, book.rows))
        result = book.add(run_row(task, lambda stage, mark=mark: progress.status(f"{mark}: {stage}")))
        progress.line(f"{mark}: {told(result)}")
        tables.write(book.data(), book.rows, Path(args.out))
    tables.write(book.data(), book.rows, Path(args.out))
    if args.plots:
        tables.plots(book.rows, Path(args.out))
    return all(r.ok for r in book.rows)


def told(result: Result) -> str:
    ratio = best(result)
    if ratio is None:
        return f"{result.outputs}: {result.reason or 'no baseline was timed'}"
    return f"{result.outputs}, {tables.interval(ratio)}x the best baseline, {result.floor[0]:.2f}x the floor"


def _commit() -> str:
    found = subprocess.run(["git", "-C", str(HERE), "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return found.stdout.strip()


def main(words: Sequence[str]) -> int:
    progress = Progress(sys.stderr)
    try:
        args = parse(words)
        if args.list:
            print(tables.listing(choose(args.rows)))
            return DONE
        right = suite(args, progress)
    except SystemExit as stop:  # argparse, after --help
        return int(stop.code or 0)
    except AutoKernelError as error:
        progress.line(f"error: {error}")
        return COULD_NOT_RUN
    except KeyboardInterrupt:
        progress.line("interrupted; what is finished is kept: the same command with --resume goes on from there")
        return INTERRUPTED
    print(Path(args.out).with_suffix(".md").read_text())
    return DONE if right else NOT_SO


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
