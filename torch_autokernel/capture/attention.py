"""Finds attention in a graph: softmax(f(q k)) v, whatever stands around the softmax.

Torch's own attention is one where no gradient needs its sums. Of what is written out, a second product is taken whose first
operand goes back, through element-wise operations, views and reductions over the last dimension, to exactly one product, with
an exponential on the way. All that lies between, what leads to q, k and v without another reader (views, copies, conversions,
scales), and the views and copies behind the result make one region with one result. Side values (masks, biases) come along
where they are made from nothing or have no other reader; a value that others read too is copied where it is cheap, else it is
an input.

Nothing of such a region but its result is read outside, and every input is an ancestor of the result; so no path leaves the
region and comes back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import fx

from torch_autokernel.capture import ops
from torch_autokernel.capture.nodes import ancestors, writes
from torch_autokernel.capture.signature import Captured, capture_region, dtype_name, tensor_of
from torch_autokernel.core.products import ATTENTION, PRODUCTS

LOW = ("float32", "bfloat16", "float16")
MAX_NODES = 128
FOLDS = frozenset(("aten.amax.default", "aten.sum.dim_IntList", "aten.any.dim", "aten.any.dims"))
COPIES = frozenset(("aten.clone.default", "prims.convert_element_type.default"))


@dataclass(frozen=True)
class Found:
    """One attention. `copies` are members that stay in the graph for others."""

    members: tuple[fx.Node, ...]
    copies: frozenset[fx.Node]
    result: fx.Node


def find(graph: fx.Graph, allowed: Callable[[fx.Node], bool] = lambda node: True) -> list[Found]:
    """The graph's attentions, none sharing a node with another but for copies."""
    position = {n: k for k, n in enumerate(graph.nodes)}
    taken: set[fx.Node] = set()
    out = []
    for node in graph.nodes:
        if (_is_product(node) or _name(node) == ATTENTION) and allowed(node):
            found = (_around if _is_product(node) else _of_torch)(node, position, allowed)
            if found is not None and not taken & (set(found.members) - found.copies):
                taken |= set(found.members) - found.copies
                out.append(found)
    return out


def capture(found: Found, phase: str) -> Captured:
    """Its region; raises CaptureError."""
    return capture_region(found.members, phase=phase, outputs=[found.result], copies=found.copies)


def _name(node: object) -> str:
    return ops.name_of(node.target) if isinstance(node, fx.Node) and node.op == "call_function" else ""


def _kind(node: object) -> str | None:
    return ops.kind(_name(node))


def _is_product(node: fx.Node) -> bool:
    """Whether it is a product to which nothing is added."""
    return PRODUCTS.get(_name(node)) == 0 and dtype_name(tensor_of(node).dtype) in LOW


def _around(second: fx.Node, position: dict[fx.Node, int], allowed: Callable[[fx.Node], bool]) -> Found | None:
    between = _between(second.args[0], allowed)  # type: ignore[arg-type]
    if between is None:
        return None
    first, core = between
    result, behind = _behind(second, allowed)
    fixed = {first, second, *core, *behind}
    if any(user not in fixed for n in fixed - {result} for user in n.users):
        return None
    members = fixed | _before([*first.args, second.args[1]], fixed, allowed, position)  # type: ignore[list-item]
    sides = [a for n in core for a in n.all_input_nodes if a not in members]
    members |= _before(sides, members, allowed, position)
    return _found(members, result, position)


def _found(members: set[fx.Node], result: fx.Node, position: dict[fx.Node, int]) -> Found | None:
    if len(members) > MAX_NODES or _written_between(members, result, position):
        return None
    return Found(tuple(sorted(members, key=position.__getitem__)), frozenset(_copies(members, result)), result)


def _of_torch(node: fx.Node, position: dict[fx.Node, int], allowed: Callable[[fx.Node], bool]) -> Found | None:
    """Torch's attention, of which only the result is read, with the views and copies behind it and what its mask is made of."""
    query, key, value = (tensor_of(a) for a in node.args[:3])  # type: ignore[arg-type]
    dropout, mask = (node.args[3] if len(node.args) > 3 else 0.0), node.kwargs.get("attn_mask")
    results, scale = [u for u in node.users if u.args[1] == 0], node.kwargs.get("scale")
    if isinstance(scale, (int, float)) and scale <= 0:  # times the -inf of a causal mask
        return None
    if dropout or len(results) != 1 or len(node.users) != 1 or dtype_name(query.dtype) not in LOW:
        return None
    if query.shape[:2] != key.shape[:2] or query.shape[:2] != value.shape[:2] or not allowed(results[0]):
        return None
    result, behind = _behind(results[0], allowed)
    members = {node, results[0], *behind}
    if isinstance(mask, fx.Node):
        members |= _before([mask], members, allowed, position)
    return _found(members, result, position)


def _between(weights: fx.Node, allowed: Callable[[fx.Node], bool]) -> tuple[fx.Node, set[fx.Node]] | None:
    """The one product that the weights come from, and the nodes on the ways from it to them, where there is an exponential, a
    maximum and a sum among them and nothing that attention does not hold."""

    def row_by_row(n: fx.Node) -> bool:
        return _goes_on(n) or _folds_rows(n)

    back = ancestors(weights, row_by_row)
    products = [n for n in back if _kind(n) == "product"]
    if len(products) != 1 or not _is_product(products[0]) or not allowed(products[0]):
        return None
    core = {n for n in _descendants(products[0], back) if n is not products[0]}
    names = {_name(n) for n in core}
    if not {"aten.exp.default", "aten.amax.default", "aten.sum.dim_IntList"} <= names or not all(
        row_by_row(n) and allowed(n) for n in core
    ):
        return None
    return products[0], core


def _folds_rows(node: fx.Node) -> bool:
    """Whether it is a reduction over the last dimension that keeps it."""
    if _name(node) not in FOLDS or len(node.args) < 3:
        return False
    axes = node.args[1] if isinstance(node.args[1], (list, tuple)) else [node.args[1]]
    rank = tensor_of(node).dim()
    return node.args[2] is True and [int(a) % rank for a in axes] == [rank - 1]  # type: ignore[arg-type]


def _descendants(start: fx.Node, within: set[fx.Node]) -> set[fx.Node]:
    seen, todo = set(), [start]
    while todo:
        node = todo.pop()
        if node not in seen:
            seen.add(node)
            todo.extend(u for u in node.users if u in within)
    return seen


def _behind(second: fx.Node, allowed: Callable[[fx.Node], bool]) -> tuple[fx.Node, set[fx.Node]]:
    """The last copy or conversion behind the product, with the views before it: the kernel stores in that layout."""
    result, taken, path = second, set[fx.Node](), list[fx.Node]()
    node = second
    while len(node.users) == 1:
        (node,) = node.users
        if not (_kind(node) == "view" or _name(node) in COPIES) or not allowed(node):
            break
        path.append(node)
        if _name(node) in COPIES:
            result, taken = node, set(path)
    return result, taken


def _before(
    starts: Iterable[fx.Node], inside: set[fx.Node], allowed: Callable[[fx.Node], bool], position: dict[fx.Node, int]
) -> set[fx.Node]:
    """What leads to these values and may be computed again, element by element, wherever they are read."""
    out: set[fx.Node] = set()
    todo = set(starts)
    while todo:
        node = max(todo, key=position.__getitem__)  # readers before what they read
        todo.remove(node)
        if node in inside or _kind(node) not in ("pointwise", "view", "source") or not allowed(node):
            continue
        alone = all(u in inside or u in out for u in node.users)
        if alone or _kind(node) in ("view", "source") or _name(node) in COPIES or _from_nothing(node):
            out.add(node)
            todo.update(node.all_input_nodes)
    return _without_leading_views(out)


def _from_nothing(node: fx.Node) -> bool:
    """Whether the value is made of constants and iotas alone."""
    ends = [n for n in ancestors(node, _goes_on) if not _goes_on(n)]
    return all(_kind(n) == "source" for n in ends)


def _goes_on(node: fx.Node) -> bool:
    return _kind(node) in ("pointwise", "view")


def _without_leading_views(nodes: set[fx.Node]) -> set[fx.Node]:
    """The nodes without the views that read nothing of them: a kernel takes strided tensors. A reshape that joins dimensions
    stays, as it is the sizes before it that the scores are made of."""
    while True:
        leading = {n for n in nodes if _kind(n) == "view" and not nodes & set(n.all_input_nodes) and not _joins(n)}
        if not leading:
            return nodes
        nodes = nodes - leading


def _joins(node: fx.Node) -> bool:
    """Whether a view makes fewer dimensions, or needs a copy."""
    if _name(node) not in ("aten.reshape.default", "aten.view.default"):
        return False
    base, made = tensor_of(node.args[0]), tensor_of(node)  # type: ignore[arg-type]
    return made.dim() <= base.dim() or not base.is_contiguous()


def _copies(members: set[fx.Node], result: fx.Node) -> set[fx.Node]:
    """Members that somebody outside reads, and what those are made of."""
    read = [n for n in members if n is not result and any(u not in members for u in n.users)]
    return {a for n in read for a in ancestors(n, lambda x: x in members)} & members


def _written_between(members: set[fx.Node], result: fx.Node, position: dict[fx.Node, int]) -> bool:
    """Whether a tensor that the region reads is written after its first read and before its result."""
    read = {a for n in members for a in n.all_input_nodes if a not in members}
    first, last = min(position[n] for n in members), position[result]
    return any(writes(u) and first < position[u] < last for a in read for u in a.users)
