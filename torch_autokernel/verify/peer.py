"""The processes that are timed. A zygote imports torch once and never runs a parallel region; peers are forked from it.

One peer holds the candidates, another the baselines, so a candidate cannot reach what it is compared with. The parent
(`verify/timing.py`) asks "run this contender n times" and keeps the time itself. Messages are JSON; a peer ends when its
socket does.

Started as `python -c "from torch_autokernel.verify.peer import main; main(<socket>, <lock path>)"`.
"""

from __future__ import annotations

import fcntl
import itertools
import logging
import os
import random
import resource
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch

from torch_autokernel.core import points
from torch_autokernel.core.errors import WorkerError
from torch_autokernel.core.types import Artifact, Region, Signature
from torch_autokernel.verify import baselines, wire

log = logging.getLogger(__name__)

PRIORITY = -10
GLANCE = 512  # elements of each output that the parent looks at


def main(descriptor: int, lock_path: str) -> None:
    """The zygote: forks a peer for every socket it is sent, until its own socket ends."""
    control = socket.socket(fileno=descriptor)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps peers; the parent notices by their sockets
    wire.send(control, {"ready": True})
    warmed = False
    while True:
        message, descriptors = _with_descriptor(control)
        if message == b"w" and not warmed:
            warmed = True
            _warm(lock_path)
        if message in (b"", b"w"):
            if not message:
                return
            continue
        pid = os.fork()
        if pid == 0:
            control.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _peer(socket.socket(fileno=descriptors[0]), lock_path)
            os._exit(0)
        os.close(descriptors[0])
        with suppress(OSError):  # the peer does it too; whoever is first, the group exists when the parent hears of it
            os.setpgid(pid, pid)
        wire.send(control, {"pid": pid})


def _warm(lock_path: str) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # the compiler runs as a child that somebody waits for
    try:
        with _lock(lock_path):
            baselines.warm()
    except Exception:  # the peer that needs Inductor will report what is wrong with it
        log.exception("Inductor could not be warmed up")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)


def _with_descriptor(control: socket.socket) -> tuple[bytes, list[int]]:
    data, descriptors, _flags, _address = socket.recv_fds(control, 1, 1)
    return data, descriptors


class _lock:
    """One compilation at a time among all peers; the lock goes with its holder."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __enter__(self) -> None:
        self.file = open(self.path, "w")  # noqa: SIM115
        fcntl.flock(self.file, fcntl.LOCK_EX)

    def __exit__(self, *_error: Any) -> None:
        self.file.close()


def _peer(sock: socket.socket, lock_path: str) -> None:
    os.setpgid(0, 0)
    with suppress(OSError):  # only root may; it keeps other processes out of a measurement, on both sides alike
        os.setpriority(os.PRIO_PROCESS, 0, PRIORITY)
    torch.set_grad_enabled(False)
    server = Server(lock_path)
    while True:
        try:
            message = wire.receive(sock)
        except WorkerError:
            return
        try:
            reply = server.answer(message)
        except Exception as error:  # the boundary of this process: the parent gets the reason
            log.exception("%s failed", message.get("do"))
            reply = {"error": f"{type(error).__name__}: {error}"}
        wire.send(sock, reply)


class Server:
    """What a peer can do. Contenders are named; each has its own sets of inputs, used in turn."""

    def __init__(self, lock_path: str) -> None:
        self.lock_path = lock_path
        self.contenders: dict[str, tuple[baselines.Contender, itertools.cycle[Any]]] = {}
        self.ballast = torch.zeros(1 << 17)
        self.last: dict[str, tuple[int, Any]] = {}
        self.sets: list[baselines.Tensors] = []

    def answer(self, message: dict[str, Any]) -> dict[str, Any]:
        action: Callable[[dict[str, Any]], dict[str, Any]] = getattr(self, "do_" + message["do"])
        return action(message)

    def do_nothing(self, _message: dict[str, Any]) -> dict[str, Any]:
        return {}

    def do_wake(self, message: dict[str, Any]) -> dict[str, Any]:
        """Keep all threads at work for a while."""
        until = time.perf_counter_ns() + message["ns"]
        small = self.ballast[: 1 << 17]
        while time.perf_counter_ns() < until:
            small.add_(1.0)
        return {}

    def do_baselines(self, message: dict[str, Any]) -> dict[str, Any]:
        """Build every baseline of a region; `names` of those built, `problems` of those not."""
        start = time.perf_counter()
        torch.set_num_threads(message["threads"])
        region = Region.from_json(message["region"])
        message["distribution"] = baselines.distribution(region, message["seed"])
        sets = self._draw(region, message)
        with _lock(self.lock_path):
            built, problems = baselines.build(region, sets)
        for name, (call, inputs) in built.items():
            self._add(name, call, inputs)
        return {"names": list(built), "problems": problems, "distribution": message["distribution"],
                "seconds": time.perf_counter() - start}  # fmt: skip

    def do_candidates(self, message: dict[str, Any]) -> dict[str, Any]:
        """Load artifacts, each as an operator; `problems` of those that do not load."""
        torch.set_num_threads(message["threads"])
        region = Region.from_json(message["region"])
        sets, problems = self._draw(region, message), {}
        for name, data in message["artifacts"].items():
            artifact = Artifact.from_json(data)
            try:
                kernel = _kernel(artifact, region.signature)
                self._add(name, kernel if region.direct else _operator(kernel, region.signature), sets)
            except Exception as error:  # a candidate that does not load has no timing; the reason goes to the parent
                problems[name] = f"{type(error).__name__}: {error}"
        return {"problems": problems}

    def do_run(self, message: dict[str, Any]) -> dict[str, Any]:
        call, inputs = self.contenders[message["name"]]
        if message.get("cold"):
            self._fill_caches(message["cold"])
        before = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
        start, worked = time.perf_counter_ns(), time.thread_time_ns()
        for _ in range(message["calls"]):
            number, tensors = next(inputs)
            out = call(tensors)
        spent, worked = time.perf_counter_ns() - start, time.thread_time_ns() - worked
        self.last[message["name"]] = (number, out)
        found = {"ns": spent, "switches": resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw - before}
        return found | ({"lost": max(0, spent - worked)} if torch.get_num_threads() == 1 else {})

    def do_glance(self, message: dict[str, Any]) -> dict[str, Any]:
        """Some elements of the outputs of the last timed call, and which set of inputs they came from."""
        number, out = self.last[message["name"]]
        if "set" in message:  # the same, for a named set of inputs as it is now
            call, inputs = self.contenders[message["name"]]
            number, tensors = next((n, t) for n, t in inputs if n == message["set"])
            out = call(tensors)
        outputs = out if isinstance(out, (tuple, list)) else (out,)
        return {"set": number, "values": [_some(o, message["seed"] + i) for i, o in enumerate(outputs)]}

    def do_refresh(self, message: dict[str, Any]) -> dict[str, Any]:
        """Other contents for one set of inputs: rows change places, by amounts that follow from the seed."""
        chance = random.Random(message["seed"])
        for tensor in self.sets[message["set"]]:
            _rotate(tensor, chance)
        return {}

    def _fill_caches(self, count: int) -> None:
        """Write so many bytes of something else."""
        if self.ballast.nbytes < count:
            self.ballast = torch.zeros(count // self.ballast.itemsize)
        self.ballast.add_(1.0)

    def _add(self, name: str, call: baselines.Contender, inputs: list[baselines.Tensors]) -> None:
        with torch.no_grad():
            call(inputs[0])
        self.contenders[name] = (call, itertools.cycle(list(enumerate(inputs))))

    def _draw(self, region: Region, message: dict[str, Any]) -> list[baselines.Tensors]:
        self.sets = baselines.draw(region, message["seed"], message["sets"], message["distribution"])
        return self.sets


def _rotate(tensor: torch.Tensor, chance: random.Random) -> None:
    """Roll the elements along the first dimension that has several; what several indices share moves once."""
    base = tensor[tuple(slice(0, 1) if step == 0 else slice(None) for step in tensor.stride())]
    for axis, length in enumerate(base.shape):
        if length > 1:
            base.copy_(base.roll(chance.randrange(1, length), axis))
            return


def _some(output: torch.Tensor, seed: int) -> list[float]:
    count = output.numel()
    if not count:
        return []
    chosen = random.Random(seed).choices(range(count), k=min(GLANCE, count))
    flat = output.reshape(-1)[torch.tensor(chosen)]
    return [float(v) for v in flat.to(torch.float64).tolist()]


_LIBRARY: list[Any] = []


def _kernel(artifact: Artifact, signature: Signature) -> baselines.Contender:
    """The kernel as the decorator calls it."""
    load = points.languages.get(artifact.candidate.source.language)().load
    kernel = load(artifact, signature)
    return lambda xs: kernel(*xs)


def _operator(call: baselines.Contender, signature: Signature) -> baselines.Contender:
    """The kernel as capture swaps it in: an operator behind torch's dispatcher that allocates its outputs."""
    single = len(signature.output_specs) == 1
    if not _LIBRARY:
        _LIBRARY.append(torch.library.Library("autokernel_timing", "FRAGMENT"))
    name = f"k{len(_LIBRARY)}"
    _LIBRARY.append(call)
    arguments = ", ".join(f"Tensor x{i}" for i in range(len(signature.inputs)))
    result = "Tensor" if single else "(" + ", ".join(["Tensor"] * len(signature.output_specs)) + ")"
    _LIBRARY[0].define(f"{name}({arguments}) -> {result}", tags=(torch.Tag.pt2_compliant_tag, torch.Tag.needs_exact_strides))
    _LIBRARY[0].impl(name, (lambda *xs: call(list(xs))[0]) if single else (lambda *xs: call(list(xs))), "CPU")
    overload = getattr(torch.ops.autokernel_timing, name).default
    return lambda xs: overload(*xs)
