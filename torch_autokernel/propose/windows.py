"""Pools and convolutions as chains of operations over shifted and strided slices; padding is a piece of its own."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence

from torch_autokernel.core import dims
from torch_autokernel.core.dims import Dim
from torch_autokernel.core.windows import MOST_MEETING, MOST_PRODUCTS, MOST_TAPS, Window
from torch_autokernel.propose import ir
from torch_autokernel.propose.index import Refused, at_most
from torch_autokernel.propose.ir import Node, const, point

MOST_WORK = 4096  # operations for one element, windows upon windows included

Tap = tuple[int, ...]


def padded(x: Node, pads: Sequence[tuple[Dim, Dim]], value: Node) -> Node:
    """x with elements before and after its last dimensions, the first pair for the last one; negative counts take away."""
    for back, (before, after) in enumerate(pads):
        d = len(x.shape) - 1 - back
        start, before = (-before, 0) if isinstance(before, int) and before < 0 else (0, before)
        lost, after = (-after, 0) if isinstance(after, int) and after < 0 else (0, after)
        if start or lost:
            x = ir.sliced(x, d, start, 1, (*x.shape[:d], dims.add(x.shape[d], -start - lost), *x.shape[d + 1 :]))
        shape = (*x.shape[:d], dims.add(x.shape[d], before, after), *x.shape[d + 1 :])
        fill = ir.expand(value, shape)
        if not (at_most(0, before) and at_most(0, after)):
            raise Refused(f"a pad of {before}, {after}")
        inner = dims.add(before, x.shape[d])
        parts = [(fill, 0, before, 0), (x, before, inner, before), (fill, inner, shape[d], 0)]
        x = ir.pieces([p for p in parts if p[1] != p[2]], d, shape, x.dtype)
    return x


def slid(x: Node, window: Window, out: Sequence[int], fill: Node) -> Iterator[tuple[Tap, Node]]:
    """For each place in the window, x there: windows in their order along the last dimensions, `out` of them."""
    n, sizes = len(window.kernel), _sizes(x, window)
    pads: list[tuple[Dim, Dim]] = []
    for size, k, s, p, d, m in zip(sizes, window.kernel, window.stride, window.padding, window.dilation, out, strict=True):
        pads.insert(0, (p, max(0, (m - 1) * s + (k - 1) * d + 1 - size - p)))
    whole, first = padded(x, pads, fill), len(x.shape) - n
    for tap in itertools.product(*map(range, window.kernel)):
        y = whole
        for i, (t, s, d, m) in enumerate(zip(tap, window.stride, window.dilation, out, strict=True)):
            y = ir.sliced(y, first + i, t * d, s, (*y.shape[: first + i], m, *y.shape[first + i + 1 :]))
        yield tap, y


def max_pool(x: Node, window: Window, out: Sequence[int]) -> tuple[Node, Node]:
    """The greatest of each window, and its place in the window as an int8: the first one's, or the last NaN's."""
    _limit(x, window, MOST_TAPS)
    taps = list(slid(x, window, out, const(float("-inf"), x.dtype)))
    greatest, best = taps[0][1], taps[0][1]
    place = _first_place(x, window, out)
    for number, (_tap, value) in enumerate(taps[1:], 1):
        greatest = point("maximum", [greatest, value], x.dtype)
        later = point("or", [point("gt", [value, best], "bool", x.dtype), point("isnan", [value], "bool", x.dtype)], "bool")
        best = ir.chosen(later, value, best, x.dtype)
        place = ir.chosen(later, const(number, "int32"), place, "int32")
    return greatest, ir.rounded(place, "int8")


def _first_place(x: Node, window: Window, out: Sequence[int]) -> Node:
    """The first place in each window that is not padding."""
    total = const(0, "int32")
    each = zip(_sizes(x, window), window.kernel, window.stride, window.padding, window.dilation, out, strict=True)
    for i, (_size, k, s, p, d, m) in enumerate(each):
        first = _stepwise([max(0, -((w * s - p) // d)) for w in range(m)], len(out) - 1 - i)
        total = point("add", [point("mul", [total, const(k, "int32")], "int32"), first], "int32")
    return total


def indices(offsets: Node, window: Window, size: Sequence[int]) -> Node:
    """Where in the flat image the maxima are, as int64."""
    out, flat = [int(n) for n in offsets.shape[-len(size) :]], [1]
    for n in reversed(size[1:]):
        flat.insert(0, flat[0] * n)
    place: Node = const(0, "int64")
    for number, tap in enumerate(itertools.product(*map(range, window.kernel))):
        there = sum(t * d * step for t, d, step in zip(tap, window.dilation, flat, strict=True))
        hit = point("eq", [offsets, const(number, "int32")], "bool", "int32")
        place = ir.chosen(hit, const(there, "int64"), place, "int64")
    for i, (s, p, step, m) in enumerate(zip(window.stride, window.padding, flat, out, strict=True)):
        corner = Node("iota", (m,), "int64", value=(-p * step, s * step))
        place = point("add", [place, ir.reshape(corner, (m, *(1,) * (len(out) - 1 - i)))], "int64")
    return place


def avg_pool(x: Node, window: Window, out: Sequence[int], count_padding: bool, divisor: int | None) -> Node:
    """The mean of each window."""
    _limit(x, window, MOST_TAPS)
    total: Node | None = None
    for _tap, value in slid(x, window, out, const(0.0, x.dtype)):
        total = value if total is None else point("add", [total, value], x.dtype)
    assert total is not None
    return point("div", [total, ir.convert(_counts(x, window, out, count_padding, divisor), x.dtype)], x.dtype)


def _counts(x: Node, window: Window, out: Sequence[int], count_padding: bool, divisor: int | None) -> Node:
    """How many elements each window counts."""
    if divisor:
        return const(divisor, "int32")
    total = const(1, "int32")
    each = zip(_sizes(x, window), window.kernel, window.stride, window.padding, out, strict=True)
    for i, (size, k, s, p, m) in enumerate(each):
        counts = []
        for start in (w * s - p for w in range(m)):
            stop = min(start + k, size + p)
            counts.append(stop - start if count_padding else min(stop, size) - max(start, 0))
        total = point("mul", [total, _stepwise(counts, len(out) - 1 - i)], "int32")
    return total


def max_pool_gradient(offsets: Node, gradient: Node, window: Window, size: Sequence[int]) -> Node:
    """The gradient of a max pool; `gradient` is shaped like `offsets`."""

    def at(number: int, taken: Taken) -> Node:
        hit = point("eq", [taken(offsets, const(0, "int32")), const(number, "int32")], "bool", "int32")
        inside = taken(ir.expand(const(True), offsets.shape), const(False))
        value = taken(gradient, const(0.0, gradient.dtype))
        return ir.chosen(point("and", [hit, inside], "bool"), value, const(0.0, gradient.dtype), gradient.dtype)

    return _gathered(at, gradient, window, size)


def avg_pool_gradient(
    gradient: Node, x: Node, window: Window, size: Sequence[int], count_padding: bool, divisor: int | None
) -> Node:
    """The gradient of an average pool."""
    out = [int(n) for n in gradient.shape[-len(window.kernel) :]]
    counts = ir.convert(_counts(x, window, out, count_padding, divisor), gradient.dtype)
    share = point("div", [gradient, counts], gradient.dtype)
    at = lambda _number, taken: taken(share, const(0.0, share.dtype))  # noqa: E731
    return _gathered(at, share, window, size)


Taken = Callable[[Node, Node], Node]  # of a node shaped like the windows, those that hold the place; the fill where none does


def _gathered(at: Callable[[int, Taken], Node], gradient: Node, window: Window, size: Sequence[int]) -> Node:
    """An image of sums over the windows that hold an element, in their order; `at` is asked for each place in a window.
    Elements that have the same places in their windows are made together, then laid side by side."""
    dtype, first = gradient.dtype, len(gradient.shape) - len(size)
    if set(window.dilation) != {1}:
        raise Refused("the gradient of a pool whose windows have gaps")
    if window.meeting > MOST_MEETING:
        raise Refused(f"the gradient of a pool of which {window.meeting} windows share an element")
    if any(n % s for n, s in zip(size, window.stride, strict=True)):
        raise Refused(f"the gradient of a pool by steps of {window.stride} over an image of {size}")
    counts = [n // s for n, s in zip(size, window.stride, strict=True)]

    def made(phases: Tap) -> Node:
        """Of the dimensions from the `len(phases)`-th on, all elements; of those before, every stride-th from the phase on."""
        i = len(phases)
        if i < len(size):
            return _side_by_side([made((*phases, r)) for r in range(window.stride[i])], first + i)
        reached = zip(phases, window.kernel, window.stride, window.padding, strict=True)
        total: Node | None = None
        for tap in itertools.product(*(range((r + p) % s + (k - 1 - (r + p) % s) // s * s, -1, -s) for r, k, s, p in reached)):
            number = functools.reduce(lambda n, tk: n * tk[1] + tk[0], zip(tap, window.kernel, strict=True), 0)
            steps = [((r + p - t) // s) for r, t, s, p in zip(phases, tap, window.stride, window.padding, strict=True)]

            def taken(x: Node, fill: Node, steps: list[int] = steps) -> Node:
                for i, (step, count) in enumerate(zip(steps, counts, strict=True)):
                    x = _shifted(x, first + i, step, count, fill)
                return x

            found = at(number, taken)
            total = found if total is None else point("add", [total, found], dtype)
        return ir.expand(const(0.0, dtype), (*gradient.shape[:first], *counts)) if total is None else total

    return made(())


def _shifted(x: Node, d: int, start: int, count: int, fill: Node) -> Node:
    """`count` elements along a dimension from `start` on, which may lie outside."""
    behind, n = len(x.shape) - 1 - d, int(x.shape[d])
    before, after = max(0, -start), max(0, start + count - n)
    if before or after:
        x = padded(x, [*[(0, 0)] * behind, (before, after)], fill)
    return ir.sliced(x, d, start + before, 1, (*x.shape[:d], count, *x.shape[d + 1 :]))


def _side_by_side(each: Sequence[Node], d: int) -> Node:
    """Along a dimension, elements of the given nodes in turns."""
    if len(each) == 1:
        return each[0]
    shape, count = each[0].shape, len(each)
    parts = [(ir.unsqueeze(x, d + 1), r, r + 1, r) for r, x in enumerate(each)]
    turns = ir.pieces(parts, d + 1, (*shape[: d + 1], count, *shape[d + 1 :]), each[0].dtype)
    return ir.reshape(turns, (*shape[:d], dims.mul(shape[d], count), *shape[d + 1 :]))


def convolution(x: Node, weight: Node, bias: Node | None, window: Window, groups: int, shape: ir.Shape, dtype: str) -> Node:
    """x: [B, G C, ...], weight: [G M, C, ...]; the sum of products in order of channels and places, from the bias on."""
    n = len(window.kernel)
    each, out = int(weight.shape[1]), [int(m) for m in shape[2:]]
    _limit(x, Window.of((each, *window.kernel), (1, *window.stride), None, None), MOST_PRODUCTS)
    many = shape[1] if groups == 1 else int(shape[1]) // groups
    x = ir.reshape(x, (x.shape[0], groups, each, *x.shape[2:]))
    weight = ir.reshape(weight, (groups, many, *weight.shape[1:]))
    total: Node | None = None
    if bias is not None:
        total = ir.reshape(bias, (groups, many, *(1,) * n))
    for channel in range(each):
        image = ir.unsqueeze(ir.select(x, 2, channel), 2)
        factor = ir.select(weight, 2, channel)
        for tap, value in slid(image, window, out, const(0.0, x.dtype)):
            w = factor
            for t in reversed(tap):
                w = ir.select(w, len(w.shape) - 1, t)
            w = ir.reshape(w, (groups, many, *(1,) * n))
            total = point("mul", [value, w], dtype) if total is None else point("fma", [value, w, total], dtype)
    assert total is not None
    return ir.reshape(total, shape)


def _limit(x: Node, window: Window, most: int) -> None:
    taps = 1
    for k in window.kernel:
        taps *= k
    if taps > most:
        raise Refused(f"a window of {taps} elements")
    if ir.category(x.dtype) != 2:
        raise Refused(f"a window over {x.dtype}")
    if taps * _work(x, {}) > MOST_WORK:
        raise Refused("windows upon windows, whose elements would be made again and again")


def _work(x: Node, known: dict[int, int]) -> int:
    """How many operations make one element where nothing is shared."""
    if id(x) not in known:
        if x.kind in ("reduce", "scan"):
            known[id(x)] = 1
        else:
            known[id(x)] = (x.kind in ("point", "input")) + sum(_work(a, known) for a in x.args)
    return known[id(x)]


def _sizes(x: Node, window: Window) -> list[int]:
    sizes = x.shape[-len(window.kernel) :]
    if not all(isinstance(n, int) for n in sizes):
        raise Refused("a window that slides along a symbolic size")
    return [int(n) for n in sizes]


def _stepwise(values: Sequence[int], after: int) -> Node:
    """Numbers along one dimension, `after` of size 1 behind it; equal neighbours are one piece."""
    parts: list[tuple[Node, Dim, Dim, Dim]] = []
    at, shape = 0, (len(values), *(1,) * after)
    for value, run in itertools.groupby(values):
        count = len(list(run))
        parts.append((ir.expand(const(value, "int32"), shape), at, at + count, 0))
        at += count
    return parts[0][0] if len(parts) == 1 else ir.pieces(parts, 0, shape, "int32")
