"""How a loop's results are put together, made plain before it is rolled up: one `cat` of nothing but its steps' values.

Steps may write into a buffer one after the other, and what was there before the loop may stand beside their values.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from typing import Any

import torch
from torch import fx
from torch._prims_common import suggest_memory_format

from torch_autokernel.capture import ops
from torch_autokernel.capture.reroll import live

_CAT = torch.ops.aten.cat.default
_RUN = "autokernel_run"  # in a node's meta: a cat that `split` made
_SCATTERS = ("aten.slice_scatter.default", "aten.select_scatter.default")


def gather(graph: fx.Graph, least: int) -> None:
    """Change the graph so; what it computes stays the same. `least` is the number of steps of a loop."""
    for node in live(graph):
        if ops.name_of(node.target) == "aten.copy.default" and (source := _copied(node)) is not None:
            node.replace_all_uses_with(source, propagate_meta=False)
    graph.eliminate_dead_code()
    for node in live(graph):
        if (found := _written(node)) is not None and len(found[0]) >= least:
            _put_cat(node, *found)
    graph.eliminate_dead_code()


def _copied(node: fx.Node) -> fx.Node | None:
    """What a copy over a slice of a buffer holds, where it is written into the buffer and differs in strides alone."""
    readers = [v for u in node.users for v in (u.users if ops.name_of(u.target) == "aten.unsqueeze.default" else (u,))]
    written = all(ops.name_of(r.target) in _SCATTERS for r in readers)
    source, value = node.args[1], node.meta["val"]
    if not written or not isinstance(source, fx.Node) or not isinstance(source.meta.get("val"), torch.Tensor):
        return None
    other = source.meta["val"]
    return source if (value.shape, value.dtype, value.device) == (other.shape, other.dtype, other.device) else None


def _at(node: fx.Node) -> tuple[int, int] | None:
    """Dimension and index of the one slice that a scatter writes."""
    value, numbers = node.meta["val"], [v for v in node.args[2:] if type(v) is int]
    if node.kwargs or len(numbers) < 2 or len(numbers) != len(node.args) - 2:
        return None
    dim, index, *rest = numbers
    if ops.name_of(node.target) == "aten.slice_scatter.default" and rest not in ([index + 1], [index + 1, 1]):
        return None
    return (dim % value.dim(), index) if 0 <= index < value.shape[dim] else None


def _written(last: fx.Node) -> tuple[list[fx.Node], int] | None:
    """What was written to each index of a buffer, of which nothing else is left, and the dimension. The node writes last."""
    if ops.name_of(last.target) not in _SCATTERS:
        return None
    if any(ops.name_of(u.target) in _SCATTERS and u.args[0] is last for u in last.users):
        return None
    value, parts, dims = last.meta["val"], dict[int, fx.Node](), set[int]()
    node: Any = last
    while isinstance(node, fx.Node) and ops.name_of(node.target) in _SCATTERS:
        where, source = _at(node), node.args[1]
        if where is None or not isinstance(source, fx.Node) or (node is not last and len(node.users) > 1):
            return None
        dims.add(where[0])
        parts.setdefault(where[1], source)  # a later write stands
        node = node.args[0]
    if len(dims) != 1 or not value.is_contiguous():
        return None
    (dim,) = dims
    if len(parts) != value.shape[dim] or any(p.meta["val"].dtype != value.dtype for p in parts.values()):
        return None
    if not _dense(parts.values()):
        return None
    return [parts[i] for i in range(len(parts))], dim


def _dense(parts: Iterable[fx.Node]) -> bool:
    """Whether torch's cat of them is contiguous, whatever stands beside them: none has its channels last."""
    return all(suggest_memory_format(p.meta["val"]) is torch.contiguous_format for p in parts)


def _put_cat(node: fx.Node, parts: list[fx.Node], dim: int) -> None:
    graph, value = node.graph, node.meta["val"]
    with graph.inserting_before(node):
        whole = []
        for part in parts:
            if part.meta["val"].dim() < value.dim():
                made = graph.call_function(torch.ops.aten.unsqueeze.default, (part, dim))
                made.meta = {"val": part.meta["val"].unsqueeze(dim)}
                part = made
            whole.append(part)
        cat = graph.call_function(_CAT, (whole, dim))
    cat.meta = {**node.meta}
    node.replace_all_uses_with(cat, propagate_meta=False)


def split(graph: fx.Graph, inside: Set[fx.Node], least: int) -> list[fx.Node]:
    """Give the steps' values a cat of their own where others stand before or behind them; the cats that were made."""
    made = []
    for node in live(graph):
        if node.target is not _CAT:
            continue
        parts: list[Any] = list(node.args[0])  # type: ignore[arg-type]
        run = [i for i, p in enumerate(parts) if p in inside]
        together = least <= len(run) < len(parts) and run == list(range(run[0], run[-1] + 1))
        if together and _dense(parts[i] for i in run):
            made.append(_apart(node, parts, run[0], run[-1] + 1))
    return made


def _apart(node: fx.Node, parts: list[fx.Node], start: int, end: int) -> fx.Node:
    dim: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    run, value = parts[start:end], parts[start].meta["val"]
    with node.graph.inserting_before(node):
        inner = node.graph.call_function(_CAT, (run, dim))
    shape = list(value.shape)
    shape[dim] = sum(int(p.meta["val"].shape[dim]) for p in run)
    inner.meta = {"val": value.new_empty(shape), _RUN: True}
    node.args, node.kwargs = ([*parts[:start], inner, *parts[end:]], dim), {}
    return inner


def rejoin(graph: fx.Graph, runs: Iterable[fx.Node] | None = None) -> None:
    """Undo `split`, for these or for all that are still there."""
    undone = {n for n in live(graph) if n.meta.get(_RUN)} if runs is None else set(runs)
    for node in {u for n in undone for u in n.users}:
        parts: list[Any] = list(node.args[0])  # type: ignore[arg-type]
        node.args = ([q for p in parts for q in (p.args[0] if p in undone else [p])], *node.args[1:])
    for n in undone:
        graph.erase_node(n)
