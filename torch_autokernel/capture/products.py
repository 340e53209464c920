"""Matrix products as regions: those in low precision, and those with element-wise operations behind them.

In bf16 and fp16 a product is a region of its own: on a CPU without units for it torch computes it many times slower than in
fp32. In any precision a product and the region behind it are one where that region works element by element on the product
alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from torch import fx

from torch_autokernel.capture import ops
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
    joined: dict[int, Captured] = {}
    for k, region in enumerate(regions):
        for node in _heads(region, allowed):
            made = _with_product(node, region, alone.get(node), phase)
            if made is not None:
                alone.pop(node, None)
                joined[k] = made
                break
    rest = [r for k, r in enumerate(regions) if k not in joined]
    return [*alone.values(), *joined.values(), *rest], left


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


def _with_product(node: fx.Node, region: Captured, alone: Captured | None, phase: str) -> Captured | None:
    """Both as one region; without it the parts."""
    try:
        whole = capture_region([node, *region.members], phase=phase, outputs=list(region.outputs))
    except CaptureError:
        return None
    return replace(whole, parts=(alone, region) if alone is not None else (region,))
