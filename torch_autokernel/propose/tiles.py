"""Integers of an attention kernel: all that satisfy what registers and caches allow, the most promising first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from torch_autokernel.core.types import Arch
from torch_autokernel.propose.choices import Choice, machine


@dataclass(frozen=True, slots=True)
class Tiles(Choice):
    """`lanes` of a vector; products are made of `mr` rows times `nv` vectors in registers. `rows` queries meet `keys` keys at
    once. With `merge`, queries that share their keys (of a group of heads) are rows of one block. With `direct`, keys are read
    as they lie, else from panels packed before; with `ahead`, these and the values of the same block are fetched before they
    are needed. `workers` blocks of queries are under way at a time."""

    lanes: int = 8
    mr: int = 6
    nv: int = 2
    rows: int = 48
    keys: int = 128
    merge: int = 0
    direct: int = 0
    workers: int = 8
    ahead: int = 0


@dataclass(frozen=True, slots=True)
class Problem:
    """An attention's sizes by today's hints: `blocks` independent ones of `queries` by `keys`, `group` of which share keys.
    With `skips`, whole blocks of keys may be left out."""

    blocks: int
    group: int
    queries: int
    keys: int
    depth: int
    columns: int
    skips: bool = False


def feasible(problem: Problem, arch: Arch) -> Iterator[Tiles]:
    """Every choice within the limits of registers and caches."""
    lanes, registers, l1, l2, threads = machine(arch)
    few = problem.queries * problem.group <= registers // 2
    merge = int(problem.group > 1 and problem.queries < 16)
    rows_there = problem.queries * (problem.group if merge else 1)
    for mr in sorted({min(rows_there, m) for m in (1, 2, 4, 6, 8)}):
        for nv in (1, 2, 3, 4, 8):
            if mr * nv + nv + 1 > registers:
                continue
            for keys in (32, 64, 96, 128, 192, 256, 384, 512):
                if keys % (nv * lanes) or 4 * (mr * keys + nv * lanes * problem.depth) > l1:
                    continue
                if 4 * keys * (problem.depth + problem.columns) > l2 // 2:
                    continue
                for rows in sorted({-(-min(r, rows_there) // mr) * mr for r in (12, 24, 48, 96)}):
                    if 4 * rows * (problem.depth + problem.columns) > l2 // 2:
                        continue
                    yield Tiles(lanes, mr, nv, rows, keys, merge, int(few), 4 * threads)


def cost(tiles: Tiles, problem: Problem, threads: int) -> float:
    """Cycles for a vector of keys of one query, roughly: two multiply-adds or loads a cycle, one load from the second cache;
    waste at the edges included."""
    t, p = tiles, problem
    rows_there = p.queries * (p.group if t.merge else 1)
    multiply = (p.depth + p.columns) / t.lanes
    loads = multiply * (1 / t.mr + 1 / t.nv) / 2 + (multiply / t.mr if t.keys * (p.depth + p.columns) > 4096 else 0.0)
    idle = max(1.0, 8.0 / (t.mr * t.nv))  # eight sums hide the latency of a multiply-add
    change = 2.0 * p.columns / t.lanes / t.keys + 40.0 / t.keys
    waste = (-(-rows_there // t.rows) * t.rows / rows_there) * (-(-p.keys // (t.nv * t.lanes)) * t.nv * t.lanes / p.keys)
    blocks = p.blocks // (p.group if t.merge else 1) * -(-rows_there // t.rows)
    imbalance = -(-blocks // threads) * threads / blocks
    again = 2.0 * (p.depth + p.columns) / t.lanes / t.rows  # keys and values come from another cache for each block of rows
    if p.skips:  # the edge of what is left out runs through this much of a block
        waste *= 1.0 + (t.mr + t.nv * t.lanes) / 256
    return (max(multiply / 2, loads) * idle + change + again + 24.0 / t.lanes) * waste * imbalance


def choose(problem: Problem, arch: Arch) -> list[Tiles]:
    """The most promising choices, different enough to be worth measuring. Keys and values beyond the second cache may be worth
    being fetched ahead; in the third they are not, and which one they come from is known to the clock only."""
    _lanes, _registers, _l1, l2, threads = machine(arch)
    ranked = sorted(feasible(problem, arch), key=lambda t: (cost(t, problem, threads), t.rows, t.keys))
    out: list[Tiles] = []
    for tiles in ranked:
        if all((tiles.mr, tiles.nv, tiles.rows) != (o.mr, o.nv, o.rows) or tiles.keys >= 2 * o.keys for o in out):
            out.append(tiles)
    read = 4 * (problem.blocks // problem.group) * problem.keys * (problem.depth + problem.columns)
    if read > l2:
        out = [t for tiles in out for t in ([replace(tiles, ahead=1), tiles] if tiles.direct else [tiles])]
    return out[:12]
