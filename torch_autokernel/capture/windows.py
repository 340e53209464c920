"""Pooling and small convolutions: which of them a region may hold, and where a region must end before them.

A window costs a chain of operations for each element, written out. So a region holds pools of few taps, and convolutions of
few products an element (depthwise ones, few input channels); torch's own code is better at the others. Windows that overlap
read each element several times: what is costly to make is finished before them.
"""

from __future__ import annotations

import math
from collections.abc import Set
from typing import Any

from torch import Tensor, fx

from torch_autokernel.capture import ops
from torch_autokernel.capture.signature import tensor_of
from torch_autokernel.capture.sizes import hint
from torch_autokernel.core.windows import MOST_MEETING, MOST_PRODUCTS, MOST_TAPS, Window

_SCATTER = "aten.scatter_add.default"
_AVERAGED = "aten.avg_pool2d_backward.default"
_GRADIENTS = (_SCATTER, _AVERAGED)
_POOLS = ops.POOLS - {*_GRADIENTS, ops.INDICES}
# Read anew by every window at hardly any cost.
_CHEAP = frozenset(("aten.constant_pad_nd.default", "aten.relu.default", "prims.convert_element_type.default", ops.INDICES))


def fits(node: fx.Node) -> bool:
    """Whether a region may hold the node, as far as windows are concerned: small ones, and the scattered sums that are the
    gradient of a pool."""
    name = ops.name_of(node.target)
    if ops.kind(name) in ("convolution", "pool") and not _constant(node):
        return False
    if ops.kind(name) == "convolution":
        return products(node) <= MOST_PRODUCTS
    if name == _AVERAGED:
        found = window(node)
        return len(found.kernel) == len(found.stride) == 2 and _gathers(found, tensor_of(node).shape)
    if name in _POOLS:
        kernel = window(node).kernel
        placed = name.startswith("aten.max") and any(u.users and u.args[1] for u in node.users)  # told for small windows only
        return _floats(node) and len(kernel) > 1 and math.prod(kernel) <= MOST_TAPS and not placed
    return name != _SCATTER or pooled_gradient(node)


def window(node: fx.Node) -> Window:
    """The window of a pool, or of the pool whose gradient this is."""
    name = ops.name_of(node.target)
    if name == _SCATTER:
        found = _indices(node)
        assert found is not None, "only sums that are a pool's gradient are asked"
        kernel, _size, *rest = (tuple(found.args[k]) for k in range(1, 6))  # type: ignore[arg-type]
        return Window.of(kernel, *rest)
    first = 2 if name == _AVERAGED else 1

    def given(at: int, name: str) -> Any:
        return node.args[first + at] if len(node.args) > first + at else node.kwargs.get(name)

    dilation = None if "avg" in name else given(3, "dilation")
    return Window.of(given(0, "kernel_size"), given(1, "stride"), given(2, "padding"), dilation)


def products(node: fx.Node) -> float:
    """How many products make one element of a convolution; infinity for those that are never held."""
    x, weight = (tensor_of(a) for a in node.args[:2])  # type: ignore[arg-type]
    transposed, output_padding = node.args[6], node.args[7]
    if transposed or any(output_padding) or x.dim() not in (3, 4) or not x.is_floating_point():  # type: ignore[arg-type]
        return math.inf
    return math.prod([float(hint(n)) for n in weight.shape[1:]])


def pooled_gradient(node: fx.Node) -> bool:
    """Whether a scattered sum is the gradient of a max pool: onto zeros, at indices that come from a pool's offsets."""
    zeros, dim, _index, _source = node.args[:4]
    if not isinstance(zeros, fx.Node) or ops.name_of(zeros.target) != "aten.full.default" or zeros.args[1] != 0 or dim != 1:
        return False
    found = _indices(node)
    return found is not None and _gathers(window(node), found.args[2])


def _indices(node: fx.Node) -> fx.Node | None:
    """Where the indices of a scattered sum are made of a pool's offsets."""
    index = node.args[2]
    while isinstance(index, fx.Node) and ops.name_of(index.target) in ("aten.reshape.default", "aten.view.default"):
        index = index.args[0]
    return index if isinstance(index, fx.Node) and ops.name_of(index.target) == ops.INDICES else None


def _gathers(found: Window, size: Any) -> bool:
    """Whether a kernel takes the gradient of a pool from the windows that hold an element."""
    apart = any(n % s for n, s in zip(size[-len(found.stride) :], found.stride, strict=True))
    return set(found.dilation) == {1} and found.meeting <= MOST_MEETING and not apart


def doubtful(node: fx.Node) -> bool:
    """Whether torch's own code for the node is often the faster one."""
    return ops.name_of(node.target) in (ops.CONVOLUTION, _SCATTER)


def slides(node: fx.Node) -> bool:
    return ops.name_of(node.target) in (*_POOLS, *_GRADIENTS, ops.CONVOLUTION)


def ends_before(node: fx.Node, argument: fx.Node, inside: Set[fx.Node], windowed: Set[fx.Node]) -> bool:
    """Whether the argument must be in memory before the node, though a region may hold both: a window that overlaps would make
    its elements again and again, and a reduction that is followed by what it reads would slide all windows anew. `inside` are
    nodes that a region may hold, `windowed` those computed from windows of the same region."""
    if node not in inside or argument not in inside:
        return False
    if ops.kind(ops.name_of(node.target)) in ("reduction", "scan"):
        return argument in windowed
    if not slides(node) or ops.name_of(node.target) != ops.CONVOLUTION and not window(node).overlaps:
        return False
    todo = [argument]
    while todo:
        made = todo.pop()
        if made in inside:
            if (what := ops.name_of(made.target)) not in _CHEAP and ops.kind(what) not in ("view", "source"):
                return True
            todo += made.all_input_nodes
    return False


def _constant(node: fx.Node) -> bool:
    """Whether the sizes along which windows slide are numbers, and those of a convolution's channels."""
    tensors = [v for a in node.all_input_nodes if isinstance(v := a.meta.get("val"), Tensor)]
    name = ops.name_of(node.target)
    first = 1 if name == ops.CONVOLUTION else -1 if name == _SCATTER else -2
    return all(isinstance(n, int) for t in tensors for n in t.shape[first:])


def _floats(node: fx.Node) -> bool:
    return tensor_of(node.args[0]).is_floating_point()  # type: ignore[arg-type]
