"""Which cases a candidate is tried on: sizes nobody told it about, several distributions, special values.

The sizes at hand come first; then small odd, prime and ragged sizes for every symbol independently, and 1 for each symbol in
turn. Everything follows from one secret seed, so a verdict can be replayed.
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Collection, Iterator, Mapping

import torch

from torch_autokernel.core import dims
from torch_autokernel.core.products import ATTENTION
from torch_autokernel.core.types import Case, Op, Region, Signature, TensorSpec
from torch_autokernel.verify.inputs import SPECIAL

LEVELS = ("quick", "standard", "full")
LARGEST = 1 << 23  # elements of any one value; a larger case is scaled down
_SMALL = 1 << 19  # element operations of a small case
_WORK = {"quick": 1 << 23, "standard": 1 << 26, "full": 1 << 29}  # element operations in all
_PRIMES = (13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79)
_RAGGED = (2, 3, 5, 7, 8, 9, 15, 16, 17, 24, 31, 32, 33, 48, 63, 64, 65, 66, 100, 127, 129)
_RAGGED_DISTRIBUTIONS = (
    "small", "rows", "large", "grid", "wide", "huge", "tiny", "sparse", "sorted", "clustered", "cancelling", "far", "faint",
)  # fmt: skip
_TILE, _FEW = 17, 5  # of a symbol beside one that is meant to be long: no fewer while that is longer than `_STAYS`
_STAYS = 256
_A_CALL = 1 << 12  # element operations that one call of a small operation costs
MOST_STEPS = 1200  # of a loop over time, each many small operations of eager's
_BEYOND = 1 << 20  # elements of a primary case that is also tried with larger sizes
_FAR = (4099, 9973)
REACH = 4  # times the sizes at hand: up to there a kernel is used
_LONG = (193, 255, 257, 321, 511, 515, 767, 1021, 1025, 2049, 3001)
_POOLS = (_PRIMES, _RAGGED, _LONG)
LANES = 16  # of vector code; all remainders of sizes by it are met
_STRATIFIED = (_RAGGED, _LONG)
# Steps of a loop over time are slow in eager, and chaos needs some to unfold.
_LOOP_POOLS = ((5, 7, 11, 13, 17, 19, 23), (2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31), (65, 97, 127, 129))


def plan(region: Region, level: str, seed: int) -> list[Case]:
    """The cases in the order of their use. At least five, then as many as the level's work allows."""
    if level not in LEVELS:
        raise ValueError(f"no level named {level!r}; known: {', '.join(LEVELS)}")
    rng = random.Random(f"{seed} {region.signature.digest}")
    kept: list[Case] = []
    seen: set[str] = set()
    spent = 0
    for sizes, distribution, origin in _wanted(region, rng, level):
        case = Case(rng.getrandbits(62), sizes, distribution, origin)
        key = f"{distribution} {sorted(sizes.items())}"
        cost = work(region.signature, sizes)
        if largest(region.signature, sizes) > 4 * LARGEST:  # fixed sizes cannot be scaled down
            continue
        if key in seen or (len(kept) >= 5 and spent + cost > _WORK[level]):
            continue
        seen.add(key)
        kept.append(case)
        spent += cost
    return kept if level == "quick" else [*kept, *_redrawn(region, kept), *_one_far(region, kept)]


def _redrawn(region: Region, cases: list[Case]) -> list[Case]:
    """The case of odd sizes again with one input redrawn at a time, the others held: several weights for the same
    activations. No size is 1 there, so that a mark cannot hide a whole input."""
    count = len(region.signature.inputs)
    if count < 2:
        return []
    base = next((c for c in cases if c.origin == "odd"), cases[0])
    return [dataclasses.replace(base, origin="one input redrawn", note=f"input {i} redrawn") for i in range(min(count, 6))]


def _one_far(region: Region, cases: list[Case]) -> list[Case]:
    """The case of odd sizes with one input far from zero, the others near it: an addend, a bias or a mask decides alone."""
    floats = [i for i, s in enumerate(region.signature.inputs) if getattr(torch, s.dtype).is_floating_point]
    if len(floats) < 2:
        return []
    base = next((c for c in cases if c.origin == "odd"), cases[0])
    return [dataclasses.replace(base, distribution="far", origin="one input far", note=f"input {i} alone") for i in floats[:6]]


def _wanted(region: Region, rng: random.Random, level: str) -> Iterator[tuple[dict[str, int], str, str]]:
    sizes, pools = _Sizes(region, rng), _LOOP_POOLS if loop_of(region.signature) else _POOLS
    primes, ragged, long = pools
    primary = sizes.fit(dict(region.sizes), LARGEST)
    yield primary, "normal", "primary"
    yield sizes.draw(primes, distinct=True), "normal", "odd"
    yield sizes.draw(primes), "nan", "special"
    yield sizes.draw(primes), "inf", "special"
    many = ragged if len(sizes.shape_symbols) > 1 or pools is _LOOP_POOLS else long  # enough elements to meet what is rare
    yield sizes.draw(many), "shifted", "ragged"
    if level == "quick":
        return
    for symbol in sizes.shape_symbols[:8]:
        yield sizes.draw(ragged, {symbol: 1}), "normal", f"{symbol} = 1"
    for distribution in _RAGGED_DISTRIBUTIONS:
        yield sizes.draw(many), distribution, "ragged"
    yield sizes.draw(primes), "edges", "special"
    yield sizes.draw(primes), "above", "odd rows"
    yield sizes.draw(primes), "below", "odd rows"
    evens = set()
    for symbol in sizes.shape_symbols[:8]:
        size = rng.choice(long) if pools is _LOOP_POOLS else sizes.of_next_residue(symbol, rng.choice(long))
        drawn = sizes.draw(ragged, {symbol: size})
        if drawn[symbol] % 2 == 0:
            evens.add(symbol)
        yield drawn, "normal", f"long {symbol}"
    for symbol in sizes.shape_symbols[:8] if pools is _LOOP_POOLS else ():
        # Where the same steps on ordinary numbers are chaos, and cut short for it, small weights still forget.
        yield sizes.draw(ragged, {symbol: rng.choice(long)}), "small", f"long {symbol}"
        yield sizes.draw(ragged, {symbol: rng.choice(long)}), "weights", f"long {symbol}"
    for symbol in sizes.shape_symbols[:8] if pools is _POOLS else ():
        far = rng.randrange(*_FAR) | (symbol in evens)  # a remainder that only long rows have is met: one of the two is odd
        yield sizes.draw((2, 3, 4, 5), {symbol: far}), "normal", f"far {symbol}"
        if REACH * primary[symbol] > _FAR[1]:
            far = rng.randint(3 * REACH * primary[symbol] // 4, REACH * primary[symbol])
            yield sizes.fit({s: far if s == symbol else rng.randint(1, 3) for s in primary}, LARGEST), "normal", f"far {symbol}"
    if pools is _LOOP_POOLS:
        yield primary, "weights", "primary"
    if pools is _POOLS:
        yield primary, "shifted", "primary"
        yield primary, "wide", "primary"
    if pools is _POOLS and largest(region.signature, primary) <= _BEYOND:
        yield sizes.fit({s: n + n // rng.randint(2, 5) | 1 for s, n in primary.items()}, LARGEST), "normal", "beyond primary"
    yield sizes.draw((1,)), "normal", "all 1"
    for _ in range(4 if level == "standard" else 24):
        yield sizes.draw(ragged), rng.choice(("normal", "shifted", "wide", "grid", *SPECIAL)), "ragged"


class _Sizes:
    """Draws values for all symbols. Symbols that stand only in strides get what a padded dense layout needs."""

    def __init__(self, region: Region, rng: random.Random) -> None:
        self.signature = region.signature
        self.hints = region.sizes
        self.rng = rng
        in_shapes = set(dims.symbols(d for s in self.signature.inputs for d in s.shape))
        self.shape_symbols = [s for s in self.signature.symbols if s in in_shapes]
        self.decks: dict[str, list[int]] = {}

    def draw(self, pool: tuple[int, ...], pinned: Mapping[str, int] | None = None, distinct: bool = False) -> dict[str, int]:
        """A value from the pool for each symbol, with some pinned, small enough for every tensor to stay small."""
        count = len(self.shape_symbols)
        if distinct and count <= len(pool):
            values = self.rng.sample(pool, count)
        else:
            values = [self.rng.choice(pool) for _ in range(count)]
        sizes = dict(zip(self.shape_symbols, values, strict=True))
        if pool in _STRATIFIED:
            sizes = {s: n if s in (pinned or {}) else self.of_next_residue(s, n) for s, n in sizes.items()}
        sizes |= dict(pinned or {})
        return self.fit(sizes, max(1 << 12, min(1 << 16, _SMALL // max(1, len(self.signature.ops)))), pinned or ())

    def of_next_residue(self, symbol: str, size: int) -> int:
        """A size near this one that leaves a remainder which the symbol has not left yet: each is met once before any is met
        again, so a remainder that a kernel forgets does not depend on luck."""
        deck = self.decks.setdefault(symbol, [])
        if not deck:
            deck += self.rng.sample(range(LANES), LANES)
        return size // LANES * LANES + deck.pop() or LANES

    def fit(self, sizes: dict[str, int], most: int, pinned: Collection[str] = ()) -> dict[str, int]:
        """The sizes with guards respected, the largest symbols reduced until no value has more than `most` elements; those
        that are pinned only where reducing the others to a few does not suffice."""
        guards = self.signature.guards
        sizes = {s: max(int(sizes.get(s, 1)), int(guards.get(s, 1))) for s in self.shape_symbols}
        order = sorted(sizes, key=lambda s: -sizes[s])
        while largest(self.signature, sizes) > most or steps(self.signature, sizes) > MOST_STEPS:
            reducible = [s for s in order if sizes[s] > guards.get(s, 1)]
            if not reducible:
                break
            least = _TILE if any(sizes[s] > _STAYS for s in pinned if s in sizes) else _FEW
            others = [s for s in reducible if s not in pinned and sizes[s] > least]
            widest = max(others or reducible, key=lambda s: sizes[s])
            sizes[widest] = max(int(guards.get(widest, 1)), _less(sizes[widest]))
        return self._with_strides(sizes)

    def _with_strides(self, sizes: dict[str, int]) -> dict[str, int]:
        pads = [0, self.rng.choice((1, 3, 8))]
        same = all(sizes[s] == self.hints.get(s) for s in self.shape_symbols)
        for symbol in self.signature.symbols:
            if symbol not in sizes:
                sizes[symbol] = int(self.hints.get(symbol, 1)) if same else 0
        if not same:
            for _ in range(2):  # a stride shared by two inputs must suit both
                for spec in self.signature.inputs:
                    self._widen(spec, sizes, self.rng.choice(pads))
        return {s: sizes[s] for s in self.signature.symbols}

    def _widen(self, spec: TensorSpec, sizes: dict[str, int], pad: int) -> None:
        """Raise this input's stride symbols until its dimensions do not overlap; their order is that of the hints."""
        order = sorted(range(len(spec.shape)), key=lambda d: dims.evaluate(spec.stride[d], dict(self.hints)))
        span = 1
        for d in order:
            stride = spec.stride[d]
            if isinstance(stride, str) and stride.isidentifier() and stride not in self.shape_symbols:
                least = max(span, int(self.signature.guards.get(stride, 1)))
                if sizes[stride] < least:
                    sizes[stride] = least + pad
            span = max(span, span + (dims.evaluate(spec.shape[d], sizes) - 1) * dims.evaluate(stride, sizes))


def loop_of(signature: Signature) -> Op | None:
    """The loop over time among the operations, if there is one. Its steps are what a case costs."""
    return next((op for op in signature.ops if op.target == "loop"), None)


def _less(size: int) -> int:
    """About two thirds of a size, of the same remainder where it is large enough."""
    less = size * 2 // 3
    return less - (less - size) % LANES if less > 2 * LANES else less


def steps(signature: Signature, sizes: Mapping[str, int]) -> int:
    """How often the loop's body runs; 0 where there is no loop."""
    loop = loop_of(signature)
    return dims.evaluate(getattr(loop.args[0], "value", loop.args[0]), sizes) if loop is not None else 0


def fewer_steps(signature: Signature, sizes: Mapping[str, int]) -> dict[str, int]:
    """The sizes with half the loop's steps, or one less where half is too few."""
    loop = loop_of(signature)
    assert loop is not None
    (symbol,) = dims.symbols([getattr(loop.args[0], "value", loop.args[0])])
    least = max(1, int(signature.guards.get(symbol, 1)))
    return {**sizes, symbol: max(least, sizes[symbol] - max(1, steps(signature, sizes) // 2))}


def _shapes(signature: Signature) -> Iterator[tuple[dims.Dim, ...]]:
    values = [*(spec.shape for spec in signature.inputs), *(op.shape for op in signature.ops)]
    yield from values
    yield from (spec.shape for spec in signature.output_specs)
    for op in signature.ops:
        if op.target == ATTENTION:  # its scores, which the oracle writes out in several steps
            query, key = (values[ref.index] for ref in op.args[:2])
            yield from [(*query[:-1], key[-2])] * 4


def _numel(shape: tuple[dims.Dim, ...], sizes: Mapping[str, int]) -> int:
    known = {**dict.fromkeys(dims.symbols(shape), 1), **sizes}
    return math.prod(dims.evaluate(d, known) for d in shape)


def largest(signature: Signature, sizes: Mapping[str, int]) -> int:
    """Elements of the largest value."""
    return max((_numel(shape, sizes) for shape in _shapes(signature)), default=0)


def work(signature: Signature, sizes: Mapping[str, int]) -> int:
    """Element operations of one run: the sum of all values' elements."""
    loop = loop_of(signature)
    inside = sum(_numel(shape, sizes) + _A_CALL for *_, shape, _dtype in loop.args[4]) if loop is not None else 0
    return sum(_numel(shape, sizes) for shape in _shapes(signature)) + steps(signature, sizes) * inside
