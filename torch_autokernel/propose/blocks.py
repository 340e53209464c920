"""Integers of a matrix product's kernel: all that satisfy what registers and caches allow, the most promising first."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

from torch_autokernel.core.types import Arch
from torch_autokernel.propose.choices import Choice, machine

MOST = 6  # choices that are measured: each takes a second to compile


@dataclass(frozen=True, slots=True)
class Blocks(Choice):
    """`lanes` of a vector; sums are made of `mr` rows times `nv` vectors in registers. A block of the result has `rows`
    times `columns` elements and is summed `depth` terms at a time from panels of the right operand. With `direct`, the right
    operand is read as it lies, over the whole depth. `workers` blocks are under way at a time."""

    lanes: int = 8
    mr: int = 6
    nv: int = 2
    rows: int = 192
    columns: int = 64
    depth: int = 256
    direct: int = 0
    workers: int = 8


@dataclass(frozen=True, slots=True)
class Problem:
    """A product's sizes by today's hints: `batch` times `rows` by `columns`, each a sum of `depth` terms. Whether the operands
    have to be turned, the left one has to be copied, and the right one can be read as it lies."""

    batch: int
    rows: int
    columns: int
    depth: int
    turn_left: bool = False
    copy_left: bool = True
    turn_right: bool = False
    direct: bool = False


def feasible(problem: Problem, arch: Arch) -> Iterator[Blocks]:
    """Every choice within the limits of registers and caches."""
    lanes, registers, l1, l2, threads = machine(arch)
    workers = 4 * threads
    for mr in sorted({min(problem.rows, m) for m in (1, 2, 4, 6, 8, 12)}):
        for nv in (1, 2, 3, 4):
            if mr * nv + nv + 1 > registers:
                continue
            panel = nv * lanes
            for columns in sorted({-(-c // panel) * panel for c in (32, 64, 128, 256)}):
                if problem.direct and problem.rows <= 16:
                    yield Blocks(lanes, mr, nv, 16, columns, problem.depth, 1, workers)
                for rows in (48, 96, 192, 384, 768):
                    for depth in (128, 256, 512, 1024):
                        if 4 * panel * depth > l1 // 2 or 4 * columns * (depth + rows) > l2 // 2:
                            continue
                        yield Blocks(lanes, mr, nv, -(-rows // mr) * mr, columns, depth, 0, workers)


def cost(blocks: Blocks, problem: Problem, threads: int) -> float:
    """Cycles of one thread, roughly: two multiply-adds or loads a cycle; to make the operands ready, and what is idle at the
    edges."""
    b, p = blocks, problem
    rows, columns = -(-p.rows // b.mr) * b.mr, -(-p.columns // (b.nv * b.lanes)) * b.nv * b.lanes
    row_blocks, column_blocks = -(-p.rows // b.rows), -(-p.columns // b.columns)
    count = p.batch * row_blocks * column_blocks
    imbalance = -(-count // threads) * threads / count
    left = p.batch * p.rows * p.depth * ((0.8 if p.turn_left else 0.25) if p.copy_left or b.direct else 0.0)
    if b.direct:
        read = p.batch * p.columns * p.depth * 2.0 * (-(-p.rows // b.mr)) / b.lanes
        return (max(p.batch * rows * p.columns * p.depth / b.lanes / 2, read) + left) / threads * imbalance
    step = max(b.mr * b.nv / 2, (b.mr + b.nv) / 2) * max(1.0, 10.0 / (b.mr * b.nv)) + 0.5  # ten sums hide the latency
    tiles, again = (rows // b.mr) * (columns // (b.nv * b.lanes)), 2.0 * b.mr * b.nv * -(-p.depth // b.depth)
    multiply = p.batch * tiles * (p.depth * step + again)
    pack = p.batch * columns * p.depth * (0.6 if p.turn_right else 0.25) * row_blocks
    store = p.batch * p.rows * p.columns * 0.5
    return (left + (multiply + pack + store) * imbalance) / threads


def choose(problem: Problem, arch: Arch) -> list[Blocks]:
    """The most promising choices, different enough to be worth measuring."""
    threads = machine(arch).threads
    ranked = sorted(feasible(problem, arch), key=lambda b: (cost(b, problem, threads), dataclasses.astuple(b)))
    out: list[Blocks] = []
    for blocks in ranked:
        alike = [o for o in out if (o.mr, o.nv, o.direct) == (blocks.mr, blocks.nv, blocks.direct)]
        if len(alike) < 3 and all(o.columns != blocks.columns or o.depth != blocks.depth for o in alike):
            out.append(blocks)
    return out[:MOST]
