"""Symbolic shapes through operations: one rule a kind. A rule raises Pin where a symbol would have to be divided or cut,
and CaptureError where an operation is not understood.

Every result is checked against the node's concrete shape by the caller, so a rule that is wrong is refused, not believed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from torch_autokernel.capture.sizes import Pin, Sizes, hint
from torch_autokernel.core import dims
from torch_autokernel.core.dims import Dim
from torch_autokernel.core.errors import CaptureError

Shape = tuple[Dim, ...]
Rule = Callable[[Sizes, list[Shape], Sequence[Any], dict[str, Any], tuple[Any, ...]], Shape]


def broadcast(sizes: Sizes, shapes: Sequence[Shape]) -> Shape:
    """The broadcast of shapes; sizes that differ must be 1 or the same symbol."""
    rank = max((len(s) for s in shapes), default=0)
    out: list[Dim] = [1] * rank
    for shape in shapes:
        for i, d in enumerate(shape, rank - len(shape)):
            out[i] = d if out[i] == 1 else out[i] if d == 1 else sizes.same(out[i], d)
    return tuple(out)


def _pointwise(sizes: Sizes, shapes: list[Shape], args: Sequence[Any], kwargs: dict[str, Any], want: tuple[Any, ...]) -> Shape:
    return broadcast(sizes, shapes)


def _from_arguments(sizes: Sizes, shapes: list[Shape], args: Any, kwargs: Any, want: tuple[Any, ...]) -> Shape:
    return tuple(sizes.of(s) for s in want)


def _wrap(axis: int, rank: int) -> int:
    return axis + rank if axis < 0 else axis


def _axes(value: Any, rank: int) -> set[int]:
    items = [value] if isinstance(value, int) else list(value or range(rank))
    return {_wrap(a, rank) for a in items}


def _reduce(sizes: Sizes, shapes: list[Shape], args: Sequence[Any], kwargs: dict[str, Any], want: tuple[Any, ...]) -> Shape:
    (x,) = shapes
    axes = _axes(args[1] if len(args) > 1 else kwargs.get("dim"), len(x))
    if len(want) == len(x):
        return tuple(1 if i in axes else d for i, d in enumerate(x))
    return tuple(d for i, d in enumerate(x) if i not in axes)


def _unsqueeze(sizes: Sizes, shapes: list[Shape], args: Sequence[Any], kwargs: dict[str, Any], want: tuple[Any, ...]) -> Shape:
    (x,) = shapes
    axis = _wrap(args[1], len(x) + 1)
    return (*x[:axis], 1, *x[axis:])


def _squeeze(sizes: Sizes, shapes: list[Shape], args: Sequence[Any], kwargs: dict[str, Any], want: tuple[Any, ...]) -> Shape:
    (x,) = shapes
    axes = _axes(args[1] if len(args) > 1 else None, len(x))
    return tuple(d for i, d in enumerate(x) if not (i in axes and d == 1))


def _permute(sizes: Sizes, shapes: list[Shape], args: Sequence[Any], kwargs: dict[str, Any], want: tuple[Any, ...]) -> Shape:
    (x,) = shapes
    return tuple(x[_wrap(a, len(x))] for a in args[1])


def _expand(sizes: Sizes, shapes: list[Shape], args: Sequence[Any], kwargs: dict[str, Any], want: tuple[Any, ...]) -> Shape:
    (x,) = shapes
    old = (1,) * (len(want) - len(x)) + x
    return tuple(o if o != 1 else sizes.of(w) for o, w in zip(old, want, strict=True))


def _slice(sizes: Sizes, shapes: list[Shape], args: Sequence[Any], kwargs: dict[str, Any], want: tuple[Any, ...]) -> Shape:
    (x,) = shapes
    axis = _wrap(args[1] if len(args) > 1 else 0, len(x))
    if sizes.value(x[axis]) == hint(want[axis]):
        return x
    _need_constant(sizes, x[axis])
    return (*x[:axis], hint(want[axis]), *x[axis + 1 :])


def _select(sizes: Sizes, shapes: list[Shape], args: Sequence[Any], kwargs: dict[str, Any], want: tuple[Any, ...]) -> Shape:
    (x,) = shapes
    axis = _wrap(args[1], len(x))
    if args[2] not in (0, -1):
        _need_constant(sizes, x[axis])
    return (*x[:axis], *x[axis + 1 :])


def _product(sizes: Sizes, shapes: list[Shape], args: Sequence[Any], kwargs: dict[str, Any], want: tuple[Any, ...]) -> Shape:
    *added, left, right = shapes
    sizes.same(left[-1], right[-2])
    for a, b in zip(left[:-2], right[:-2], strict=True):
        sizes.same(a, b)
    return broadcast(sizes, [(*left[:-1], right[-1]), *added])


def _attention(sizes: Sizes, shapes: list[Shape], args: Sequence[Any], kwargs: dict[str, Any], want: tuple[Any, ...]) -> Shape:
    """The first result. A head's sizes are constants: the scale follows from them."""
    query, key, value, *mask = shapes
    for d in (query[-1], key[-1], value[-1]):
        _need_constant(sizes, d)
    for a, b in zip((*query[:2], *query[:2], key[2]), (*key[:2], *value[:2], value[2]), strict=True):
        sizes.same(a, b)
    for shape in mask:
        for a, b in zip(reversed(shape), (key[2], query[2], query[1], query[0]), strict=False):
            if a != 1:
                sizes.same(a, b)
    return (*query[:-1], value[-1])


def _need_constant(sizes: Sizes, dim: Dim) -> None:
    if not isinstance(dim, int):
        raise Pin(dims.symbols((dim,)))


def _cat(sizes: Sizes, shapes: list[Shape], args: Sequence[Any], kwargs: dict[str, Any], want: tuple[Any, ...]) -> Shape:
    axis = _wrap(args[1] if len(args) > 1 else kwargs.get("dim", 0), len(want))
    if any(len(s) != len(want) for s in shapes):
        raise CaptureError("cat of tensors of different rank")
    out: list[Dim] = []
    for i in range(len(want)):
        column = [s[i] for s in shapes]
        if i == axis:
            out.append(dims.add(*column))
        else:
            for d in column[1:]:
                sizes.same(column[0], d)
            out.append(column[0])
    return tuple(out)


def _slice_scatter(
    sizes: Sizes, shapes: list[Shape], args: Sequence[Any], kwargs: dict[str, Any], want: tuple[Any, ...]
) -> Shape:
    x, source = shapes
    axis = _wrap(args[2] if len(args) > 2 else 0, len(x))
    if x[axis] != source[axis]:
        _need_constant(sizes, x[axis])
        _need_constant(sizes, source[axis])
    return x


def _pad(sizes: Sizes, shapes: list[Shape], args: Sequence[Any], kwargs: dict[str, Any], want: tuple[Any, ...]) -> Shape:
    (x,) = shapes
    out = list(x)
    for k in range(len(args[1]) // 2):
        out[-1 - k] = dims.add(out[-1 - k], hint(args[1][2 * k]), hint(args[1][2 * k + 1]))
    return tuple(out)


def _gather(sizes: Sizes, shapes: list[Shape], args: Sequence[Any], kwargs: dict[str, Any], want: tuple[Any, ...]) -> Shape:
    return shapes[1]


def _index(sizes: Sizes, shapes: list[Shape], args: Sequence[Any], kwargs: dict[str, Any], want: tuple[Any, ...]) -> Shape:
    x, *indices = shapes
    at = [d for d, i in enumerate(args[1]) if i is not None]
    if at != list(range(at[0], at[-1] + 1)):
        raise CaptureError("indices that do not stand side by side")
    if any(i.meta["val"].dtype in (torch.bool, torch.uint8) for i in args[1] if i is not None):
        raise CaptureError("a mask as an index")
    return (*x[: at[0]], *broadcast(sizes, indices), *x[at[-1] + 1 :])


def _embedding(sizes: Sizes, shapes: list[Shape], args: Sequence[Any], kwargs: dict[str, Any], want: tuple[Any, ...]) -> Shape:
    table, index = shapes
    if not index:
        raise CaptureError("an embedding of one index")
    return (*index, table[1])


def _pool(sizes: Sizes, shapes: list[Shape], args: Sequence[Any], kwargs: dict[str, Any], want: tuple[Any, ...]) -> Shape:
    """Sizes along which a window slides are constants."""
    n = len(args[1] if isinstance(args[1], (tuple, list)) else args[2])
    for d in (d for s in shapes for d in s[-n:]):
        _need_constant(sizes, d)
    return (*shapes[0][:-n], *(hint(w) for w in want[-n:]))


def _convolution(
    sizes: Sizes, shapes: list[Shape], args: Sequence[Any], kwargs: dict[str, Any], want: tuple[Any, ...]
) -> Shape:
    x, weight, *bias = shapes
    for d in (*x[1:], *weight[1:], *(weight[:1] if args[8] != 1 else ())):
        _need_constant(sizes, d)
    for b in bias:
        sizes.same(b[0], weight[0])
    return (x[0], weight[0], *(hint(w) for w in want[2:]))


def _scatter_add(
    sizes: Sizes, shapes: list[Shape], args: Sequence[Any], kwargs: dict[str, Any], want: tuple[Any, ...]
) -> Shape:
    onto, index, source = shapes
    for a, b in zip((*onto[:1], *index), (*index[:1], *source), strict=True):
        sizes.same(a, b)
    return onto


def _reshape(sizes: Sizes, shapes: list[Shape], args: Sequence[Any], kwargs: dict[str, Any], want: tuple[Any, ...]) -> Shape:
    """Groups of old and new dimensions with equal products; a group keeps its symbols only where they multiply out."""
    (x,) = shapes
    have = [sizes.value(d) for d in x]
    target = [hint(w) for w in want]
    if 0 in have or 0 in target:
        return tuple(sizes.of(w) for w in want)
    out: list[Dim] = []
    i = j = 0
    while i < len(have) or j < len(target):
        i0, j0 = i, j
        a = b = 1
        if i < len(have):
            a, i = have[i], i + 1
        if j < len(target):
            b, j = target[j], j + 1
        while a != b:
            if a < b:
                a, i = a * have[i], i + 1
            else:
                b, j = b * target[j], j + 1
        out += _group(sizes, x[i0:i], want[j0:j])
    return tuple(out)


def _group(sizes: Sizes, old: Shape, new: Sequence[Any]) -> list[Dim]:
    olds = [d for d in old if d != 1]
    slots = [k for k, w in enumerate(new) if hint(w) != 1]
    out: list[Dim] = [1] * len(new)
    if len(slots) == 1:
        out[slots[0]] = dims.mul(*olds)
        return out
    if len(olds) == len(slots) and all(sizes.value(o) == hint(new[k]) for o, k in zip(olds, slots, strict=True)):
        for o, k in zip(olds, slots, strict=True):
            out[k] = o
        return out
    for k in slots:
        out[k] = sizes.of(new[k])
    if dims.mul(*out) != dims.mul(*olds):
        raise Pin(dims.symbols((*olds, *out)))
    return out


_RULES: dict[str, Rule] = {
    "aten.unsqueeze.default": _unsqueeze, "aten.squeeze.default": _squeeze, "aten.squeeze.dim": _squeeze,
    "aten.squeeze.dims": _squeeze, "aten.permute.default": _permute, "aten.expand.default": _expand,
    "aten.slice.Tensor": _slice, "aten.select.int": _select, "aten.reshape.default": _reshape,
    "aten.view.default": _reshape, "aten.as_strided.default": _reshape, "aten.cat.default": _cat,
    "aten.slice_scatter.default": _slice_scatter, "aten.constant_pad_nd.default": _pad, "aten.gather.default": _gather,
    "aten.index.Tensor": _index, "aten._unsafe_index.Tensor": _index,
    "aten.embedding.default": _embedding, "aten.scatter_add.default": _scatter_add, "aten.flip.default": _pointwise,
    "prims.rev.default": _pointwise,
}  # fmt: skip
_BY_KIND: dict[str, Rule] = {
    "pointwise": _pointwise, "reduction": _reduce, "scan": _pointwise, "source": _from_arguments, "product": _product,
    "pool": _pool, "convolution": _convolution, "attention": _attention,
}  # fmt: skip


def infer(name: str, kind: str, sizes: Sizes, shapes: list[Shape], args: Sequence[Any], kwargs: dict[str, Any],
          want: tuple[Any, ...]) -> Shape:  # fmt: skip
    """The symbolic shape of an operation's result. `shapes` are those of its tensor arguments in order, `args` and
    `kwargs` the FX arguments, `want` the concrete shape that the result has."""
    shape = (_RULES.get(name) or _BY_KIND[kind])(sizes, shapes, args, kwargs, want)
    if [sizes.value(d) for d in shape] != [hint(w) for w in want]:
        raise CaptureError(f"{name}: inferred shape {shape} does not give {tuple(map(hint, want))}")
    return shape
