"""A region and a schedule to a whole kernel: its C++ text and the workspace it needs."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch_autokernel.core import dims
from torch_autokernel.core.dims import Dim
from torch_autokernel.core.types import DTYPE_BYTES, Signature, TensorSpec
from torch_autokernel.propose import ir, tables
from torch_autokernel.propose.build import PLACED, build
from torch_autokernel.propose.cell import has_loop
from torch_autokernel.propose.choices import SHORTEST, Schedule
from torch_autokernel.propose.emit import Partial, Scratch, SweepText
from torch_autokernel.propose.hoist import hoist, share
from torch_autokernel.propose.index import Refused, mul, product
from torch_autokernel.propose.ir import Node, peel
from torch_autokernel.propose.pull import unrolls
from torch_autokernel.propose.sweeps import Former, Root, gathers, places
from torch_autokernel.propose.text import Writer, size_text

log = logging.getLogger(__name__)

C_BYTES = {"moments": 32, "double": 8, "float": 4, "int64_t": 8, "int32_t": 4, "bool": 1, "uint16_t": 2}


@dataclass(frozen=True, slots=True)
class Kernel:
    text: str
    workspace: Dim
    sweeps: int


def form(signature: Signature, schedule: Schedule, hints: Mapping[str, int], threads: int, one_fold: bool = True) -> Former:
    """All results of the region placed into sweeps; raises Refused. What a fixed table chooses is told as slices, unless that
    makes too many pieces."""
    if not schedule.gathers and tables.may_help(signature):
        try:
            return _formed(signature, schedule, hints, threads, True, one_fold)
        except Refused as reason:
            log.debug("indices stay indices: %s", reason)
    return _formed(signature, schedule, hints, threads, False, one_fold)


def _formed(
    signature: Signature, schedule: Schedule, hints: Mapping[str, int], threads: int, slices: bool, one_fold: bool
) -> Former:
    long = lambda n: dims.evaluate(n, dict(hints)) > SHORTEST
    _inputs, outputs = build(signature, sums=True, long=long, slices=slices, one_fold=one_fold)
    strides = {f"x{i}": s.stride for i, s in enumerate(signature.inputs)}
    columns = {0: "auto", 1: "outer", 2: "late"}[schedule.columns]
    former = Former(strides, hints, threads, schedule.lanes, columns, {0: "auto", 1: "once", 2: "twice"}[schedule.moments],
                    not schedule.short)  # fmt: skip
    for reduction in _reductions(outputs):
        if reduction.kind == "scan":
            former.place_scan(reduction)
            continue
        for node in former.steps(reduction):
            if not unrolls(node):
                operand = node.args[0]
                former.place(Root("fold", operand, peel(operand), owner=node))
    behind = len(former.sweeps) if schedule.apart else 0
    for k, (node, spec) in enumerate(zip(outputs, signature.output_specs, strict=True)):
        former.place(Root("out", node, peel(node), target=f"y{k}", dtype=spec.dtype, strides=spec.stride), behind)
    hoist(former)
    share(former)
    return former


def _reductions(outputs: list[Node]) -> list[Node]:
    """The reductions that need loops of their own: operands before users, and otherwise those over the last dimension
    first, so that column sums can join the rows' sweep."""
    waiting = [n for n in operands_first(outputs) if n.kind == "scan" or n.kind == "reduce" and not unrolls(n)]
    below = {id(n): {id(m) for m in operands_first([n]) if m.kind in ("reduce", "scan")} - {id(n)} for n in waiting}
    out: list[Node] = []
    while waiting:
        left = {id(n) for n in waiting}
        ready = [n for n in waiting if not below[id(n)] & left]
        chosen = next((n for n in ready if n.kind == "scan" or len(n.args[0].shape) - 1 in n.dims), ready[0])
        waiting.remove(chosen)
        out.append(chosen)
    return out


def operands_first(outputs: list[Node]) -> list[Node]:
    """All nodes, operands before users."""
    seen: set[int] = set()
    found: list[Node] = []
    todo: list[tuple[Node, bool]] = [(n, False) for n in reversed(outputs)]
    while todo:
        node, done = todo.pop()
        if done:
            found.append(node)
        elif id(node) not in seen:
            seen.add(id(node))
            todo.append((node, True))
            todo += [(a, False) for a in reversed(node.args)]
    return found


def generate(signature: Signature, schedule: Schedule, hints: Mapping[str, int], threads: int) -> Kernel:
    """The kernel's text; raises Refused where something has no lowering."""
    if has_loop(signature):
        from torch_autokernel.propose.recurrence import generate_loop  # imported here: it needs this module

        return generate_loop(signature, schedule, hints, threads)
    if any(op.target in PLACED for op in signature.ops):
        try:
            return _printed(signature, schedule, hints, form(signature, schedule, hints, threads))
        except Refused as reason:  # their fold is for one loop, in order
            log.debug("places by two folds: %s", reason)
            return _printed(signature, schedule, hints, form(signature, schedule, hints, threads, one_fold=False))
    return _printed(signature, schedule, hints, form(signature, schedule, hints, threads))


def _printed(signature: Signature, schedule: Schedule, hints: Mapping[str, int], former: Former) -> Kernel:
    for sweep in former.sweeps:  # every late result is read from its buffer
        for root in sweep.roots:
            if root.role == "late" and root.owner is not None:
                name = former.kept.setdefault(id(root.owner), f"w{len(former.kept)}")
                former.buffers.setdefault(name, (root.owner, root.owner.shape))
    used = used_buffers(former)
    body, counter, partials, spare, rooms = Writer(), [0], list[Partial](), set[int](), list[Scratch]()
    for sweep in former.sweeps:
        printed = SweepText(former, sweep, schedule, body, counter)
        printed.used = used
        with body.block(""):
            body(f"// {_describe(printed)}")
            if (lanes := printed.lanes()) != schedule.lanes:
                body(f"constexpr int L = {lanes};")
            printed.write()
        partials += printed.partials
        rooms += printed.rooms
        spare |= {p.number for p in printed.partials if printed.runs and p.layout.terms and p.fold == "sum"}
    return _assemble(signature, schedule, hints, former, used, partials, spare, rooms, body)


def used_buffers(former: Former) -> frozenset[str]:
    """The workspace buffers that some sweep reads."""
    used = set()
    for sweep in former.sweeps:
        used |= {i.tensor for i in former.loads_of(sweep) if i.tensor[0] in "wh"}
        used |= {former.kept[id(r.owner)] for r in sweep.roots if r.role == "late"}
    return frozenset(used)


def _describe(printed: SweepText) -> str:
    def name(axes: Iterable[str]) -> str:
        return " x ".join(str(printed.sweep.sizes[a]) for a in axes) or "1"

    sweep = printed.sweep
    if not sweep.sizes:
        return "scalars"
    what = f"rows {name(sweep.rows)}" + (f", each of {name(sweep.content)}" if sweep.content else "")
    return what + (f"; summed over {name(sorted(printed.gone))} of the rows" if printed.gone else "")


def _assemble(
    signature: Signature,
    schedule: Schedule,
    hints: Mapping[str, int],
    former: Former,
    used: frozenset[str],
    partials: list[Partial],
    spare: set[int],
    rooms: list[Scratch],
    body: Writer,
) -> Kernel:
    out = Writer()
    buffers = [(n, ir.C_COMPUTE[node.dtype], product(shape)) for n, (node, shape) in former.buffers.items() if n in used]
    counts = {p.number: product((schedule.blocks, p.extent, p.kept)) for p in partials}
    buffers += [(f"p{p.number}", p.kept_as, counts[p.number]) for p in partials]
    buffers += [(f"o{p.number}", p.ctype, counts[p.number]) for p in partials if p.number in spare]
    buffers += [(f"m{s.name}", s.ctype, product((schedule.blocks, s.count, s.kept))) for s in rooms]
    total: Dim = 0
    for _name, ctype, count in buffers:
        total = dims.add(total, mul(count, C_BYTES[ctype]), 64)
    out(*header(signature, schedule.to_json()))
    if buffers:
        out(f"// workspace: {total}")
    roots = [r for s in former.sweeps for r in s.roots]
    headers = ["scan"] * any(r.kind == "scan" for r in roots) + ["moments"] * any(map(gathers, roots))
    headers += ["places"] * any(map(places, roots))
    headers += ["math", "turn"] * any("turned(" in line for line in body.lines)
    headers += ["short_rows"] * any(s.across for s in former.sweeps)
    out(*(f"#include <autokernel/{name}.h>" for name in headers or ["math"]), "", "using namespace ak;")
    out(f"constexpr int L = {schedule.lanes};  // lanes a step", "")
    takes = ["char* free_ = static_cast<char*>(workspace);"] if buffers else []
    takes += [f"{ctype}* {name} = take<{ctype}>(free_, {size_text(count)});" for name, ctype, count in buffers]
    parts = parameters(signature, bool(buffers))
    head = f'extern "C" void kernel({", ".join(parts)})'
    known = {s: hints[s] for s in signature.symbols if s in hints} if schedule.fixed else {}
    if not known:
        with out.block(head):
            out(*takes, *body.lines)
    else:  # the compiler unrolls loops of known length and needs no code for what is left over
        given = [f"int64_t any_{s}" if (s := p.removeprefix("int64_t ")) in known else p for p in parts]
        with out.block(f"template <bool fixed> static void at_sizes({', '.join(given)})"):
            out(*(f"const int64_t {s} = fixed ? {n} : any_{s};" for s, n in known.items()))
            out(*takes, *body.lines)
        arguments = ", ".join(p.split()[-1] for p in parts)
        out("")
        with out.block(head):
            out(f"if ({' && '.join(f'{s} == {n}' for s, n in known.items())}) return at_sizes<true>({arguments});")
            out(f"at_sizes<false>({arguments});")
    return Kernel("\n".join(out.lines) + "\n", total, len(former.sweeps))


def parameters(signature: Signature, workspace: bool) -> list[str]:
    out = [f"const {ir.C_MEMORY[s.dtype]}* __restrict x{i}" for i, s in enumerate(signature.inputs)]
    out += [f"{ir.C_MEMORY[s.dtype]}* __restrict y{i}" for i, s in enumerate(signature.output_specs)]
    out += [f"int64_t {s}" for s in signature.symbols]
    return out + (["void* workspace"] if workspace else [])


def header(signature: Signature, choices: Mapping[str, int]) -> list[str]:
    def shape(s: TensorSpec) -> str:
        return f"{s.dtype}[{', '.join(map(str, s.shape))}]"

    lines = [f"// x{i}: {shape(s)}" for i, s in enumerate(signature.inputs)]
    lines += [f"// y{i}: {shape(s)}" for i, s in enumerate(signature.output_specs)]
    names = [
        op.target.removeprefix("aten.").removeprefix("prims.").rsplit(".", 1)[0]
        for op in signature.ops
        if op.target != "getitem"
    ]
    for at in range(0, len(names), 12):
        lines.append("// " + ("ops: " if at == 0 else "     ") + " ".join(names[at : at + 12]))
    return [*lines, "// schedule: " + ", ".join(f"{k}={v}" for k, v in choices.items())]


__all__ = ["DTYPE_BYTES", "Kernel", "form", "generate"]
