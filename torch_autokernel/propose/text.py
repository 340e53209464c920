"""Writing C++: lines with indentation, sizes and offsets, expressions over values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch_autokernel.core.dims import Dim
from torch_autokernel.propose.functions import FUNCTIONS, literal
from torch_autokernel.propose.index import Affine
from torch_autokernel.propose.pull import Inst


class Writer:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self._depth = 0

    def __call__(self, *lines: str) -> None:
        self.lines += ["  " * self._depth + line for line in lines]

    @contextmanager
    def block(self, head: str, tail: str = "}") -> Iterator[None]:
        self(f"{head} {{".lstrip())
        self._depth += 1
        yield
        self._depth -= 1
        self(tail)


def size_text(d: Dim) -> str:
    """A size as a C++ expression of type int64_t (or an integer literal)."""
    return str(d).replace(" ", "") if isinstance(d, int) or "+" not in d and "-" not in d else f"({d})"


def affine_text(e: Affine, names: Mapping[str, str]) -> str:
    """An offset or index; axes that were merged into another have no name and are left out."""
    parts = []
    for axis, c in e.terms:
        if axis in names:
            parts.append(names[axis] if c == 1 else f"{names[axis]} * {size_text(c)}")
    if e.const != 0:
        parts.append(size_text(e.const))
    return " + ".join(parts) if parts else "0"


def number(inst: Inst) -> str:
    """A constant or a size as a typed C++ expression."""
    if inst.kind == "const":
        return literal(inst.value, inst.ctype)
    return f"{inst.ctype}({inst.value})"


def expression(inst: Inst, args: list[str], wide: list[bool], lanes: str) -> str:
    """A function of operand texts; `wide` tells which operands are vectors."""
    fn, ctype = inst.fn, inst.ctype
    if fn == "within":
        return f"within({args[0]}, {size_text(inst.value)})"
    if fn == "select":
        return _select(inst, args, wide, lanes)
    if fn in ("pow", "fmod", "remainder", "atan2", "fma") and any(wide) and not all(wide):
        args = [a if w else f"vec<{ctype}, {lanes}>({a})" for a, w in zip(args, wide, strict=True)]
    operand = inst.args[0].ctype
    return FUNCTIONS[fn][0].format(*args, T=ctype, Z=literal(0, operand))


def _select(inst: Inst, args: list[str], wide: list[bool], lanes: str) -> str:
    if inst.ctype == "bool":
        if any(wide):
            args = [a if w else f"mask<{lanes}>({a})" for a, w in zip(args, wide, strict=True)]
            return f"select({', '.join(args)})"
        return f"({args[0]} ? {args[1]} : {args[2]})"
    if wide[0] and not wide[1] and not wide[2]:
        return f"choose<{inst.ctype}>({', '.join(args)})"
    if any(wide):
        return f"select({', '.join(args)})"
    return f"({args[0]} ? {args[1]} : {args[2]})"


def parenthesised(text: str) -> str:
    return text if text.replace("_", "").isalnum() or text.endswith(")") and "(" in text and " " not in text else f"({text})"
