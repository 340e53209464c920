"""A group of FX nodes to a Region: canonical order, symbolic sizes, printed reference.

The digest of the signature survives renaming and topological reordering: operations are numbered by a walk from the
outputs, and the outputs are ordered by what they compute and by who uses it, not by where they stand.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from torch_autokernel.capture import ops, shapes
from torch_autokernel.capture.reference import print_reference
from torch_autokernel.capture.sizes import Pin, Sizes, hint, stride_dims
from torch_autokernel.core.dims import Dim, symbols
from torch_autokernel.core.errors import CaptureError
from torch_autokernel.core.indexing import INDEXED
from torch_autokernel.core.types import (
    DTYPE_BYTES,
    Const,
    Op,
    Ref,
    Region,
    Signature,
    TensorSpec,
)

IGNORED_KWARGS = ("layout", "device", "pin_memory", "requires_grad", "memory_format")
_MAX_PINS = 16
_OFFSETS = "prims._low_memory_max_pool_with_offsets.default"


@dataclass(frozen=True)
class Captured:
    """A region with the FX nodes that feed it and the nodes whose values it makes, in the signature's order. `parts` are the
    smaller regions that it joins; they stand in where it is not replaced."""

    region: Region
    inputs: tuple[fx.Node, ...]
    outputs: tuple[fx.Node, ...]
    members: tuple[fx.Node, ...]
    parts: tuple[Captured, ...] = ()


def tensor_of(node: fx.Node) -> torch.Tensor:
    """The node's fake tensor; raises CaptureError where it has none."""
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor):
        raise CaptureError(f"{node.name} is not a tensor")
    return value


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _tensor_args(node: fx.Node) -> list[fx.Node]:
    return [n for n in node.all_input_nodes if isinstance(n.meta.get("val"), (torch.Tensor, tuple, list))]


class _Order:
    """Canonical order of a region's nodes."""

    def __init__(self, members: set[fx.Node]) -> None:
        self.members = members
        self._down: dict[fx.Node, str] = {}
        self._up: dict[fx.Node, str] = {}

    def key(self, node: fx.Node) -> tuple[str, str]:
        return self._operands(node), self._users(node)

    def _operands(self, node: fx.Node) -> str:
        if node not in self._down:
            stack = [node]
            while stack:
                top = stack[-1]
                below = _tensor_args(top) if top in self.members else []
                pending = [a for a in below if a in self.members and a not in self._down]
                if pending:
                    stack += pending
                    continue
                stack.pop()
                self._down[top] = self._hash(top)
        return self._down[node]

    def _hash(self, node: fx.Node) -> str:
        value = node.meta.get("val")
        if node not in self.members:
            text = "in"
            if isinstance(value, torch.Tensor):
                text = f"in {value.dtype} {[hint(s) for s in value.shape]} {[hint(s) for s in value.stride()]}"
        else:
            plain = fx.node.map_arg((node.args, node.kwargs), lambda n: self._down.get(n) or self._hash(n))
            text = f"{ops.name_of(node.target)} {plain}"
        return hashlib.sha256(text.encode()).hexdigest()

    def _users(self, node: fx.Node) -> str:
        if node not in self._up:
            users = [u for u in node.users if u in self.members]
            inside = sorted(f"{self._operands(u)}{[i for i, a in enumerate(u.all_input_nodes) if a is node]}" for u in users)
            self._up[node] = hashlib.sha256("".join(inside).encode()).hexdigest()
        return self._up[node]


def _walk(outputs: Iterable[fx.Node], members: set[fx.Node]) -> tuple[list[fx.Node], list[fx.Node]]:
    """Member nodes in post-order from the outputs, and the outside tensors in order of first use."""
    done: list[fx.Node] = []
    seen: set[fx.Node] = set()
    outside: dict[fx.Node, None] = {}
    for root in outputs:
        stack: list[tuple[fx.Node, bool]] = [(root, False)]
        while stack:
            node, expanded = stack.pop()
            if expanded:
                done.append(node)
            elif node not in members:
                outside.setdefault(node)
            elif node not in seen:
                seen.add(node)
                stack.append((node, True))
                stack += [(a, False) for a in reversed(_tensor_args(node))]
    return done, list(outside)


def capture_region(
    members: Sequence[fx.Node], *, phase: str = "inference", inputs: Sequence[fx.Node] | None = None,
    outputs: Sequence[fx.Node] | None = None, static: frozenset[int] = frozenset(), copies: AbstractSet[fx.Node] = frozenset(),
    extra_outputs: Sequence[fx.Node] = (),
) -> Captured:  # fmt: skip
    """The region of these nodes. With `inputs` or `outputs` their order is the caller's (a problem file's contract), else
    it is canonical. `copies` are members that stay in the graph too, so they are never outputs. Without `outputs` they are the
    members read outside, or `extra_outputs`. Raises CaptureError where the
    nodes cannot be told faithfully."""
    inside = set(members)
    if outputs is None:
        made = list(extra_outputs) or [n for n in members if n not in copies and any(u not in inside for u in n.users)]
        order = _Order(inside)
        outputs = sorted(made, key=order.key)
    body, found = _walk(outputs, inside)
    if len(body) != len(inside):
        inside = set(body)  # nodes that reach no output are dead within the region
    ins = list(inputs) if inputs is not None else found
    if missing := [n.name for n in found if n not in ins]:
        raise CaptureError(f"the region reads {missing[0]}, which is not among its inputs")
    pinned: frozenset[int | str] = frozenset(static) | _turns(body) | _resized(body)
    for _ in range(_MAX_PINS):
        sizes = Sizes(pinned)
        try:
            signature = _signature(sizes, ins, body, list(outputs))
            break
        except Pin as pin:
            pinned = sizes.pin(pin.names)
    else:
        raise CaptureError("sizes could not be settled")
    values = {name: sizes.values[name] for name in signature.symbols}
    region = Region(signature, print_reference(signature), values, tuple(n.name for n in body), phase)
    return Captured(region, tuple(ins), tuple(outputs), tuple(body))


def _turns(body: Sequence[fx.Node]) -> frozenset[int]:
    """The numbers that places are taken modulo: a roll is told as two pieces where the size it wraps at is one number."""
    wraps = [n for n in body if ops.name_of(n.target) in ("aten.fmod.Scalar", "aten.remainder.Scalar")]
    places = [n for n in wraps if isinstance(v := n.meta.get("val"), torch.Tensor) and v.dtype == torch.int64 and v.dim() == 1]
    return frozenset(n.args[1] for n in places if type(n.args[1]) is int and n.args[1] > 1)


def _resized(body: Sequence[fx.Node]) -> frozenset[int]:
    """The sizes of what is indexed by what follows from sizes alone, and how much of it is read: neither tells the other. Not
    where places are whole steps apart, which holds for any size."""
    made, found = set[fx.Node](), set[int]()
    stepwise = set[fx.Node]()
    for n in body:  # operands first
        name, operands = ops.name_of(n.target), n.all_input_nodes
        if all(a in made for a in operands):
            made.add(n)
            value = n.meta.get("val")
            whole = isinstance(value, torch.Tensor) and not value.is_floating_point()
            if name == "aten.mul.Tensor" and all(isinstance(a, fx.Node) for a in n.args):
                whole = False  # squares of places
            if whole and (name in _STEPWISE or ops.kind(name) == "view") and all(a in stepwise for a in operands):
                stepwise.add(n)
        if name not in INDEXED:
            continue
        shape = tensor_of(n.args[0]).shape  # type: ignore[arg-type]
        for d, index in enumerate(n.args[1]):  # type: ignore[arg-type]
            if index in made and index not in stepwise:
                found |= {size for size in (shape[d], *tensor_of(index).shape) if type(size) is int and size > 1}
    return frozenset(found)


_STEPWISE = frozenset((
    "prims.iota.default", "aten.add.Tensor", "aten.sub.Tensor", "aten.mul.Tensor", "prims.convert_element_type.default",
))  # fmt: skip


def _signature(sizes: Sizes, inputs: list[fx.Node], body: list[fx.Node], outputs: list[fx.Node]) -> Signature:
    tensors = [tensor_of(n) for n in inputs]
    sizes.declare(s for t in tensors for s in t.shape)
    in_shapes = [tuple(sizes.of(s) for s in t.shape) for t in tensors]
    in_specs = [_spec(sizes, t, shape) for t, shape in zip(tensors, in_shapes, strict=True)]
    number = {n: i for i, n in enumerate([*inputs, *body])}
    shape_of: dict[fx.Node, shapes.Shape] = dict(zip(inputs, in_shapes, strict=True))
    lowered = tuple(_op(sizes, node, number, shape_of) for node in body)
    out_specs = tuple(_spec(sizes, tensor_of(n), shape_of[n]) for n in outputs)
    for node, spec in zip(outputs, out_specs, strict=True):
        if any(stride == 0 and size != 1 for stride, size in zip(spec.stride, spec.shape, strict=True)):
            raise CaptureError(f"{node.name}: a result whose elements share memory cannot be allocated")
    ordered = symbols([d for s in in_specs for d in s.shape] + [d for s in in_specs for d in s.stride])
    used = symbols(d for s in out_specs for d in (*s.shape, *s.stride))
    if loose := [s for s in used if s not in ordered]:
        raise CaptureError(f"an output has the size {loose[0]}, which no input has")
    return Signature(lowered, tuple(in_specs), tuple(number[n] for n in outputs), out_specs, tuple(ordered))


def _spec(sizes: Sizes, tensor: torch.Tensor, shape: tuple[Dim, ...]) -> TensorSpec:
    name = dtype_name(tensor.dtype)
    if name not in ops.DTYPES:
        raise CaptureError(f"dtype {name} is not supported")
    if tensor.is_sparse or tensor.layout is not torch.strided:
        raise CaptureError("only strided tensors are supported")
    stride = stride_dims(sizes, tuple(tensor.shape), shape, tuple(tensor.stride()))
    return TensorSpec(shape, name, stride, tensor.device.type, DTYPE_BYTES[name])


def _op(sizes: Sizes, node: fx.Node, number: dict[fx.Node, int], shape_of: dict[fx.Node, shapes.Shape]) -> Op:
    """The node as an operation. A max pool of which nobody asks where the maxima are is told as eager's."""
    name = ops.name_of(node.target)
    kind = ops.kind(name)
    if kind is None:
        raise CaptureError(f"{node.name}: {name} is not among the operations that a region may hold")
    value = node.meta.get("val")
    if name == ops.GETITEM:
        parent, index = node.args
        shape_of[node] = shape_of[parent]  # type: ignore[index]
        return Op(name, (Ref(number[parent]), index), {}, shape_of[node], dtype_name(tensor_of(node).dtype))  # type: ignore[index]
    tensors = [shape_of[a] for a in _flat_tensor_args(node)]
    args = _drop_layout(node)
    if isinstance(value, (tuple, list)):
        shape_of[node] = shapes.infer(name, kind, sizes, tensors, args, dict(node.kwargs), tuple(value[0].shape))
        shape: shapes.Shape = ()
        dtype = ""
    else:
        tensor = tensor_of(node)
        shape = shape_of[node] = shapes.infer(name, kind, sizes, tensors, args, dict(node.kwargs), tuple(tensor.shape))
        dtype = dtype_name(tensor.dtype)
    if name == _OFFSETS and not any(u.args[1] == 1 for u in node.users if u in number):
        name = f"aten.max_pool{len(args[1])}d_with_indices.default"
    kwargs = {k: _arg(sizes, v, number) for k, v in sorted(node.kwargs.items()) if k not in IGNORED_KWARGS}
    if name in ("aten.reshape.default", "aten.view.default", "aten.as_strided.default"):
        if name == "aten.as_strided.default":
            _check_dense(node)
        return Op("aten.reshape.default", (_arg(sizes, args[0], number), _shape_arg(shape)), {}, shape, dtype)
    if name in ("aten.expand.default",):
        return Op(name, (_arg(sizes, args[0], number), _shape_arg(shape)), {}, shape, dtype)
    if name == "aten.full.default":
        return Op(name, (_shape_arg(shape), _arg(sizes, args[1], number)), {"dtype": Const("dtype", dtype)}, shape, dtype)
    if name == "aten.scalar_tensor.default":
        return Op("aten.full.default", ((), _arg(sizes, args[0], number)), {"dtype": Const("dtype", dtype)}, shape, dtype)
    if name == "prims.iota.default":
        return Op(name, (_shape_arg(shape)[0],), kwargs, shape, dtype)
    return Op(name, tuple(_arg(sizes, a, number) for a in args), kwargs, shape, dtype)


def _drop_layout(node: fx.Node) -> tuple[Any, ...]:
    return node.args[:1] if node.target is torch.ops.aten.clone.default else node.args


def _flat_tensor_args(node: fx.Node) -> list[fx.Node]:
    """Tensor arguments in order, repeats kept."""
    out: list[fx.Node] = []
    fx.node.map_arg((node.args, node.kwargs), lambda n: out.append(n) if isinstance(n.meta.get("val"), torch.Tensor) else None)
    return out


def _check_dense(node: fx.Node) -> None:
    """as_strided is a reshape where source and result are contiguous and of one size; anything else is refused."""
    base, result = tensor_of(node.args[0]), tensor_of(node)  # type: ignore[arg-type]
    offset = node.args[3] if len(node.args) > 3 else None
    if offset not in (None, 0) or not base.is_contiguous() or not result.is_contiguous() or base.numel() != result.numel():
        raise CaptureError(f"{node.name}: as_strided that is not a reshape")


def _shape_arg(shape: shapes.Shape) -> tuple[Any, ...]:
    return tuple(d if isinstance(d, int) else Const("dim", d) for d in shape)


def _arg(sizes: Sizes, value: Any, number: dict[fx.Node, int]) -> Any:
    if isinstance(value, fx.Node):
        if value in number:
            return Ref(number[value])
        return _arg(sizes, value.meta.get("val"), number)
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, (int, torch.SymInt)):
        return value if isinstance(value, int) else _symbolic(sizes, value)
    if isinstance(value, float):
        return value
    if isinstance(value, (list, tuple)):
        return tuple(_arg(sizes, v, number) for v in value)
    if isinstance(value, torch.dtype):
        return Const("dtype", dtype_name(value))
    if isinstance(value, torch.device):
        return Const("device", value.type)
    if isinstance(value, torch.memory_format):
        return Const("memory_format", str(value).removeprefix("torch."))
    raise CaptureError(f"an argument of type {type(value).__name__} cannot be told: {value!r}")


def _symbolic(sizes: Sizes, value: torch.SymInt) -> Any:
    dim = sizes.of(value)
    return dim if isinstance(dim, int) else Const("dim", dim)
