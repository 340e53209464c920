"""Operations on pieces of tensors brought to fewer kinds: `x.unbind()[k]` is `x.select(k)`, a piece of a split is a slice, and
to write a selected part is to write a slice. Regions hold views; Inductor makes the same of both."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from torch_autokernel.capture import ops

aten = torch.ops.aten
_DIM_AT: dict[Any, int] = {aten.unbind.int: 1, aten.split.Tensor: 2, aten.split_with_sizes.default: 2}


def take_apart(graph: fx.Graph) -> None:
    """Replace the pieces of every unbind and split in the graph by selects and slices of its operand, and every select_scatter
    by a slice_scatter. What depends on a symbolic size stays."""
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        if node.target in _DIM_AT:
            _pieces(graph, node)
        elif node.target is aten.select_scatter.default:
            _scatter(graph, node)


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


def _stand_in(graph: fx.Graph, old: fx.Node, new: fx.Node) -> None:
    new.meta.update(old.meta)
    old.replace_all_uses_with(new)
    graph.erase_node(old)
