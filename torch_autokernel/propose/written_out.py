"""Torch's attention as the operations it stands for."""

from __future__ import annotations

import math

from torch_autokernel.core import dims
from torch_autokernel.propose import ir
from torch_autokernel.propose.index import Refused
from torch_autokernel.propose.ir import Node, const, point


def attention(query: Node, key: Node, value: Node, mask: Node | None, scale: float | None, causal: bool) -> Node:
    """[B, H, L, E], [B, H, S, E], [B, H, S, F] and an addend of the scores: softmax(q k * scale + mask) v, [B, H, L, F], in
    single precision; 0 in rows without a score above -inf."""
    batch, (queries, depth), (keys, columns) = query.shape[:-2], query.shape[-2:], value.shape[-2:]
    if query.dtype == "float64" or not isinstance(depth, int):
        raise Refused("attention in double precision, or over heads of a symbolic size")
    f32, together = "float32", dims.mul(*batch)

    def flat(x: Node) -> Node:
        return ir.reshape(x, (together, *x.shape[-2:]))

    dots = Node("product", (together, queries, keys), f32, (flat(query), ir.permute(flat(key), (0, 2, 1))))
    score = ir.reshape(dots, (*batch, queries, keys))
    score = point("mul", [score, const(1 / math.sqrt(depth) if scale is None else scale, f32)], f32)
    if mask is not None:
        score = point("add", [score, mask], f32)
    nothing = const(-math.inf, f32)
    if causal:
        places = (Node("iota", (n,), "int64", value=(0, 1)) for n in (queries, keys))
        row, column = (ir.reshape(p, (*p.shape, *(1,) * k)) for p, k in zip(places, (1, 0), strict=True))
        score = ir.chosen(point("ge", [row, column], "bool", "int64"), score, nothing, f32)
    weight = point("exp", [point("sub", [score, ir.reduce("max", score, [-1], True, f32)], f32)], f32)
    soft = point("div", [weight, ir.reduce("sum", weight, [-1], True, f32)], f32)
    counts = point("not", [point("eq", [score, nothing], "bool", f32)], "bool")
    weights = ir.chosen(point("not", [ir.reduce("any", counts, [-1], True, "bool")], "bool"), const(0.0, f32), soft, f32)
    total = Node("product", (together, queries, columns), f32, (flat(weights), flat(value)))
    return ir.rounded(ir.reshape(total, (*batch, queries, columns)), query.dtype)
