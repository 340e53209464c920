"""Operations brought to fewer kinds: `x.unbind()[k]` is `x.select(k)`, a piece of a split is a slice, to write a selected part
is to write a slice, a maximum and its place are two reductions, and a product and a sum in one operation (softmax's gradient,
lerp, addcmul) are two. Regions hold those; Inductor makes the same of both, but for the rounding between product and sum."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from torch_autokernel.capture import ops

aten = torch.ops.aten
_EXTREMES: dict[Any, tuple[Any, Any]] = {
    aten.max.dim: (aten.amax.default, aten.argmax.default), aten.min.dim: (aten.amin.default, aten.argmin.default),
}  # fmt: skip
_DIM_AT: dict[Any, int] = {aten.unbind.int: 1, aten.split.Tensor: 2, aten.split_with_sizes.default: 2}


def take_apart(graph: fx.Graph) -> None:
    """Replace the pieces of every unbind and split in the graph by selects and slices of its operand, every select_scatter by a
    slice_scatter, extremes along a dimension by amax and argmax, and what is two pointwise operations by these. What depends
    on a symbolic size stays."""
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        if node.target in _DIM_AT:
            _pieces(graph, node)
        elif node.target in _EXTREMES:
            _extreme(graph, node)
        elif node.target is aten.select_scatter.default:
            _scatter(graph, node)
        elif ops.name_of(node.target) in _POINTWISE:
            _pointwise(graph, node)


def _pieces(graph: fx.Graph, node: fx.Node) -> None:
    at, values = _DIM_AT[node.target], node.meta.get("val")
    if not isinstance(values, (tuple, list)) or any(ops.name_of(u.target) != ops.GETITEM for u in node.users):
        return
    x, unbound = node.args[0], node.target is aten.unbind.int
    assert isinstance(x, fx.Node)
    given: Any = node.args[at] if len(node.args) > at else node.kwargs.get("dim", 0)
    dim = int(given) % x.meta["val"].dim()
    sizes = [1 if unbound else v.shape[dim] for v in values]
    if not all(isinstance(n, int) for n in sizes):
        return
    for user in list(node.users):
        k: Any = user.args[1]
        k %= len(values)
        with graph.inserting_before(user):
            if unbound:
                piece = graph.call_function(aten.select.int, (x, dim, k))
            else:
                piece = graph.call_function(aten.slice.Tensor, (x, dim, sum(sizes[:k]), sum(sizes[: k + 1])))
        _stand_in(graph, user, piece)
    graph.erase_node(node)


def _extreme(graph: fx.Graph, node: fx.Node) -> None:
    for user in list(node.users):  # a place that nobody reads
        if not user.users and ops.name_of(user.target) == ops.GETITEM:
            graph.erase_node(user)
    users = list(node.users)
    if any(ops.name_of(u.target) != ops.GETITEM for u in users):
        return
    given: dict[str, Any] = dict(zip(("self", "dim", "keepdim"), node.args, strict=False)) | dict(node.kwargs)
    x, dim, keepdim = given["self"], given["dim"], given.get("keepdim", False)
    if x.meta["val"].dim() == 0:
        return
    value, place = _EXTREMES[node.target]
    for user in users:
        target, along = (place, dim) if user.args[1] else (value, [dim])
        with graph.inserting_before(user):
            new = graph.call_function(target, (x, along, keepdim))
        _stand_in(graph, user, new)
    graph.erase_node(node)


def _scatter(graph: fx.Graph, node: fx.Node) -> None:
    x, part, dim, k = node.args[:4]
    assert isinstance(x, fx.Node) and isinstance(part, fx.Node) and isinstance(dim, int)
    dim %= x.meta["val"].dim()
    if not isinstance(x.meta["val"].shape[dim], int) or not isinstance(k, int):
        return
    k %= x.meta["val"].shape[dim]
    with graph.inserting_before(node):
        wide = graph.call_function(aten.unsqueeze.default, (part, dim))
        wide.meta["val"] = part.meta["val"].unsqueeze(dim)
        new = graph.call_function(aten.slice_scatter.default, (x, wide, dim, k, k + 1))
    _stand_in(graph, node, new)


Apply = Callable[..., fx.Node]


def _scaled(apply: Apply, x: fx.Node, value: Any) -> fx.Node:
    return x if value == 1 else apply(aten.mul.Tensor, x, value)


_POINTWISE: dict[str, Callable[..., fx.Node]] = {
    "prims.fma.default": lambda apply, a, b, c: apply(aten.add.Tensor, apply(aten.mul.Tensor, a, b), c),
    "aten.addcmul.default": lambda apply, x, a, b, value=1: apply(
        aten.add.Tensor, x, apply(aten.mul.Tensor, _scaled(apply, a, value), b)
    ),
    "aten.addcdiv.default": lambda apply, x, a, b, value=1: apply(
        aten.add.Tensor, x, apply(aten.div.Tensor, _scaled(apply, a, value), b)
    ),
    "aten.clamp_min.Tensor": lambda apply, x, least: apply(aten.maximum.default, x, least),
    "aten.clamp_max.Tensor": lambda apply, x, most: apply(aten.minimum.default, x, most),
}
_NARROW = (torch.bfloat16, torch.float16)
_KINDS = (torch.float32, torch.float64, *_NARROW)


def _pointwise(graph: fx.Graph, node: fx.Node) -> None:
    """Operands of a narrow dtype are widened: eager rounds once, at the end."""
    dtype, operands = node.meta["val"].dtype, [a for a in node.args if isinstance(a, fx.Node)]
    if dtype not in _KINDS or any(n.meta["val"].dtype != dtype for n in operands):
        return
    if any(isinstance(v, fx.Node) for v in node.kwargs.values()) or any(not isinstance(a, fx.Node) for a in node.args[:2]):
        return

    def apply(target: Any, *args: Any) -> fx.Node:
        new = graph.call_function(target, args)
        new.meta = {k: v for k, v in node.meta.items() if k in ("stack_trace", "nn_module_stack", "source_fn_stack")}
        new.meta["val"] = target(*(a.meta["val"] if isinstance(a, fx.Node) else a for a in args))
        return new

    with graph.inserting_before(node):
        widened = node.args
        if dtype in _NARROW:
            convert = torch.ops.prims.convert_element_type.default
            widened = tuple(apply(convert, a, torch.float32) if isinstance(a, fx.Node) else a for a in node.args)
        new = _POINTWISE[ops.name_of(node.target)](apply, *widened, **node.kwargs)
        if dtype in _NARROW:
            new = apply(convert, new, dtype)
    _stand_in(graph, node, new)


def _stand_in(graph: fx.Graph, old: fx.Node, new: fx.Node) -> None:
    new.meta.update(old.meta)
    old.replace_all_uses_with(new)
    graph.erase_node(old)
