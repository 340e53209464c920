"""Runs one candidate on cases and keeps what came back. One worker as long as it lives; a new one after it died."""

from __future__ import annotations

import ctypes
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from torch_autokernel.core import dims
from torch_autokernel.core.errors import WorkerError
from torch_autokernel.core.types import DTYPE_BYTES, Artifact, Region, TensorSpec
from torch_autokernel.lang.elf import read_elf
from torch_autokernel.machine.worker import Outcome, Pool, Session
from torch_autokernel.machine.worker_memory import Buffer, Job
from torch_autokernel.verify.bank import Inputs, Prepared

WORKSPACE_ALIGN = 64


@dataclass(frozen=True)
class Result:
    """One call. `outputs` in the signature's shapes and strides; `inputs` are the inputs' storages afterwards; `poison` are the
    patterns that the outputs held before, `workspace` is what the kernel left there. `outputs` is empty where the call did not
    come back."""

    outcome: Outcome
    poison: tuple[bytes, ...] = ()
    outputs: tuple[torch.Tensor, ...] = ()
    inputs: tuple[bytearray, ...] = ()
    workspace: bytes = b""

    @property
    def ok(self) -> bool:
        return self.outcome.ok


@dataclass(frozen=True)
class How:
    """What is special about a call. `threads` is -1 for one more than there are cores; `shift` moves buffers off their pages'
    edges (`machine/worker_memory.py`); `control` is the floating-point control state; `fill` are the outputs' storages before
    the call, and says that the workspace is all zero; `kept` are the workspace's contents, as an earlier call left them; `nan`
    fills outputs, workspace and stack with NaN; `readonly` says that inputs cannot be written."""

    threads: int = 0
    shift: int = 0
    control: int = 0
    fill: tuple[bytes, ...] = ()
    kept: bytes = b""
    nan: bool = False
    readonly: bool = False


class Runner(Protocol):
    """Runs a candidate. `native` says whether memory is under guard."""

    native: bool

    def run(self, prepared: Prepared, edge: str = "end") -> Result: ...
    def again(self, prepared: Prepared, calls: int, how: How = How()) -> Result: ...  # noqa: B008
    def seal(self) -> None: ...
    def fresh(self) -> None: ...
    def close(self) -> None: ...


class WorkerRunner:
    """Runs a shared object's entry in a worker."""

    native = True

    def __init__(self, pool: Pool, region: Region, artifact: Artifact, seed: int) -> None:
        self._pool = pool
        self._region = region
        self._artifact = artifact
        self._random = random.Random(seed)
        self._session: Session | None = None
        self._kept: dict[tuple[int, str], Result] = {}

    def run(self, prepared: Prepared, edge: str = "end") -> Result:
        """One call, remembered: buffers end at the upper guard, poisoned with ordinary numbers, or (`edge="start"`) begin at
        the lower guard, poisoned with NaN."""
        key = (id(prepared), edge)
        if key not in self._kept:
            self._kept[key] = self._call(prepared, edge, 1, How())
        return self._kept[key]

    def again(self, prepared: Prepared, calls: int, how: How = How()) -> Result:  # noqa: B008
        """The result after `calls` calls on the same buffers, in the worker that ran the calls before."""
        return self._call(prepared, "start" if how.shift else "end", calls, how)

    def seal(self) -> None:
        """From now on a write to the object's static data ends the call with a fault (`Fault.sealed`)."""
        session = self._open()
        if session.loaded is not None and session.loaded.ok:
            facts = read_elf(Path(self._artifact.path).read_bytes())
            entry = facts.value(self._artifact.entry)
            session.seal([(start - entry, length) for start, length in facts.data])

    def fresh(self) -> None:
        """The next call has a new worker."""
        self.close()

    def close(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None

    def _call(self, prepared: Prepared, edge: str, calls: int, how: How) -> Result:
        dtypes = [*(s.dtype for s in self._region.signature.output_specs), "float32"]
        nan = how.nan or (edge == "start" and not how.shift)
        poison = [self._nan() if nan else self._ordinary(dtype) for dtype in dtypes]
        if how.fill:
            poison = [*how.fill, b"\0"]
        if how.kept:
            poison[-1] = how.kept
        seconds = max(self._pool.limits.seconds, 100 * prepared.expected.eager_seconds) * (1 if calls == 1 else 5)
        job = self.job(prepared, poison, edge, how)
        try:
            outcome = self._bench(job, calls, seconds)
        except WorkerError:
            self.close()  # infrastructure: once more, with a new worker
            outcome = self._bench(job, calls, seconds)
        return self._decode(prepared, outcome, tuple(poison[:-1]))

    def _ordinary(self, dtype: str) -> bytes:
        """Numbers around one, so that a sum that starts from them does not swallow what is added. They repeat after a secret
        number of elements: a kernel that looks at them cannot tell them from a user's. No byte of an integer is one of those of
        `_nan`, so none is taken as never written that holds a right result."""
        count = self._random.randrange(997, 2999)
        kind = getattr(torch, dtype)
        if not kind.is_floating_point:
            return bytes(2 + b % 125 for b in self._random.randbytes(count * DTYPE_BYTES[dtype]))
        generator = torch.Generator().manual_seed(self._random.getrandbits(62))
        values = torch.rand(count, generator=generator).mul_(1.5).add_(0.5)
        values *= (torch.rand(count, generator=generator) < 0.5).float().mul_(2).sub_(1)
        numbers = values.to(kind)  # has to outlive the view of its bytes
        return bytes(storage_bytes(numbers))

    def _nan(self) -> bytes:
        """A pattern that is NaN in every float dtype, of either sign and with any payload."""
        out = bytearray(self._random.randbytes(8 * self._random.randrange(251, 751)))
        out[0::2] = bytes(0xF1 + b % 15 for b in out[0::2])
        out[1::2] = bytes(0x7F | b & 0x80 for b in out[1::2])
        return bytes(out)

    def _bench(self, job: Job, calls: int, seconds: float) -> Outcome:
        session = self._open()
        if session.loaded is not None and not session.loaded.ok:
            return session.loaded
        return session.bench((job,), calls=calls, seconds=seconds)

    def _open(self) -> Session:
        if self._session is None or not self._session.alive:
            self.close()
            self._session = self._pool.open(self._artifact.path, self._artifact.entry)
        return self._session

    def job(self, prepared: Inputs, poison: Sequence[bytes], edge: str = "end", how: How = How()) -> Job:  # noqa: B008
        """The call as bytes: inputs, outputs and workspace, each filled with its pattern (the workspace's is the last)."""
        signature, sizes = self._region.signature, prepared.case.sizes
        buffers = [Buffer(storage_bytes(t), spec.alignment) for t, spec in zip(prepared.inputs, signature.inputs, strict=True)]
        for spec, pattern in zip(signature.output_specs, poison, strict=False):
            count = spec.storage_elements(sizes) * spec.itemsize
            buffers.append(Buffer(_pattern(pattern, count), max(spec.alignment, spec.itemsize)))
        workspace = dims.evaluate(self._artifact.launch.get("workspace", 0), sizes)
        room = Buffer(_pattern(poison[-1], workspace), WORKSPACE_ALIGN) if workspace else None
        order = tuple(int(sizes[s]) for s in signature.symbols)
        threads = self._pool.limits.threads + 1 if how.threads < 0 else how.threads
        canary = self._nan() if edge == "start" else self._random.randbytes(199)
        stack = int.from_bytes((poison[-1] if edge == "end" and not how.nan else self._nan())[:8].ljust(8, b"\0"), "little")
        readonly = len(signature.inputs) if how.readonly else 0
        return Job(tuple(buffers), order, room, edge, threads, how.shift, canary, how.control, stack, readonly)

    def _decode(self, prepared: Prepared, outcome: Outcome, poison: tuple[bytes, ...]) -> Result:
        if not outcome.ok:
            return Result(outcome, poison)
        count, sizes = len(prepared.inputs), prepared.case.sizes
        specs = self._region.signature.output_specs
        raw = outcome.contents[count : count + len(specs)]
        outputs = tuple(as_tensor(data, spec.concrete(sizes)) for data, spec in zip(raw, specs, strict=True))
        rest = outcome.contents[count + len(specs) :]
        return Result(outcome, poison, outputs, outcome.contents[:count], bytes(rest[0]) if rest else b"")


def storage_bytes(tensor: torch.Tensor) -> memoryview:
    """The bytes from the first element to the last, gaps included; valid as long as the tensor is."""
    spec = TensorSpec(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), tuple(tensor.stride()))
    count = spec.storage_elements() * tensor.element_size()
    return memoryview((ctypes.c_char * count).from_address(tensor.data_ptr()) if count else b"").cast("B")


def as_tensor(data: bytearray, spec: TensorSpec) -> torch.Tensor:
    """A tensor over these bytes. Bytes of a bool other than 0 and 1 are kept: compare such tensors as uint8."""
    kind: Any = torch.uint8 if spec.dtype == "bool" else getattr(torch, spec.dtype)
    shape, stride = [int(n) for n in spec.shape], [int(s) for s in spec.stride]
    flat = torch.frombuffer(data, dtype=kind) if data else torch.empty(0, dtype=kind)
    return flat.as_strided(shape, stride)


def _pattern(poison: bytes, count: int) -> bytes:
    return (poison * (count // len(poison) + 1))[:count]


def untouched(result: Result, prepared: Prepared, region: Region, which: int) -> torch.Tensor:
    """For each element of an output, whether all its bytes still hold the poison."""
    spec = region.signature.output_specs[which].concrete(prepared.case.sizes)
    count = spec.storage_elements() * spec.itemsize
    before = as_tensor(bytearray(_pattern(result.poison[which], count)), spec)
    bits = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[spec.itemsize]
    return result.outputs[which].view(bits) == before.view(bits)
