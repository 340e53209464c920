"""A loop's body as nodes: what it carries, what it reads of this step, which of its dimensions do not depend on each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch_autokernel.core import dims
from torch_autokernel.core.dims import Dim
from torch_autokernel.core.types import Op, Ref, Signature
from torch_autokernel.propose import ir
from torch_autokernel.propose.build import Call, lowered, size
from torch_autokernel.propose.functions import EXPENSIVE, FUNCTIONS
from torch_autokernel.propose.index import ZERO, Affine, Range, Refused, Space, SplitNeeded, divide
from torch_autokernel.propose.ir import Index, Node
from torch_autokernel.propose.pull import operand_index

TIME = "^t"
_ABSORBS = ("view", "point", "const", "size", "input", "iota", "pieces", "reduce")


def has_loop(signature: Signature) -> bool:
    return any(op.target == "loop" for op in signature.ops)


# ---- products ----
def product_of(a: Node, b: Node, dtype: str) -> Node:
    """a [.., M, K] times b [.., K, N], as a sum over the second last dimension of [.., M, K, N]."""
    batch, (m, k), n = a.shape[:-2], a.shape[-2:], b.shape[-1]
    full = (*batch, m, k, n)
    left = ir.view(a, full, lambda s, i: i[:-1])
    right = ir.view(b, full, lambda s, i: (*i[:-3], *i[-2:]))
    return ir.reduce("sum", ir.point("mul", [left, right], dtype), [len(full) - 2], False, dtype)


def _mm(c: Call) -> Node:
    return product_of(c.node(0), c.node(1), c.dtype)


def _addmm(c: Call) -> Node:
    if c.raw(3, "beta", 1) != 1 or c.raw(4, "alpha", 1) != 1:
        raise Refused(f"{c.op.target} with factors")
    return ir.point("add", [product_of(c.node(1), c.node(2), c.dtype), c.node(0)], c.dtype)


def _mv(c: Call) -> Node:
    column = ir.unsqueeze(c.node(1), 1)
    return ir.squeeze(product_of(c.node(0), column, c.dtype), [1])


PRODUCTS: Mapping[str, Callable[[Call], Any]] = {
    "aten.mm.default": _mm, "aten.bmm.default": _mm, "aten.addmm.default": _addmm, "aten.baddbmm.default": _addmm,
    "aten.mv.default": _mv,
}  # fmt: skip


# ---- the cell ----
Parallel = tuple[dict[int, int], dict[int, int], Dim]  # the dimension by state, by result, and its size


@dataclass
class Out:
    """A result of the loop: each step's `node` along a new dimension `dim` (backwards or not), or the last step's; `carry` is
    the state that holds the same value after the loop, if one does."""

    node: Node
    every: bool
    dim: int
    back: bool
    carry: int | None
    shape: ir.Shape


@dataclass
class Cell:
    """`state[i]` stands for carry i, `first[i]` is its value before the loop and `then[i]` what a step makes of it. `results`
    are the region's outputs as one to one views of `held[k]`, which stand for `outs[k]`."""

    steps: Dim
    state: list[Node]
    first: list[Node]
    then: list[Node]
    outs: list[Out]
    held: list[Node]
    results: list[Node]
    parallel: list[Parallel] = field(default_factory=list)
    together: list[Parallel] = field(default_factory=list)  # would be parallel, but rows share what they read


def read(signature: Signature) -> Cell:
    """The region's only loop; raises Refused where there is more than it and views around it."""
    values: list[Any] = [Node("input", s.shape, s.dtype, value=i, label=f"x{i}") for i, s in enumerate(signature.inputs)]
    cell: Cell | None = None
    for op in signature.ops:
        if op.target != "loop":
            at = int(op.args[1]) if op.target == "getitem" else 0
            loop = op.target == "getitem" and isinstance(values[op.args[0].index], Cell)
            values.append(values[op.args[0].index].held[at] if loop else lowered(op, values, PRODUCTS))
            continue
        if cell is not None:
            raise Refused("two loops in one region")
        cell = _cell(op, values)
        _shape_outs(cell, signature, len(values))
        values.append(cell)
    assert cell is not None
    cell.results = [values[i] for i in signature.outputs]
    return cell


def _shape_outs(cell: Cell, signature: Signature, number: int) -> None:
    for op in signature.ops:
        if op.target == "getitem" and op.args[0] == Ref(number):
            k = int(op.args[1])
            cell.outs[k].shape = op.shape
            cell.held[k] = Node("input", op.shape, op.dtype, label=f"held{k}")


def _cell(op: Op, values: list[Any]) -> Cell:
    steps, inits, indexed, outside, body, nexts, outs = op.args
    first = [values[r.index] for r in inits]
    state = [Node("input", n.shape, n.dtype, label=f"state{i}") for i, n in enumerate(first)]
    local: list[Any] = [*state]
    local += [_slice(values[source.index], dim, size(start), step) for source, dim, start, step in indexed]
    local += [values[r.index] for r in outside]
    for target, args, kwargs, shape, dtype in body:
        local.append(lowered(Op(target, args, dict(kwargs), shape, dtype), local, PRODUCTS))
    made = []
    for kind, value, dim, back in outs:
        carry = nexts.index(value) if kind == "last" and value in nexts else None
        made.append(Out(local[value], kind == "all", dim, bool(back), carry, ()))
    return Cell(size(steps), state, first, [local[n] for n in nexts], made, [None] * len(made), [])  # type: ignore[list-item]


def _slice(x: Node, dim: int, start: Dim, step: int) -> Node:
    """Element `start + step * t` of a dimension."""
    shape = x.shape[:dim] + x.shape[dim + 1 :]
    at = Affine.axis(TIME).times(step).plus(start)
    return ir.view(x, shape, lambda s, i: (*i[:dim], at, *i[dim:]))


# ---- what reads what ----
class Reads:
    """Where values read the states and the sums, as indices over named axes."""

    def __init__(self, ranges: Mapping[str, Range]) -> None:
        self.space = Space(ranges)
        self.states: set[tuple[str, Index]] = set()
        self.sums: dict[Node, set[Index]] = {}
        self.costly: set[Index] = set()
        self.choices: set[Affine] = set()  # what decides which of several pieces is read
        self._seen: set[tuple[int, Index]] = set()
        self._splits: dict[str, Affine] = {}

    def walk(self, node: Node, index: Index) -> None:
        """Follow everything that the node reads at this index. An axis that must be split becomes two everywhere; SplitNeeded
        is raised where it is one over slices."""
        while True:
            try:
                return self._walk(node, index)
            except SplitNeeded as need:
                if need.axis.startswith("^"):
                    raise
                index = self._split(need, index)

    def _split(self, need: SplitNeeded, index: Index) -> Index:
        inner, size = f"{need.axis}'{len(self.space.ranges)}", divide(self.space.ranges[need.axis].high, need.inner)
        assert size is not None
        self.space.ranges |= {need.axis: Range(0, size), inner: Range(0, need.inner)}
        parts = Affine.axis(need.axis).times(need.inner) + Affine.axis(inner)
        self._splits.setdefault(need.axis, Affine.axis(need.axis))
        self._splits = {a: e.substitute(need.axis, parts) for a, e in self._splits.items()}
        self.states, self.sums, self.costly, self.choices, self._seen = set(), {}, set(), set(), set()
        return tuple(i.substitute(need.axis, parts) for i in index)

    def _walk(self, node: Node, index: Index) -> None:
        todo = [(node, index)]
        while todo:
            n, i = todo.pop()
            if (id(n), i) in self._seen:
                continue
            self._seen.add((id(n), i))
            if n.kind not in _ABSORBS:
                raise Refused(f"a {n.kind} within a loop")
            if n.kind == "input":
                self.states.add((n.label, i))
            elif n.kind == "point":
                if FUNCTIONS[n.fn][1] >= EXPENSIVE:
                    self.costly.add(i)
                todo += [(a, ir.broadcast(i, a.shape)) for a in n.args]
            elif n.kind == "view":
                assert n.pull is not None
                todo.append((n.args[0], n.pull(self.space, i)))
            elif n.kind == "pieces":
                (dim,) = n.dims
                self.choices.add(i[dim])
                for part, (_a, _b, offset) in zip(n.args, n.bounds, strict=True):
                    moved = (*i[:dim], i[dim].plus(dims.mul(-1, offset)), *i[dim + 1 :])
                    todo.append((part, ir.broadcast(moved, part.shape)))
            elif n.kind == "reduce":
                self.sums.setdefault(n, set()).add(i)
                todo.append((n.args[0], self._spread(n, i)))

    def _spread(self, n: Node, i: Index) -> Index:
        out = list(operand_index(n, i))
        for d in n.dims:
            name = f"k{id(n)}_{d}"
            self.space.ranges.setdefault(name, Range(0, n.args[0].shape[d]))
            out[d] = ZERO if n.args[0].shape[d] == 1 else self._splits.get(name, Affine.axis(name))
        return tuple(out)


def _index(shape: ir.Shape, prefix: str, fixed: Mapping[int, str], ranges: dict[str, Range]) -> Index:
    out = []
    for d, n in enumerate(shape):
        name = fixed.get(d, f"{prefix}{d}")
        ranges[name] = Range(0, n)
        out.append(ZERO if n == 1 else Affine.axis(name))
    return tuple(out)


def reads_of(node: Node, prefix: str, fixed: Mapping[int, str], outer: Mapping[str, Range] | None = None) -> Reads:
    ranges: dict[str, Range] = {TIME: Range(0, 1 << 40), **(outer or {})}
    index = _index(node.shape, prefix, fixed, ranges)
    reads = Reads(ranges)
    reads.walk(node, index)
    return reads


def only(index: Index, axis: str) -> int | None:
    """The one position that is this axis and nothing else, where the axis stands nowhere besides."""
    found = [e for e, i in enumerate(index) if axis in i.axes]
    return found[0] if len(found) == 1 and index[found[0]] == Affine.axis(axis) else None


# ---- one slice of it ----
class Slicer:
    """Rewrites nodes for one value of each parallel dimension, which become the loops `^p0`, `^p1`, ... around everything."""

    def __init__(self, cell: Cell) -> None:
        self.cell = cell
        self.axes = [f"^p{k}" for k in range(len(cell.parallel))]
        self._made: dict[int, Node] = {}
        self._keep: list[Node] = []
        self.fixed: dict[Node, dict[int, Affine]] = {}
        sums: dict[Node, set[Index]] = {}
        for i, node in enumerate(cell.then):
            self._gather(node, self.of_state(i), sums)
        for k, out in enumerate(cell.outs):
            self._gather(out.node, self.of_out(k), sums)
        for node, seen in sums.items():
            same = {d: {i[d] for i in seen} for d in range(len(node.shape))}
            self.fixed[node] = {d: e for d, (e, *more) in same.items() if not more and e.terms and e.axes <= set(self.axes)}

    def of_state(self, i: int) -> dict[int, str]:
        return {where[i]: a for a, (where, _outs, _n) in zip(self.axes, self.cell.parallel, strict=True)}

    def of_out(self, k: int) -> dict[int, str]:
        return {outs[k]: a for a, (_where, outs, _n) in zip(self.axes, self.cell.parallel, strict=True)}

    def _gather(self, node: Node, fixed: Mapping[int, str], sums: dict[Node, set[Index]]) -> None:
        for n, seen in reads_of(node, "z", fixed).sums.items():
            sums.setdefault(n, set()).update(seen)

    def root(self, node: Node, fixed: Mapping[int, str]) -> Node:
        """The node at the outer loops' positions, without those dimensions."""
        return _without(self.rewritten(node), {d: Affine.axis(a) for d, a in fixed.items()})

    def rewritten(self, node: Node) -> Node:
        """The node with every sum in it cut down to one slice."""
        if id(node) not in self._made:
            stack = [node]
            while stack:
                n = stack[-1]
                below = [a for a in n.args if id(a) not in self._made]
                if below:
                    stack += below
                    continue
                stack.pop()
                if id(n) not in self._made:
                    self._keep.append(n)
                    self._made[id(n)] = self._one(n)
        return self._made[id(node)]

    def _one(self, n: Node) -> Node:
        args = tuple(self._made[id(a)] for a in n.args)
        if n.kind == "reduce" and self.fixed.get(n):
            fixed = self.fixed[n]
            at = [d for d in range(len(args[0].shape)) if d not in n.dims] if not n.keepdim else list(range(len(n.shape)))
            inner = {at[d]: a for d, a in fixed.items()}
            left = [d for d in range(len(args[0].shape)) if d not in inner]
            shape = tuple(s for d, s in enumerate(n.shape) if d not in fixed)
            over, operand = tuple(left.index(d) for d in n.dims), _without(args[0], inner)
            cut = Node("reduce", shape, n.dtype, (operand,), n.fn, dims=over, keepdim=n.keepdim)
            return ir.view(cut, n.shape, lambda s, i: tuple(e for d, e in enumerate(i) if d not in fixed))
        return replace(n, args=args) if any(a is not b for a, b in zip(args, n.args, strict=True)) else n

    def reads(self, node: Node) -> Reads:
        """What a node of one slice reads, over the axes `z0`, `z1`, ... of its dimensions."""
        return reads_of(node, "z", {}, {a: Range(0, n) for a, (_w, _o, n) in zip(self.axes, self.cell.parallel, strict=True)})

    def check(self, nodes: Sequence[Node]) -> None:
        """Raises Refused where a slice would read another slice's state, or add up over the whole length."""
        number = {n.label: i for i, n in enumerate(self.cell.state)}
        for node in nodes:
            reads = self.reads(node)
            for label, index in reads.states:
                if label in number:
                    for d, a in self.of_state(number[label]).items():
                        if index[d] != Affine.axis(a):
                            raise Refused("a slice would read another slice's state")
            for n in reads.sums:
                if any(not isinstance(s, int) for s in n.args[0].shape):
                    raise Refused("a sum over the whole length within a step")


def _without(node: Node, fixed: Mapping[int, Affine]) -> Node:
    if not fixed:
        return node
    shape = tuple(s for d, s in enumerate(node.shape) if d not in fixed)

    def pull(_space: Space, index: Index) -> Index:
        rest = iter(index)
        return tuple(fixed[d] if d in fixed else next(rest) for d in range(len(node.shape)))

    return ir.view(node, shape, pull)
