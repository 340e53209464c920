"""Values, loads and stores of one sweep as C++ text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from torch_autokernel.core import dims
from torch_autokernel.core.dims import Dim
from torch_autokernel.propose import ir
from torch_autokernel.propose.choices import Schedule
from torch_autokernel.propose.functions import FOLDS, neutral
from torch_autokernel.propose.index import ZERO, Affine, Range, mul
from torch_autokernel.propose.pull import Inst
from torch_autokernel.propose.sweeps import Former, Root, Segment, Sweep, places, reach
from torch_autokernel.propose.text import Writer, affine_text, expression, number, parenthesised, size_text

COMPARED = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
Scope = dict[int, str]  # value id -> C++ name
MOST_PIECES = 4
LEAST = 4  # steps along the neighbour of an axis of pieces
WIDEST = 32  # columns of short rows that are turned
BITS = "half_bits"  # the type of bf16 and fp16 that are only moved


@dataclass(frozen=True)
class Parked:
    """Where a value lies from the pass `since` on: in the row of a result that is written later, in its own result
    (`own`), or in scratch."""

    tensor: str
    dtype: str
    at: Affine
    since: int
    own: bool = False


class ValueText:
    """The state of printing one sweep, and its expressions. `counter` numbers values across the kernel."""

    steps = "each"  # the loop over steps of lanes
    tiles: Mapping[tuple[str, Affine], str] = MappingProxyType({})  # what is in squares, and where

    def __init__(self, former: Former, sweep: Sweep, schedule: Schedule, out: Writer, counter: list[int]) -> None:
        self.former, self.sweep, self.schedule, self.out, self.counter = former, sweep, schedule, out, counter
        self.vector = former.unit_axis(sweep) or (sweep.content or sweep.rows or [""])[-1]
        self.pieces = self._pieces()
        order = lambda a: (a == self.vector, -former.stride_of(sweep, a), sweep.order.index(a))
        self.rows = sorted((a for a in sweep.rows if a != self.pieces), key=order)
        self.content = [a for a in (sweep.content if sweep.running else sorted(sweep.content, key=order)) if a != self.pieces]
        self.inner = self.vector in sweep.content
        self.sizes = dict(sweep.sizes)
        self.gone = sweep.reduced_rows or frozenset()
        self.tops = [v for g in sweep.segments for s in g for v in s.values.values()]
        self.folds = {(i.value, i.at): i for i in reach(self.tops) if i.kind == "fold"}
        self.parked: dict[int, Parked] = {}  # by value
        self.states: dict[int, str] = {}  # scan -> the name of its state in the pass at hand
        self.blocks: dict[tuple[str, Affine], str] = {}  # short rows that are turned: tensor and offset of the first column
        self.stage = 0
        self.axis = {a: f"r{k}" for k, a in enumerate(self.rows)} | {a: f"c{k}" for k, a in enumerate(self.content)}
        if self.vector:
            self.axis[self.vector] = "j"
        self.axis |= {a: a[1:] for a in former.outer}

    # ---- pieces ----
    def _pieces(self) -> str:
        """The vector axis, where it is short and vectors had better run along its neighbour, while a step makes all positions:
        where every position is made in a way of its own, as by a stack of halves, or all of what lies side by side along the
        neighbour, as by a repetition. Sets the vector axis; empty where it is not so."""
        sweep = self.sweep
        v = self._beside(self.vector) or self.vector
        n = sweep.sizes.get(v, 0)
        if not isinstance(n, int) or not 2 <= n <= MOST_PIECES or sweep.running or sweep.reduced_rows:
            return ""
        if sweep.content and v in sweep.rows:
            return ""
        made = [r.store_at for r in sweep.roots if r.kind != "fold"]
        long = [a for a in sweep.content or sweep.rows if a != v and self.former.hint(sweep.sizes[a]) >= LEAST]
        beside = [a for a in long if n in (self.former.stride_of(sweep, a), *(at.coefficient(a) for at in made))]
        if not beside:
            return ""
        repeats = any(i.at.coefficient(v) == 0 and i.at.coefficient(beside[-1]) == 1 for i in self.former.loads(sweep))
        if not sweep.cuts and repeats:
            for at in range(1, n):
                sweep.cut(v, at)
            self.former.analyse(sweep)
        if sweep.cuts.get(v) != list(range(1, n)) or sweep.content and len(sweep.cuts) > 1:
            return ""
        self.vector = beside[-1]
        return v

    def _beside(self, long: str) -> str:
        """A short axis along which results lie side by side, where they are made from what lies so along the vector axis."""
        made = [r.store_at for r in self.sweep.roots if r.kind != "fold"]
        short = [a for a in self.sweep.rows if made and a != long and all(at.coefficient(a) == 1 for at in made)]
        within = [a for a in short if all(at.coefficient(long) == self.sweep.sizes[a] for at in made)]
        return within[0] if within and long in self.sweep.rows else ""

    def fix(self, segment: Segment) -> None:
        """Stand at the segment's position along the axis of pieces."""
        if self.pieces:
            self.axis[self.pieces] = size_text(segment.ranges[self.pieces].low)

    def store_side_by_side(self, root: Root, texts: Sequence[str]) -> None:
        """A result's two pieces, a vector of each, by turns."""
        self.axis[self.pieces] = "0"
        where, element = affine_text(root.store_at, self.axis), f"ak::{ir.ELEMENT[root.dtype]}"
        past = "true" if self.schedule.stream and self.steps == "each" and root.target.startswith("y") else "false"
        self.out(f"put_pairs<{element}, {past}>({root.target} + {where}, {', '.join(texts)}, m);")

    # ---- loops ----
    def affines(self, tops: Sequence[Inst], roots: Sequence[Root]) -> list[Affine]:
        """Every offset that the values and results walk."""
        out = [i.at for i in reach(tops) if i.kind in ("load", "index")]
        for r in roots:
            out += [r.place] if places(r) else []
            if r.kind != "fold":
                out.append(r.store_at)
            elif id(r.owner) in self.former.kept or r.role == "late":
                out.append(r.kept_at)
        return out

    def merged(self, axes: list[str], affines: list[Affine]) -> list[str]:
        """The axes left after merging neighbours that every offset walks as one; the inner one grows."""
        axes = list(axes)
        for k in range(len(axes) - 1, 0, -1):
            a, b = axes[k - 1], axes[k]
            fits = a not in self.sweep.cuts and b not in self.sweep.cuts
            if fits and all(e.coefficient(a) == mul(self.sizes[b], e.coefficient(b)) for e in affines):
                self.sizes[b] = mul(self.sizes[a], self.sizes[b])
                self.axis.pop(a, None)
                del axes[k - 1]
        return axes

    def range(self, axis: str, ranges: dict[str, Range]) -> Range:
        r = ranges.get(axis)
        return r if r is not None and axis in self.sweep.cuts else Range(0, self.sizes[axis])

    def loop(self, axis: str, r: Range) -> str:
        v = self.axis[axis]
        return f"for (int64_t {v} = {size_text(r.low)}; {v} < {size_text(r.high)}; ++{v})"

    # ---- short rows ----
    def turned(self, at: Affine) -> bool:
        """Whether the offset walks rows that lie one behind the other, while the vector runs across them."""
        if not self.sweep.across or len(self.content) != 1 or any(a[0] == "@" for a in at.axes):
            return False
        width = self.sweep.sizes[self.content[0]]
        return at.coefficient(self.content[0]) == 1 and at.coefficient(self.vector) == width

    def _block(self, tensor: str, at: Affine) -> str:
        return self.blocks.get((tensor, self._first_column(at)), "") if self.blocks else ""

    def _first_column(self, at: Affine) -> Affine:
        return at.substitute(self.content[0], ZERO)

    def open_block(self, tensor: str, dtype: str, at: Affine, result: bool) -> None:
        """What stands for a step's rows of a tensor that is read, or of a result."""
        if (key := (tensor, self._first_column(at))) in self.blocks:
            return
        width, name = self.sweep.sizes[self.content[0]], self.fresh("rows")
        self.blocks[key] = name
        known = dims.evaluate(width, self.former.hints) if self.schedule.fixed or isinstance(width, int) else 0
        if not isinstance(width, int) and known:
            count = f"(fixed ? {known if known <= WIDEST else 0} : 0)"
        else:
            count = str(known if known <= WIDEST else 0)
        where = f"{tensor} + {affine_text(key[1], self.axis)}, {size_text(width)}"
        if result:
            self.out(f"short_results<{ir.C_MEMORY[dtype]}, L, {count}> {name}({where});")
        else:
            self.out(f"const short_rows<ak::{ir.ELEMENT[dtype]}, L, {count}> {name}({where}, m);")

    # ---- expressions ----
    def fresh(self, letter: str) -> str:
        self.counter[0] += 1
        return f"{letter}{self.counter[0]}"

    def type(self, ctype: str) -> str:
        """The C++ type of a step's worth of values."""
        if not self.vector:
            return ctype
        return "mask<L>" if ctype == "bool" else f"vec<{'uint16_t' if ctype == BITS else ctype}, L>"

    def wide(self, inst: Inst) -> bool:
        return bool(self.vector) and self.vector in inst.axes

    def spread(self, text: str, wide: bool, ctype: str) -> str:
        return text if wide or not self.vector else f"{self.type(ctype)}({text})"

    def name(self, inst: Inst, scope: Scope) -> str:
        if inst.kind == "index":
            return self._index(inst, scope)
        return number(inst) if inst.kind in ("const", "size") else scope[inst.id]

    def emit(self, inst: Inst, scope: Scope) -> None:
        """Define the value in the scope, unless it is there."""
        if inst.kind in ("const", "size", "index", "fold") or inst.id in scope:
            return
        parked = self.parked.get(inst.id)
        if parked is not None and parked.since < self.stage:
            text = self._at(parked.tensor, parked.dtype, parked.at, scope)
        elif inst.kind == "load":
            text = self._load(inst, scope)
        elif inst.kind == "scan":
            operand = self.spread(self.name(inst.args[0], scope), self.wide(inst.args[0]), inst.ctype)
            text = f"{self.states[inst.value]}.{f'along({operand}, m)' if self.inner else f'step({operand})'}"
        elif (lanes := self._lane_test(inst, scope)) is not None:
            text = lanes
        else:
            args = [parenthesised(self.name(a, scope)) for a in inst.args]
            if inst.fn == "div" and inst.ctype == "float" and self.wide(inst.args[0]) and not self.wide(inst.args[1]):
                args[1] = f"divisor({args[1]})"
            text = expression(inst, args, [self.wide(a) for a in inst.args], "L")
        scope[inst.id] = self.fresh("v")
        self.out(f"const auto {scope[inst.id]} = {text};")
        if parked is not None and parked.since == self.stage and not parked.own:
            self.store(parked.tensor, parked.dtype, parked.at, scope[inst.id], True, inst.ctype, inst.fn, False)

    def needed(self, tops: Sequence[Inst], stage: int | None = None) -> list[Inst]:
        """What has to be computed in a pass (the one at hand) for these values, operands first; parked values stand for
        themselves."""
        stage = self.stage if stage is None else stage
        seen: set[Inst] = set()
        todo = list(tops)
        while todo:
            i = todo.pop()
            if i not in seen:
                seen.add(i)
                if not (i.id in self.parked and self.parked[i.id].since < stage):
                    todo.extend(i.args)
        return sorted(seen, key=lambda i: i.id)

    def emit_all(self, tops: Sequence[Inst], scope: Scope) -> None:
        for i in self.needed(tops):
            self.emit(i, scope)

    def _axis_names(self, scope: Scope, at: Affine) -> dict[str, str]:
        found = {a: scope[self.sweep.table.indirect[a].id] for a in at.axes if a[0] == "@"}
        return self.axis | found

    def _load(self, inst: Inst, scope: Scope, element: str = "") -> str:
        if at := self._places(inst, scope):
            return f"get_at<ak::{element or ir.ELEMENT[inst.dtype]}>({inst.tensor}, {at}, m)"
        return self._at(inst.tensor, inst.dtype, inst.at, scope, element)

    def _places(self, inst: Inst, scope: Scope) -> str:
        """A step's offsets where they are values, each lane's its own; else nothing."""
        if not any(a[0] == "@" and self.wide(self.sweep.table.indirect[a]) for a in inst.at.axes):
            return ""
        names, step = self._axis_names(scope, inst.at), inst.at.coefficient(self.vector)
        at = affine_text(Affine(tuple(t for t in inst.at.terms if t[0] != self.vector), inst.at.const), names)
        return at + (f" + ramp<int64_t, L>(j * {size_text(step)}, {size_text(step)})" if step != 0 else "")

    def _at(self, tensor: str, dtype: str, at: Affine, scope: Scope, element: str = "") -> str:
        """The element or the step's elements at an offset."""
        text, element = affine_text(at, self._axis_names(scope, at)), f"ak::{element or ir.ELEMENT[dtype]}"
        where = tensor if text == "0" else f"{tensor} + {text}"
        step = at.coefficient(self.vector) if self.vector else 0
        if tile := self.tiles.get((tensor, at)):
            return f"get<{element}>({tile}, m)"
        if step == 0:
            return f"get<{element}>({where})"
        if (block := self._block(tensor, at)) and element != f"ak::{BITS}":
            return f"{block}.at({self.axis[self.content[0]]}, m)"
        if step == 2:
            return f"get_every_other<{element}>({where}, m)"
        return f"get<{element}>({where}, m)" if step == 1 else f"get_strided<{element}>({where}, {size_text(step)}, m)"

    def _index(self, inst: Inst, scope: Scope) -> str:
        if at := self._places(inst, scope):
            return f"to<{inst.ctype}>({at})"
        at = affine_text(inst.at, self._axis_names(scope, inst.at))
        step = inst.at.coefficient(self.vector) if self.vector else 0
        if step == 0:
            return f"{inst.ctype}({at})"
        return f"ramp<{inst.ctype}, L>({inst.ctype}({at}), {inst.ctype}({size_text(step)}))"

    def _lane_test(self, inst: Inst, scope: Scope) -> str | None:
        """A position along the vector compared to one number: a test on the lane's number, in 32 bits."""
        if inst.fn not in COMPARED or not self.wide(inst):
            return None
        a, b = inst.args[:2]
        op = COMPARED[inst.fn]
        if not self._counts(a):
            a, b, op = b, a, op.translate(str.maketrans("<>", "><"))
        if not self._counts(a) or self.wide(b) or b.ctype != "int64_t":
            return None
        start = affine_text(a.at, self._axis_names(scope, a.at))
        return f"lanes<int32_t, L>() {op} near<L>({self.name(b, scope)} - ({start}))"

    def _counts(self, inst: Inst) -> bool:
        return inst.kind == "index" and inst.at.coefficient(self.vector) == 1

    # ---- results ----
    def store(
        self, tensor: str, dtype: str, at: Affine, text: str, wide: bool, ctype: str, fn: str = "", last: bool = True
    ) -> None:
        """A value, which `fn` gave, into memory; `last` where this kernel does not read it again."""
        where = affine_text(at, self.axis)
        pointer = tensor if where == "0" else f"{tensor} + {where}"
        step, element = at.coefficient(self.vector) if self.vector else 0, f"ak::{ir.ELEMENT[dtype]}"
        if ctype == BITS:
            element = f"ak::{BITS}"
        elif dtype == "bfloat16" and fn == ir.ROUNDING[dtype]:
            element += "_held"
        if tile := self.tiles.get((tensor, at)):
            self.out(f"put<{element}>({tile}, {self.spread(text, wide, ctype)}, m);")
        elif step == 0:
            self.out(f"put<{element}>({pointer}, {text});")
        elif block := self._block(tensor, at):
            self.out(f"{block}.template put<{element}>({self.axis[self.content[0]]}, {self.spread(text, wide, ctype)}, m);")
        elif step == 1:
            put = "put_stream" if self.schedule.stream and self.steps == "each" and last and tensor.startswith("y") else "put"
            self.out(f"{put}<{element}>({pointer}, {self.spread(text, wide, ctype)}, m);")
        else:
            self.out(f"put_strided<{element}>({pointer}, {self.spread(text, wide, ctype)}, {size_text(step)}, m);")

    def accumulator(self, name: str, fold: str, ctype: str, vector: bool) -> None:
        if fold == "squares":
            self.out(f"squares{'' if self.vector in self.gone or self.inner else '_each'}<{ctype}, L> {name};")
            return
        self.out(f"{self.type(ctype) if vector else ctype} {name}({neutral(fold, ctype)});")

    def combine(self, fold: str, a: str, b: str) -> str:
        return FOLDS[fold][1].format(a, b)

    def existing(self, text: str, fold: str, ctype: str) -> str:
        """The lanes that exist, neutral elsewhere."""
        return f"keep(m, {text}, {neutral(fold, ctype)})"

    def all_lanes(self, fold: str, text: str) -> str:
        return f"{FOLDS[fold][2]}({text})"

    def elements(self, sizes: Sequence[Dim]) -> int:
        return self.former.extent_of(sizes)
