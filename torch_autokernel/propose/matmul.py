"""One matrix product with what is computed before and behind it, element by element: y = f(g(a) h(b)).

The loops are `batch`, `i` over rows, `j` over columns and `d` over what is summed. The operands are pulled at their own
indices, and the result with the product as a leaf, so biases, activations and conversions need no pattern.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch_autokernel.core.dims import Dim
from torch_autokernel.core.types import Signature
from torch_autokernel.propose.attention import LOW, products_of
from torch_autokernel.propose.build import build
from torch_autokernel.propose.index import ZERO, Affine, CutNeeded, Range, Refused, Space, SplitNeeded
from torch_autokernel.propose.ir import Index, Node
from torch_autokernel.propose.pull import Inst, Puller, Table


@dataclass
class Parts:
    """The values of a product at the indices of its loops. `outer` holds the batch, if there is one; `total` is the leaf that
    stands for the product in `result`, `at` where the result is stored, `dtype` what the product is made in."""

    outer: dict[str, Dim]
    sizes: dict[str, Dim]
    table: Table
    left: Inst
    right: Inst
    result: Inst
    total: Inst
    at: Affine
    dtype: str


def parts_of(signature: Signature) -> Parts:
    """The parts of the one product that the signature holds; raises Refused where it holds more, or other things."""
    _inputs, outputs = build(signature)
    if len(outputs) != 1:
        raise Refused("a matrix product with more than one result")
    found = products_of(outputs[0])
    if len(found) != 1:
        raise Refused(f"a result made of {len(found)} matrix products")
    (product,) = found
    if product.dtype not in LOW:
        raise Refused(f"a matrix product in {product.dtype}")
    if any(products_of(a) for a in product.args):
        raise Refused("a product of products")
    if outputs[0].shape != product.shape:
        raise Refused("a result of another shape than its matrix product")
    strides = {f"x{i}": s.stride for i, s in enumerate(signature.inputs)}
    try:
        return _pull(outputs[0], product, strides, signature.output_specs[0].stride)
    except (SplitNeeded, CutNeeded) as need:
        raise Refused(f"a boundary within the loop over {need.axis} of a matrix product") from None


def _pull(output: Node, product: Node, strides: dict[str, tuple[Dim, ...]], store: tuple[Dim, ...]) -> Parts:
    (*batch, rows, columns), depth = product.shape, product.args[0].shape[-1]
    outer: dict[str, Dim] = {"batch": batch[0]} if batch else {}
    sizes = {"i": rows, "j": columns, "d": depth}
    table = Table()
    space = Space({a: Range(0, s) for a, s in (outer | sizes).items()})
    i, j, d = (Affine.axis(a) for a in "ijd")
    at_batch: Index = (Affine.axis("batch"),) if batch else ()
    every = frozenset((*outer, "i", "j"))

    def resolve(node: Node, index: Index) -> Inst | None:
        if node is not product:
            return None
        here = zip((*at_batch, i, j), index, node.shape, strict=True)
        if any(x != at and (size != 1 or x != ZERO) for at, x, size in here):
            raise Refused("a result that is not element by element the product's")
        return table.make("leaf", "float", axes=every, tensor="total")

    puller = Puller(table, space, strides, resolve)
    result = puller.value(output, (*at_batch, i, j))
    left = puller.value(product.args[0], (*at_batch, i, d))
    right = puller.value(product.args[1], (*at_batch, d, j))
    at = ZERO
    for x, s in zip((*at_batch, i, j), store, strict=True):
        at = at + x.times(s)
    total = table.make("leaf", "float", axes=every, tensor="total")
    return Parts(outer, sizes, table, left, right, result, total, at, product.dtype)
