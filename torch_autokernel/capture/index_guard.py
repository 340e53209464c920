"""Indices are checked before a kernel gathers with them.

A kernel cannot raise; where eager would raise IndexError for an index that is out of range, the call is a GuardMiss and the
reference raises it. The indices are computed once more for this, by the part of the reference that leads to them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from torch_autokernel.capture.operators import bind_sizes
from torch_autokernel.capture.reference import load_reference, print_reference
from torch_autokernel.core import dims
from torch_autokernel.core.errors import GuardMiss
from torch_autokernel.core.types import Op, Ref, Signature

_INDEXED = {"aten.gather.default": (0, 2), "aten.embedding.default": (0, 1)}  # which argument is read, which holds the indices

Call = Callable[..., tuple[torch.Tensor, ...]]


def guarded(signature: Signature, call: Call) -> Call:
    """The call, with the indices of the signature's gathers checked first; the call itself where there is none."""
    count = len(signature.inputs)
    gathers = [op for op in signature.ops if op.target in _INDEXED]
    if not gathers:
        return call
    limits = []
    for op in gathers:
        source: int = op.args[_INDEXED[op.target][0]].index
        shape = signature.inputs[source].shape if source < count else signature.ops[source - count].shape
        axis = op.args[1] % max(1, len(shape)) if op.target == "aten.gather.default" else 0
        limits.append(shape[axis] if shape else 1)
    indices = load_reference(print_reference(_leading_to(signature, [op.args[_INDEXED[op.target][1]].index for op in gathers])))

    def checked(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        values = bind_sizes(signature, tensors)
        with torch.no_grad():
            for index, limit in zip(indices(*tensors, *(values[s] for s in signature.symbols)), limits, strict=True):
                if index.numel() and (int(index.min()) < 0 or int(index.max()) >= dims.evaluate(limit, values)):
                    raise GuardMiss(f"an index is outside of 0..{dims.evaluate(limit, values) - 1}")
        return call(*tensors)

    return checked


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
