"""Kernels that are not made of sweeps but of parts around products (attention, products): their expressions, and what stands
around their text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from torch_autokernel.core import dims
from torch_autokernel.core.dims import Dim
from torch_autokernel.core.types import Signature
from torch_autokernel.propose.choices import Choice, Schedule
from torch_autokernel.propose.index import Affine, mul, product
from torch_autokernel.propose.kernel import Kernel, header, parameters
from torch_autokernel.propose.pull import Inst, Table
from torch_autokernel.propose.skips import COMPARED
from torch_autokernel.propose.sweeps import Sweep, reach
from torch_autokernel.propose.text import Writer, affine_text, size_text
from torch_autokernel.propose.values import Scope, ValueText

FLOAT = 4
SERIAL = 1 << 17  # multiply-adds that one thread does in the time that it takes to start another


class Loops(Protocol):
    """Parts of a kernel: the loops with their sizes, and all values."""

    @property
    def outer(self) -> dict[str, Dim]: ...
    @property
    def sizes(self) -> dict[str, Dim]: ...
    @property
    def table(self) -> Table: ...


class PartText(ValueText):
    """Expressions of parts; `vector` is the axis that runs along the lanes at hand."""

    def __init__(self, parts: Loops, out: Writer) -> None:  # a part has no sweep, so nothing of one is set up
        self.sweep = Sweep(0, parts.outer | parts.sizes, [], [], [], table=parts.table)
        self.out, self.counter, self.stage, self.parked, self.schedule = out, [0], 0, {}, Schedule()
        self.blocks, self.pieces = {}, ""
        self.vector = ""
        self.axis = {a: a for a in (*parts.outer, *parts.sizes)}

    def narrowed(self, top: Inst) -> Inst:
        """The value with positions of queries and keys in 32 bits where they are made into floats or compared: no tensor has
        2^31 of either."""
        if top.kind != "fn":
            return top
        if top.fn == "to" and top.ctype == "float" or top.fn in COMPARED and not any(a.kind == "index" for a in top.args):
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


class PartsKernel:
    """Prints one kernel with buffers of floats in its workspace. `constants` are names for integers of the choice, `work` is
    how many multiply-adds there are: for few no threads are started."""

    def __init__(self, signature: Signature, parts: Loops, choice: Choice, constants: Mapping[str, int], work: Dim) -> None:
        self.signature, self.loops, self.choice, self.constants = signature, parts, choice, constants
        self.out = Writer()
        self.text = PartText(parts, self.out)
        self.sizes = {a: size_text(s) for a, s in (parts.outer | parts.sizes).items()}
        self.buffers: list[tuple[str, Dim]] = []
        self.many = f" if ({size_text(work)} > {SERIAL})" if isinstance(work, str) or work <= SERIAL else ""

    def body(self) -> None:
        """Write what is done with the buffers."""
        raise NotImplementedError

    def kernel(self) -> Kernel:
        self.body()
        total: Dim = 0
        for _name, count in self.buffers:
            total = dims.add(total, mul(count, FLOAT), 64)
        out = Writer()
        out(*header(self.signature, self.choice.to_json()), f"// workspace: {total}")
        out("#include <autokernel/products.h>", "", "using namespace ak;")
        out(f"constexpr int L = {self.choice.lanes};  // lanes of a vector")
        out(f"constexpr int64_t {', '.join(f'{name} = {value}' for name, value in self.constants.items())};", "")
        with out.block(f'extern "C" void kernel({", ".join(parameters(self.signature, True))})'):
            out("char* free_ = static_cast<char*>(workspace);")
            for name, count in self.buffers:
                out(f"float* {name} = take<float>(free_, {size_text(count)});")
            out(*self.out.lines)
        return Kernel("\n".join(out.lines) + "\n", total, 1)

    def buffer(self, name: str, *sizes: Dim) -> None:
        self.buffers.append((name, product(sizes)))

    def round_up(self, d: Dim) -> Dim:
        """At least the dim rounded up to whole vectors."""
        lanes = self.choice.lanes
        return -(-d // lanes) * lanes if isinstance(d, int) else dims.add(d, lanes - 1)

    def deps(self, part: Inst) -> list[str]:
        """The outer loops that a part differs in."""
        return [a for a in self.loops.outer if a in part.axes]

    def shared(self, axes: list[str], more: str = "") -> str:
        """Nested loops over axes, shared out among threads; all heads but the last are printed."""
        heads = [f"for (int64_t {a} = 0; {a} < {self.sizes[a]}; ++{a})" for a in axes] + ([more] if more else [])
        if not heads:
            return ""
        self.out(f"#pragma omp parallel for{f' collapse({len(heads)})' if len(heads) > 1 else ''} schedule(static){self.many}")
        self.out(*heads[:-1])
        return heads[-1]

    def put(self, part: Inst, vector: str, line: str) -> None:
        """A line with the part's value, a vector along the axis."""
        self.text.vector = vector
        self.out(line.format(self.text.value(part, {})))

    def source(self, load: Inst, without: tuple[str, ...]) -> str:
        """The pointer to a load's first element of the loops that are left out."""
        rest = Affine(tuple(t for t in load.at.terms if t[0] not in without), load.at.const)
        return f"{load.tensor} + {affine_text(rest, self.text.axis)}"


def at_hand(sizes: Iterable[Dim], hints: Mapping[str, int]) -> int:
    """The product of sizes by today's hints, at least 1."""
    out = product(sizes)
    return max(1, dims.evaluate(out, {s: hints.get(s, 64) for s in dims.symbols([out])}))


def plain(part: Inst, along: str, across: str) -> Inst | None:
    """The part as a load whose elements lie side by side along one axis, where it is one."""
    fits = part.kind == "load" and part.dtype in ("float32", "bfloat16", "float16") and part.at.coefficient(along) == 1
    return part if fits and not any(a[0] == "@" for a in part.at.axes) else None


def steps(part: Inst, axis: str) -> bool:
    """Whether some load of the part has its elements side by side along the axis."""
    return any(i.kind == "load" and i.at.coefficient(axis) == 1 for i in reach([part]))
