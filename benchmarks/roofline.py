"""The least time that a row can take: its operations at the measured peak of multiply-adds, or its compulsory bytes at the
measured bandwidth of a copy of as many bytes, whichever is longer. Both are contenders of the row's own timing, so that they
meet the same machine as the others."""

from __future__ import annotations

import ctypes
import functools
import math
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from torch_autokernel.app.problem import Problem
from torch_autokernel.core.errors import ToolchainError
from torch_autokernel.lang.compiler import FLAGS, Compiler, environment, find_compiler

SOURCE = Path(__file__).with_name("roofline.cpp")
COPY, STREAM, FMA, GEMM = "copy", "streaming copy", "fma", "gemm"
LEAST_BYTES = 16 << 20  # that one call moves, so that the call itself does not count
ROUNDS_FMA = 200_000
N_GEMM = 768


def compulsory(problem: Problem, result: Any, untouched: float = 0.0) -> float:
    """Bytes that have to move: each tensor that goes in is read once (parameters and buffers too), each one in `result` is
    written once, and with gradients the weights of the outputs are read. `result` is what a pass returned, not copies of it."""
    model = problem.model
    state = [*model.parameters(), *model.buffers()] if isinstance(model, nn.Module) else []
    seen: dict[tuple[Any, ...], int] = {}
    leaves = [t for t in pytree.tree_leaves(list(problem.inputs)) + state + pytree.tree_leaves(result) if torch.is_tensor(t)]
    for t in leaves:
        seen[t.data_ptr(), t.shape, t.stride()] = _distinct(t)
    weights = sum(_distinct(t) for t in pytree.tree_leaves(result) if torch.is_tensor(t) and t.grad_fn is not None)
    return sum(seen.values()) + weights - untouched


def _distinct(t: torch.Tensor) -> int:
    """Bytes of the elements that differ in their place: those of an expanded axis count once."""
    return math.prod(size if stride else 1 for size, stride in zip(t.shape, t.stride(), strict=True)) * t.element_size()


@dataclass(frozen=True)
class Machine:
    """Contenders that do nothing but copy, or multiply and add, and what one call of each does: bytes read and written, or
    operations."""

    steps: Mapping[str, Callable[[], Any]]
    work: Mapping[str, float]

    @classmethod
    def probe(cls, bytes_moved: float, threads: int) -> Machine:
        """Contenders for a row that moves so many bytes; raises ToolchainError without a C++ compiler."""
        library = _library()
        half = max(64, int(bytes_moved / 2))
        times = max(1, math.ceil(LEAST_BYTES / (2 * half)))
        source, target = torch.ones(half, dtype=torch.uint8), torch.ones(half + 64, dtype=torch.uint8)
        aligned = target.data_ptr() + -target.data_ptr() % 64
        sink = torch.zeros(16 * threads)
        a, b = torch.randn(N_GEMM, N_GEMM), torch.randn(N_GEMM, N_GEMM)
        out = torch.empty(N_GEMM, N_GEMM)

        def copy(stream: int) -> Callable[[], Any]:
            def run(keep: Any = (source, target)) -> None:
                library.copy(source.data_ptr(), aligned, half, times, threads, stream)

            return run

        def multiply() -> None:
            library.fma(ROUNDS_FMA, threads, sink.data_ptr())

        done = library.fma(1, threads, sink.data_ptr()) * ROUNDS_FMA
        steps = {COPY: copy(0), STREAM: copy(1), FMA: multiply, GEMM: lambda: torch.mm(a, b, out=out)}
        moved = 2.0 * half * times
        return cls(steps, {COPY: moved, STREAM: moved, FMA: done, GEMM: 2.0 * N_GEMM**3})


@dataclass(frozen=True)
class Floor:
    """Samples of the least time, round by round, and their two sides."""

    ns: Sequence[float]
    bytes_ns: Sequence[float]
    flop_ns: Sequence[float]


def floor(samples: Mapping[str, Sequence[float]], work: Mapping[str, float], bytes_moved: float, flop: float) -> Floor:
    """The faster of the two copies counts, round by round, and the faster of multiply-adds and torch's own product."""
    copies = zip(samples[COPY], samples[STREAM], strict=True)
    bytes_ns = [bytes_moved * min(c / work[COPY], s / work[STREAM]) for c, s in copies]
    products = zip(samples[FMA], samples[GEMM], strict=True)
    flop_ns = [flop * min(f / work[FMA], g / work[GEMM]) for f, g in products]
    return Floor([max(b, f, 1.0) for b, f in zip(bytes_ns, flop_ns, strict=True)], bytes_ns, flop_ns)


@functools.cache
def _library() -> ctypes.CDLL:
    compiler = find_compiler()
    if not isinstance(compiler, Compiler):
        raise ToolchainError(compiler, hint="the floor is measured by compiled code")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "roofline.so"
        command = [*compiler.command, *FLAGS, "-shared", str(SOURCE), "-o", str(path)]
        ran = subprocess.run(command, capture_output=True, text=True, env=environment())
        if ran.returncode:
            raise ToolchainError(f"{SOURCE.name} does not compile: {ran.stderr.strip()[-300:]}", hint="see `autokernel doctor`")
        library = ctypes.CDLL(str(path))
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    library.copy.argtypes = [pointer, pointer, number, number, ctypes.c_int, ctypes.c_int]
    library.copy.restype = None
    library.fma.argtypes = [number, ctypes.c_int, pointer]
    library.fma.restype = ctypes.c_double
    return library
