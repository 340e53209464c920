"""Indices are checked before a kernel gathers with them.

A kernel cannot raise; where eager would raise IndexError for an index that is out of range, the call is a GuardMiss and the
reference raises it. Indices that are an input, seen from another side, are checked in one pass over it (`inside_of`); so is an
input of which one value is replaced by index 0, as a loss replaces `ignore_index`. Others are computed once more for this, by
the part of the reference that leads to them; once for each size of the arguments where they follow from sizes alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from torch_autokernel.capture.operators import bind_sizes
from torch_autokernel.capture.reference import load_reference, print_reference
from torch_autokernel.core import dims
from torch_autokernel.core.dims import Dim
from torch_autokernel.core.errors import GuardMiss
from torch_autokernel.core.types import Op, Ref, Signature
from torch_autokernel.lang.launch import inside_of

_INDEXED = {"aten.gather.default": (0, 2), "aten.embedding.default": (0, 1)}  # which argument is read, which holds the indices
_WHOLE = {f"aten.{name}.default" for name in "unsqueeze view reshape _unsafe_view permute expand alias clone squeeze".split()}
_WHOLE |= {"aten.squeeze.dim", "aten.squeeze.dims"}  # what shows every element
_INTEGERS = ("int64", "int32", "int16", "int8", "uint8")
_MOST_SIZES = 256  # for which the outcome of a check is kept

Call = Callable[..., tuple[torch.Tensor, ...]]
Check = Callable[[Sequence[torch.Tensor]], bool]  # whether all indices are in range


@dataclass(frozen=True)
class Gather:
    """Indices (the value's number) and what they stay below. Where it `wraps`, negative ones count from the end."""

    indices: int
    limit: Dim
    wraps: bool = False


def guarded(signature: Signature, call: Call) -> Call:
    """The call, with the indices of the signature's gathers checked first; the call itself where there is none."""
    checks = [_check(signature, g) for g in dict.fromkeys(_gathers(signature))]
    if not checks:
        return call

    def checked(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        for check in checks:
            if not check(tensors):
                raise GuardMiss("an index is out of range")
        return call(*tensors)

    return checked


def _gathers(signature: Signature) -> list[Gather]:
    """All but those of `_unsafe_index`, which eager does not check either."""
    shapes = [*(spec.shape for spec in signature.inputs), *(op.shape for op in signature.ops)]
    out = []
    for op in signature.ops:
        if op.target in _INDEXED:
            source, indices = (op.args[k].index for k in _INDEXED[op.target])
            shape = shapes[source]
            axis = op.args[1] % max(1, len(shape)) if op.target == "aten.gather.default" else 0
            out.append(Gather(indices, shape[axis] if shape else 1))
        elif op.target == "aten.index.Tensor":
            shape = shapes[op.args[0].index]
            out += [Gather(i.index, shape[d], wraps=True) for d, i in enumerate(op.args[1]) if i is not None]
    return out


def _check(signature: Signature, gather: Gather) -> Check:
    quick = _quick(signature, gather)
    if quick is not None and not gather.wraps:
        return quick
    slow = _computed(signature, gather)
    return slow if quick is None else lambda tensors: quick(tensors) or slow(tensors)


def _quick(signature: Signature, gather: Gather) -> Check | None:
    """One pass over the input that the indices are; None where they are none, or the limit is not one input's size."""
    value, spared = _behind(signature, gather.indices), None
    op = _op(signature, value)
    if op is not None and op.target == "aten.where.self" and _constant(signature, op.args[2]) == 0:
        test, value = _op(signature, op.args[0].index), _behind(signature, op.args[1].index)
        if test is not None and test.target == "aten.ne.Scalar" and _behind(signature, test.args[0].index) == value:
            spared = test.args[1] if isinstance(test.args[1], int) else None
        op = _op(signature, value) if spared is not None else op
    if op is not None or signature.inputs[value].dtype not in _INTEGERS:
        return None
    limit = gather.limit
    if isinstance(limit, int):
        return inside_of(lambda tensors: limit, value, spared) if limit > 0 else None
    i = next((i for i, spec in enumerate(signature.inputs) if limit in spec.shape), None)
    if i is None:
        return None
    d = signature.inputs[i].shape.index(limit)
    return inside_of(lambda tensors: tensors[i].shape[d], value, spared)


def _op(signature: Signature, value: int) -> Op | None:
    count = len(signature.inputs)
    return signature.ops[value - count] if value >= count else None


def _behind(signature: Signature, value: int) -> int:
    """The value that this one shows all elements of."""
    while (op := _op(signature, value)) is not None and op.target in _WHOLE:
        value = op.args[0].index
    return value


def _constant(signature: Signature, argument: Any) -> Any:
    """The number that a value is full of; None where it is no such value."""
    op = _op(signature, argument.index) if isinstance(argument, Ref) else None
    return op.args[1] if op is not None and op.target == "aten.full.default" else None


def _computed(signature: Signature, gather: Gather) -> Check:
    part = _leading_to(signature, [gather.indices])
    indices = load_reference(print_reference(part))

    def check(tensors: Sequence[torch.Tensor]) -> bool:
        values = bind_sizes(signature, tensors)
        with torch.no_grad():
            (index,) = indices(*tensors, *(values[s] for s in signature.symbols))
            if not index.numel():
                return True
            low, high = torch.aminmax(index)
            limit = dims.evaluate(gather.limit, values)
            return int(low) >= (-limit if gather.wraps else 0) and int(high) < limit

    return check if any(r < len(part.inputs) for op in part.ops for r in _refs(op)) else _once_for_sizes(check)


def _once_for_sizes(check: Check) -> Check:
    """For indices that follow from sizes alone, as those of an unfolded image: what was found for the same sizes holds."""
    known: dict[tuple[tuple[torch.Size, tuple[int, ...]], ...], bool] = {}

    def remembering(tensors: Sequence[torch.Tensor]) -> bool:
        sizes = tuple([(t.shape, t.stride()) for t in tensors])
        found = known.get(sizes)
        if found is None:
            if len(known) >= _MOST_SIZES:
                known.clear()
            found = known[sizes] = check(tensors)
        return found

    return remembering


def _leading_to(signature: Signature, wanted: list[int]) -> Signature:
    """The part of a signature that computes the wanted values."""
    count = len(signature.inputs)
    needed: set[int] = set()
    stack = list(wanted)
    while stack:
        value = stack.pop()
        if value >= count and value not in needed:
            needed.add(value)
            stack += _refs(signature.ops[value - count])
    number = {i: i for i in range(count)}
    ops: list[Op] = []
    for value in sorted(needed):
        op = signature.ops[value - count]
        number[value] = count + len(ops)
        ops.append(Op(op.target, _renumber(op.args, number), _renumber_map(op.kwargs, number), op.shape, op.dtype))
    return Signature(tuple(ops), signature.inputs, tuple(number[w] for w in wanted), (), signature.symbols)


def _refs(value: Any) -> list[int]:
    if isinstance(value, Op):
        return _refs((*value.args, *value.kwargs.values()))
    if isinstance(value, Ref):
        return [value.index]
    return [i for v in value for i in _refs(v)] if isinstance(value, tuple) else []


def _renumber(value: Any, number: dict[int, int]) -> Any:
    if isinstance(value, Ref):
        return Ref(number[value.index])
    return tuple(_renumber(v, number) for v in value) if isinstance(value, tuple) else value


def _renumber_map(value: Any, number: dict[int, int]) -> dict[str, Any]:
    return {k: _renumber(v, number) for k, v in value.items()}
