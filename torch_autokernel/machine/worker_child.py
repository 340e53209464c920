"""What runs in a worker: close the sandbox, load one shared object, call its entry on request. No torch, no package.

Commands and answers are single JSON messages on a socket; bytes travel through the shared memory. An answer is a claim by a
process that ran foreign code: the parent believes nothing of it but that the call came back.
"""

from __future__ import annotations

import ctypes
import fcntl
import gc
import json
import mmap
import os
import platform
import signal
import struct
import time
from typing import Any, NoReturn

from torch_autokernel.machine import sandbox

PAGE = mmap.PAGESIZE
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_NORESERVE, _FIXED = 0x4000, 0x10
Call = tuple[int, int, int | None, None]  # the entry's arguments
_FAILED = ctypes.c_void_p(-1).value


class Child:
    """One worker. `memory` is the shared memory's descriptor; its first page takes the record of a fault."""

    def __init__(self, command: int, memory: int) -> None:
        self.command = command
        self.memory = memory
        self.record = _map(0, PAGE, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED, memory, 0)
        self.library: ctypes.CDLL | None = None
        self.entry: Any = None
        self.base = self.reserved = 0
        self.control = ControlState()

    def serve(self) -> None:
        while message := os.read(self.command, 1 << 20):
            request = json.loads(message)
            try:
                answer = getattr(self, "do_" + request["do"])(request)
            except MemoryError:
                answer = {"error": "memory"}
            except OSError as error:
                answer = {"error": "load" if request["do"] == "load" else "memory", "reason": str(error)}
            except AttributeError as error:
                answer = {"error": "load", "reason": str(error)}
            os.write(self.command, json.dumps({**answer, "turn": request["turn"]}).encode())

    def do_load(self, request: dict[str, Any]) -> dict[str, Any]:
        self.library = ctypes.CDLL(request["path"], mode=os.RTLD_NOW | os.RTLD_LOCAL)
        self.entry = getattr(self.library, request["entry"])
        self.entry.restype = None
        self.entry.argtypes = [ctypes.c_void_p] * 4
        return {"done": 1, "entry": ctypes.cast(self.entry, ctypes.c_void_p).value}

    def do_seal(self, request: dict[str, Any]) -> dict[str, Any]:
        """Take the right to write away from pages of the object."""
        entry, sealed = ctypes.cast(self.entry, ctypes.c_void_p).value or 0, []
        for start, length in request["ranges"]:
            low, high = (entry + start) // PAGE * PAGE, -(-(entry + start + length) // PAGE) * PAGE
            if _libc.mprotect(ctypes.c_void_p(low), ctypes.c_size_t(high - low), mmap.PROT_READ) != 0:
                return {"error": "load", "reason": "its data cannot be made read-only"}
            sealed.append((low, high))
        return {"sealed": sealed}

    def do_run(self, request: dict[str, Any]) -> dict[str, Any]:
        """Call the entry `warmup` times, then `samples` times `calls` times; `ns` holds each sample's duration."""
        with _Placed(self, request) as jobs:
            self._threads(request["threads"])
            entry, count, control = self.entry, len(jobs), self.control
            control.fill_stacks(self.library, request["stack"])
            control.set(self.library, request["control"])
            for i in range(request["warmup"]):
                entry(*jobs[i % count])
            spans, turn, clock = [], 0, time.perf_counter_ns
            for _ in range(request["samples"]):
                picked = [jobs[(turn + i) % count] for i in range(request["calls"])]
                turn += request["calls"]
                start = clock()
                for buffers, sizes, workspace, stream in picked:
                    entry(buffers, sizes, workspace, stream)
                spans.append(clock() - start)
            return {"ns": spans, "control": control.read(self.library)}

    def _threads(self, threads: int) -> None:
        """Set OpenMP's number of threads, where the object uses OpenMP."""
        try:
            setter = self.library.omp_set_num_threads  # type: ignore[union-attr]
        except AttributeError:
            return
        setter(threads)


class _Placed:
    """A with-block in which a request's buffers lie in memory, each between two guards. Addresses repeat for equal layouts."""

    def __init__(self, child: Child, request: dict[str, Any]) -> None:
        self.child = child
        self.request = request
        self.guard = request["guard"]
        self.keep: list[Any] = []

    def __enter__(self) -> list[Call]:
        extents = self.request["extents"]
        self._reserve(self.guard + sum(length + self.guard for _, length in extents))
        ctypes.memmove(self.child.record + 32, struct.pack("Q", self.child.base), 8)
        starts: list[int] = []
        at = self.child.base + self.guard
        self.ends: list[int] = []
        for offset, length in extents:
            access = mmap.PROT_READ | (mmap.PROT_WRITE if len(starts) >= self.request["readonly"] else 0)
            _map(at, length, access, mmap.MAP_SHARED | _FIXED, self.child.memory, offset)
            starts.append(at)
            at += length + self.guard
            self.ends.append(at - self.guard)
        return [self._arguments(job, starts) for job in self.request["jobs"]]

    def _arguments(self, job: dict[str, Any], starts: list[int]) -> Call:
        pointers = [starts[extent] + offset for extent, offset in job["buffers"]]
        for (extent, offset), count in zip([*job["buffers"], *filter(None, [job["workspace"]])], job["bytes"], strict=True):
            _surround(starts[extent], starts[extent] + offset, count, self.ends[extent])
        buffers = (ctypes.c_void_p * max(1, len(pointers)))(*pointers)
        sizes = (ctypes.c_int64 * max(1, len(job["sizes"])))(*job["sizes"])
        self.keep += [buffers, sizes]
        workspace = job["workspace"]
        place = starts[workspace[0]] + workspace[1] if workspace else None
        return ctypes.addressof(buffers), ctypes.addressof(sizes), place, None

    def _reserve(self, count: int) -> None:
        """Address space without access; what is reserved once is used again, so that equal layouts have equal addresses."""
        child = self.child
        if count > child.reserved:
            if child.reserved:
                _libc.munmap(child.base, child.reserved)
            child.reserved = 0
            child.base = _map(0, count, 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NORESERVE, -1, 0)
            child.reserved = count

    def __exit__(self, *_: object) -> None:
        _surround(self.child.base, self.child.base, self.child.reserved, self.child.base + self.child.reserved)
        child, flags = self.child, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NORESERVE | _FIXED
        _map(child.base, child.reserved, 0, flags, -1, 0)


def _surround(start: int, first: int, count: int, end: int) -> None:
    """Tell AddressSanitizer, where it is loaded, that only the data between page start and page end may be touched."""
    try:
        poison, unpoison = _libc.__asan_poison_memory_region, _libc.__asan_unpoison_memory_region
    except AttributeError:
        return
    for low, high, tell in ((start, first, poison), (first, first + count, unpoison), (first + count, end, poison)):
        tell(ctypes.c_void_p(low), ctypes.c_size_t(high - low))


def _map(at: int, length: int, protection: int, flags: int, fd: int, offset: int) -> int:
    place = _libc.mmap(at or None, length, protection, flags, fd, offset)
    if place is None or place == _FAILED:
        raise MemoryError
    return int(place)


# --------------------------------------------------------------------------------------------- floating-point control state
USUAL_CONTROL = 0x1F80  # MXCSR of a fresh process: all exceptions masked, to nearest, denormals as they are


class ControlState:
    """MXCSR and the x87 control word of this thread and of OpenMP's team, set before a call and read after it."""

    def __init__(self) -> None:
        self.words: Any = (ctypes.c_uint32 * 8)()
        self._set = self._read = self._fill = 0
        if platform.machine() != "x86_64":
            return
        # set(p): ldmxcsr [p+16]; fldcw [p+20]. read(p): or and and both words into [p], [p+4], [p+8], [p+12], atomically
        put = b"\x0f\xae\x57\x10\xd9\x6f\x14\xc3"
        get = (b"\x0f\xae\x5c\x24\xfc\x8b\x44\x24\xfc\xf0\x09\x07\xf0\x21\x47\x04"
               b"\xd9\x7c\x24\xfc\x0f\xb7\x44\x24\xfc\xf0\x09\x47\x08\xf0\x21\x47\x0c\xc3")  # fmt: skip
        code = _map(0, PAGE, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
        # fill(p): 64 KiB below the stack pointer become [p+24]. mov rax,[p+24]; lea rdi,[rsp-65536]; mov ecx,8184; rep stosq
        fill = b"\x48\x8b\x47\x18\x48\x8d\xbc\x24\x00\x00\xff\xff\xb9\xf8\x1f\x00\x00\xf3\x48\xab\xc3"
        text = put.ljust(16, b"\xcc") + get.ljust(48, b"\xcc") + fill
        ctypes.memmove(code, text, len(text))
        if _libc.mprotect(ctypes.c_void_p(code), ctypes.c_size_t(PAGE), mmap.PROT_READ | mmap.PROT_EXEC) == 0:
            self._set, self._read, self._fill = code, code + 16, code + 64

    def fill_stacks(self, library: Any, pattern: int) -> None:
        """Give what a kernel finds in variables that it never set these eight bytes, on every thread."""
        if self._fill:
            self.words[6], self.words[7] = pattern & 0xFFFFFFFF, pattern >> 32
            self._everywhere(library, self._fill)

    def set(self, library: Any, mxcsr: int) -> None:
        if self._set:
            self.words[4], self.words[5] = mxcsr or USUAL_CONTROL, 0x37F
            self._everywhere(library, self._set)

    def read(self, library: Any) -> list[int]:
        """MXCSR's control bits that any thread has, that all have; the same for x87. The usual state is set again."""
        if not self._read:
            return []
        self.words[:4] = (0, 0xFFFFFFFF, 0, 0xFFFFFFFF)
        self._everywhere(library, self._read)
        out = [self.words[0] & ~0x3F, self.words[1] & ~0x3F, self.words[2], self.words[3]]
        self.set(library, 0)
        return out

    def _everywhere(self, library: Any, code: int) -> None:
        ctypes.CFUNCTYPE(None, ctypes.c_void_p)(code)(ctypes.addressof(self.words))
        try:
            parallel = library.GOMP_parallel
        except AttributeError:
            return
        parallel(ctypes.c_void_p(code), ctypes.c_void_p(ctypes.addressof(self.words)), ctypes.c_uint(0), ctypes.c_uint(0))


# --------------------------------------------------------------------------------------------- record of a fault
def _x86_handler(record: int) -> bytes:
    """Machine code of `handler(signal, info, context)`: store signal, address, program counter, error code."""
    return (
        b"\x48\xb8" + struct.pack("Q", record)      # mov rax, record
        + b"\x48\x8b\x4e\x10\x48\x89\x48\x08"       # [rax+8]  = info->si_addr
        + b"\x48\x8b\x8a\xa8\x00\x00\x00\x48\x89\x48\x10"  # [rax+16] = context rip
        + b"\x48\x8b\x8a\xc0\x00\x00\x00\x48\x89\x48\x18"  # [rax+24] = context error code
        + b"\x48\x89\x38\xc3"                       # [rax] = signal; ret
    )  # fmt: skip


def _watch_faults(record: int) -> None:
    """Let the first fault write its address into the shared memory, then happen again and end the process.

    A handler in Python could not run on a broken stack or another thread; 50 bytes of machine code can.
    """
    if platform.machine() != "x86_64":
        return
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    text = _x86_handler(record)
    code = _map(0, PAGE, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0)
    ctypes.memmove(code, text, len(text))
    if _libc.mprotect(ctypes.c_void_p(code), ctypes.c_size_t(PAGE), mmap.PROT_READ | mmap.PROT_EXEC) != 0:
        return
    stack = _map(0, 16 * PAGE, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0)
    _libc.sigaltstack(ctypes.c_char_p(struct.pack("PiN", stack, 0, 16 * PAGE)), None)
    siginfo, onstack, reset = 4, 0x08000000, 0x80000000
    action = struct.pack("P128siP", code, bytes(128), siginfo | onstack | (reset - (1 << 32)), 0)
    for number in (signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE):
        _libc.sigaction(int(number), ctypes.c_char_p(action), None)


# --------------------------------------------------------------------------------------------- start
def _arrange(command: int, memory: int, log: int) -> None:
    """Descriptors 0 to 4 become null, log, log, command, memory; everything else is closed."""
    null = os.open("/dev/null", os.O_RDONLY)
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 64) for fd in (null, log, log, command, memory)]
    for to, fd in enumerate(high):
        os.dup2(fd, to)
    os.closerange(5, 1 << 20)


def main(command: int, memory: int, log: int, request: dict[str, Any], parent: int) -> NoReturn:
    """Serve until the command socket closes; never returns into the zygote."""
    code = 70
    try:
        gc.disable()
        _arrange(command, memory, log)
        _libc.mallopt(-8, 2)  # arenas: each reserves address space, which is limited
        child = Child(3, 4)
        _watch_faults(child.record)
        layers = sandbox.enter(sandbox.Policy(**request["policy"]), parent)
        os.write(3, json.dumps({"ready": layers, "pid": os.getpid()}).encode())
        child.serve()
        code = 0
    finally:
        os._exit(code)
