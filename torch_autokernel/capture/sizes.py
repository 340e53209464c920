"""Concrete or SymInt sizes to canonical symbols.

Duck sizing: equal integers share a symbol, 0 and 1 stay constants. A SymInt is expressed in the symbols that stand alone in
some input; where that is impossible its whole expression becomes one symbol. A symbol may be pinned: it is a constant then,
and the signature says so. Pinning is always right, it only makes the kernel less general.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import sympy
import torch

from torch_autokernel.core import dims
from torch_autokernel.core.dims import Dim
from torch_autokernel.core.errors import CaptureError


class Pin(Exception):
    """These symbols cannot stay symbolic."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = tuple(names)
        super().__init__(", ".join(self.names))


def hint(size: Any) -> int:
    """The concrete value of an int or SymInt; raises CaptureError for one that has none."""
    if isinstance(size, int):
        return size
    node = getattr(size, "node", None)
    value = node.hint if node is not None and node.has_hint() else None
    if not isinstance(value, int):
        raise CaptureError(f"size {size} has no known value")
    return value


def _expr(size: torch.SymInt) -> sympy.Expr:
    return sympy.sympify(size.node.expr)


class Sizes:
    """The naming of sizes within one region. `pinned` holds integer values (or SymInt texts) that must stay constants."""

    def __init__(self, pinned: frozenset[int | str] = frozenset(), static: bool = False) -> None:
        self.pinned = pinned
        self.static = static
        self.values: dict[str, int] = {}
        self._by_key: dict[int | str, str] = {}
        self._bare: dict[sympy.Symbol, str] = {}

    def declare(self, sizes: Iterable[Any]) -> None:
        """Register sizes of inputs, in argument order, so that their symbols exist before anything refers to them."""
        sizes = list(sizes)
        for size in sizes:
            if isinstance(size, torch.SymInt) and isinstance(expr := _expr(size), sympy.Symbol):
                self._bare.setdefault(expr, self._name(str(expr), hint(size)))
        for size in sizes:
            self.of(size, new=True)

    def _name(self, key: int | str, value: int) -> str:
        if key not in self._by_key:
            self._by_key[key] = f"s{len(self._by_key)}"
            self.values[self._by_key[key]] = value
        return self._by_key[key]

    def of(self, size: Any, new: bool = False) -> Dim:
        """The Dim of a size. Without `new`, an integer that no input has stays a constant."""
        if isinstance(size, bool):
            raise CaptureError(f"a size is a bool: {size}")
        if isinstance(size, int):
            if size in (0, 1) or size < 0 or size in self.pinned or self.static:
                return size
            return self._name(size, size) if new else self._by_key.get(size, size)
        if not isinstance(size, torch.SymInt):
            raise CaptureError(f"not a size: {size!r}")
        expr = _expr(size)
        if expr.is_Integer:
            return self.of(int(expr), new)
        poly = self._polynomial(expr)
        if poly is not None:
            return poly
        key = str(expr)
        if key not in self._by_key and not new:
            raise CaptureError(f"size {expr} is not made of the sizes of the region's inputs")
        return self._name(key, hint(size))

    def _polynomial(self, expr: sympy.Expr) -> Dim | None:
        if not expr.free_symbols <= set(self._bare):
            return None
        try:
            poly = sympy.Poly(expr, *sorted(self._bare, key=str))
        except sympy.PolynomialError:
            return None
        terms: list[Dim] = []
        for powers, coefficient in poly.terms():
            if not coefficient.is_Integer:
                return None
            term: Dim = int(coefficient)
            for symbol, power in zip(poly.gens, powers, strict=True):
                term = dims.mul(term, *[self._bare[symbol]] * power)
            terms.append(term)
        return dims.add(*terms)

    def pin(self, names: Iterable[str]) -> frozenset[int | str]:
        """The enlarged set of pinned values; raises CaptureError where a symbol is dynamic and cannot be pinned."""
        back = {name: key for key, name in self._by_key.items()}
        keys = {back[n] for n in names}
        if dynamic := [k for k in keys if isinstance(k, str)]:
            raise CaptureError(f"a dynamic size ({dynamic[0]}) is divided or cut inside the region")
        if not keys - self.pinned:
            raise CaptureError("sizes do not agree even as constants")
        return self.pinned | keys

    def value(self, dim: Dim) -> int:
        return dims.evaluate(dim, self.values)

    def same(self, a: Dim, b: Dim) -> Dim:
        """The common Dim of two that must be equal; raises Pin where they are equal only by today's values."""
        if a != b:
            raise Pin(dims.symbols((a, b)))
        return a


def stride_dims(sizes: Sizes, shape: tuple[Any, ...], shape_dims: tuple[Dim, ...], stride: tuple[Any, ...]) -> tuple[Dim, ...]:
    """Strides as Dims: dense permutations in terms of the shape, anything else as a constant or a symbol of its own."""
    out: list[Dim] = [0] * len(shape)
    expected: Dim = 1
    order = sorted(range(len(shape)), key=lambda i: (hint(stride[i]), -i))
    for i in order:
        if shape_dims[i] == 1 or (isinstance(stride[i], int) and stride[i] == 0):
            continue
        if isinstance(stride[i], torch.SymInt):
            out[i] = sizes.of(stride[i], new=True)
        elif stride[i] == sizes.value(expected):
            out[i] = expected
        else:
            out[i] = sizes.of(stride[i], new=True)
        expected = dims.mul(out[i], shape_dims[i])
    return tuple(out)
