"""Many compilations through one ninja run: as many at once as there are processors, and none stops another."""

from __future__ import annotations

import logging
import shlex
import shutil
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch_autokernel.core import deadline
from torch_autokernel.core.errors import ToolchainError
from torch_autokernel.lang.compiler import environment
from torch_autokernel.machine.cpu import threads

log = logging.getLogger(__name__)

SECONDS = 60  # of processor time for one compiler; a busy machine does not count against a candidate
PATIENCE = 10  # times as long by the clock, and it is stopped all the same
MEMORY_KIB = 4 << 20  # address space of one compiler
OUTPUT_BLOCKS = 64 << 11  # of 512 bytes, written by one compiler
MOST_LOG = 20_000
LEAST_FREE = 1 << 20  # bytes; with less, a failure is the disk's
TIMED_OUT = (124, 137, 128 + signal.SIGXCPU)


@dataclass(frozen=True)
class Job:
    """One command that writes `output`; beside it lie `<output>.log` and `<output>.code`."""

    command: tuple[str, ...]
    output: Path


@dataclass(frozen=True)
class Result:
    code: int
    log: str
    seconds: float


def run(jobs: Sequence[Job], folder: Path, first: Sequence[Job] = (), seconds: int = SECONDS) -> list[Result]:
    """The results of `jobs`, in order; `first` are done before any of them. A command that fails is a result, and so is one
    that the deadline (`core/deadline.py`) ends."""
    file = folder / "build.ninja"
    file.write_text(_build_file(jobs, first, seconds))
    command = [_ninja(), "-C", str(folder), "-f", file.name, "-k", "0", "-j", str(max(1, min(threads(), len(jobs))))]
    code, said = _run(command, environment() | {"TMPDIR": str(folder)})
    if code:
        if shutil.disk_usage(folder).free < LEAST_FREE:
            raise ToolchainError(f"the disk of {folder} is full", "free some space, or set TORCH_AUTOKERNEL_CACHE_DIR")
        raise ToolchainError(f"ninja failed: {said.strip()[-300:]}", f"look at {file}")
    took = _seconds(folder / ".ninja_log")
    return [_result(j, took.get(_code_file(j).name, 0.0), seconds) for j in (*first, *jobs)][len(first) :]


def _run(command: list[str], env: dict[str, str]) -> tuple[int, str]:
    """Exit code and output; 0 and nothing where the deadline came first. Whatever interrupts the wait, ninja is asked to end,
    and ends its compilers."""
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)
    except OSError as error:
        raise ToolchainError(f"ninja cannot be run: {error}", "pip install ninja") from error
    try:
        said, _ = process.communicate(timeout=deadline.left())
    except subprocess.TimeoutExpired:
        process.terminate()
        process.communicate()
        return 0, ""
    except BaseException:
        process.terminate()
        process.communicate()
        raise
    return process.returncode, said


def _ninja() -> str:
    try:
        import ninja

        path = Path(ninja.BIN_DIR) / "ninja"
        if path.exists():
            return str(path)
    except ImportError:
        pass
    if found := shutil.which("ninja"):
        return found
    raise ToolchainError("ninja is not installed", "pip install ninja")


def has_ninja() -> str | None:
    """Why there is no ninja, or None."""
    try:
        _ninja()
    except ToolchainError as error:
        return f"{error.message}; {error.hint}"
    return None


def _code_file(job: Job) -> Path:
    return job.output.with_name(job.output.name + ".code")


def _log_file(job: Job) -> Path:
    return job.output.with_name(job.output.name + ".log")


def _build_file(jobs: Sequence[Job], first: Sequence[Job], seconds: int) -> str:
    """Each command's exit code goes to a file, so that ninja sees only successes and times all of them."""
    lines = ["ninja_required_version = 1.5", "rule run", "  command = $line", ""]
    limits = f"ulimit -c 0; ulimit -v {MEMORY_KIB}; ulimit -f {OUTPUT_BLOCKS}"
    limits += f"; ulimit -S -t {seconds}; ulimit -H -t {seconds + 1}"  # a hard limit below the soft one is refused
    before = "".join(f" {_path(_code_file(j))}" for j in first)
    for job in (*first, *jobs):
        # in the foreground: one process group for all, so that ninja can end it
        command = f"timeout --foreground -k 2 {PATIENCE * seconds} {shlex.join(job.command)}"
        line = f"{limits}; {command} >{_quoted(_log_file(job))} 2>&1 </dev/null; echo $? >{_quoted(_code_file(job))}"
        lines.append(f"build {_path(_code_file(job))}: run{' ||' + before if job in jobs and before else ''}")
        lines.append(f"  line = {line.replace('$', '$$')}\n")
    return "\n".join(lines)


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))


def _path(path: Path) -> str:
    """A path as ninja reads it: names in the batch's folder stand alone."""
    return path.name.replace("$", "$$").replace(" ", "$ ").replace(":", "$:")


def _seconds(ninja_log: Path) -> dict[str, float]:
    try:
        rows = [line.split("\t") for line in ninja_log.read_text().splitlines() if not line.startswith("#")]
    except OSError:
        return {}
    return {row[3]: (int(row[1]) - int(row[0])) / 1e3 for row in rows if len(row) >= 4}


def _result(job: Job, took: float, seconds: int) -> Result:
    try:
        code = int(_code_file(job).read_text())
        text = _log_file(job).read_text(errors="replace")
    except (OSError, ValueError) as error:
        if deadline.left() == 0:
            return Result(-1, deadline.ENDED, took)
        return Result(-1, f"the compilation left no result: {error}", took)
    if code in TIMED_OUT or (code and "CPU time limit exceeded" in text):
        text = f"the compiler was stopped after {seconds} s\n{text}"
    return Result(code, text if len(text) <= MOST_LOG else text[:MOST_LOG] + "\n...", took)
