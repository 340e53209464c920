"""Builds of a candidate that watch what it does: AddressSanitizer with UndefinedBehaviorSanitizer, and the race check's.

The same text, compiled again with instrumentation and debug information, and run on cases in a worker of its own. The race
check is GCC's ThreadSanitizer instrumentation over a run time of our own (`races.cpp`).
"""

from __future__ import annotations

import atexit
import functools
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch_autokernel.core.types import Artifact, Finding, Region, Status
from torch_autokernel.lang import gate, prototype
from torch_autokernel.lang.compiler import INCLUDE, Compiler, environment, find_compiler
from torch_autokernel.machine.worker import Limits, Outcome, Pool
from torch_autokernel.verify.bank import Prepared
from torch_autokernel.verify.runner import WorkerRunner

RACES = Path(__file__).with_name("races.cpp")
COMMON = ("-O1", "-g", "-march=native", "-std=c++17", "-fno-math-errno", "-ffp-contract=fast", "-fPIC", "-fvisibility=hidden")
ADDRESSES = (
    "-fopenmp", "-shared", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer",
)  # fmt: skip
COMPILE_SECONDS = {"full": 120, "standard": 20}
MOST_BYTES = 1 << 18  # of a case that is run
CASES = {"full": 8, "standard": 4}
RACE_SECONDS = 1.0  # at level `standard`, for all cases together and for one
OPTIONS = "detect_leaks=0:symbolize=0:handle_segv=0:handle_sigbus=0:handle_abort=0:handle_sigill=0:handle_sigfpe=0:exitcode=77"


@dataclass(frozen=True)
class Built:
    """An instrumented object, or no path and the reason for none. `missing` says that the toolchain lacks something."""

    path: str = ""
    reason: str = ""
    missing: bool = False


def missing(library: str) -> str:
    """Why a sanitizer's run time cannot be used here, or nothing."""
    found = find_compiler()
    if isinstance(found, str):
        return found
    return "" if run_time(library) else f"the compiler has no {library}; install its sanitizers (Debian: libgcc-12-dev)"


@functools.lru_cache(maxsize=8)
def run_time(library: str) -> str:
    """Where the compiler's library lies; empty where there is none."""
    found = find_compiler()
    if isinstance(found, str):
        return ""
    said = subprocess.run(
        [*found.command, f"-print-file-name={library}"], capture_output=True, text=True, env=environment(), timeout=30
    ).stdout.strip()
    path = Path(said)
    return str(path.resolve()) if path.is_absolute() and path.exists() else ""


def build(region: Region, artifact: Artifact, folder: Path, kind: str, level: str = "full") -> Built:
    """The candidate's text compiled with instrumentation: `kind` is `addresses`, `races` or `plain`, without any."""
    found, source = find_compiler(), artifact.candidate.source
    if isinstance(found, str):
        return Built(reason=found, missing=True)
    if source.language != "cpp":
        return Built(reason=f"there is no such build for {source.language!r}", missing=True)
    if refused := gate.findings(source.text):
        return Built(reason=f"the text is not one that may be compiled again: {refused[0]}", missing=True)
    kernel, entry = folder / "kernel.cpp", folder / "entry.cpp"
    kernel.write_text(source.text)
    entry.write_text(prototype.entry_text(region.signature, bool(artifact.launch.get("workspace", 0))))
    target = folder / f"{kind}.so"
    steps = _steps(found, kind, target)
    seconds = COMPILE_SECONDS.get(level, 20)
    for step in steps:
        try:
            done = subprocess.run([*found.command, *step], cwd=folder, capture_output=True, text=True, env=environment(),
                                  timeout=seconds)  # fmt: skip
        except subprocess.TimeoutExpired:
            return Built(reason=f"the build takes more than {seconds} s", missing=True)
        if done.returncode:
            if unknown := re.findall(r"undefined reference to `(\w+)'", done.stderr):
                names = ", ".join(dict.fromkeys(unknown))
                return Built(reason=f"it uses {names}, which the check does not follow", missing=True)
            return Built(reason=f"the build failed: {_first_error(done.stderr)}", missing=True)
    return Built(str(target))


def _steps(compiler: Compiler, kind: str, target: Path) -> list[tuple[str, ...]]:
    include = ("-I", str(INCLUDE))
    if kind == "plain":
        return [(*COMMON, "-fopenmp", "-shared", *include, "kernel.cpp", "entry.cpp", "-lm", "-o", target.name)]
    if kind == "addresses":
        return [(*COMMON, *ADDRESSES, *include, "kernel.cpp", "entry.cpp", "-lm", "-o", target.name)]
    return [
        (*COMMON, "-fopenmp", "-fsanitize=thread", *include, "-c", "kernel.cpp", "-o", "kernel.o"),
        (*COMMON, "-c", "entry.cpp", "-o", "entry.o"),
        ("-shared", "-Wl,-z,defs", "-Wl,-Bsymbolic", "kernel.o", "entry.o", run_time_of_races(), "-lm", "-o",
         target.name),
    ]


@functools.lru_cache(maxsize=1)
def run_time_of_races() -> str:
    """`races.cpp`, compiled once for a process."""
    found = find_compiler()
    assert not isinstance(found, str)
    folder = tempfile.mkdtemp(prefix="autokernel-races-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    flags = ("-O1", "-g", "-std=c++17", "-fPIC", "-fno-builtin", "-fno-tree-loop-distribute-patterns")
    target = str(Path(folder) / "races.o")
    subprocess.run([*found.command, *flags, "-c", str(RACES), "-o", target], check=True, capture_output=True, env=environment(),
                   timeout=COMPILE_SECONDS["full"])  # fmt: skip
    return target


def _first_error(text: str) -> str:
    lines = [line for line in text.splitlines() if "error" in line] or text.splitlines() or ["no message"]
    return lines[0][:300]


def watch(trial: Any, kind: str, env: dict[str, str]) -> Finding | None:
    """The first finding against the instrumented build on small cases, or None; SKIP where there is no build. A call that takes
    too long on fibers, which wait for nobody, is no finding; without any that comes back it is a SKIP."""
    name = "sanitizers" if kind == "addresses" else "races"
    brief = kind == "races" and trial.bank.level == "standard"
    with tempfile.TemporaryDirectory(prefix="autokernel-watch-") as text:
        folder = Path(text)
        folder.chmod(0o755)
        built = build(trial.region, trial.artifact, folder, kind, trial.bank.level)
        if not built.path:
            return Finding(name, Status.SKIP, built.reason)
        with Pool(Limits(seconds=RACE_SECONDS if brief else 30.0, threads=2), environment=env) as pool:
            artifact = Artifact(trial.artifact.candidate, built.path, "", "ak_entry", trial.artifact.launch)
            runner = WorkerRunner(pool, trial.region, artifact, trial.bank.seed)
            cases = list(small(trial))
            start, done = time.monotonic(), 0
            try:
                for prepared, edge in cases:
                    if brief and time.monotonic() - start > RACE_SECONDS:
                        break
                    outcome = runner.run(prepared, edge).outcome
                    done += outcome.ok
                    if kind == "races" and outcome.kind == "timeout":
                        break
                    if not outcome.ok:
                        reason, where = told(outcome, built.path)
                        evidence = {"case": prepared.case.to_json(), "source": where, "log": _shown(outcome.log)}
                        return Finding(name, Status.FAIL, reason + (f", at {where}" if where else ""), evidence)
            finally:
                runner.close()
    return None if done else Finding(name, Status.SKIP, "no call of 256 KB at most comes back in time where it is watched")


def crash_line(region: Region, artifact: Artifact, prepared: Prepared, seed: int) -> str:
    """The source line where a build with debug information crashes on the case; empty where it does not, or nothing tells."""
    with tempfile.TemporaryDirectory(prefix="autokernel-watch-") as text:
        folder = Path(text)
        folder.chmod(0o755)
        built = build(region, artifact, folder, "plain")
        if not built.path:
            return ""
        again = Artifact(artifact.candidate, built.path, "", "ak_entry", artifact.launch)
        with Pool(Limits(seconds=10.0)) as pool:
            runner = WorkerRunner(pool, region, again, seed)
            try:
                outcomes = [runner.run(prepared, edge).outcome for edge in ("end", "start")]
            finally:
                runner.close()
        return next((where for o in outcomes if not o.ok and (where := told(o, built.path)[1])), "")


def small(trial: Any) -> Iterator[tuple[Prepared, str]]:
    """Small cases, the smallest first, special ones among them, at both edges of their pages in turn."""
    cases = sorted((p for p in trial.cases if p.nbytes <= MOST_BYTES), key=lambda p: -p.nbytes)
    step = max(1, len(cases) // CASES.get(trial.bank.level, 4))
    for number, prepared in enumerate(reversed(cases[::step])):
        yield prepared, ("end", "start")[number % 2]


def told(outcome: Outcome, path: str) -> tuple[str, str]:
    """What a sanitizer's report, or the end of the worker, says; and the source line."""
    log = outcome.log.decode(errors="replace")
    if found := re.search(r"^race (\w+) (0x\w+) (\w+) (0x\w+)", log, re.MULTILINE):
        lines = [line_of(path, int(found[k], 16)) for k in (2, 4)]
        return f"two threads race: {found[1]} at {lines[0]} and {found[3]} at {lines[1]} without a barrier between", lines[0]
    if found := re.search(r"^(\S+?:\d+):\d+: runtime error: (.*)$", log, re.MULTILINE):
        return f"undefined behaviour: {found[2]}", Path(found[1]).name
    if found := re.search(r"AddressSanitizer: ([\w-]+).*?(?:\n(READ|WRITE) of size (\d+).*?)?$", log, re.MULTILINE):
        size = re.search(r"^(READ|WRITE) of size (\d+)", log, re.MULTILINE)
        what = f"{size[1].lower()} of {size[2]} bytes that are not the kernel's" if size else found[1]
        frames = re.findall(re.escape(path) + r"\+(0x[0-9a-f]+)", log)
        return what, next((w for f in frames if (w := line_of(path, int(f, 16))).startswith("kernel.cpp")), "")
    where = ""
    if outcome.fault is not None and outcome.fault.code:
        from torch_autokernel.lang.elf import read_elf

        where = line_of(path, read_elf(Path(path).read_bytes()).value("ak_entry") + outcome.fault.code)
    return f"{outcome.kind}: {outcome.reason}", where


def line_of(path: str, offset: int) -> str:
    """`kernel.cpp:12` for an address in an object that has debug information; empty where nothing tells."""
    try:
        command = ["addr2line", "-e", path, f"{offset:#x}"]
        said = subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""
    file, _, line = said.partition(" ")[0].rpartition(":")
    return f"{Path(file).name}:{line}" if file and not file.startswith("?") else ""


def _shown(log: bytes) -> str:
    return log.decode(errors="replace")[:2000]
