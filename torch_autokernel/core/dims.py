"""Sizes as polynomials with integer coefficients over named symbols.

A `Dim` is an `int`, or a string such as `"s0"`, `"2*s0*s1"`, `"s0 + 3"`. The string form is canonical, so equal sizes
compare equal as values: terms are ordered by their symbols, coefficients stand first, a constant term stands last.
There is no division on purpose: a size that would need one is pinned to a constant by `capture`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

Dim = int | str
Polynomial = dict[tuple[str, ...], int]

_TERM = re.compile(r"[+-]?[^+-]+")


def parse(dim: Dim) -> Polynomial:
    """The dim as `{sorted symbols: coefficient}`; raises ValueError for text that is not a polynomial."""
    if isinstance(dim, int):
        return {(): dim} if dim else {}
    out: Polynomial = {}
    text = dim.replace(" ", "")
    terms = _TERM.findall(text)
    if "".join(terms) != text or not terms:
        raise ValueError(f"not a size: {dim!r}; expected integers and symbols joined by + - *")
    for term in terms:
        sign = -1 if term[0] == "-" else 1
        coefficient, symbols = sign, []
        for factor in term.lstrip("+-").split("*"):
            if factor.isdigit():
                coefficient *= int(factor)
            elif factor.isidentifier():
                symbols.append(factor)
            else:
                raise ValueError(f"not a size: {dim!r}; {factor!r} is neither an integer nor a symbol")
        key = tuple(sorted(symbols, key=_symbol_order))
        out[key] = out.get(key, 0) + coefficient
    return {k: v for k, v in out.items() if v}


def _symbol_order(name: str) -> tuple[str, int]:
    head = name.rstrip("0123456789")
    return head, int(name[len(head) :] or 0)


def render(poly: Polynomial) -> Dim:
    """The canonical `Dim` of a polynomial."""
    poly = {k: v for k, v in poly.items() if v}
    if not poly:
        return 0
    if set(poly) == {()}:
        return poly[()]
    out = ""
    for key in sorted(poly, key=lambda k: (k == (), [_symbol_order(s) for s in k])):
        c = poly[key]
        body = "*".join(([str(abs(c))] if abs(c) != 1 or not key else []) + list(key))
        out += (" - " if c < 0 else " + ") + body if out else ("-" if c < 0 else "") + body
    return out


def mul(*dims: Dim) -> Dim:
    """The product of the dims."""
    acc: Polynomial = {(): 1}
    for dim in dims:
        new: Polynomial = {}
        for ka, va in acc.items():
            for kb, vb in parse(dim).items():
                key = tuple(sorted(ka + kb, key=_symbol_order))
                new[key] = new.get(key, 0) + va * vb
        acc = new
    return render(acc)


def add(*dims: Dim) -> Dim:
    """The sum of the dims."""
    acc: Polynomial = {}
    for dim in dims:
        for k, v in parse(dim).items():
            acc[k] = acc.get(k, 0) + v
    return render(acc)


def symbols(dims: Iterable[Dim]) -> list[str]:
    """The symbols of the dims in the order in which they first appear."""
    seen: dict[str, None] = {}
    for dim in dims:
        if isinstance(dim, str):
            for name in re.findall(r"[A-Za-z_]\w*", dim):
                seen.setdefault(name)
    return list(seen)


def evaluate(dim: Dim, sizes: Mapping[str, int]) -> int:
    """The dim's value under `sizes`; raises KeyError naming a symbol without a value."""
    if isinstance(dim, int):
        return dim
    total = 0
    for key, coefficient in parse(dim).items():
        for name in key:
            coefficient *= sizes[name]
        total += coefficient
    return total


def rename(dim: Dim, names: Mapping[str, Dim]) -> Dim:
    """The dim with symbols replaced by other dims (used to pin a symbol to a constant)."""
    if isinstance(dim, int):
        return dim
    return add(*(mul(c, *(names.get(s, s) for s in key)) for key, c in parse(dim).items()))
