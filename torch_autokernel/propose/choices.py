"""The integer choices of a schedule."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from torch_autokernel.core import dims
from torch_autokernel.core.dims import Dim
from torch_autokernel.core.types import Arch, Region, TensorSpec
from torch_autokernel.propose.cell import has_loop
from torch_autokernel.propose.functions import PLACES
from torch_autokernel.propose.ir import ROUNDING
from torch_autokernel.propose.tables import may_help

REDUCED = tuple(f"aten.{name}." for name in ("sum", "mean", "var", "var_mean", "amax", "amin", *PLACES))
TOGETHER = 8 << 10  # bytes of a row, from which on several at once may be faster than one
SHORTEST = 24  # elements of a row, up to which vectors run across rows


class Machine(NamedTuple):
    """What choices depend on: float lanes of a vector, vector registers, bytes of the first two caches, threads."""

    lanes: int
    registers: int
    l1: int
    l2: int
    threads: int


def machine(arch: Arch) -> Machine:
    limits = arch.limits
    lanes = max(4, int(limits.get("vector_bytes", 32)) // 4)
    l1, l2 = int(limits.get("l1_bytes", 32768)), int(limits.get("l2_bytes", 1 << 20))
    return Machine(lanes, 32 if lanes >= 16 else 16, l1, l2, max(1, int(limits.get("threads", 1))))


@dataclass(frozen=True, slots=True)
class Choice:
    """Integers that a search may vary."""

    lanes: int

    def to_json(self) -> Mapping[str, int]:
        return dataclasses.asdict(self)


@dataclass(frozen=True, slots=True)
class Schedule(Choice):
    """`lanes` a step; `serial_below` the elements under which no threads are used; `blocks` of rows for partial results;
    `strip` elements a thread takes at once of a long axis; `columns` how a reduction over outer axes runs (0 by size,
    1 one accumulator a column, 2 partial sums per block of rows); `stream` 1 to store past the caches; `park` 1 to keep
    costly values of one pass over a row for the next; `fixed` 1 to compile everything a second time for the sizes at hand;
    `moments` how squared deviations are summed (0 by size, 1 in one pass with the mean, 2 after the mean);
    `short` 1 to keep vectors within the row where rows are so short that else their lanes are different rows; `rows` of a batch
    that a step of a loop multiplies with the same weights at once, at most (1: each row goes through the loop by itself);
    `gathers` 1 where indices that follow from sizes stay indices (else they are slices side by side); `apart` 1 to give
    results loops of their own behind the rows' reductions, which take all rows strip by strip; `together` rows are reduced one
    after the other before their results are made in one walk; `tile` 0 to read and write what lies turned element by element.
    A loop's `columns` is 1 where vectors run along a dimension of which each position could go through the loop by itself."""

    lanes: int = 16
    serial_below: int = 16384
    blocks: int = 8
    strip: int = 2048
    columns: int = 0
    stream: int = 0
    park: int = 1
    fixed: int = 0
    moments: int = 0
    short: int = 0
    rows: int = 1
    gathers: int = 0
    apart: int = 0
    together: int = 1
    tile: int = 1

    def to_json(self) -> Mapping[str, int]:
        usual = {"moments": 0, "short": 0, "rows": 1, "gathers": 0, "apart": 0, "together": 1, "tile": 1}
        return {k: v for k, v in dataclasses.asdict(self).items() if k not in usual or v != usual[k]}


def schedules(region: Region, arch: Arch) -> Iterator[Schedule]:
    """Schedules in the order in which they are worth trying; some print the same text."""
    native, registers, _l1, l2, threads = machine(arch)
    if has_loop(region.signature):
        tiles = [Schedule(lanes=n * native, rows=(registers - n - 1) // n) for n in (2, 4, 1)]
        columns = [Schedule(lanes=n * native, columns=1) for n in (4, 8, 2)]
        each = [Schedule(lanes=n * native) for n in (4, 2, 8, 1)]
        yield from (each[0], *tiles, *columns, *each[1:])
        return
    large = _result_bytes(region) > 2 * max(1 << 20, l2)
    half = any(s.dtype in ROUNDING for s in (*region.signature.inputs, *region.signature.output_specs))
    lanes, blocks = (4 if half else 2) * native, max(4, 2 * threads)
    first = Schedule(lanes=lanes, blocks=blocks, stream=int(large), fixed=1)
    yield first
    if any(op.target.startswith("aten.logcumsumexp") for op in region.signature.ops):  # more between the steps of its state
        yield dataclasses.replace(first, lanes=8 * native)
    if _shared_by_long_rows(region, l2):
        yield dataclasses.replace(first, apart=1, strip=l2 // 8)
    if large and _reduces(region) and any(TOGETHER <= _row_bytes(region, s) <= l2 // 8 for s in region.signature.output_specs):
        yield dataclasses.replace(first, together=4)
    if _lies_both_ways(region) and _reduces(region):  # results in tiles, behind the reductions
        yield dataclasses.replace(first, apart=1)
    yield dataclasses.replace(first, lanes=native)
    yield dataclasses.replace(first, lanes=(2 if half else 4) * native)
    if not large and _reduces(region):  # what one row's sum waits for, others fill
        yield dataclasses.replace(first, together=4)
    if may_help(region.signature):
        yield dataclasses.replace(first, gathers=1)
    if any(s.shape and 1 < _hint(region, s.shape[-1]) <= SHORTEST for s in region.signature.inputs):
        yield dataclasses.replace(first, short=1)
    if large:
        yield dataclasses.replace(first, park=0)
    yield dataclasses.replace(first, columns=1)
    yield dataclasses.replace(first, columns=2)
    yield dataclasses.replace(first, stream=0, park=int(large))
    yield dataclasses.replace(first, lanes=native, columns=1)
    if any(op.target.startswith("aten.var") for op in region.signature.ops):
        yield dataclasses.replace(first, moments=1)
        yield dataclasses.replace(first, moments=2)
    yield dataclasses.replace(first, serial_below=2048)
    yield dataclasses.replace(first, blocks=4 * first.blocks)
    yield dataclasses.replace(first, lanes=native, park=0)


def _reduces(region: Region) -> bool:
    return any(op.target.startswith(REDUCED) for op in region.signature.ops)


def _row_bytes(region: Region, spec: TensorSpec) -> int:
    return _hint(region, spec.shape[-1]) * spec.itemsize if spec.shape else 0


def _shared_by_long_rows(region: Region, cache: int) -> bool:
    """Whether rows that are reduced share what is too large for the cache, so that each row would read it from memory."""
    if not _reduces(region):
        return False
    sizes = _sizes(region)
    largest = max(s.numel(sizes) for s in region.signature.output_specs)
    return any(cache < s.numel(sizes) * s.itemsize and s.numel(sizes) < largest for s in region.signature.inputs)


def _lies_both_ways(region: Region) -> bool:
    """Whether large tensors lie with different dimensions side by side."""
    specs, sizes = (*region.signature.inputs, *region.signature.output_specs), _sizes(region)
    most = max((s.numel(sizes) for s in specs), default=0)
    large = [s for s in specs if len(s.shape) > 1 and 2 * s.numel(sizes) >= most]
    return len({s.stride[-1] == 1 or _hint(region, s.shape[-1]) == 1 for s in large}) > 1


def _sizes(region: Region) -> dict[str, int]:
    return {s: region.sizes.get(s, 64) for s in region.signature.symbols}


def _hint(region: Region, size: Dim) -> int:
    return dims.evaluate(size, _sizes(region))


def _result_bytes(region: Region) -> int:
    sizes = _sizes(region)
    return sum(s.numel(sizes) * s.itemsize for s in region.signature.output_specs)
