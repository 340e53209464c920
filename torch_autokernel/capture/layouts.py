"""Strides as Inductor will make them: beside convolutions on a CPU it lays images out with the channels last, whatever the
graph says. A region between convolutions is captured in that layout, so that nothing is copied at its edges.

A wrong guess costs a copy, never a wrong result: Inductor is told the strides that a kernel takes (`swap`), and makes them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx

from torch_autokernel.capture import ops

_CONVOLUTIONS = ("aten.convolution.default", "aten.convolution_backward.default")


@contextmanager
def as_inductor_has_them(graph: fx.Graph, rest: str, inputs: Sequence[Any] = ()) -> Iterator[None]:
    """Within the block, values that Inductor keeps channels-last are told so in their nodes' metadata, and so are `inputs`:
    what a forward graph saves for its backward graph comes as Inductor made it."""
    before: dict[fx.Node, Any] = {}
    for node, value in zip(graph.find_nodes(op="placeholder"), inputs, strict=False):
        if isinstance(value, torch.Tensor) and isinstance(node.meta.get("val"), torch.Tensor):
            before[node] = node.meta["val"]
            node.meta["val"] = value
    if rest == "inductor" and _channels_last(graph):
        visible = _visible(graph)
        for node in graph.nodes:
            if node not in visible and _moves(node):
                before[node] = node.meta["val"]
                node.meta["val"] = node.meta["val"].contiguous(memory_format=torch.channels_last)
    try:
        yield
    finally:
        for node, value in before.items():
            node.meta["val"] = value


def _channels_last(graph: fx.Graph) -> bool:
    from torch._inductor import config

    named = {ops.name_of(n.target) for n in graph.nodes if n.op == "call_function"}
    return bool(config.layout_optimization and torch.backends.mkldnn.is_available() and named & set(_CONVOLUTIONS))


def _visible(graph: fx.Graph) -> set[fx.Node]:
    """The results that the user sees: they keep their strides. What is only saved for the backward graph need not."""
    output = graph.output_node()
    results = list(output.args[0]) if isinstance(output.args[0], (list, tuple)) else [output.args[0]]
    shown = output.meta.get("user_visible_output_idxs", range(len(results)))
    return {r for i in shown if isinstance(r := results[i], fx.Node)}


def _moves(node: fx.Node) -> bool:
    """Whether the node's value is an image that comes out of a convolution, goes into one, or is made of such images."""
    value = node.meta.get("val")
    if node.op != "call_function" or not isinstance(value, torch.Tensor) or value.dim() != 4 or not value.is_contiguous():
        return False
    if value.device.type != "cpu":
        return False
    if _is_convolution(node):
        return True
    if ops.name_of(node.target) == ops.GETITEM:
        return bool(node.args[1] == 0) and _is_convolution(node.args[0])
    into = any(_is_convolution(u) and node in u.args[:2] for u in node.users)
    of_such = any(_is_channels_last(a.meta.get("val")) for a in node.all_input_nodes)
    return ops.kind(ops.name_of(node.target)) == "pointwise" and (into or of_such)


def _is_channels_last(value: Any) -> bool:
    if not isinstance(value, torch.Tensor) or value.dim() != 4 or value.is_contiguous():
        return False
    return value.is_contiguous(memory_format=torch.channels_last)


def _is_convolution(node: Any) -> bool:
    return isinstance(node, fx.Node) and node.op == "call_function" and ops.name_of(node.target) in _CONVOLUTIONS
