"""Index expressions: affine in loop axes, with polynomial coefficients; exact division or a demand to split an axis.

Everything here is symbolic and holds for all symbol values >= 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from torch_autokernel.core import dims
from torch_autokernel.core.dims import Dim


class Refused(Exception):
    """Nothing can be generated; the message says why."""


class SplitNeeded(Exception):
    """The loop over `axis` must become two, the inner one of size `inner`."""

    def __init__(self, axis: str, inner: Dim) -> None:
        super().__init__(f"split {axis} by {inner}")
        self.axis, self.inner = axis, inner


class CutNeeded(Exception):
    """The range of `axis` must be cut in two at `at`."""

    def __init__(self, axis: str, at: Dim) -> None:
        super().__init__(f"cut {axis} at {at}")
        self.axis, self.at = axis, at


mul = lru_cache(maxsize=65536)(dims.mul)
add = lru_cache(maxsize=65536)(dims.add)


def sub(a: Dim, b: Dim) -> Dim:
    return add(a, mul(-1, b))


def product(sizes: Iterable[Dim]) -> Dim:
    out: Dim = 1
    for size in sizes:
        out = mul(out, size)
    return out


@lru_cache(maxsize=65536)
def divide(a: Dim, b: Dim) -> Dim | None:
    """a / b where b divides a as polynomials, else None."""
    if a == b:
        return 1
    rest, divisor = dims.parse(a), dims.parse(b)
    if not divisor:
        return None
    lead = max(divisor, key=lambda k: (len(k), k))
    quotient: dims.Polynomial = {}
    for _ in range(64):
        if not rest:
            return dims.render(quotient)
        top = max(rest, key=lambda k: (len(k), k))
        factor = list(top)
        for s in lead:
            if s not in factor:
                return None
            factor.remove(s)
        if rest[top] % divisor[lead]:
            return None
        term = {tuple(factor): rest[top] // divisor[lead]}
        quotient[tuple(factor)] = quotient.get(tuple(factor), 0) + rest[top] // divisor[lead]
        rest = dims.parse(sub(dims.render(rest), mul(dims.render(term), b)))
    return None


@lru_cache(maxsize=65536)
def nonnegative(a: Dim) -> bool:
    """Whether a >= 0 for all symbol values >= 1 can be seen (from the coefficients around 1)."""
    if isinstance(a, int):
        return a >= 0
    shifted = dims.rename(a, {s: f"{s} + 1" for s in dims.symbols([a])})
    return all(c >= 0 for c in dims.parse(shifted).values())


def at_most(a: Dim, b: Dim) -> bool:
    return nonnegative(sub(b, a))


@dataclass(frozen=True, slots=True)
class Affine:
    """sum of coefficient * axis, plus a constant. Terms are sorted and never zero."""

    terms: tuple[tuple[str, Dim], ...] = ()
    const: Dim = 0

    @staticmethod
    def of(terms: Mapping[str, Dim], const: Dim = 0) -> Affine:
        return Affine(tuple(sorted((a, c) for a, c in terms.items() if c != 0)), const)

    @staticmethod
    def axis(name: str) -> Affine:
        return Affine(((name, 1),))

    @property
    def axes(self) -> frozenset[str]:
        return frozenset(a for a, _ in self.terms)

    def coefficient(self, axis: str) -> Dim:
        return dict(self.terms).get(axis, 0)

    def __add__(self, other: Affine) -> Affine:
        terms = dict(self.terms)
        for a, c in other.terms:
            terms[a] = add(terms.get(a, 0), c)
        return Affine.of(terms, add(self.const, other.const))

    def plus(self, const: Dim) -> Affine:
        return Affine(self.terms, add(self.const, const)) if const != 0 else self

    def times(self, factor: Dim) -> Affine:
        return Affine.of({a: mul(c, factor) for a, c in self.terms}, mul(self.const, factor))

    def substitute(self, axis: str, by: Affine) -> Affine:
        c = self.coefficient(axis)
        if c == 0:
            return self
        return Affine.of({a: k for a, k in self.terms if a != axis}, self.const) + by.times(c)


ZERO = Affine()


@dataclass(frozen=True, slots=True)
class Range:
    """Values [low, high) of an axis."""

    low: Dim
    high: Dim

    @property
    def size(self) -> Dim:
        return sub(self.high, self.low)


class Space:
    """Loop axes with their ranges in the segment at hand."""

    def __init__(self, ranges: Mapping[str, Range]) -> None:
        self.ranges = dict(ranges)

    def bounds(self, e: Affine) -> tuple[Dim, Dim]:
        """Least and greatest value of e; raises Refused where a coefficient has no known sign."""
        low, high = e.const, e.const
        for axis, c in e.terms:
            r = self.ranges[axis]
            first, last = mul(c, r.low), mul(c, sub(r.high, 1))
            if nonnegative(c):
                low, high = add(low, first), add(high, last)
            elif nonnegative(mul(-1, c)):
                low, high = add(low, last), add(high, first)
            else:
                raise Refused(f"the sign of a step {c} is not known")
        return low, high

    def divmod(self, e: Affine, d: Dim) -> tuple[Affine, Affine]:
        """e // d and e % d as affine expressions; raises SplitNeeded where an axis runs across a multiple of d."""
        if d == 1:
            return e, ZERO
        over: dict[str, Dim] = {}
        under: dict[str, Dim] = {}
        for axis, c in e.terms:
            q = divide(c, d)
            if q is None:
                under[axis] = c
            else:
                over[axis] = q
        whole, part = self._split_const(e.const, d)
        rest = Affine.of(under, part)
        low, high = self.bounds(rest)
        if nonnegative(low) and at_most(high, sub(d, 1)):
            return Affine.of(over, whole), rest
        if isinstance(low, int) and isinstance(d, int) and at_most(high, (low // d + 1) * d - 1):
            return Affine.of(over, add(whole, low // d)), rest.plus(-(low // d) * d)
        self._demand_split(under, d)
        raise Refused(f"an index would need a division by {d}")

    @staticmethod
    def _split_const(const: Dim, d: Dim) -> tuple[Dim, Dim]:
        if isinstance(const, int) and isinstance(d, int):
            return const // d, const % d
        q = divide(const, d)
        return (q, 0) if q is not None else (0, const)

    def _demand_split(self, under: Mapping[str, Dim], d: Dim) -> None:
        for axis, c in sorted(under.items(), key=lambda kv: -len(dims.parse(kv[1]))):
            inner = divide(d, abs(c) if isinstance(c, int) else c)
            size = self.ranges[axis].high
            if inner is None or inner == 1 or self.ranges[axis].low != 0 or at_most(size, inner) or axis[0] == "@":
                continue  # what is a value is no loop
            if divide(size, inner) is not None:
                raise SplitNeeded(axis, inner)

    def side(self, e: Affine, at: Dim) -> bool:
        """Whether e < at (True) or e >= at (False) over the whole range; raises CutNeeded where it is both."""
        low, high = self.bounds(e)
        if at_most(high, sub(at, 1)):
            return True
        if at_most(at, low):
            return False
        for axis, c in e.terms:
            if axis[0] == "@":
                continue
            rest = Affine.of({a: k for a, k in e.terms if a != axis}, e.const)
            low, high = self.bounds(rest)
            gap = sub(at, rest.const)
            point = divide(gap, c)
            if point is None and not rest.terms and isinstance(gap, int) and isinstance(c, int):
                point = -(-gap // c) if c > 0 else gap // c  # the first that is not below, or the last
            if point is not None and isinstance(c, int) and c < 0:
                point = add(point, 1)  # walked backwards: the first that is below
            step = abs(c) if isinstance(c, int) else c
            if rest.terms and not (nonnegative(sub(low, rest.const)) and at_most(sub(high, rest.const), sub(step, 1))):
                continue
            if point is not None and self._inside(axis, point):
                raise CutNeeded(axis, point)
        raise Refused(f"a piece boundary at {at} falls inside a combined index")

    def _inside(self, axis: str, point: Dim) -> bool:
        r = self.ranges[axis]
        return at_most(r.low, point) and at_most(point, r.high) and point not in (r.low, r.high)
