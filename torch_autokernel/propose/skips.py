"""Which keys a mask empties, told from the pulled score: what a masked score is, and when a block of keys can hold another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch_autokernel.core.dims import Dim
from torch_autokernel.propose.index import Affine, mul, nonnegative
from torch_autokernel.propose.pull import Inst, Table
from torch_autokernel.propose.sweeps import reach
from torch_autokernel.propose.text import affine_text, size_text

COMPARED = ("lt", "le", "gt", "ge", "eq", "ne")
OPPOSITE = {"lt": "ge", "le": "gt", "gt": "le", "ge": "lt", "eq": "ne", "ne": "eq"}


@dataclass(frozen=True)
class Masked:
    """A score is `value`, the same everywhere, unless `live` (or, where `inverse`, unless it is not)."""

    live: Inst
    inverse: bool
    value: Inst


def masked(score: Inst, table: Table) -> Masked | None:
    """How the score is masked, where it is by a choice between it and one number."""
    if score.kind != "fn":
        return None
    if score.fn == "select":
        condition, a, b = score.args
        for kept, value, inverse in ((a, b, False), (b, a, True)):
            if not value.axes and _finite_kinds(value):
                return _both(Masked(condition, inverse, value), masked(kept, table), table)
        return None
    for at, arg in enumerate(score.args):
        others = [x for k, x in enumerate(score.args) if k != at]
        if any(x.axes for x in others) or (found := masked(arg, table)) is None:
            continue
        args = (*score.args[:at], found.value, *score.args[at + 1 :])
        return Masked(found.live, found.inverse, table.make("fn", score.ctype, args, fn=score.fn, node=score.node))
    return None


def _both(outer: Masked, inner: Masked | None, table: Table) -> Masked:
    """Two masks that leave the same number are one."""
    if inner is None or inner.value != outer.value:
        return outer
    lives = tuple(table.make("fn", "bool", (m.live,), fn="not", cost=1.0) if m.inverse else m.live for m in (outer, inner))
    return Masked(table.make("fn", "bool", lives, fn="and", cost=1.0), False, outer.value)


def _finite_kinds(value: Inst) -> bool:
    return all(i.kind in ("const", "size", "fn") for i in reach([value]))


Ends = Mapping[str, tuple[str, str]]


def possible(condition: Inst, inverse: bool, ends: Ends, names: Mapping[str, str]) -> str | None:
    """C++ that is false only where the condition holds nowhere while the axes of `ends` run from one text to another; None
    where nothing is known."""
    fn = condition.fn
    if fn == "not":
        return possible(condition.args[0], not inverse, ends, names)
    if fn in ("and", "or"):
        both = [possible(a, inverse, ends, names) for a in condition.args]
        if (fn == "and") != inverse:
            known = [t for t in both if t is not None]
            return " && ".join(f"({t})" for t in known) if known else None
        return None if None in both else " || ".join(f"({t})" for t in both)
    if fn in COMPARED:
        return _compared(condition, OPPOSITE[fn] if inverse else fn, ends, names)
    return None


def _compared(condition: Inst, fn: str, ends: Ends, names: Mapping[str, str]) -> str | None:
    """a - b against 0, by the least and the greatest value that the difference has."""
    sides = [_affine(a) for a in condition.args]
    if sides[0] is None or sides[1] is None:
        return None
    away = sides[0] + sides[1].times(-1)
    if not away.axes & set(ends):
        return None
    low, high = (_end(away, ends, names, pick) for pick in (0, 1))
    if low is None or high is None:
        return None
    return {"lt": f"{low} < 0", "le": f"{low} <= 0", "gt": f"{high} > 0", "ge": f"{high} >= 0",
            "eq": f"{low} <= 0 && {high} >= 0", "ne": f"{low} != 0 || {high} != 0"}[fn]  # fmt: skip


def _affine(inst: Inst) -> Affine | None:
    if inst.ctype not in ("int64_t", "int32_t"):
        return None
    if inst.kind == "index":
        return inst.at if not any(a[0] == "@" for a in inst.at.axes) else None
    return Affine((), inst.value) if inst.kind in ("const", "size") else None


def _end(away: Affine, ends: Ends, names: Mapping[str, str], pick: int) -> str | None:
    """The least (0) or greatest (1) value as text."""
    fixed = Affine(tuple(t for t in away.terms if t[0] not in ends), away.const)
    parts = [affine_text(fixed, names)]
    for axis, c in away.terms:
        if axis in ends:
            sign = _sign(c)
            if sign is None:
                return None
            parts.append(f"({size_text(c)}) * ({ends[axis][pick if sign > 0 else 1 - pick]})")
    return " + ".join(parts)


def _sign(c: Dim) -> int | None:
    return 1 if nonnegative(c) else -1 if nonnegative(mul(-1, c)) else None
