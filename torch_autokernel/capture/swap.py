"""Put operators in the place of regions, in one graph, keeping its order valid."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import fx

from torch_autokernel.capture.nodes import writes
from torch_autokernel.capture.signature import Captured
from torch_autokernel.core.errors import CaptureError


def swap(graph: fx.Graph, replacements: Sequence[tuple[Captured, Any]]) -> None:
    """Replace each captured region by a call of its operator. The graph is untouched where CaptureError is raised."""
    if not replacements:
        return
    plan = _plan(graph, replacements)
    now: dict[fx.Node, fx.Node] = {}
    for captured, overload in replacements:
        _insert(graph, captured, overload, now)
    _reorder(graph, plan)
    _drop_dead(graph, replacements)


def _plan(graph: fx.Graph, replacements: Sequence[tuple[Captured, Any]]) -> dict[fx.Node, list[fx.Node]]:
    """Order that data flow does not tell: mutations stay behind what preceded them, random draws stay in sequence.
    Raises CaptureError where a replaced region would stand on both sides of a mutation."""
    inside = {n for c, _ in replacements for n in c.members}
    extra: dict[fx.Node, list[fx.Node]] = {}
    before: set[fx.Node] = set()
    last_random: fx.Node | None = None
    last_mutation: fx.Node | None = None
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        if last_mutation is not None and node not in inside and _touches(node, last_mutation):
            extra.setdefault(node, []).append(last_mutation)
        if _tagged(node, torch.Tag.nondeterministic_seeded):
            if last_random is not None:
                extra.setdefault(node, []).append(last_random)
            last_random = node
        if writes(node):
            readers = {n for arg in node.all_input_nodes for n in arg.users if n in before}
            extra.setdefault(node, []).extend(n for n in readers if n not in inside)
            for captured, _ in replacements:
                marks = {m in before for m in captured.members if any(a in node.all_input_nodes for a in m.all_input_nodes)}
                if marks == {True, False}:
                    raise CaptureError(f"a region reads {node.args[0]} before and after it is written")
            last_mutation = node
        before.add(node)
    return extra


def _touches(node: fx.Node, mutation: fx.Node) -> bool:
    return writes(node) or any(a in mutation.all_input_nodes for a in node.all_input_nodes)


def _tagged(node: fx.Node, tag: torch.Tag) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and tag in node.target.tags


def _insert(graph: fx.Graph, captured: Captured, overload: Any, now: dict[fx.Node, fx.Node]) -> None:
    """One call for one region; `now` maps what has been replaced so far."""
    anchor = captured.members[-1]
    inside = set(captured.members)
    with graph.inserting_after(anchor):
        call = graph.call_function(overload, tuple(now.get(n, n) for n in captured.inputs))
    values = [n.meta["val"] for n in captured.outputs]
    call.meta = {"val": values[0] if len(values) == 1 else tuple(values), "autokernel": captured.region.signature.digest}
    call.meta["eager_input_vals"] = (tuple(n.meta["val"] for n in captured.inputs), {})  # Inductor makes these strides
    parts = [call]
    if len(values) > 1:
        parts = []
        for i, value in reversed(list(enumerate(values))):
            with graph.inserting_after(call):
                part = graph.call_function(operator.getitem, (call, i))
            part.meta = {"val": value}
            parts.insert(0, part)
    for old, new in zip(captured.outputs, parts, strict=True):
        old.replace_all_uses_with(new, delete_user_cb=lambda user: user not in inside, propagate_meta=False)
        now[old] = new


def _reorder(graph: fx.Graph, extra: dict[fx.Node, list[fx.Node]]) -> None:
    """A valid topological order that moves as little as possible."""
    order: dict[fx.Node, None] = {}
    mutated_late = _mutation_order(graph)
    for root in list(graph.nodes):
        stack: list[tuple[fx.Node, bool]] = [(root, False)]
        open_nodes: set[fx.Node] = set()
        while stack:
            node, expanded = stack.pop()
            if expanded:
                order.setdefault(node)
                open_nodes.discard(node)
            elif node not in order:
                if node in open_nodes:
                    raise CaptureError("replacing the regions would make a cycle")
                open_nodes.add(node)
                stack.append((node, True))
                needs = [*node.all_input_nodes, *extra.get(node, ()), *mutated_late.get(node, ())]
                stack += [(n, False) for n in needs if n not in order and n is not node]
    nodes = list(order)
    for previous, node in zip(nodes, nodes[1:], strict=False):
        if previous.next is not node:
            previous.append(node)
    graph.lint()


def _mutation_order(graph: fx.Graph) -> dict[fx.Node, list[fx.Node]]:
    """For a mutation: the operator calls that read what it writes (they replaced nodes that stood before it)."""
    out: dict[fx.Node, list[fx.Node]] = {}
    for node in graph.nodes:
        if writes(node):
            out[node] = [u for arg in node.all_input_nodes for u in arg.users if "autokernel" in u.meta and u is not node]
    return out


def _drop_dead(graph: fx.Graph, replacements: Iterable[tuple[Captured, Any]]) -> None:
    for captured, _ in replacements:
        for node in reversed(captured.members):
            if not node.users:
                graph.erase_node(node)
