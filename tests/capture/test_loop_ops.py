"""Graph nodes as operations: sizes are those of the result, whatever was written; layouts and devices are left out."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx
from torch.fx.experimental.proxy_tensor import make_fx

from torch_autokernel.capture.loop_ops import static_op
from torch_autokernel.core.errors import CaptureError
from torch_autokernel.core.types import Const, Op, Ref

FLOAT = {"dtype": Const("dtype", "float32")}


def last_op(fn: Callable[..., Any]) -> Op:
    graph = make_fx(fn)(torch.randn(4, 6)).graph
    for n in graph.nodes:
        n.meta.setdefault("val", n.meta.get("tensor_meta"))
    calls = [n for n in graph.nodes if n.op == "call_function" and n.target is not operator.getitem]
    number = {n: k for k, n in enumerate(x for x in graph.nodes if x.op != "output")}
    value = fn(torch.randn(4, 6))
    calls[-1].meta["val"] = value
    return static_op(calls[-1], number)


@pytest.mark.parametrize(
    ("fn", "wanted"),
    [
        (lambda x: x.view(2, -1), Op("aten.reshape.default", (Ref(0), (2, 12)), {}, (2, 12), "float32")),
        (lambda x: x[None].expand(3, -1, 6), Op("aten.expand.default", (Ref(1), (3, 4, 6)), {}, (3, 4, 6), "float32")),
        (lambda x: x.clone(memory_format=torch.contiguous_format), Op("aten.clone.default", (Ref(0),), {}, (4, 6), "float32")),
        (lambda x: torch.full((2, 3), 7.0), Op("aten.full.default", ((2, 3), 7.0), FLOAT, (2, 3), "float32")),
        (lambda x: x.sum([0], dtype=torch.float64),
         Op("aten.sum.dim_IntList", (Ref(0), (0,)), {"dtype": Const("dtype", "float64")}, (6,), "float64")),
        (lambda x: x.unbind(0), Op("aten.unbind.int", (Ref(0),), {}, (), "")),
    ],
    ids=["view", "expand", "clone", "full", "sum", "unbind"],
)  # fmt: skip
def test_operation(fn: Callable[..., Any], wanted: Op) -> None:
    assert last_op(fn) == wanted


def test_what_cannot_be_told() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    node = graph.call_function(torch.ops.aten.mul.Tensor, (x, 2j))
    node.meta["val"] = torch.zeros(3)
    with pytest.raises(CaptureError, match="complex cannot be told"):
        static_op(node, {x: 0})
