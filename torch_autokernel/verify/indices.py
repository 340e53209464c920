"""What integer inputs may hold: where a graph uses one as an index, its range follows from the tensor it indexes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torch_autokernel.core.dims import Dim
from torch_autokernel.core.types import Op, Ref, Signature
from torch_autokernel.core.windows import Window

_INTEGERS = ("int64", "int32", "int16", "int8", "uint8")


@dataclass
class Range:
    """`bounds` are sizes that the value must stay below; `marks` are constants it is compared with (such as an ignored
    label); `negative` says that counting from the end is allowed. `pool`: the values are the places of maxima in the windows of
    this pool over an image of this size."""

    bounds: list[Dim] = field(default_factory=list)
    marks: set[int] = field(default_factory=set)
    negative: bool = True
    pool: tuple[Window, tuple[int, ...]] | None = None


def ranges(signature: Signature) -> dict[int, Range]:
    """The range of each integer input that is used as an index or compared with a constant."""
    shapes: list[tuple[Dim, ...]] = [spec.shape for spec in signature.inputs] + [op.shape for op in signature.ops]
    origins: list[set[int]] = [{i} if s.dtype in _INTEGERS else set() for i, s in enumerate(signature.inputs)]
    found: dict[int, Range] = {}
    for op in signature.ops:
        if "max_pool_offsets_to_indices" in op.target:
            for source in origins[op.args[0].index]:
                kernel, size, *rest = op.args[1:6]
                found.setdefault(source, Range()).pool = Window.of(kernel, *rest), tuple(size)
        for index, bound, wraps in _uses(op, shapes):
            for source in origins[index.index]:
                entry = found.setdefault(source, Range())
                entry.bounds.append(bound)
                entry.negative &= wraps
        for value, mark in _comparisons(op):
            for source in origins[value.index]:
                found.setdefault(source, Range()).marks.add(mark)
        keeps = op.dtype in _INTEGERS
        origins.append(set().union(*(origins[r.index] for r in _refs(op.args))) if keeps else set())
    return found


def _refs(value: Any) -> Iterator[Ref]:
    if isinstance(value, Ref):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from _refs(item)


def _uses(op: Op, shapes: list[tuple[Dim, ...]]) -> Iterator[tuple[Ref, Dim, bool]]:
    """(index value, size it indexes, whether negative values count from the end) for each index that the op takes."""
    name, args = op.target.split(".")[1] if "." in op.target else op.target, op.args
    match name:
        case ("gather" | "index_select" | "scatter" | "scatter_add" | "scatter_reduce" | "index_add" | "index_copy"
              | "index_fill"):  # fmt: skip
            shape = shapes[args[0].index]
            if shape and isinstance(args[2], Ref):
                yield args[2], shape[args[1]], False
        case "_low_memory_max_pool_offsets_to_indices":
            yield args[0], math.prod(args[1]), False
        case "embedding":
            yield args[1], shapes[args[0].index][0], False
        case "embedding_dense_backward":
            yield args[1], getattr(args[2], "value", args[2]), False
        case "index" | "_unsafe_index" | "index_put" | "_unsafe_index_put":
            for dim, index in enumerate(args[1]):
                if isinstance(index, Ref):
                    yield index, shapes[args[0].index][dim], True
        case "nll_loss_forward" | "nll_loss_backward":
            scores, target = (args[0], args[1]) if name == "nll_loss_forward" else (args[1], args[2])
            yield target, shapes[scores.index][-1], False


def _comparisons(op: Op) -> Iterator[tuple[Ref, int]]:
    if op.target in ("aten.eq.Scalar", "aten.ne.Scalar") and isinstance(op.args[0], Ref) and type(op.args[1]) is int:
        yield op.args[0], op.args[1]
