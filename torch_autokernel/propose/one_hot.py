"""Sums over rows of which one element differs from all others: what a loss over labels sends back.

The gradient of `nll_loss` is a row of zeros but for one place, and the softmax before it sums that row. Such a sum is the one
element and as many times the others' value as there are others: no pass over the row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch_autokernel.propose import ir
from torch_autokernel.propose.index import ZERO, Affine, CutNeeded, Range, Refused, Space, SplitNeeded
from torch_autokernel.propose.ir import Index, Node, const, convert, point


def total(x: Node, dim: int, dtype: str) -> Node | None:
    """The sum of x over one dimension, which is kept, where x varies along it only by a comparison of the place with one number
    a row; None where it does not."""
    rows = _Rows()
    try:
        one, others, place = (rows.at(x, dim, what) for what in (_HOT, _COLD, _PLACE))
    except (_Varies, Refused, SplitNeeded, CutNeeded):
        return None
    one, others, places = convert(one, dtype), convert(others, dtype), ir.size_value(x.shape[dim], "int64")
    inside = point("and", [_compared("ge", place, const(0)), _compared("lt", place, places)], "bool")
    count = ir.size_value(x.shape[dim], dtype)
    rest = point("mul", [others, point("sub", [count, const(1.0)], dtype)], dtype)
    found = ir.chosen(_compared("eq", places, const(1)), one, point("add", [one, rest], dtype), dtype)
    sum_ = ir.chosen(inside, found, point("mul", [others, count], dtype), dtype)
    return point("add", [sum_, const(0.0)], dtype) if ir.category(dtype) == 2 else sum_  # a sum of -0 begins at 0


_HOT, _COLD, _PLACE = "at the place", "elsewhere", "the place"


class _Varies(Exception):
    """Along the dimension the value varies otherwise."""


class _Rows:
    """What rows hold at the one place and elsewhere, and which place that is."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, Index], bool] = {}
        self._done: dict[tuple[int, int, str], Node] = {}

    def at(self, x: Node, dim: int, what: str) -> Node:
        """x without its variation along the dimension, whose size becomes 1; raises _Varies where there is another one. One way
        leads to the comparison: over two, its rows may have come to lie differently."""
        key = id(x), dim, what
        if key not in self._done:
            self._done[key] = self._found(x, dim, what)
        return self._done[key]

    def _found(self, x: Node, dim: int, what: str) -> Node:
        shape = _kept(x.shape, dim)
        if not self._along(x, dim):
            if what is _PLACE:
                raise _Varies
            return _first(x, dim)
        if x.kind == "view" and x.pull is not None:
            return self._through(x, dim, what, *_axes(x.shape))
        if x.kind != "point":
            raise _Varies
        if x.fn in ("eq", "ne") and (place := self._compared_with(x, dim)) is not None:
            return ir.expand(place if what is _PLACE else const((what is _HOT) == (x.fn == "eq")), shape)
        owned = [(a, _own(dim, x, a)) for a in x.args]
        varying = [(a, own) for a, own in owned if own is not None and self._along(a, own)]
        if len({id(a) for a, _own in varying}) != 1:
            raise _Varies
        if what is _PLACE:
            return ir.expand(self.at(*varying[0], what), shape)
        return replace(x, shape=shape, args=tuple(a if own is None else self.at(a, own, what) for a, own in owned))

    def _through(self, x: Node, dim: int, what: str, space: Space, index: Index) -> Node:
        assert x.pull is not None
        pull, inner = x.pull, x.pull(space, index)
        along = [d for d, e in enumerate(inner) if f"d{dim}" in e.axes]
        own = along[0]
        if len(along) > 1 or inner[own] != Affine.axis(f"d{dim}") or x.args[0].shape[own] != x.shape[dim]:
            raise _Varies
        return ir.view(self.at(x.args[0], own, what), _kept(x.shape, dim), lambda s, i: _with_zero(pull(s, i), own))

    def _compared_with(self, x: Node, dim: int) -> Node | None:
        """What the place along the dimension is compared with, one number a row; None where it is something else."""
        for place, other in (x.args, x.args[::-1]):
            own, theirs = _own(dim, x, place), _own(dim, x, other)
            if own is None or not _counts(place, own):
                continue
            if theirs is None:
                return other
            if not self._along(other, theirs):
                return _first(other, theirs)
        return None

    def _along(self, x: Node, dim: int) -> bool:
        """Whether x varies along the dimension."""
        return self._varies(*_axes(x.shape), x, f"d{dim}")

    def _varies(self, space: Space, index: Index, x: Node, axis: str) -> bool:
        if x.kind in ("const", "size") or all(axis not in e.axes for e in index):
            return False
        key = id(x), index
        if key not in self._known:
            if x.kind == "view" and x.pull is not None:
                found = self._varies(space, x.pull(space, index), x.args[0], axis)
            elif x.kind == "point":
                found = any(self._varies(space, ir.broadcast(index, a.shape), a, axis) for a in x.args)
            else:
                found = True
            self._known[key] = found
        return self._known[key]


def _compared(fn: str, a: Node, b: Node) -> Node:
    return point(fn, [a, b], "bool", "int64")


def _own(dim: int, x: Node, operand: Node) -> int | None:
    """The dimension of a broadcast operand that is dimension `dim` of the result; None where it has none."""
    own = dim - (len(x.shape) - len(operand.shape))
    return None if own < 0 or operand.shape[own] == 1 else own


def _axes(shape: ir.Shape) -> tuple[Space, Index]:
    names = [f"d{d}" for d in range(len(shape))]
    space = Space({a: Range(0, n) for a, n in zip(names, shape, strict=True)})
    return space, tuple(ZERO if n == 1 else Affine.axis(a) for a, n in zip(names, shape, strict=True))


def _counts(x: Node, dim: int) -> bool:
    """Whether the value is the place along its dimension."""
    space, index = _axes(x.shape)
    while x.kind == "view":
        pull = x.pull
        assert pull is not None
        x, index = x.args[0], pull(space, index)
    return x.kind == "iota" and x.value == (0, 1) and index[0] == Affine.axis(f"d{dim}")


def _first(x: Node, dim: int) -> Node:
    """x at the first place along the dimension."""
    return ir.view(x, _kept(x.shape, dim), lambda s, i: _with_zero(i, dim))


def _kept(shape: ir.Shape, dim: int) -> ir.Shape:
    return (*shape[:dim], 1, *shape[dim + 1 :])


def _with_zero(index: Sequence[Affine], dim: int) -> Index:
    return (*index[:dim], ZERO, *index[dim + 1 :])
