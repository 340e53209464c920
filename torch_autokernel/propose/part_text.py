"""The expressions of a kernel that is not made of sweeps but of parts around products (attention, products)."""

from __future__ import annotations

from typing import Protocol

from torch_autokernel.core.dims import Dim
from torch_autokernel.propose.choices import Schedule
from torch_autokernel.propose.pull import Inst, Table
from torch_autokernel.propose.skips import COMPARED
from torch_autokernel.propose.sweeps import Sweep, reach
from torch_autokernel.propose.text import Writer
from torch_autokernel.propose.values import Scope, ValueText


class Loops(Protocol):
    """Parts of a kernel: the loops with their sizes, and all values."""

    outer: dict[str, Dim]
    sizes: dict[str, Dim]
    table: Table


class PartText(ValueText):
    """Expressions of parts; `vector` is the axis that runs along the lanes at hand."""

    def __init__(self, parts: Loops, out: Writer) -> None:  # a part has no sweep, so nothing of one is set up
        self.sweep = Sweep(0, parts.outer | parts.sizes, [], [], [], table=parts.table)
        self.out, self.counter, self.stage, self.parked, self.schedule = out, [0], 0, {}, Schedule()
        self.vector = ""
        self.axis = {a: a for a in (*parts.outer, *parts.sizes)}

    def narrowed(self, top: Inst) -> Inst:
        """The value with positions of queries and keys in 32 bits where they are made into floats or compared: no tensor has
        2^31 of either."""
        if top.kind != "fn":
            return top
        if (top.fn == "to" and top.ctype == "float" or top.fn in COMPARED) and not any(a.kind == "index" for a in top.args):
            if None not in (short := [_short(a, self.sweep.table) for a in top.args]):
                return self.sweep.table.make("fn", top.ctype, tuple(short), fn=top.fn, cost=top.cost, node=top.node)  # type: ignore[arg-type]
        args = tuple(self.narrowed(a) for a in top.args)
        if args == top.args:
            return top
        return self.sweep.table.make("fn", top.ctype, args, fn=top.fn, value=top.value, cost=top.cost, node=top.node)

    def define(self, top: Inst, scope: Scope, without: frozenset[str] = frozenset()) -> None:
        """Define all that `top` needs, or only the part of it that does not depend on these axes."""
        for i in self.needed([top]):
            if not i.axes & without and i.kind != "leaf" and not any(x.kind == "leaf" for x in reach([i])):
                self.emit(i, scope)

    def value(self, top: Inst, scope: Scope) -> str:
        """The value as a whole vector."""
        for i in self.needed([top]):
            if i.kind != "leaf":
                self.emit(i, scope)
        return self.spread(self.name(top, scope), self.wide(top), top.ctype)

    def spread(self, text: str, wide: bool, ctype: str) -> str:
        return text if wide else f"mask<L>({text})" if ctype == "bool" else f"vec<{ctype}, L>({text})"


def _short(inst: Inst, table: Table) -> Inst | None:
    """An integer made of few positions in 32 bits, or None."""
    if inst.ctype != "int64_t":
        return None
    if inst.kind == "index":
        plain = all(c in (1, -1) for _, c in inst.at.terms) and isinstance(inst.at.const, int) and abs(inst.at.const) < 2**24
        return table.make("index", "int32_t", axes=inst.at.axes, at=inst.at, cost=1.0) if plain else None
    if inst.kind == "const":
        return table.make("const", "int32_t", value=inst.value, fn=repr(inst.value)) if abs(inst.value) < 2**24 else None
    if inst.kind == "fn" and inst.fn in ("neg", "abs", "maximum", "minimum"):
        args = [_short(a, table) for a in inst.args]
        if None not in args:
            return table.make("fn", "int32_t", tuple(args), fn=inst.fn, cost=inst.cost, node=inst.node)  # type: ignore[arg-type]
    return None


def plain(part: Inst, along: str, across: str) -> Inst | None:
    """The part as a load whose elements lie side by side along one axis, where it is one."""
    fits = part.kind == "load" and part.dtype in ("float32", "bfloat16", "float16") and part.at.coefficient(along) == 1
    return part if fits and not any(a[0] == "@" for a in part.at.axes) else None


def steps(part: Inst, axis: str) -> bool:
    """Whether some load of the part has its elements side by side along the axis."""
    return any(i.kind == "load" and i.at.coefficient(axis) == 1 for i in reach([part]))
