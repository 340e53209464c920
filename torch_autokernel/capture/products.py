"""Matrix products as regions: those in low precision, those with element-wise operations behind them, and those of operands
that are kept in fewer bits.

In bf16 and fp16 a product is a region of its own: on a CPU without units for it torch computes it many times slower than in
fp32. In any precision a product and the region behind it are one where that region works element by element on the product
alone. So are a product and the region that makes one of its operands of a smaller tensor, as of int8 weights, which are never
written out then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from torch import fx

from torch_autokernel.capture import ops
from torch_autokernel.capture.nodes import bytes_of, crosses_mutation
from torch_autokernel.capture.signature import Captured, capture_region, dtype_name, tensor_of
from torch_autokernel.core.errors import CaptureError

FLOATS = ("float32", "bfloat16", "float16")
LOW = FLOATS[1:]


def capture(
    graph: fx.Graph, phase: str, regions: list[Captured], allowed: Callable[[fx.Node], bool]
) -> tuple[list[Captured], list[tuple[fx.Node, str]]]:
    """The regions with those first that products stand in or make, and products that cannot be taken with the reason."""
    left: list[tuple[fx.Node, str]] = []
    alone: dict[fx.Node, Captured] = {}
    for node in graph.nodes:
        if _is_product(node) and allowed(node) and dtype_name(tensor_of(node).dtype) in LOW:
            try:
                alone[node] = capture_region([node], phase=phase, outputs=[node])
            except CaptureError as error:
                left.append((node, error.message))
    joined: list[Captured] = []
    taken: set[int] = set()
    behind = {node: k for k, region in enumerate(regions) for node in _heads(region, allowed)}
    for node in graph.nodes:
        if not _is_product(node) or not allowed(node):
            continue
        before = [(k, views) for k, views in _widened(node, regions) if k not in taken]
        after = [behind[node]] if node in behind and behind[node] not in taken else []
        for first in (before, []) if before else ([],):
            wanted = [*(k for k, _views in first), *after]
            if not wanted:
                continue
            views = [v for _k, found in first for v in found]
            ahead, end = [regions[k] for k, _views in first], [regions[k] for k in after]
            made = _with_product(node, ahead, views, end, alone.get(node), phase)
            if made is not None:
                alone.pop(node, None)
                taken.update(wanted)
                joined.append(made)
                break
    rest = [r for k, r in enumerate(regions) if k not in taken]
    return [*alone.values(), *joined, *rest], left


def _is_product(node: fx.Node) -> bool:
    return (
        node.op == "call_function"
        and ops.kind(ops.name_of(node.target)) == "product"
        and dtype_name(tensor_of(node).dtype) in FLOATS
    )


def _heads(region: Captured, allowed: Callable[[fx.Node], bool]) -> Iterator[fx.Node]:
    """Products that nobody but the region reads, of the shape of its only result, where all that it does is element-wise."""
    if region.parts or len(region.outputs) != 1:
        return
    shape = tensor_of(region.outputs[0]).shape
    if any(ops.kind(ops.name_of(n.target)) != "pointwise" or tensor_of(n).shape != shape for n in region.members):
        return
    for node in region.inputs:
        if _is_product(node) and allowed(node) and tensor_of(node).shape == shape:
            if all(user in region.members for user in node.users):
                yield node


def _widened(node: fx.Node, regions: list[Captured]) -> Iterator[tuple[int, list[fx.Node]]]:
    """Regions that make an operand of the product, and nothing else, of at most half as many bytes; with the views between."""
    for operand in node.all_input_nodes:
        made, readers, views = operand, {node}, list[fx.Node]()
        while made.op == "call_function" and ops.kind(ops.name_of(made.target)) == "view" and set(made.users) == readers:
            views.append(made)
            readers, made = {made}, made.all_input_nodes[0]
        if set(made.users) != readers:
            continue
        for k, region in enumerate(regions):
            if region.outputs == (made,) and not region.parts and 2 * sum(map(bytes_of, region.inputs)) <= bytes_of(made):
                kinds = {ops.kind(ops.name_of(n.target)) for n in region.members}
                if kinds <= {"pointwise", "view"} and not any(map(crosses_mutation, region.members)):
                    yield k, views


def _with_product(
    node: fx.Node, before: list[Captured], views: list[fx.Node], after: list[Captured], alone: Captured | None, phase: str
) -> Captured | None:
    """The product with the regions before it (and the views between) and the one behind it, if any, as one; without it the
    parts."""
    around = [*before, *after]
    members = {node, *views, *(n for region in around for n in region.members)}
    in_order = [n for n in node.graph.nodes if n in members]
    try:
        whole = capture_region(in_order, phase=phase, outputs=list(after[0].outputs) if after else [node])
    except CaptureError:
        return None
    return replace(whole, parts=(alone, *around) if alone is not None else tuple(around))
