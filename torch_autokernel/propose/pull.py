"""Values at an index: every node pulled back to loads, indices and folds, shared where equal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch_autokernel.core import deadline
from torch_autokernel.core.dims import Dim
from torch_autokernel.propose import ir
from torch_autokernel.propose.functions import FUNCTIONS, PLACES
from torch_autokernel.propose.index import ZERO, Affine, Range, Refused, Space, at_most, mul, nonnegative, product, sub
from torch_autokernel.propose.ir import Index, Node

UNROLL = 4
CHECKED = 256  # values, between two looks at the clock


@dataclass(frozen=True, slots=True, eq=False)
class Inst:
    """One value at one index of the loops. kinds: `load`, `const`, `size`, `index`, `fn`, `fold` (a row's reduction),
    `scan` (a running fold at `at` along its loop).

    `axes` are the loops it depends on; `stage` counts the row reductions that must be finished before it."""

    kind: str
    ctype: str
    id: int
    args: tuple[Inst, ...] = ()
    fn: str = ""
    value: Any = None
    tensor: str = ""
    dtype: str = ""
    at: Affine = ZERO
    axes: frozenset[str] = frozenset()
    stage: int = 0
    cost: float = 0.0
    node: Node | None = field(default=None, compare=False)


class Table:
    """All values of a sweep, each once."""

    def __init__(self) -> None:
        self._known: dict[Any, Inst] = {}
        self.indirect: dict[str, Inst] = {}
        self.origin: dict[int, tuple[Node, Index]] = {}
        self.made: dict[tuple[Node, Index], list[tuple[int, Mapping[str, Range]]]] = {}  # value, and the piece it was made in

    def make(self, kind: str, ctype: str, args: tuple[Inst, ...] = (), axes: frozenset[str] = frozenset(), **more: Any) -> Inst:
        key = (
            kind,
            ctype,
            tuple(a.id for a in args),
            tuple(sorted((k, v) for k, v in more.items() if k not in ("node", "cost"))),
        )
        if key not in self._known:
            stage = max((a.stage for a in args), default=0)
            if unknown := [a for a in axes if a[0] == "@" and a not in self.indirect]:
                raise Refused(f"an index {unknown[0]} that another piece made")
            real, opaque = frozenset(a for a in axes if a[0] not in "@^"), [self.indirect[a] for a in axes if a[0] == "@"]
            for inst in (*args, *opaque):
                real |= inst.axes
                stage = max(stage, inst.stage)
            more.setdefault("stage", stage)
            if len(self._known) % CHECKED == 0:
                deadline.check()
            self._known[key] = Inst(kind, ctype, len(self._known), args + tuple(opaque), axes=real, **more)
        return self._known[key]


Resolver = Callable[[Node, Index], Inst | None]


class Puller:
    """Pulls nodes within one segment of the loops' space."""

    def __init__(self, table: Table, space: Space, strides: dict[str, tuple[Dim, ...]], resolve: Resolver) -> None:
        self.table, self.space, self.strides, self.resolve = table, space, strides, resolve
        self._done: dict[tuple[int, Index], Inst] = {}

    def value(self, node: Node, index: Index) -> Inst:
        key = (id(node), index)
        if key not in self._done:
            made = self.resolve(node, index) or getattr(self, f"_{node.kind}")(node, index)
            self._done[key] = made
            self.table.origin.setdefault(made.id, (node, index))
            self.table.made.setdefault((node, index), []).append((made.id, self.space.ranges))
        return self._done[key]

    def load(self, tensor: str, dtype: str, strides: tuple[Dim, ...], index: Index, node: Node | None = None) -> Inst:
        at = ZERO
        for i, s in zip(index, strides, strict=True):
            at = at + i.times(s)
        return self.table.make(
            "load", ir.C_COMPUTE[dtype], axes=at.axes, tensor=tensor, dtype=dtype, at=at, cost=1.0, node=node
        )  # fmt: skip

    def _input(self, node: Node, index: Index) -> Inst:
        return self.load(node.label, node.dtype, self.strides[node.label], index, node)

    def _const(self, node: Node, index: Index) -> Inst:
        return self.table.make("const", node.ctype, value=node.value, fn=repr(node.value))

    def _size(self, node: Node, index: Index) -> Inst:
        return self.table.make("size", node.ctype, value=node.value)

    def _iota(self, node: Node, index: Index) -> Inst:
        start, step = node.value
        at = index[0].times(step).plus(start)
        return self.table.make("index", node.ctype, axes=at.axes, at=at, cost=1.0)

    def _point(self, node: Node, index: Index) -> Inst:
        args = tuple(self.value(a, ir.broadcast(index, a.shape)) for a in node.args)
        if node.ctype == "int64_t" and (at := _index_arithmetic(node.fn, args) or self._wrapped(node.fn, args)) is not None:
            return self.table.make("index", node.ctype, axes=at.axes, at=at, cost=1.0)
        if node.fn == "select" and (holds := self._holds(args[0])) is not None:
            return args[1] if holds else args[2]
        return self.table.make("fn", node.ctype, args, fn=node.fn, cost=FUNCTIONS[node.fn][1], node=node)

    def _wrapped(self, fn: str, args: tuple[Inst, ...]) -> Affine | None:
        """A loop index that is taken modulo a number not before its second round: the loop is cut where that begins."""
        if fn not in ("remainder", "fmod") or args[0].kind != "index" or not _is_size(args[1]):
            return None
        at, count = args[0].at, args[1].value
        try:
            low, high = self.space.bounds(at)
            if not nonnegative(low) or not at_most(high, sub(mul(2, count), 1)):
                return None
            return at if self.space.side(at, count) else at.plus(mul(-1, count))
        except Refused:
            return None

    def _holds(self, condition: Inst) -> bool | None:
        """Whether a condition is true, a constant or a loop index less than a number; None where it is both or not known."""
        if condition.kind == "const":
            return bool(condition.value)
        if condition.fn != "lt" or condition.args[0].kind != "index" or not _is_size(condition.args[1]):
            return None
        at, count = condition.args[0].at, condition.args[1].value
        try:
            low, high = self.space.bounds(at)
        except Refused:
            return None
        return True if at_most(high, sub(count, 1)) else False if at_most(count, low) else None

    def _view(self, node: Node, index: Index) -> Inst:
        assert node.pull is not None
        return self.value(node.args[0], node.pull(self.space, index))

    def _pieces(self, node: Node, index: Index) -> Inst:
        (dim,) = node.dims
        for part, (_start, stop, offset) in zip(node.args, node.bounds, strict=True):
            last = part is node.args[-1] and (_start, stop, offset) == node.bounds[-1]
            if last or self.space.side(index[dim], stop):
                moved = index[dim].plus(0 if offset == 0 else mul(-1, offset))
                inner = (*index[:dim], moved, *index[dim + 1 :])
                return self.value(part, ir.broadcast(inner, part.shape))
        raise Refused("a piece that is nowhere")

    def _gather(self, node: Node, index: Index) -> Inst:
        x, where = node.args
        (dim,) = node.dims
        at = self.value(where, index)
        if at.kind == "index":
            return self.value(x, (*index[:dim], at.at, *index[dim + 1 :]))
        name = f"@{at.id}"
        self.table.indirect[name] = self.table.make("fn", "int64_t", (at,), fn="within", value=node.value, cost=4.0)
        self.space.ranges[name] = Range(0, node.value)
        return self.value(x, (*index[:dim], Affine.axis(name), *index[dim + 1 :]))

    def _product(self, node: Node, index: Index) -> Inst:
        raise Refused("a matrix product that is not part of an attention")

    def _indices(self, node: Node, index: Index) -> Inst:
        return self.value(node.args[1], index)

    def _scan(self, node: Node, index: Index) -> Inst:
        raise Refused("a running fold within another loop")

    def _reduce(self, node: Node, index: Index) -> Inst:
        if not unrolls(node):
            raise Refused("a reduction over other rows than these")
        terms = [self.value(node.args[0], i) for i in unrolled(node, index)]
        if not terms:
            raise Refused("a reduction over nothing")
        out = terms[0]
        name = {"sum": "add", "prod": "mul", "max": "maximum", "min": "minimum", "any": "or", "all": "and"}[node.fn]
        for t in terms[1:]:
            out = self.table.make("fn", node.ctype, (out, t), fn=name, cost=1.0, node=node)
        return out


def _is_size(inst: Inst) -> bool:
    return inst.kind == "size" or inst.kind == "const" and isinstance(inst.value, int) and not isinstance(inst.value, bool)


def _index_arithmetic(fn: str, args: tuple[Inst, ...]) -> Affine | None:
    """Sums and multiples of loop indices are loop indices."""
    if fn not in ("add", "sub", "mul") or not any(a.kind == "index" for a in args):
        return None
    if not all(a.kind in ("index", "size") or a.kind == "const" and isinstance(a.value, int) for a in args):
        return None
    x, y = (a.at if a.kind == "index" else Affine((), a.value) for a in args)
    if fn == "mul":
        x, y = (x, y) if args[0].kind == "index" else (y, x)
        return x.times(y.const) if not y.terms else None
    return x + (y if fn == "add" else y.times(-1))


def unrolls(node: Node) -> bool:
    """Whether a reduction is over so few elements that it is written out."""
    count = product(node.args[0].shape[d] for d in node.dims)
    return isinstance(count, int) and count <= UNROLL and node.fn not in PLACES


def unrolled(node: Node, index: Index) -> Iterator[Index]:
    """The operand indices that a written-out reduction folds."""
    todo = [operand_index(node, index)]
    extents = [node.args[0].shape[d] for d in node.dims]
    if 0 in extents:
        return
    for d, extent in zip(node.dims, extents, strict=True):
        assert isinstance(extent, int)
        todo = [(*i[:d], Affine((), k), *i[d + 1 :]) for i in todo for k in range(extent)]
    yield from todo


def operand_index(node: Node, index: Index) -> Index:
    """A reduction's result index spread to the operand's rank, zero at reduced dimensions."""
    if node.keepdim:
        return tuple(ZERO if d in node.dims else i for d, i in enumerate(index))
    rest = iter(index)
    return tuple(ZERO if d in node.dims else next(rest) for d in range(len(node.args[0].shape)))


def kept_index(node: Node, operand: Index) -> Index:
    """The result index of the row that the operand's index belongs to."""
    if node.keepdim:
        return tuple(ZERO if d in node.dims else i for d, i in enumerate(operand))
    return tuple(i for d, i in enumerate(operand) if d not in node.dims)
