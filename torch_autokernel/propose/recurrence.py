"""A region with a loop over time as one kernel: the steps one after the other, independent slices on threads.

    pack the weights; for every slice { first states; for t { sums, then states and results }; last states }

Each of these parts is a set of sweeps over one slice (`sweeps.py`, `emit.py`), with the loops over slices and time around
them. States lie in two buffers a slice that take turns, so that a step reads what the step before it left, or in one
(`in_place.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

from torch_autokernel.core import dims
from torch_autokernel.core.dims import Dim
from torch_autokernel.core.types import Signature
from torch_autokernel.propose import ir
from torch_autokernel.propose.cell import TIME, Out, Slicer, read
from torch_autokernel.propose.choices import Schedule
from torch_autokernel.propose.factors import factors_first
from torch_autokernel.propose.functions import EXPENSIVE, FUNCTIONS, PLACES
from torch_autokernel.propose.hoist import hoist
from torch_autokernel.propose.in_place import written_in_place
from torch_autokernel.propose.index import ZERO, Affine, CutNeeded, Range, Refused, Space, SplitNeeded, mul, product
from torch_autokernel.propose.ir import Node, peel
from torch_autokernel.propose.kernel import C_BYTES, Kernel, header, operands_first, parameters, used_buffers
from torch_autokernel.propose.panels import Before, NoPanels, Panels, Quiet
from torch_autokernel.propose.pull import Puller, Table, unrolls
from torch_autokernel.propose.row_tiles import tile
from torch_autokernel.propose.slices import find_parallel, keep_one, keep_together, layout, read_along
from torch_autokernel.propose.sweeps import Former, Root, contiguous
from torch_autokernel.propose.text import Writer, affine_text, size_text

LARGE = 1 << 14  # bytes of a packed matrix from which panels pay
WORTH_PACKING = 3  # steps: a packed matrix is written once and read in each
WORTH_MOVING = 16  # steps: the same for one that could be read as it lies
APART = 1 << 19  # bytes of an input from which the next step's part is fetched ahead
AHEAD = 1 << 24  # bytes of a value that is computed before the loop, at most


@dataclass
class _Part:
    lines: list[str]
    bytes: int
    in_place: frozenset[str]  # what is written where the state before it lies


@dataclass(frozen=True)
class _Target:
    """Where a root's value goes: a buffer, and the steps of the dimensions that the slice keeps."""

    node: Node
    name: str
    dtype: str
    strides: tuple[Dim, ...]


class Recurrence:
    """Prints the kernel of one signature under one schedule; raises Refused where it cannot."""

    def __init__(self, signature: Signature, schedule: Schedule, hints: Mapping[str, int], threads: int) -> None:
        self.signature, self.schedule, self.hints, self.threads = signature, schedule, hints, threads
        self.cell = read(signature)
        self.strides: dict[str, tuple[Dim, ...]] = {f"x{i}": s.stride for i, s in enumerate(signature.inputs)}
        self.counter = [0]
        self.tiled = False
        self.packed: list[tuple[str, Node]] = []
        self.own: dict[int, tuple[Dim, ...]] = {}  # the steps of a state's dimensions within a slice

    def kernel(self) -> Kernel:
        self._pack()
        self.panels = self._panels()
        find_parallel(self.cell, 2 * self.threads)
        if self.schedule.rows > 1:
            keep_together(self.cell, self._inputs(LARGE), self.threads)
        if self.schedule.columns:
            kept = keep_one(self.cell, self.threads)
            if kept is None:
                raise Refused("no slices that share what they read")
            self._turn(read_along(self.cell, kept[0]))
        try:
            made = self._print()
        except (Refused, SplitNeeded):
            if not self.cell.parallel:
                raise
            self.cell.parallel, self.tiled = [], False
            made = self._print()
        if self.schedule.rows > 1 and not self.tiled:
            raise Refused("no rows that share weights")
        return made

    # ---- weights ----
    def _panels(self) -> dict[str, Panels]:
        """Which packed matrices lie in panels: those that no first-level cache would hold beside other things."""
        out, wide = {}, self.schedule.lanes
        for name, node in self.packed:
            if node.kind == "point" or len(node.shape) < 2:
                continue
            *rows, columns = (int(n) for n in node.shape)
            if columns >= wide and prod(rows) * columns * C_BYTES[ir.C_MEMORY[node.dtype]] >= LARGE:
                out[name] = Panels(prod(rows), columns, wide)
        return out

    def _turn(self, along: Mapping[str, int]) -> None:
        """Lay out what is computed before the loop so that these dimensions are dense."""
        for name, node in self.packed:
            if name in along and name not in self.panels:
                order = [d for d in range(len(node.shape)) if d != along[name]] + [along[name]]
                steps = dict(zip(order, contiguous(tuple(node.shape[d] for d in order)), strict=True))
                self.strides[name] = tuple(steps[d] for d in range(len(order)))

    def _inputs(self, least: int) -> set[str]:
        """The inputs and packed matrices of so many bytes."""
        shapes = {f"x{i}": (s.shape, s.itemsize) for i, s in enumerate(self.signature.inputs)}
        shapes |= {name: (n.shape, C_BYTES[ir.C_MEMORY[n.dtype]]) for name, n in self.packed}
        return {name for name, (shape, each) in shapes.items() if dims.evaluate(product(shape), self.hints) * each >= least}

    def _elements(self, name: str, node: Node) -> Dim:
        return self.panels[name].elements if name in self.panels else product(node.shape)

    def _pack(self) -> None:
        """Factors of products that are the same in every step, laid out so that vectors run along their last dimension."""
        known: dict[int, Node] = {}
        replaced: dict[int, Node] = {}

        def visit(n: Node) -> Node:
            if id(n) in known:
                return known[id(n)]
            if self._pays_ahead(n):
                known[id(n)] = self._kept(n, replaced)
                return known[id(n)]
            args = tuple(visit(a) for a in n.args)
            out = replace(n, args=args) if any(a is not b for a, b in zip(args, n.args, strict=True)) else n
            if n.kind == "reduce" and n.fn == "sum" and args[0].kind == "point" and args[0].fn == "mul":
                out = replace(out, args=(replace(args[0], args=tuple(self._packed(a, n, replaced) for a in args[0].args)),))
            known[id(n)] = out
            self._alive.append(n)
            return out

        self._alive: list[Node] = []
        self.cell.then = [visit(n) for n in self.cell.then]
        for out in self.cell.outs:
            out.node = visit(out.node)

    def _packed(self, factor: Node, sum_: Node, replaced: dict[int, Node]) -> Node:
        """The factor, read from a packed copy where it is constant and its last dimension is not dense in memory."""
        if factor.kind != "view" or len(sum_.dims) != 1 or factor.shape[-1] == 1 or not self._constant(factor):
            return factor
        if dims.evaluate(self.cell.steps, self.hints) < WORTH_PACKING:
            return factor
        base = factor.args[0]
        if len(base.shape) < 2 or any(not isinstance(s, int) for s in base.shape):
            return factor
        large = prod(base.shape) * C_BYTES[ir.C_MEMORY[base.dtype]] >= 8 * LARGE  # type: ignore[operator]
        worth = large and dims.evaluate(self.cell.steps, self.hints) >= WORTH_MOVING
        if not worth and self._dense(base):
            return factor
        return replace(factor, args=(self._kept(base, replaced),))

    def _kept(self, node: Node, replaced: dict[int, Node]) -> Node:
        """The node, read from where it is computed before the loop."""
        if id(node) not in replaced:
            name = f"packed{len(self.packed)}"
            self.packed.append((name, node))
            self._alive.append(node)
            replaced[id(node)] = Node("input", node.shape, node.dtype, label=name)
            self.strides[name] = contiguous(node.shape)
        return replaced[id(node)]

    def _pays_ahead(self, node: Node) -> bool:
        """Whether a value is costly and the same in every step, or of all steps at once: before the loop it is computed once,
        in vectors, where a step would compute it again, or one element at a time."""
        if node.kind != "point" or node.dtype not in ("float32", "float64") or not self._constant(node):
            return False
        if not any(n.kind == "point" and FUNCTIONS[n.fn][1] >= EXPENSIVE for n in operands_first([node])):
            return False
        return prod(dims.evaluate(n, self.hints) for n in node.shape) * C_BYTES[ir.C_MEMORY[node.dtype]] <= AHEAD

    def _constant(self, node: Node) -> bool:
        seen, todo = set(), [node]
        while todo:
            n = todo.pop()
            if id(n) in seen:
                continue
            seen.add(id(n))
            if n.kind == "input" and n.label.startswith(("state", "held")) or n.kind in ("reduce", "scan", "gather"):
                return False
            if n.kind == "view" and n.pull is not None and self._moves(n):
                return False
            todo += n.args
        return True

    @staticmethod
    def _moves(n: Node) -> bool:
        axes = {f"z{d}": Range(0, s) for d, s in enumerate(n.shape)}
        assert n.pull is not None
        try:
            index = tuple(ZERO if s == 1 else Affine.axis(f"z{d}") for d, s in enumerate(n.shape))
            found = n.pull(Space({**axes, TIME: Range(0, 1 << 40)}), index)
        except (Refused, SplitNeeded):
            return False
        return any(TIME in i.axes for i in found)

    def _dense(self, node: Node) -> bool:
        """Whether the node is a plain view of an input whose last dimension steps by one element."""
        table = Table()
        axes = {f"z{d}": Range(0, s) for d, s in enumerate(node.shape)}
        index = tuple(ZERO if s == 1 else Affine.axis(f"z{d}") for d, s in enumerate(node.shape))
        try:
            value = Puller(table, Space(axes), self.strides, lambda n, i: None).value(node, index)
        except (Refused, SplitNeeded, CutNeeded):
            return False
        return value.kind == "load" and value.at.coefficient(f"z{len(node.shape) - 1}") == 1

    # ---- parts ----
    def _print(self) -> Kernel:
        try:
            return self._print_once()
        except NoPanels:
            self.panels = {}
            return self._print_once()

    def _print_once(self) -> Kernel:
        cell, self.slicer = self.cell, Slicer(self.cell)
        slicer = self.slicer
        outer: dict[str, Range] = {a: Range(0, n) for a, (_w, _o, n) in zip(slicer.axes, cell.parallel, strict=True)}
        self.outer = outer
        states, size = self._states()
        tops = [slicer.root(n, slicer.of_state(i)) for i, n in enumerate(cell.then)]
        targets = [_Target(n, f"next{i}", self._held(cell.state[i]), self.own[i]) for i, n in enumerate(tops)]
        pointers, steps, after = self._results()
        slicer.check([t.node for t in (*targets, *steps)])
        first = [
            _Target(slicer.root(n, slicer.of_state(i)), f"state{i}", self._held(n), self.own[i])
            for i, n in enumerate(cell.first)
        ]
        parts = {
            "first": self._part(first, {}), "step": self._part([*targets, *steps], {TIME: Range(0, cell.steps)}),
            "after": self._part(after, {}),
        }  # fmt: skip
        packing = [self._part([_Target(n, name, self._held(n), self.strides[name])], None) for name, n in self.packed]
        return self._assemble(states, size, parts, packing, pointers)

    def _held(self, node: Node) -> str:
        if ir.category(node.dtype) != 2:
            raise Refused(f"a state of {node.dtype}")
        return node.dtype

    def _states(self) -> tuple[list[tuple[str, str, Dim]], int]:
        """The state buffers of one slice (name, C type, elements), and their bytes."""
        out: list[tuple[str, str, Dim]] = []
        for i, node in enumerate(self.cell.state):
            fixed = self.slicer.of_state(i)
            shape = tuple(1 if d in fixed else s for d, s in enumerate(node.shape))
            order = layout(self.cell, i)
            dense = dict(zip(order, contiguous(tuple(shape[d] for d in order)), strict=True))
            self.strides[f"state{i}"] = tuple(0 if d in fixed else dense[d] for d in range(len(shape)))
            self.own[i] = tuple(dense[d] for d in range(len(shape)) if d not in fixed)
            out += [(f"{name}{i}", ir.C_MEMORY[node.dtype], product(shape)) for name in ("state", "next")]
        return out, sum(_padded(count, ctype) for _n, ctype, count in out)

    def _results(self) -> tuple[list[tuple[str, str, str, bool]], list[_Target], list[_Target]]:
        """Pointers to results (name, C type, place, moving), the roots of a step, and those after the loop."""
        pointers: list[tuple[str, str, str, bool]] = []
        steps, after = list[_Target](), list[_Target]()
        for j, (node, spec) in enumerate(zip(self.cell.results, self.signature.output_specs, strict=True)):
            base = peel(node)
            if base.kind != "input" or not base.label.startswith("held"):
                raise Refused("something is computed after the loop")
            k = int(base.label[4:])
            out, fixed = self.cell.outs[k], self.slicer.of_out(k)
            place, strides = self._place(node, base, spec.stride, out, fixed)
            moving = out.every or out.carry is None
            pointers.append((f"q{j}", ir.C_MEMORY[spec.dtype], f"y{j}" + (f" + {place}" if place != "0" else ""), moving))
            value = self.cell.state[out.carry] if out.carry is not None and not out.every else out.node
            target = _Target(self.slicer.root(value, fixed), f"q{j}", spec.dtype, strides)
            (steps if moving else after).append(target)
        return pointers, steps, after

    def _place(
        self, node: Node, base: Node, stride: tuple[Dim, ...], out: Out, fixed: Mapping[int, str]
    ) -> tuple[str, tuple[Dim, ...]]:
        """Where this step's part of a result begins, and the steps of its own dimensions, in the output's memory."""
        index = tuple(
            ZERO if n == 1 and not (out.every and d == out.dim) else Affine.axis(f"d{d}") for d, n in enumerate(base.shape)
        )
        space = Space({f"d{d}": Range(0, n) for d, n in enumerate(base.shape)})
        path, n = [], node
        while n is not base:
            path.append(n)
            n = n.args[0]
        for v in reversed(path):
            assert v.push is not None
            index = v.push(space, index)
        at = ZERO
        for i, s in zip(index, stride, strict=True):
            at = at + i.times(s)
        own = [d for d in range(len(base.shape)) if not (out.every and d == out.dim)]
        moved = Affine((), at.const)
        for d, a in fixed.items():
            moved = moved + Affine.axis(a).times(at.coefficient(f"d{own[d]}"))
        if out.every:
            c = at.coefficient(f"d{out.dim}")
            moved = moved + Affine.axis(TIME).times(c)
            if out.back:
                moved = Affine.of({a: k for a, k in moved.terms if a != TIME}, moved.const) + Affine.axis(TIME).times(
                    mul(-1, c)
                )
                moved = moved.plus(mul(c, dims.add(self.cell.steps, -1)))
        text = affine_text(moved, {a: a[1:] for a, _c in moved.terms})
        return text, tuple(at.coefficient(f"d{own[d]}") for d in range(len(own)) if d not in fixed)

    def _part(self, targets: Sequence[_Target], more: Mapping[str, Range] | None) -> _Part:
        """The sweeps that compute the targets for one slice, or, without `more`, before all slices, and how much workspace they
        take."""
        former = Former(self.strides, self.hints, 1, self.schedule.lanes, "outer")
        if more is not None:
            former.outer = {**self.outer, **more}
        for reduction in _sums([t.node for t in targets]):
            made = factors_first(former, self.slicer, reduction)
            operand = made.args[0]
            former.place(Root("fold", operand, peel(operand), owner=made))
        for t in targets:
            former.place(Root("out", t.node, peel(t.node), target=t.name, dtype=t.dtype, strides=t.strides))
        if more is not None:
            hoist(former)
            tile(former, self.schedule.rows)
            self.tiled |= any(sweep.tile for sweep in former.sweeps)
        return self._text(former, Quiet if more is not None else Before)

    def _text(self, former: Former, kind: type[Quiet]) -> _Part:
        schedule = replace(self.schedule, stream=0)
        used, body = used_buffers(former), Writer()
        in_place, afar = written_in_place(former), self._inputs(APART)
        for sweep in former.sweeps:
            if sweep.reduced_rows is not None:
                raise Refused("a sum over several rows within a step")
            printed = kind(former, sweep, schedule, body, self.counter)
            printed.used, printed.panels, printed.afar, printed.in_place = used, self.panels, afar, in_place
            with body.block(""):
                printed.write()
        kept = [(n, node.ctype, product(shape)) for n, (node, shape) in former.buffers.items() if n in used]
        head = ["char* room = own;"] if kept else []
        head += [f"{ctype}* {n} = take<{ctype}>(room, {size_text(count)});" for n, ctype, count in kept]
        return _Part([*head, *body.lines], sum(_padded(count, ctype) for _n, ctype, count in kept), in_place)

    # ---- the file ----
    def _assemble(self, states: list[tuple[str, str, Dim]], size: int, parts: dict[str, _Part], packing: list[_Part],
                  pointers: list[tuple[str, str, str, bool]]) -> Kernel:  # fmt: skip
        slices = product(n for _w, _o, n in self.cell.parallel)
        each = size + max(p.bytes for p in parts.values())
        spare = max((p.bytes for p in packing), default=0)
        rooms = [mul(self._elements(name, n), C_BYTES[ir.C_MEMORY[n.dtype]]) for name, n in self.packed]
        total = dims.add(mul(slices, each), *rooms, 64 * len(rooms) + spare + 64)
        out = Writer()
        out(*header(self.signature, self.schedule.to_json()), f"// workspace: {total}", "#include <autokernel/math.h>", "")
        out("using namespace ak;", f"constexpr int L = {self.schedule.lanes};  // lanes a step", "")
        with out.block(f'extern "C" void kernel({", ".join(parameters(self.signature, True))})'):
            out("char* free_ = static_cast<char*>(workspace);")
            for name, n in self.packed:
                ctype = ir.C_MEMORY[n.dtype]
                out(f"{ctype}* {name} = take<{ctype}>(free_, {size_text(self._elements(name, n))});")
            for part in packing:
                with out.block(""):
                    out("char* own = free_;" if part.bytes else "", *part.lines)
            if spare:
                out(f"free_ += {spare};")
            self._slices(out, each, states, parts, pointers)
        return Kernel("\n".join(line for line in out.lines if line.strip() or not line) + "\n", total, len(parts))

    def _slices(self, out: Writer, each: int, states: list[tuple[str, str, Dim]], parts: dict[str, _Part],
                pointers: list[tuple[str, str, str, bool]]) -> None:  # fmt: skip
        names = [a[1:] for a in self.slicer.axes]
        sizes = [size_text(n) for _w, _o, n in self.cell.parallel]
        if names:
            out(f"#pragma omp parallel for{f' collapse({len(names)})' if len(names) > 1 else ''} schedule(static)")
        for name, n in zip(names[:-1], sizes[:-1], strict=True):
            out(f"for (int64_t {name} = 0; {name} < {n}; ++{name})")
        with out.block(f"for (int64_t {names[-1]} = 0; {names[-1]} < {sizes[-1]}; ++{names[-1]})" if names else ""):
            number = "0"
            for name, n in zip(names, sizes, strict=True):
                number = name if number == "0" else f"({number} * {n} + {name})"
            out(f"char* own = free_ + {number} * int64_t({each});")
            in_place = parts["step"].in_place
            for name, ctype, count in states:
                where = name.replace("next", "state") if name in in_place else f"take<{ctype}>(own, {size_text(count)})"
                out(f"{ctype}* {name} = {where};")
            out(*(f"{ctype}* __restrict const {name} = {at};" for name, ctype, at, moving in pointers if not moving))
            self._block(out, parts["first"])
            with out.block(f"for (int64_t t = 0; t < {size_text(self.cell.steps)}; ++t)"):
                out(*(f"{ctype}* __restrict const {name} = {at};" for name, ctype, at, moving in pointers if moving))
                self._block(out, parts["step"])
                swapped = [i for i in range(len(self.cell.state)) if f"next{i}" not in in_place]
                out(*(f"std::swap(state{i}, next{i});" for i in swapped))
            self._block(out, parts["after"])

    @staticmethod
    def _block(out: Writer, part: _Part) -> None:
        if part.lines:
            with out.block(""):
                out(*part.lines)


def _padded(count: Dim, ctype: str) -> int:
    if not isinstance(count, int):
        raise Refused(f"a buffer of {count} elements within a step")
    return (count * C_BYTES[ctype] + 63) // 64 * 64


def _sums(tops: Sequence[Node]) -> list[Node]:
    out: list[Node] = []
    for n in operands_first(list(tops)):
        if n.kind in ("scan", "gather"):
            raise Refused(f"a {n.kind} within a step")
        if n.fn in PLACES:
            raise Refused(f"{n.fn} within a step")
        if n.kind == "reduce" and not unrolls(n):
            out.append(n)
    return out


def generate_loop(signature: Signature, schedule: Schedule, hints: Mapping[str, int], threads: int) -> Kernel:
    """The kernel's text; raises Refused."""
    try:
        return Recurrence(signature, schedule, hints, threads).kernel()
    except SplitNeeded as need:
        raise Refused(f"a loop over slices would have to be split by {need.inner}") from need
    except CutNeeded as need:
        raise Refused(f"a loop over slices would have to be cut at {need.at}") from need
