"""Indices and weights that follow from sizes alone, as by resizing an image: what they choose is told as slices side by side.

`floor((i + 0.5) / 2 - 0.5)`, kept within the image, is 0, 0, 0, 1, 1, 2, 2, ...: its even and its odd places walk it step
by step, but for the first. So there is no index left in the kernel, and what lies beside an element is loaded with it.
"""

from __future__ import annotations

import itertools
import math
import operator
import struct
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch_autokernel.core.indexing import INDEXED
from torch_autokernel.core.types import Signature
from torch_autokernel.propose import ir
from torch_autokernel.propose.index import Affine, Refused, Space, SplitNeeded
from torch_autokernel.propose.ir import Index, Node, const

LONGEST = 1024  # places of a table
MOST_TURNS = 4  # places that take turns
MOST_RUNS = 3  # steps that each of them walks in

Number = float | int | bool


def may_help(signature: Signature) -> bool:
    """Whether something is indexed by values that may follow from sizes."""
    targets = {op.target for op in signature.ops}
    return not targets.isdisjoint(INDEXED) and "prims.iota.default" in targets


def known(node: Node, values: Values | None = None) -> list[Number] | None:
    """The values along the node's one dimension that is longer than 1, as torch computes them; None where they depend on a
    tensor or on sizes that are not fixed, or are not worth it."""
    long = [d for d, n in enumerate(node.shape) if n != 1]
    if len(long) != 1 or not isinstance(n := node.shape[long[0]], int) or n > LONGEST or not _follows(node):
        return None
    places = [tuple(Affine((), i if d == long[0] else 0) for d in range(len(node.shape))) for i in range(n)]
    try:
        return (values or Values()).at(node, places)
    except (_Unknown, Refused, SplitNeeded, ArithmeticError, ValueError):
        return None


class _Unknown(Exception):
    """A value that does not follow from sizes."""


def _single(x: float) -> float:
    """x rounded to float32."""
    try:
        return float(struct.unpack("f", struct.pack("f", x))[0])
    except OverflowError:
        return math.copysign(math.inf, x)


def _same(a: Number, b: Number) -> bool:
    """Whether the numbers are equal, zeros by their signs too."""
    return a == b and math.copysign(1.0, a) == math.copysign(1.0, b)


def _whole(function: Callable[[Number], int]) -> Callable[[Number], Number]:
    """A whole number of the argument's sign, also where it is 0."""
    return lambda x: math.copysign(float(function(x)), x) if isinstance(x, float) else x


def _extreme(function: Callable[[Number, Number], Number]) -> Callable[[Number, Number], Number]:
    """Of zeros of both signs torch gives one or the other."""

    def of(a: Number, b: Number) -> Number:
        if a == b and not _same(a, b):
            raise _Unknown
        return function(a, b)

    return of


_EXACT: dict[str, Callable[..., Number]] = {
    "add": operator.add, "sub": operator.sub, "mul": operator.mul, "div": operator.truediv, "neg": operator.neg, "abs": abs,
    "eq": operator.eq, "ne": operator.ne, "lt": operator.lt, "le": operator.le, "gt": operator.gt, "ge": operator.ge,
    "maximum": _extreme(max), "minimum": _extreme(min),
    "select": lambda condition, a, b: a if condition else b, "to": lambda x: x,
    "square": lambda x: x * x, "power2": lambda x: x * x,
    "floor": _whole(math.floor), "ceil": _whole(math.ceil), "trunc": _whole(math.trunc),
}  # fmt: skip


def _follows(node: Node) -> bool:
    """Whether nothing below the node is a tensor's value."""
    seen, todo = {id(node)}, [node]
    while todo:
        n = todo.pop()
        if n.kind not in ("const", "size", "iota", "view", "pieces", "point"):
            return False
        todo += [a for a in n.args if id(a) not in seen]
        seen.update(map(id, n.args))
    return True


class Values:
    """What nodes hold at places that are numbers. Nodes are kept, so that no other one comes to have the same identity."""

    def __init__(self) -> None:
        self._done: dict[tuple[int, tuple[Index, ...]], tuple[Node, list[Number]]] = {}

    def at(self, node: Node, places: Sequence[Index]) -> list[Number]:
        key = id(node), tuple(places)
        if key not in self._done:
            self._done[key] = node, self._found(node, places)
        return self._done[key][1]

    def _found(self, node: Node, places: Sequence[Index]) -> list[Number]:
        if node.kind == "const" and isinstance(node.value, (bool, int, float)):
            return [_held(node.value, node.ctype)] * len(places)
        if node.kind == "size" and isinstance(node.value, int):
            return [_held(node.value, node.ctype)] * len(places)
        if node.kind == "iota" and node.ctype == "int64_t":
            start, step = node.value
            if not isinstance(start, int) or not isinstance(step, int):
                raise _Unknown
            return [start + step * _number(p[0]) for p in places]
        if node.kind == "view" and node.pull is not None:
            space = Space({})
            return self.at(node.args[0], [node.pull(space, p) for p in places])
        if node.kind == "pieces":
            return [self._piece(node, p) for p in places]
        if node.kind == "point" and node.fn in _EXACT:
            operands = [self.at(a, [ir.broadcast(p, a.shape) for p in places]) for a in node.args]
            return [_held(_EXACT[node.fn](*values), node.ctype) for values in zip(*operands, strict=True)]
        raise _Unknown

    def _piece(self, node: Node, place: Index) -> Number:
        (dim,) = node.dims
        for part, (start, stop, offset) in zip(node.args, node.bounds, strict=True):
            if not isinstance(start, int) or not isinstance(stop, int) or not isinstance(offset, int):
                raise _Unknown
            if start <= _number(place[dim]) < stop:
                inner = (*place[:dim], place[dim].plus(-offset), *place[dim + 1 :])
                return self.at(part, [ir.broadcast(inner, part.shape)])[0]
        raise _Unknown


def _number(at: Affine) -> int:
    if at.terms or not isinstance(at.const, int):
        raise _Unknown
    return at.const


def _held(value: Number, ctype: str) -> Number:
    """The value as it is held in a C type; raises _Unknown for what does not fit, and for what is no finite number."""
    if ctype == "bool":
        return bool(value)
    if not math.isfinite(value):
        raise _Unknown
    if ctype in _BITS:
        whole = math.trunc(value)
        if abs(whole) >= 2 ** (_BITS[ctype] - 1):
            raise _Unknown
        return whole
    return _single(value) if ctype == "float" else float(value)


_BITS = {"int64_t": 64, "int32_t": 32}


def indexed(x: Node, indices: Sequence[Node], at: Sequence[int], values: Values) -> Node | None:
    """x with its dimensions `at` indexed by what is known of each index, where each leads into a dimension of its own."""
    rank = max(len(i.shape) for i in indices)
    if rank != len(at) or list(at) != list(range(at[0], at[-1] + 1)):
        return None
    found: Node | None = x
    for k, (index, d) in enumerate(zip(indices, at, strict=True)):
        own, size = rank - k, x.shape[d]
        table = known(index, values) if len(index.shape) >= own and index.shape[-own] != 1 else None
        if table is None or found is None or not isinstance(size, int):
            return None
        found = chosen(found, d, [int(i) + (size if i < 0 else 0) for i in table])
    return found


def chosen(x: Node, dim: int, table: Sequence[int]) -> Node | None:
    """x with the elements that the table names, in its order, along a dimension of fixed size; None where these are not few
    slices that take turns."""
    size = x.shape[dim]
    if not isinstance(size, int) or any(not 0 <= at < size for at in table):
        return None
    usual = len(table) // size if len(table) % size == 0 else 1  # of an image that becomes so many times as large
    walks = _in_turns(table, lambda first, second: second - first if second >= first else None, usual)
    if walks is None:
        return None

    def run(start: int, stop: int, first: int, step: int) -> tuple[Node, int, int, int]:
        one = stop - start == 1 or step == 0
        shape = (*x.shape[:dim], 1 if one else stop - start, *x.shape[dim + 1 :])
        part = ir.sliced(x, dim, first, 1 if one else step, shape)
        return part, start, stop, start

    return _side_by_side(x.shape, x.dtype, dim, walks, run)


def folded(node: Node, values: Values | None = None) -> Node:
    """A float that takes few values in turns, as constants; else the node."""
    if node.kind != "point" or node.ctype not in ("float", "double"):
        return node
    found = known(node, values)
    if found is None:
        return node
    walks = _in_turns(found, lambda first, second: 0 if _same(first, second) else None)
    if walks is None:
        return node
    dim = next(d for d, n in enumerate(node.shape) if n != 1)

    def run(start: int, stop: int, first: Number, step: int) -> tuple[Node, int, int, int]:
        shape = (*node.shape[:dim], stop - start, *node.shape[dim + 1 :])
        return ir.expand(replace(const(first, node.dtype), weak=False), shape), start, stop, start

    return _side_by_side(node.shape, node.dtype, dim, walks, run)


Run = tuple[int, int, Any, int]  # from a place up to another one, the first value, the step from one to the next


def _in_turns(table: Sequence[Any], step: Callable[[Any, Any], int | None], usual: int = 1) -> list[list[Run]] | None:
    """The table as few runs of equal steps, in the usual number of turns or in as few as will do."""
    for turns in sorted(range(1, MOST_TURNS + 1), key=lambda n: n != usual):
        if len(table) % turns == 0 and len(table) > turns:
            walks = [_runs(table[k::turns], step) for k in range(turns)]
            if all(len(runs) <= MOST_RUNS for runs in walks) and 2 * sum(map(len, walks)) <= len(table):
                return walks
    return None


def _runs(values: Sequence[Any], step: Callable[[Any, Any], int | None], offset: int = 0) -> list[Run]:
    """The run around the middle, and the like of what is left at both ends."""
    if not values:
        return []
    steps = [step(a, b) for a, b in itertools.pairwise(values)]
    low = high = len(values) // 2
    usual = steps[min(low, len(steps) - 1)] if steps else 0
    while usual is not None and high < len(steps) and steps[high] == usual:
        high += 1
    while usual is not None and low > 0 and steps[low - 1] == usual:
        low -= 1
    middle = (offset + low, offset + high + 1, values[low], usual or 0)
    return [*_runs(values[:low], step, offset), middle, *_runs(values[high + 1 :], step, offset + high + 1)]


def _side_by_side(
    shape: ir.Shape, dtype: str, dim: int, walks: Sequence[Sequence[Run]], part: Callable[..., tuple[Node, int, int, int]]
) -> Node:
    """Each walk's runs one behind the other, and the walks by turns."""
    length = walks[0][-1][1]
    whole = [ir.pieces([part(*run) for run in runs], dim, (*shape[:dim], length, *shape[dim + 1 :]), dtype) for runs in walks]
    if len(whole) == 1:
        return whole[0]
    parts = [(ir.unsqueeze(w, dim + 1), k, k + 1, k) for k, w in enumerate(whole)]
    turns = (*shape[:dim], length, len(whole), *shape[dim + 1 :])
    return ir.reshape(ir.pieces(parts, dim + 1, turns, dtype), (*shape[:dim], length * len(whole), *shape[dim + 1 :]))
