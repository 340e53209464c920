"""Buffers in memory that a parent shares with a worker: where they lie, what surrounds them, what changed beside them.

Each buffer has whole pages of its own, between guards that the worker maps. Where data and pages do not end together, a
canary fills the rest, in each buffer another one: what a kernel copies from beside its input differs from what lies beside its
output. The parent writes and reads all of it; the worker only maps it.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

PAGE = mmap.PAGESIZE
GUARD_BYTES = 1 << 20
CANARY = bytes(range(0xA1, 0xF1))
SHIFTS = 61  # multiples of a buffer's alignment; a prime, so that all of them occur


@dataclass(frozen=True)
class Buffer:
    """`data` are the contents before the call (anything with the buffer protocol); `align` the address's alignment in bytes."""

    data: Any
    align: int = 1


@dataclass(frozen=True)
class Job:
    """One call of the entry: `buffers` in its order, sizes, and the workspace if it has one.

    `edge` is `end` (buffers end at the upper guard) or `start` (they begin at the lower one, or where `shift` is not 0, at
    other multiples of their alignment, each buffer at another). `canary` is the pattern that fills what is left of a
    buffer's pages. `control` is the floating-point control state of the call, 0 for the usual one. `stack` fills
    the unused part of every thread's stack before the call. The first `readonly` buffers cannot be written.
    """

    buffers: tuple[Buffer, ...]
    sizes: tuple[int, ...] = ()
    workspace: Buffer | None = None
    edge: str = "end"
    threads: int = 0
    shift: int = 0
    canary: bytes = CANARY
    control: int = 0
    stack: int = 0
    readonly: int = 0

    @property
    def all_buffers(self) -> tuple[Buffer, ...]:
        return self.buffers if self.workspace is None else (*self.buffers, self.workspace)


@dataclass(frozen=True)
class Stray:
    """A byte beside a buffer that changed: `offset` counts from the buffer's first byte, so it is negative or past the end."""

    buffer: int
    offset: int


class Memory:
    """Shared memory that the worker can neither shrink nor seal. The first page takes the record of a fault."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("buffers", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, PAGE)
        _seal(self.fd)
        self.map = mmap.mmap(self.fd, PAGE)
        self.size = PAGE

    def grow(self, size: int) -> None:
        if size > self.size:
            self.map.close()
            os.ftruncate(self.fd, size)
            self.map = mmap.mmap(self.fd, size)
            self.size = size

    def close(self) -> None:
        self.map.close()
        os.close(self.fd)


def _seal(fd: int) -> None:
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK)


@dataclass(frozen=True)
class Place:
    """A buffer's extent in the shared memory: whole pages from `start`, the data `offset` bytes into them."""

    start: int
    length: int
    offset: int
    data_bytes: int


def lay_out(jobs: Sequence[Job]) -> list[list[Place]]:
    """Where the buffers of each job go. A buffer of no bytes still gets a page, so that its address is guarded."""
    at, out = PAGE, []
    for job in jobs:
        places = []
        for number, buffer in enumerate(job.all_buffers):
            count = memoryview(buffer.data).nbytes
            shift = job.shift * (2 * number + 1) % SHIFTS * buffer.align
            length = max(PAGE, -(-(count + shift) // PAGE) * PAGE)
            offset = (length - count) // buffer.align * buffer.align if job.edge == "end" else shift
            places.append(Place(at, length, offset, count))
            at += length
        out.append(places)
    return out


def fill(memory: mmap.mmap, job: Job, places: Sequence[Place]) -> None:
    for index, (buffer, place) in enumerate(zip(job.all_buffers, places, strict=True)):
        first, end = place.start + place.offset, place.start + place.length
        memory[place.start : first] = _canary(job.canary, place.offset, index)
        memory[first : first + place.data_bytes] = memoryview(buffer.data).cast("B")
        memory[first + place.data_bytes : end] = _canary(job.canary, end - first - place.data_bytes, index)


def _canary(pattern: bytes, count: int, buffer: int) -> bytes:
    """The pattern from another place on for each buffer; an even one, so that pairs of bytes stay together."""
    turn = 26 * buffer % len(pattern) // 2 * 2
    return ((pattern[turn:] + pattern[:turn]) * (count // len(pattern) + 1))[:count]


def strays(memory: mmap.mmap, places: Sequence[Place], canary: bytes = CANARY) -> tuple[Stray, ...]:
    """The first changed byte on each side of each buffer: nearest to the buffer."""
    out = []
    for index, place in enumerate(places):
        first, end = place.start + place.offset, place.start + place.length
        before, after = memory[place.start : first], memory[first + place.data_bytes : end]
        if before != (want := _canary(canary, len(before), index)):
            last = max(i for i in range(len(before)) if before[i] != want[i])
            out.append(Stray(index, last - place.offset))
        if after != (want := _canary(canary, len(after), index)):
            out.append(Stray(index, place.data_bytes + min(i for i in range(len(after)) if after[i] != want[i])))
    return tuple(out)
