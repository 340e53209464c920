"""Factors of a loop's products that are computed once, in a sweep before the sum, and not for every element of the result."""

from __future__ import annotations

from dataclasses import replace
from math import prod

from torch_autokernel.propose import ir
from torch_autokernel.propose.cell import Slicer
from torch_autokernel.propose.index import Refused, SplitNeeded
from torch_autokernel.propose.ir import Node
from torch_autokernel.propose.kernel import operands_first
from torch_autokernel.propose.sweeps import Former, Root, contiguous

REUSED = 4  # how often a factor's element must be used


def factors_first(former: Former, slicer: Slicer, sum_: Node) -> Node:
    """The sum over products, with those factors read from where a sweep before it computes them that cost something and
    are used often."""
    operand = sum_.args[0]
    if operand.kind == "view" and operand.args[0].kind == "point":  # a slice of the product is the product of slices
        pull, whole = operand.pull, operand.args[0]
        assert pull is not None
        through = [ir.view(a, operand.shape, lambda s, i, a=a: ir.broadcast(pull(s, i), a.shape)) for a in whole.args]  # type: ignore[misc]
        operand = replace(whole, shape=operand.shape, args=tuple(through))
    if operand.kind != "point" or operand.fn != "mul" or any(not isinstance(s, int) for s in operand.shape):
        return sum_
    factors = tuple(_first(former, slicer, f, operand.shape) for f in operand.args)
    if all(a is b for a, b in zip(factors, operand.args, strict=True)):
        return sum_
    former.staged[id(sum_)] = replace(sum_, args=(replace(operand, args=factors),))
    return former.staged[id(sum_)]


def _first(former: Former, slicer: Slicer, factor: Node, shape: ir.Shape) -> Node:
    """The factor of a product of this shape, read from where it is computed once, where that pays."""
    nodes = operands_first([factor])
    if sum(n.kind == "point" for n in nodes) < 2 or any(n.kind == "iota" for n in nodes):
        return factor
    try:
        reads = slicer.reads(factor)
    except (Refused, SplitNeeded):
        return factor
    places = [*(i for _label, index in reads.states for i in index), *reads.choices]
    axes = {a.partition("'")[0] for i in places for a in i.axes}  # an axis that was split is two, the inner one with a mark
    own = tuple(n if f"z{d}" in axes else 1 for d, n in enumerate(factor.shape))
    if prod(shape) < REUSED * prod(own):  # type: ignore[operator]
        return factor
    base = ir.view(factor, own, lambda s, i: i)
    kept = ir.view(base, own, lambda s, i: i, lambda s, i: i)
    name = former.kept[id(kept)] = f"w{len(former.kept)}"
    former.buffers[name], former.strides[name] = (kept, own), contiguous(own)
    former.place(Root("keep", kept, base, target=name, dtype=former.stored(kept), strides=contiguous(own), owner=kept))
    return ir.expand(kept, factor.shape)
