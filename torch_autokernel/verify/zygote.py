"""The parent's side of the timed processes: starts the zygote, asks it for peers, stops and continues them."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch_autokernel.core.errors import WorkerError
from torch_autokernel.verify import wire

log = logging.getLogger(__name__)

_PACKAGE_ROOT = str(Path(__file__).resolve().parents[2])

# Both peers have the same settings, so none of them favours a side.
# Spinning: an idle thread of a team gives up its core after about 0.05 ms instead of 15. Within a block of calls the team stays
# awake, as it does between the kernels of a model; after it, the peer that has just been timed does not disturb the next one;
# and on a busy machine a thread that waits for one without a core lets it have its own (20 times more stable there).
# Allocation: outputs come from a heap that has grown, as in a process that has run for a while. glibc's defaults would adapt
# to that (32 MiB is where it stops), but at a time that differs between the peers. What is larger is mapped anew for each call:
# in huge pages, for both sides, else page faults are eight tenths of what is timed.
SETTINGS = {
    "GOMP_SPINCOUNT": "20000",
    "KMP_BLOCKTIME": "1",
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
    "MALLOC_TOP_PAD_": str(1 << 20),
    "THP_MEM_ALLOC_ENABLE": "1",
    "TORCH_AUTOKERNEL_HUGE_PAGES": "0",
    "TORCHINDUCTOR_COMPILE_THREADS": "1",
}  # fmt: skip
_DROPPED = ("OMP_WAIT_POLICY", "GOMP_CPU_AFFINITY", "TORCH_LOGS", "TORCH_TRACE", "TORCH_COMPILE_DEBUG", "LD_PRELOAD")


class Peer:
    """A forked process and the socket to it."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.pid: int | None = None

    def tell(self, message: Mapping[str, Any]) -> None:
        wire.send(self.sock, message)

    def hear(self, timeout: float) -> dict[str, Any]:
        """The reply to the oldest message; raises WorkerError where the peer failed, died or is silent."""
        reply = wire.receive(self.sock, timeout)
        if not isinstance(reply, dict) or "error" in reply:
            raise WorkerError(str(reply["error"]) if isinstance(reply, dict) else "a reply that is not an object")
        return reply

    def ask(self, message: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        self.tell(message)
        return self.hear(timeout)

    def signal(self, number: signal.Signals) -> None:
        if self.pid is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)

    def close(self) -> None:
        """End the process and what it started, and wait until it is gone, or for a second."""
        self.sock.close()
        self.signal(signal.SIGKILL)
        deadline = time.monotonic() + 1.0
        while self.pid is not None and time.monotonic() < deadline:
            try:
                os.kill(self.pid, 0)
                time.sleep(0.002)
            except ProcessLookupError:
                self.pid = None


class Zygote:
    """A process that has imported torch. Starting it takes nothing of the caller's time; the first peer waits for it."""

    def __init__(self, folder: Path, inductor_folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.log_path = folder / f"peers-{os.getpid()}.log"
        self._control, theirs = socket.socketpair()
        self._pending: list[Peer] = []
        self._heard_ready = False
        code = (f"import sys; sys.path.insert(0, {_PACKAGE_ROOT!r}); from torch_autokernel.verify.peer import main; "
                f"main({theirs.fileno()}, {str(folder / 'compile.lock')!r})")  # fmt: skip
        with open(self.log_path, "w") as log_file:
            self._process = subprocess.Popen(
                [sys.executable, "-c", code], cwd=folder, env=environment(inductor_folder), pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL, stdout=log_file, stderr=log_file, start_new_session=True,
            )  # fmt: skip
        theirs.close()

    def warm(self) -> None:
        """Let it import Inductor; peers asked for from now on wait for that."""
        with suppress(OSError):  # a dead zygote is noticed by the next `settle`
            self._control.sendall(b"w")

    def fork(self) -> Peer:
        """A peer that will live as soon as the zygote gets to it. It can be told things at once."""
        ours, theirs = socket.socketpair()
        try:
            socket.send_fds(self._control, [b"f"], [theirs.fileno()])
        except OSError as error:
            raise WorkerError(f"the timing process is gone: {error}{self._tail()}") from None
        finally:
            theirs.close()
        peer = Peer(ours)
        self._pending.append(peer)
        return peer

    def settle(self, peer: Peer, timeout: float) -> None:
        """Wait until `peer` lives, so that its process is known."""
        deadline = time.monotonic() + timeout
        while peer.pid is None:
            self._next(max(0.0, deadline - time.monotonic()))

    def notice(self) -> None:
        """Take note of peers that have come to life, without waiting."""
        while (self._pending or not self._heard_ready) and wire.waiting(self._control):
            self._next(1.0)

    def _next(self, timeout: float) -> None:
        try:
            message = wire.receive(self._control, timeout)
        except WorkerError as error:
            raise WorkerError(f"the timing process: {error.message}{self._tail()}") from None
        if "pid" in message:
            self._pending.pop(0).pid = message["pid"]
        self._heard_ready = True

    def _tail(self) -> str:
        text = self.log_path.read_text(errors="replace").strip() if self.log_path.exists() else ""
        return f" ({text.splitlines()[-1]})" if text else ""

    def close(self) -> None:
        with suppress(WorkerError):
            self.notice()
        self._control.close()
        for peer in self._pending:
            peer.close()
        self._pending.clear()
        with suppress(ProcessLookupError):  # it leads a session of its own, with the compilers that it started
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self.log_path.unlink(missing_ok=True)


def environment(inductor_folder: Path) -> dict[str, str]:
    """The peers' environment: the user's, with the same settings for all and Inductor's files in their own folder."""
    env = {k: v for k, v in os.environ.items() if k not in _DROPPED}
    roots = [_PACKAGE_ROOT, *(os.path.abspath(p) for p in env.get("PYTHONPATH", "").split(os.pathsep) if p)]
    return {**env, **SETTINGS, "TORCHINDUCTOR_CACHE_DIR": str(inductor_folder), "PYTHONPATH": os.pathsep.join(roots)}
