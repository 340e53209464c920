"""The graph a kernel is generated from: few kinds of nodes, every index transformation a function.

kinds: `input`, `const` (a number), `size` (a Dim as a number), `iota`, `point` (element by element), `view` (an index
map), `pieces` (cat, pads, scatters of slices), `reduce`, `scan` (a running fold along one dimension), `gather` (indices
that are values).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch_autokernel.core.dims import Dim
from torch_autokernel.propose.index import ZERO, Affine, Refused, Space, divide, mul, product, sub

Index = tuple[Affine, ...]
Map = Callable[[Space, Index], Index]
Shape = tuple[Dim, ...]

# How a dtype lies in memory (element kind of memory.h) and what it is computed in.
ELEMENT = {
    "float64": "f64", "float32": "f32", "bfloat16": "bf16", "float16": "f16", "int64": "i64", "int32": "i32",
    "int16": "i16", "int8": "i8", "uint8": "u8", "bool": "b8",
}  # fmt: skip
C_MEMORY = {
    "float64": "double", "float32": "float", "bfloat16": "uint16_t", "float16": "uint16_t", "int64": "int64_t",
    "int32": "int32_t", "int16": "int16_t", "int8": "int8_t", "uint8": "uint8_t", "bool": "bool",
}  # fmt: skip
C_COMPUTE = {
    "float64": "double", "float32": "float", "bfloat16": "float", "float16": "float", "int64": "int64_t",
    "int32": "int32_t", "int16": "int32_t", "int8": "int32_t", "uint8": "int32_t", "bool": "bool",
}  # fmt: skip
STORED_AS = {"double": "float64", "float": "float32", "int64_t": "int64", "int32_t": "int32", "bool": "bool"}
ROUNDING = {"bfloat16": "round_bf16", "float16": "round_f16"}
_RANK = ["bool", "uint8", "int8", "int16", "int32", "int64", "bfloat16", "float16", "float32", "float64"]


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """One value. `weak` marks a Python number, which gives way to tensors in type promotion."""

    kind: str
    shape: Shape
    dtype: str
    args: tuple[Node, ...] = ()
    fn: str = ""
    value: Any = None
    pull: Map | None = None
    push: Map | None = None
    dims: tuple[int, ...] = ()
    keepdim: bool = False
    bounds: tuple[tuple[Dim, Dim, Dim], ...] = ()
    weak: bool = False
    label: str = field(default="", compare=False)

    @property
    def ctype(self) -> str:
        return C_COMPUTE[self.dtype]


SHORT = ("int16", "int8", "uint8")  # computed in int32
WITHIN = ("maximum", "minimum", "select", "and", "or", "xor", "max", "min")  # whose results are in range where operands are


def category(dtype: str) -> int:
    return 0 if dtype == "bool" else 1 if "int" in dtype else 2


def promote(nodes: Sequence[Node]) -> str:
    """torch's result type: the highest category wins; within it tensors with dimensions, then 0-d ones, then numbers."""
    top = max(category(n.dtype) for n in nodes)
    for group in ([n for n in nodes if n.shape], [n for n in nodes if not n.shape and not n.weak]):
        if dtypes := {n.dtype for n in group if category(n.dtype) == top}:
            if dtypes == {"bfloat16", "float16"}:
                return "float32"
            if "uint8" in dtypes and "int8" in dtypes:
                return max(dtypes | {"int16"}, key=_RANK.index)
            return max(dtypes, key=_RANK.index)
    return {0: "bool", 1: "int64", 2: "float32"}[top]


def const(value: Any, dtype: str | None = None, weak: bool = True) -> Node:
    if dtype is None:
        dtype = "bool" if isinstance(value, bool) else "int64" if isinstance(value, int) else "float32"
    return Node("const", (), dtype, value=value, weak=weak)


def size_value(size: Dim, dtype: str) -> Node:
    return const(size, dtype) if isinstance(size, int) else Node("size", (), dtype, value=size, weak=True)


def broadcast(index: Index, shape: Shape) -> Index:
    """The index into an operand of `shape` under an index of the broadcast result."""
    tail = index[len(index) - len(shape) :]
    return tuple(ZERO if size == 1 else i for i, size in zip(tail, shape, strict=True))


def broadcast_shape(shapes: Sequence[Shape]) -> Shape:
    rank = max((len(s) for s in shapes), default=0)
    out: list[Dim] = []
    for d in range(rank):
        sizes = {s[d - rank + len(s)] for s in shapes if d - rank + len(s) >= 0} - {1}
        if len(sizes) > 1:
            raise Refused(f"sizes {sorted(map(str, sizes))} do not broadcast")
        out.append(sizes.pop() if sizes else 1)
    return tuple(out)


def point(fn: str, args: Sequence[Node], dtype: str, compute: str | None = None) -> Node:
    """An element-wise value; the operands are converted to `compute` (default: the result's dtype) first."""
    wanted = compute or dtype
    return Node("point", broadcast_shape([a.shape for a in args]), dtype, tuple(convert(a, wanted) for a in args), fn)


def chosen(condition: Node, a: Node, b: Node, dtype: str) -> Node:
    """a where the condition holds, else b, both in the arithmetic of `dtype`."""
    shape = broadcast_shape([condition.shape, a.shape, b.shape])
    return Node("point", shape, dtype, (condition, convert(a, dtype), convert(b, dtype)), "select")


def convert(x: Node, dtype: str) -> Node:
    """x in another dtype's arithmetic; rounding to a low precision is `rounded`."""
    if x.ctype == C_COMPUTE[dtype]:
        return x
    if x.kind == "const":
        cast = {"bool": bool, "int64_t": int, "int32_t": int}.get(C_COMPUTE[dtype], float)
        return Node("const", (), dtype, value=cast(x.value), weak=x.weak)
    if x.kind == "size":
        return Node("size", (), dtype, value=x.value, weak=x.weak)
    return Node("point", x.shape, dtype, (x,), "to")


def rounded(x: Node, dtype: str) -> Node:
    """x as a tensor of `dtype` would hold it."""
    y = convert(x, dtype)
    if x.dtype == dtype:
        return y
    if dtype in ROUNDING:
        return Node("point", x.shape, dtype, (y,), ROUNDING[dtype])
    return _wrap(y, dtype) if dtype in SHORT else y


def wrapped(x: Node) -> Node:
    """x within the range of its own dtype, where that is an integer narrower than what it is computed in and the function may
    leave the range."""
    if x.dtype not in SHORT or x.kind not in ("point", "reduce", "scan") or x.fn in WITHIN or x.fn.startswith("wrap_"):
        return x
    return _wrap(x, x.dtype)


def _wrap(x: Node, dtype: str) -> Node:
    return Node("point", x.shape, dtype, (x,), f"wrap_{ELEMENT[dtype]}")


def named(x: Node, dtype: str) -> Node:
    """x as a value of another dtype that is computed in the same C type, with all its digits."""
    return x if x.dtype == dtype else Node("view", x.shape, dtype, (x,), pull=lambda s, i: i, push=lambda s, i: i)


def held(x: Node) -> Node:
    """x rounded to its own dtype: what is computed in low precision keeps more digits until it is stored."""
    base = x
    while base.kind == "view":
        base = base.args[0]
    if x.dtype not in ROUNDING or base.kind not in ("point", "reduce", "scan") or base.fn == ROUNDING[x.dtype]:
        return x
    return Node("point", x.shape, x.dtype, (x,), ROUNDING[x.dtype])


def holds(dtype: str, ctype: str, fn: str) -> bool:
    """Whether memory of the dtype holds, without a loss, a value of this C type that comes out of the function."""
    return C_COMPUTE[dtype] == ctype and (STORED_AS[ctype] == dtype or fn == ROUNDING.get(dtype, ""))


def reduce(fn: str, x: Node, dims: Sequence[int], keepdim: bool, dtype: str) -> Node:
    axes = tuple(sorted({d % len(x.shape) for d in dims})) if x.shape else ()
    if not axes:
        return convert(x, dtype)
    shape = tuple(1 if d in axes else s for d, s in enumerate(x.shape) if keepdim or d not in axes)
    return Node("reduce", shape, dtype, (convert(x, dtype),), fn, dims=axes, keepdim=keepdim)


def place(fn: str, x: Node, dim: int, keepdim: bool) -> Node:
    """Where along the dimension the extreme stands, `argmax` or `argmin`: the first place that holds it, or the first NaN."""
    shape = tuple(1 if d == dim else s for d, s in enumerate(x.shape) if keepdim or d != dim)
    return Node("reduce", shape, "int64", (x,), fn, dims=(dim,), keepdim=keepdim)


def squares(x: Node, mean: Node, dims: Sequence[int], dtype: str) -> Node:
    """The sum of squared deviations from the mean (both with kept dimensions), as a reduction that needs no mean before it."""
    total = reduce("squares", x, dims, True, dtype)
    return replace(total, args=(*total.args, mean))


def after_mean(node: Node) -> Node:
    """`squares` as a sum over x - mean."""
    x, mean = node.args
    off = point("sub", [x, mean], node.dtype)
    return reduce("sum", point("square", [off], node.dtype), node.dims, True, node.dtype)


def scan(fn: str, x: Node, dim: int, dtype: str) -> Node:
    if not x.shape or x.shape[dim] == 1:
        return convert(x, dtype)
    return Node("scan", x.shape, dtype, (convert(x, dtype),), fn, dims=(dim % len(x.shape),))


# ---- views: pull maps a result index to an operand index, push the other way where that is one to one ----
def view(x: Node, shape: Shape, pull: Map, push: Map | None = None) -> Node:
    return Node("view", shape, x.dtype, (x,), pull=pull, push=push)


def permute(x: Node, order: Sequence[int]) -> Node:
    order = [d % len(x.shape) for d in order]
    back = [order.index(d) for d in range(len(order))]
    return view(
        x, tuple(x.shape[d] for d in order), lambda s, i: tuple(i[d] for d in back), lambda s, i: tuple(i[d] for d in order)
    )


def expand(x: Node, shape: Shape) -> Node:
    return view(x, shape, lambda s, i: broadcast(i, x.shape), (lambda s, i: i) if x.shape == shape else None)


def reshape(x: Node, shape: Shape) -> Node:
    return view(x, shape, lambda s, i: refold(s, i, shape, x.shape), lambda s, i: refold(s, i, x.shape, shape))


def refold(space: Space, index: Index, old: Shape, new: Shape) -> Index:
    """The index into `new` of the element at `index` of `old`, both contiguous and of equal element count."""
    out: list[Affine] = []
    old_left, new_left, i = list(old), list(new), list(index)
    while old_left and new_left and old_left[-1] == new_left[-1]:
        out.append(i.pop())
        old_left.pop(), new_left.pop()
    flat, step = ZERO, 1
    for size, e in zip(reversed(old_left), reversed(i), strict=True):
        if size != 1:
            flat, step = flat + e.times(step), mul(step, size)  # type: ignore[assignment]
    left = product(new_left)
    for size in reversed(new_left):
        if size == 1:
            out.append(ZERO)
            continue
        left_next = divide(left, size)
        if left_next == 1:
            out.append(flat)
            flat = ZERO
        else:
            flat, rest = space.divmod(flat, size)
            out.append(rest)
        left = left_next if left_next is not None else left
    return tuple(reversed(out))


def squeeze(x: Node, dims: Sequence[int]) -> Node:
    gone = {d % len(x.shape) for d in dims if x.shape[d] == 1} if x.shape else set()
    shape = tuple(s for d, s in enumerate(x.shape) if d not in gone)

    def pull(s: Space, i: Index) -> Index:
        rest = iter(i)
        return tuple(ZERO if d in gone else next(rest) for d in range(len(x.shape)))

    return view(x, shape, pull, lambda s, i: tuple(e for d, e in enumerate(i) if d not in gone))


def unsqueeze(x: Node, dim: int) -> Node:
    dim = dim % (len(x.shape) + 1)
    shape = (*x.shape[:dim], 1, *x.shape[dim:])
    return view(x, shape, lambda s, i: i[:dim] + i[dim + 1 :], lambda s, i: (*i[:dim], ZERO, *i[dim:]))


def flip(x: Node, dims: Sequence[int]) -> Node:
    turned = {d % len(x.shape) for d in dims}

    def turn(s: Space, i: Index) -> Index:
        return tuple(e.times(-1).plus(sub(x.shape[d], 1)) if d in turned and x.shape[d] != 1 else e for d, e in enumerate(i))

    return view(x, x.shape, turn, turn) if turned else x


def sliced(x: Node, dim: int, start: Dim, step: int, shape: Shape) -> Node:
    dim = dim % len(x.shape)
    whole = shape == x.shape and start == 0 and step == 1
    same: Map = lambda s, i: i  # noqa: E731
    return view(x, shape, lambda s, i: (*i[:dim], i[dim].times(step).plus(start), *i[dim + 1 :]), same if whole else None)


def select(x: Node, dim: int, at: Dim) -> Node:
    dim = dim % len(x.shape)
    shape = x.shape[:dim] + x.shape[dim + 1 :]
    return view(x, shape, lambda s, i: (*i[:dim], Affine((), at), *i[dim:]))


def pieces(parts: Sequence[tuple[Node, Dim, Dim, Dim]], dim: int, shape: Shape, dtype: str) -> Node:
    """Along `dim`, each part `(node, start, stop, offset)` gives elements [start, stop) as node[i - offset]."""
    dim = dim % len(shape)
    bounds = tuple((start, stop, offset) for _n, start, stop, offset in parts)
    return Node("pieces", shape, dtype, tuple(convert(p[0], dtype) for p in parts), dims=(dim,), bounds=bounds)


def squeeze_all(x: Node, dims: Sequence[int]) -> Node:
    """x without the given dimensions, which a kept reduction has left at size 1."""
    return squeeze(x, dims)

def peel(node: Node) -> Node:
    """The node behind views that are one to one."""
    while node.kind == "view" and node.push is not None:
        node = node.args[0]
    return node
