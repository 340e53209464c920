"""The zygote: a small single-threaded Python process from which workers are forked in milliseconds.

Run as `python -I -S worker_zygote.py FD`. FD is the control socket: each message is JSON, `{"fork": id, ...}` with
four descriptors (command socket, shared memory, status pipe, log pipe) or `{"kill": id}`. It ends when the socket closes, and
every worker ends with it. A worker's end is told on its status pipe as one JSON line.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import socket
import sys
import types


def _package() -> None:
    """Make `torch_autokernel.machine` importable without running the package's own start-up."""
    here = os.path.dirname(os.path.abspath(__file__))
    for name, folder in (("torch_autokernel", os.path.dirname(here)), ("torch_autokernel.machine", here)):
        module = types.ModuleType(name)
        module.__path__ = [folder]
        sys.modules[name] = module


class Zygote:
    """`workers` maps a process id to (session id, status pipe)."""

    def __init__(self, control: socket.socket) -> None:
        self.control = control
        self.workers: dict[int, tuple[int, int]] = {}
        self.pid = os.getpid()

    def serve(self) -> None:
        """Until the control socket closes."""
        wake, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        poll = select.poll()
        poll.register(self.control, select.POLLIN)
        poll.register(wake, select.POLLIN)
        while True:
            ready = {fd for fd, _ in poll.poll()}
            if wake in ready:
                os.read(wake, 4096)
                self.reap()
            if self.control.fileno() in ready and not self.receive():
                return

    def receive(self) -> bool:
        message, fds, _, _ = socket.recv_fds(self.control, 1 << 16, 4)
        if not message:
            return False
        request = json.loads(message)
        if "kill" in request:
            for pid, (session, _) in self.workers.items():
                if session == request["kill"]:
                    os.kill(pid, signal.SIGKILL)
        else:
            self.fork(request, fds)
        return True

    def fork(self, request: dict[str, object], fds: list[int]) -> None:
        command, memory, status, log = fds
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            from torch_autokernel.machine import worker_child

            worker_child.main(command, memory, log, request, self.pid)
        self.workers[pid] = (int(request["fork"]), status)  # type: ignore[call-overload]
        for fd in (command, memory, log):
            os.close(fd)

    def reap(self) -> None:
        """Tell the end of every worker that ended, and end what it left behind."""
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                break
            if pid in self.workers:
                _, pipe = self.workers.pop(pid)
                end = {"code": os.waitstatus_to_exitcode(status), "rss_bytes": usage.ru_maxrss * 1024,
                       "cpu_seconds": usage.ru_utime + usage.ru_stime}  # fmt: skip
                try:
                    os.write(pipe, json.dumps(end).encode() + b"\n")
                except OSError:
                    pass  # nobody waits for it any more
                os.close(pipe)
        self.orphans()

    def orphans(self) -> None:
        """Kill children that are no workers: processes that a worker managed to leave behind come here as orphans."""
        try:
            with open(f"/proc/self/task/{os.getpid()}/children") as f:
                children = [int(p) for p in f.read().split()]
        except OSError:
            return
        for pid in children:
            if pid not in self.workers:
                os.kill(pid, signal.SIGKILL)


def main() -> None:
    _package()
    from torch_autokernel.machine import worker_child  # noqa: F401  loaded once, so that a fork has it

    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # orphans of workers become children of this process
    control = socket.socket(fileno=int(sys.argv[1]))
    control.set_inheritable(False)
    control.send(json.dumps({"zygote": os.getpid()}).encode())
    zygote = Zygote(control)
    zygote.serve()
    for pid in zygote.workers:
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
