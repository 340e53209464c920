"""Small questions about FX nodes that several modules ask."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import fx

from torch_autokernel.capture.sizes import hint


def writes(node: fx.Node) -> bool:
    """Whether the node's operation writes one of its arguments."""
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def ancestors(start: fx.Node, through: Callable[[fx.Node], bool]) -> set[fx.Node]:
    """The node, and what it is made of; nodes that are not gone through are the last."""
    seen, todo = set(), [start]
    while todo:
        node = todo.pop()
        if node not in seen:
            seen.add(node)
            if through(node):
                todo.extend(node.all_input_nodes)
    return seen


def bytes_of(node: fx.Node) -> int:
    """Of a tensor that a node makes, at the sizes at hand."""
    value = node.meta["val"]
    return int(value.element_size() * math.prod(hint(s) for s in value.shape))


def crosses_mutation(node: fx.Node) -> bool:
    """Whether an argument is written later in the graph, so that the node must not move down."""
    return any(writes(u) and u.args and u.args[0] is arg for arg in node.all_input_nodes for u in arg.users)
