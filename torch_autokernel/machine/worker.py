"""Isolated processes that run foreign compiled code, and what came of it.

    with Pool(Limits(seconds=2)) as pool, pool.open("k.so", "ak_entry") as session:
        outcome = session.run(Job(buffers=(Buffer(b"..."), ...), sizes=(4,)))

The parent lays out every buffer in shared memory, fills what surrounds it with a canary, and reads everything back itself: the
worker's answer says no more than that the call returned. Guard pages stand on both sides of each buffer. `Job.edge` says
whether buffers end at the upper guard or begin at the lower one.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch_autokernel.core.errors import WorkerError
from torch_autokernel.machine.sandbox import LAYERS, SYSTEM_READ
from torch_autokernel.machine.worker_memory import GUARD_BYTES, PAGE, Job, Memory, Place, Stray, fill, lay_out, strays

log = logging.getLogger(__name__)

_START_SECONDS = 20.0
PATIENCE, BUSY = 8, 0.6  # a timeout is one where the worker had this share of it as processor time, or after so many times it


@dataclass(frozen=True)
class Limits:
    """`seconds` is the wall time of one command. `cpu_seconds` covers a worker's life and all its threads;
    `memory_bytes` its buffers and whatever it maps. `threads` is what OpenMP is told to use where a job says nothing."""

    seconds: float = 10.0
    cpu_seconds: int = 600
    memory_bytes: int = 4 << 30
    open_files: int = 64
    threads: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))


@dataclass(frozen=True)
class Fault:
    """Where a worker died of a bad access. `buffer` is -1 where no buffer is near; `offset` as in Stray. `sealed` says that it
    was a write to what `Session.seal` protects. `code` is the program counter, relative to the entry."""

    signal: str
    address: int
    access: str = ""
    buffer: int = -1
    offset: int = 0
    sealed: bool = False
    code: int = 0


@dataclass(frozen=True)
class Outcome:
    """`kind`: `ok`, `signal`, `forbidden` (system call), `timeout`, `memory`, `exit` (ended without an answer), `load` (not
    loadable) or `garbled` (the answer was none). `contents` are all buffers after the call, the workspace last.
    `control` is the floating-point control state that the call left, over all threads: MXCSR (any, all), x87 (any, all)."""

    kind: str
    reason: str = ""
    contents: tuple[bytearray, ...] = ()
    strays: tuple[Stray, ...] = ()
    fault: Fault | None = None
    inside_ns: tuple[int, ...] = ()
    outside_ns: int = 0
    log: bytes = b""
    control: tuple[int, ...] = ()

    @property
    def ok(self) -> bool:
        return self.kind == "ok"

    @property
    def signature(self) -> str:
        """What two crashes have in common that are one: the kind, and where the code was. Empty for a call that came back."""
        where = f"{self.fault.signal} at entry{self.fault.code:+#x}" if self.fault else self.reason
        return "" if self.ok else f"{self.kind}: {where}"


# --------------------------------------------------------------------------------------------- one worker
class Session:
    """One worker with one loaded object. Not for use from two threads at once. After a failed command it is dead."""

    def __init__(self, pool: Pool, ident: int, command: socket.socket, memory: Memory, status: int, log_pipe: int) -> None:
        self._pool = pool
        self._ident = ident
        self._command = command
        self._memory = memory
        self._status = status
        self._log = log_pipe
        self._turn = 0
        self.layers: dict[str, str] = {}
        self.pid = 0
        self.alive = True
        self.loaded: Outcome | None = None
        self._sealed: list[tuple[int, int]] = []
        self._entry = 0

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def load(self, path: str | Path, entry: str) -> Outcome:
        """Load the object; its constructors run here, so this can crash or hang as a call can."""
        request = {"do": "load", "path": str(path), "entry": entry}
        answer, self.loaded = self._ask(request, self._pool.limits.seconds)
        self._entry = int(answer.get("entry", 0))
        return self.loaded

    def seal(self, ranges: Sequence[tuple[int, int]]) -> Outcome:
        """Make memory read-only from now on: (start relative to the entry, bytes), widened to whole pages."""
        answer, outcome = self._ask({"do": "seal", "ranges": list(ranges)}, self._pool.limits.seconds)
        self._sealed = [(int(a), int(b)) for a, b in answer.get("sealed", ())]
        return outcome

    def run(self, job: Job, seconds: float | None = None) -> Outcome:
        """One call."""
        return self.bench((job,), calls=1, seconds=seconds)

    def bench(
        self, jobs: Sequence[Job], calls: int, samples: int = 1, warmup: int = 0, seconds: float | None = None
    ) -> Outcome:
        """`samples` times `calls` calls that go round the jobs; contents, canaries are those of the first job, afterwards.

        `inside_ns` holds the worker's time of each sample, a claim; `outside_ns` is the parent's time around the whole.
        """
        if not self.alive or self.loaded is None or not self.loaded.ok:
            raise WorkerError("the session is dead or has loaded nothing", hint="open another session")
        layout = lay_out(jobs)
        self._memory.grow(layout[-1][-1].start + layout[-1][-1].length if layout[-1] else PAGE)
        for job, places in zip(jobs, layout, strict=True):
            fill(self._memory.map, job, places)
        answer, outcome = self._ask(self._request(jobs, layout, calls, samples, warmup), seconds or self._pool.limits.seconds)
        if outcome.kind == "signal":
            return dataclasses.replace(outcome, fault=self._fault(outcome, layout))
        if not outcome.ok:
            return outcome
        spans = answer.get("ns")
        if not isinstance(spans, list) or len(spans) != samples or not all(isinstance(n, int) for n in spans):
            return self._die("garbled", "the worker's answer is not of its form")
        memory, places = self._memory.map, layout[0]
        contents = tuple(bytearray(memory[p.start + p.offset : p.start + p.offset + p.data_bytes]) for p in places)
        return dataclasses.replace(outcome, contents=contents, strays=strays(memory, places, jobs[0].canary),
                                   inside_ns=tuple(spans), control=_integers(answer.get("control")))  # fmt: skip

    def _request(
        self, jobs: Sequence[Job], layout: list[list[Place]], calls: int, samples: int, warmup: int
    ) -> dict[str, Any]:
        extents: list[tuple[int, int]] = []
        described = []
        for job, places in zip(jobs, layout, strict=True):
            marks = [(len(extents) + i, p.offset) for i, p in enumerate(places)]
            extents += [(p.start, p.length) for p in places]
            workspace = marks.pop() if job.workspace is not None else None
            sizes_bytes = [p.data_bytes for p in places]
            described.append({"buffers": marks, "sizes": job.sizes, "workspace": workspace, "bytes": sizes_bytes})
        threads = jobs[0].threads or self._pool.limits.threads
        return {"do": "run", "extents": extents, "jobs": described, "guard": GUARD_BYTES, "threads": threads,
                "control": jobs[0].control, "stack": jobs[0].stack, "readonly": jobs[0].readonly,
                "calls": calls, "samples": samples, "warmup": warmup}  # fmt: skip

    def _ask(self, request: dict[str, Any], seconds: float) -> tuple[dict[str, Any], Outcome]:
        """The worker's answer and what became of the command."""
        self._turn += 1
        start = time.perf_counter_ns()
        try:
            self._command.settimeout(seconds)
            self._command.send(json.dumps({**request, "turn": self._turn}).encode())
            message = self._answer(seconds, min(2, request.get("threads", 1)))
        except TimeoutError:
            return {}, self._die("timeout", f"no answer within {seconds:g} s")
        except OSError:
            message = b""
        spent = time.perf_counter_ns() - start
        if not message:
            return {}, self._die("", "")
        try:
            answer = json.loads(message)
            problem, turn = answer.get("error"), answer.get("turn")
        except (ValueError, AttributeError):
            return {}, self._die("garbled", "the worker's answer is not JSON")
        if turn != self._turn:
            return {}, self._die("garbled", "the worker answered what it was not asked")
        if problem:
            reason = str(answer.get("reason", "")) or "out of memory under the limit"
            return {}, self._die("load" if problem == "load" else "memory", reason)
        return answer, Outcome("ok", outside_ns=spent, log=self._read_log())

    def _answer(self, seconds: float, threads: int) -> bytes:
        """The next message; raises TimeoutError. A worker that has not had the processor for most of its time, as on a busy
        machine whose other processes keep its threads waiting for each other, gets more, up to `PATIENCE` times as much.
        Threads that wait spin for a while, so a team counts as busy only with twice the processor time."""
        began = self._cpu_seconds()
        for turn in range(1, PATIENCE + 1):
            try:
                return self._command.recv(1 << 20)
            except TimeoutError:
                if turn == PATIENCE or self._cpu_seconds() - began > BUSY * seconds * threads:
                    raise
        raise TimeoutError

    def _cpu_seconds(self) -> float:
        """Processor time of all the worker's threads so far."""
        try:
            with open(f"/proc/{self.pid}/stat") as f:
                fields = f.read().rpartition(")")[2].split()
        except OSError:
            return math.inf
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _die(self, kind: str, reason: str) -> Outcome:
        """End the worker; the outcome says why it ended (from its exit status where no kind is given)."""
        self.alive = False
        if kind:
            self._pool._kill(self._ident)
        code = self._end(5.0 if kind else 1.0)
        if not kind:
            self._pool._kill(self._ident)
            kind, reason = _triage(code)
        return Outcome(kind, reason, log=self._read_log())

    def _end(self, seconds: float) -> int | None:
        """The worker's exit code (negative: signal) as the zygote tells it; None for a worker that has not ended."""
        ready, _, _ = select.select([self._status], [], [], seconds)
        if not ready:
            return None
        line = os.read(self._status, 4096)
        if not line:
            raise WorkerError("the zygote ended, and its workers with it", hint="was it killed? look at the kernel's log")
        return int(json.loads(line)["code"])

    def _read_log(self) -> bytes:
        """What the worker printed since the last look; the pipe's size bounds it."""
        try:
            return os.read(self._log, 1 << 16)
        except OSError:
            return b""

    def _fault(self, outcome: Outcome, layout: list[list[Place]]) -> Fault | None:
        number, address, counter, code, base = struct.unpack("5Q", self._memory.map[:40])
        if not number:
            return None
        access = ("write" if code & 2 else "read") if number == signal.SIGSEGV else ""
        name = signal.Signals(number).name if number in {int(s) for s in signal.Signals} else str(number)
        counter -= self._entry
        if any(low <= address < high for low, high in self._sealed):
            return Fault(name, address, access, sealed=True, code=counter)
        at, index = base + GUARD_BYTES, 0
        for places in layout:
            for place in places:
                if at - GUARD_BYTES // 2 <= address < at + place.length + GUARD_BYTES // 2:
                    return Fault(name, address, access, index, address - at - place.offset, code=counter)
                at += place.length + GUARD_BYTES
                index += 1
        return Fault(name, address, access, code=counter)

    def close(self) -> None:
        """End the worker; its descriptors are gone afterwards."""
        if self._command.fileno() < 0:
            return
        self.alive = False
        self._pool._kill(self._ident)
        self._command.close()
        self._memory.close()
        for fd in (self._status, self._log):
            os.close(fd)


def _integers(value: Any) -> tuple[int, ...]:
    return tuple(int(v) for v in value) if isinstance(value, list) and all(isinstance(v, int) for v in value) else ()


def _triage(code: int | None) -> tuple[str, str]:
    """Kind and reason for a worker that ended by itself."""
    if code is None:
        return "garbled", "the worker closed its channel and went on"
    if code >= 0:
        return "exit", f"the process ended with code {code} without an answer"
    name = signal.Signals(-code).name
    if -code == signal.SIGSYS:
        return "forbidden", "killed for a forbidden system call"
    if -code == signal.SIGXCPU:
        return "timeout", "CPU time used up"
    if -code == signal.SIGKILL:
        return "memory", "killed from outside, most likely for lack of memory"
    return "signal", f"killed by {name}"


# --------------------------------------------------------------------------------------------- the pool
class Pool:
    """Opens sessions through one zygote, which is started on first use. Usable from several threads. `leave_out` names layers
    of the sandbox to do without, as on a machine that refuses them. `environment` is added to the zygote's (`LD_PRELOAD` for a
    sanitizer's run time)."""

    def __init__(
        self, limits: Limits | None = None, leave_out: Sequence[str] = (), environment: Mapping[str, str] | None = None
    ) -> None:
        self.limits = limits or Limits()
        self.leave_out = tuple(leave_out)
        self.environment = dict(environment or {})
        self._lock = threading.Lock()
        self._zygote: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._next = 0
        self._layers: dict[str, str] | None = None

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self, artifact_path: str | Path, entry: str) -> Session:
        """A worker that has loaded the object, or that died trying (`session.loaded`). Raises WorkerError where no worker can
        be had, after one retry with a fresh zygote."""
        path = Path(artifact_path).resolve()
        try:
            session = self._session(path)
        except (WorkerError, OSError) as error:
            log.warning("starting the zygote again: %s", error)
            self.close()
            session = self._session(path)
        session.load(path, entry)
        return session

    def layers(self) -> dict[str, str]:
        """Which layers of the sandbox hold on this machine: `on`, or why not."""
        if self._layers is None:
            self._session(Path("/dev/null")).close()
        return dict(self._layers or dict.fromkeys(LAYERS, "unknown"))

    def close(self) -> None:
        """End the zygote and with it every worker."""
        with self._lock:
            if self._control is not None:
                self._control.close()
                self._control = None
            if self._zygote is not None:
                try:
                    self._zygote.wait(5)
                except subprocess.TimeoutExpired:
                    self._zygote.kill()
                    self._zygote.wait()
                self._zygote = None

    def _session(self, path: Path) -> Session:
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        memory = Memory()
        status, status_write = os.pipe2(os.O_CLOEXEC)
        log_pipe, log_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            with self._lock:
                ident = self._next = self._next + 1
                request = {"fork": ident, "policy": self._policy(path)}
                fds = [theirs.fileno(), memory.fd, status_write, log_write]
                socket.send_fds(self._start(), [json.dumps(request).encode()], fds)
        except OSError as error:
            for fd in (status, log_pipe):
                os.close(fd)
            mine.close()
            memory.close()
            raise WorkerError(f"the zygote does not answer: {error}") from None
        finally:
            theirs.close()
            os.close(status_write)
            os.close(log_write)
        session = Session(self, ident, mine, memory, status, log_pipe)
        try:
            mine.settimeout(_START_SECONDS)
            hello = json.loads(mine.recv(1 << 16))
            session.layers, session.pid = hello["ready"], int(hello["pid"])
        except (OSError, ValueError, KeyError) as error:
            trace = session._read_log().decode(errors="replace")
            session.close()
            raise WorkerError(f"a worker did not start: {error} {trace}".strip()) from None
        self._layers = session.layers
        return session

    def _policy(self, path: Path) -> dict[str, Any]:
        libraries = [os.path.join(prefix, "lib") for prefix in dict.fromkeys((sys.prefix, sys.base_prefix))]
        libraries += [p for p in os.environ.get("LD_LIBRARY_PATH", "").split(":") if p]
        stacks = self.limits.threads << 25
        return {"read": [*SYSTEM_READ, *libraries, str(path)], "leave_out": self.leave_out,
                "memory_bytes": self.limits.memory_bytes + stacks, "cpu_seconds": self.limits.cpu_seconds,
                "open_files": self.limits.open_files, "processes": self.limits.threads + 64}  # fmt: skip

    def _start(self) -> socket.socket:
        """The control socket of a living zygote. Called under the lock."""
        if self._control is not None:
            return self._control
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        script = Path(__file__).with_name("worker_zygote.py")
        keep = ("OMP_", "GOMP_", "KMP_", "LD_LIBRARY_PATH", "LANG", "LC_")
        environment = {k: v for k, v in os.environ.items() if k.startswith(keep)}
        environment.setdefault("GOMP_SPINCOUNT", "1000")  # waiting threads give their core up soon, as in the timed processes
        environment |= self.environment
        fd = theirs.fileno()
        self._zygote = subprocess.Popen(
            [sys.executable, "-I", "-S", str(script), str(fd)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            pass_fds=(fd,), env=environment, start_new_session=True, cwd="/",
        )  # fmt: skip
        theirs.close()
        mine.settimeout(_START_SECONDS)
        try:
            hello = mine.recv(4096)
        except OSError:
            hello = b""
        if not hello:
            mine.close()
            self._zygote.kill()
            raise WorkerError("the zygote did not start", hint=f"try `{sys.executable} -I -S {script}`")
        self._control = mine
        return mine

    def _kill(self, ident: int) -> None:
        with self._lock:
            if self._control is not None:
                try:
                    self._control.send(json.dumps({"kill": ident}).encode())
                except OSError:
                    pass  # the zygote is gone, and its workers with it
