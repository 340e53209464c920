"""The least time that a region can take: what must be moved, over what no machine exceeds.

Used in two ways: a measured time below the floor is an error in the measurement (or a cheat), and a region whose floor lies
far below the cost of calling an operator is not worth a search.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from torch_autokernel.core import dims
from torch_autokernel.core.products import PRODUCTS
from torch_autokernel.core.types import Arch, Ref, Region

# Operations that may leave part of their first operand unread.
PARTIAL = ("slice", "select", "index", "gather", "embedding", "narrow", "as_strided", "diagonal", "unfold", "take")

# Bytes a nanosecond for one thread, by where the data lies: twice what current cores can do at 6 GHz
# (L1 2 x 64 bytes a cycle, L2 64, L3 32, memory 16), so that only an impossible time falls below.
CEILING = {"l1": 1536.0, "l2": 768.0, "l3": 384.0, "memory": 192.0}
# Multiply-adds a nanosecond for one thread: twice two vectors a cycle at 6 GHz, and twice what AMX units can do.
MULTIPLY_ADDS = {"amx_tile": 12288.0, "": 384.0}
MEMORY_MARGIN = 4.0  # how far above a measured main-memory rate a time may lie before it is called impossible


def compulsory_bytes(region: Region) -> int:
    """Bytes that any implementation moves: each input that must be read entirely, once, and each output, once. An element
    that several indices share (stride 0) counts once; inputs that are sliced or indexed count nothing."""
    signature, sizes = region.signature, region.sizes
    partial = set(_partly_read(region))
    total = 0
    for i, spec in enumerate(signature.inputs):
        if i not in partial:
            total += _distinct(spec.concrete(sizes)) * spec.itemsize
    return total + sum(s.numel(sizes) * s.itemsize for s in signature.output_specs)


def floor_ns(region: Region, arch: Arch, threads: int) -> float:
    """Nanoseconds below which no honest measurement of one call can lie."""
    total = compulsory_bytes(region)
    limits = arch.limits
    level = "memory"
    for name in ("l3", "l2", "l1"):
        share = limits.get(f"{name}_bytes", 0) * (threads if name != "l3" else 1)
        if share and total > 2 * share:
            break
        level = name
    rate = CEILING[level] * threads
    if level == "memory" and arch.peak_bytes_per_s:
        rate = min(rate, arch.peak_bytes_per_s * MEMORY_MARGIN / 1e9)
    ceiling = MULTIPLY_ADDS["amx_tile" if "amx_tile" in arch.features else ""] * threads
    return max(total / rate, multiply_adds(region) / ceiling)


def multiply_adds(region: Region) -> int:
    """Multiply-adds of the region's matrix products, as far as they are part of its own operations (not of a loop's)."""
    signature, sizes = region.signature, region.sizes
    shapes = [s.shape for s in signature.inputs] + [op.shape for op in signature.ops]
    total = 0
    for op in signature.ops:
        if op.target in PRODUCTS:
            left = next(a for a in op.args[PRODUCTS[op.target] :] if isinstance(a, Ref))
            total += math.prod(dims.evaluate(d, sizes) for d in (*op.shape, shapes[left.index][-1]))
    return total


def _distinct(spec: Any) -> int:
    count = 1
    for size, stride in zip(spec.shape, spec.stride, strict=True):
        count *= size if stride != 0 else min(size, 1)
    return count


def _partly_read(region: Region) -> Iterator[int]:
    """Inputs that some operation may read only in part, seen through views of them."""
    count = len(region.signature.inputs)
    origin: dict[int, int] = {i: i for i in range(count)}
    for number, op in enumerate(region.signature.ops, count):
        first = next((a for a in op.args if isinstance(a, Ref)), None)
        if first is None or first.index not in origin:
            continue
        name = op.target.removeprefix("aten.").split(".")[0]
        if name.startswith(PARTIAL):
            yield origin[first.index]
        if name in ("view", "reshape", "permute", "unsqueeze", "squeeze", "expand", "transpose", "t", "alias"):
            origin[number] = origin[first.index]
