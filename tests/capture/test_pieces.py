"""Pieces of tensors as single views: the rewritten graph computes the same, and regions take it whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx
from torch.fx.experimental.proxy_tensor import make_fx

from torch_autokernel.capture.pieces import take_apart
from torch_autokernel.capture.whole import region_of

aten = torch.ops.aten


def graph_of(fn: Callable[..., Any], *args: torch.Tensor) -> fx.GraphModule:
    return make_fx(fn, tracing_mode="fake")(*args)


def named(gm: fx.GraphModule) -> set[str]:
    return {str(n.target) for n in gm.graph.nodes if n.op == "call_function"}


def halves(x: torch.Tensor) -> torch.Tensor:
    a, b = x.chunk(2, -1)
    return a * b


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: x.unbind(1)[0] - x.unbind(-2)[2],
        lambda x: torch.stack(x.unflatten(-1, (-1, 2)).unbind(-1)[::-1], -1),
        lambda x: torch.cat(x.split([1, 3, 2], -1)[::-1], -1),
        lambda x: x.split(4, -1)[-1] + 1,
        halves,
        lambda x: torch.select_scatter(x, x[:, 0], 1, -1) * 2,
        lambda x: torch.max(x, 1)[0].sum(-1) + x.min(dim=-1, keepdim=True).values.sum(),
    ],
    ids=["unbind", "stack", "split_with_sizes", "split", "chunk", "select_scatter", "extremes"],
)
def test_the_same_is_computed(fn: Callable[..., Any]) -> None:
    x = torch.randn(4, 3, 6)
    gm = graph_of(fn, x)
    before = named(gm)
    take_apart(gm.graph)
    gm.graph.lint()
    gm.recompile()
    assert torch.equal(gm(x), fn(x))
    gone = {"aten.unbind.int", "aten.split.Tensor", "aten.split_with_sizes.default", "aten.select_scatter.default",
            "aten.max.dim", "aten.min.dim"}  # fmt: skip
    assert before & gone and not named(gm) & (gone | {"<built-in function getitem>"})
    assert all("val" in n.meta for n in gm.graph.nodes if n.op == "call_function")
    assert region_of(fn, [x]).signature.ops


def test_extremes_and_their_places_are_two_reductions() -> None:
    """The first of equals, the first NaN; what nobody reads is not computed."""
    nan = float("nan")
    x = torch.tensor([[1.0, nan, 3.0, nan], [2.0, 2.0, 1.0, 2.0], [-nan, 0.0, -0.0, 0.0]])
    for fn, wanted in (
        (lambda x: torch.max(x, 1)[0], {"aten.amax.default"}), (lambda x: torch.min(x, 1, keepdim=True)[1], {"aten.argmin.default"}),
        (lambda x: tuple(torch.max(x, 0)), {"aten.amax.default", "aten.argmax.default"}),
    ):  # fmt: skip
        gm = graph_of(fn, x)
        take_apart(gm.graph)
        gm.graph.lint()
        gm.recompile()
        assert named(gm) == wanted
        torch.testing.assert_close(gm(x), fn(x), rtol=0, atol=0, equal_nan=True)


def soft_gradient(x: torch.Tensor, g: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return aten._softmax_backward_data(g, x.softmax(-1), -1, x.dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("fn", [
    soft_gradient, torch.addcmul, torch.addcdiv, lambda x, y, z: torch.addcmul(x[:, :1], y, z[0], value=-2.5),
    lambda x, y, z: torch.addcdiv(x, y[:1], z, value=3), lambda x, y, z: x.clamp_min(y) - x.clamp_max(z),
    lambda x, y, z: torch.lerp(x, y, z), lambda x, y, z: torch.lerp(x, y, 0.3),
], ids=["softmax gradient", "addcmul", "addcdiv", "scaled", "quotient", "clamp", "lerp", "lerp number"])  # fmt: skip
def test_two_pointwise_operations_in_one(fn: Callable[..., Any], dtype: torch.dtype) -> None:
    from torch_autokernel.capture.decompositions import inductor_table

    inputs = [torch.randn(5, 8).to(dtype) for _ in range(3)]
    gm = make_fx(fn, decomposition_table=inductor_table(), tracing_mode="fake")(*inputs)
    before = gm(*inputs)
    take_apart(gm.graph)
    gm.graph.lint()
    gm.recompile()
    one = {"prims.fma.default", "aten.addcmul.default", "aten.addcdiv.default", "aten.clamp_min.Tensor", "aten.clamp_max.Tensor"}
    assert not named(gm) & one
    made, eager = gm(*inputs), fn(*inputs)
    assert made.dtype == eager.dtype == dtype
    unit = torch.finfo(dtype).eps
    torch.testing.assert_close(made, before, rtol=2 * unit, atol=4 * unit)
    torch.testing.assert_close(made, eager, rtol=2 * unit, atol=4 * unit)
    for n in gm.graph.nodes:
        if n.op == "call_function":
            value = n.target(*(a.meta["val"] if isinstance(a, fx.Node) else a for a in n.args), **n.kwargs)
            assert (n.meta["val"].shape, n.meta["val"].dtype) == (value.shape, value.dtype)
    assert region_of(fn, inputs).signature.ops


def test_integers_and_mixed_dtypes_stay() -> None:
    ints = torch.arange(6)
    gm = graph_of(torch.addcmul, ints, ints, ints)
    take_apart(gm.graph)
    assert "aten.addcmul.default" in named(gm)


def test_what_is_used_as_a_tuple_stays() -> None:
    gm = graph_of(lambda x: x.unbind(0), torch.randn(2, 3))
    (node,) = [n for n in gm.graph.nodes if n.target is aten.unbind.int]
    (output,) = [n for n in gm.graph.nodes if n.op == "output"]
    output.args = (node,)
    for user in [u for u in node.users if u is not output]:
        gm.graph.erase_node(user)
    take_apart(gm.graph)
    assert "aten.unbind.int" in named(gm)


def test_symbolic_sizes_stay() -> None:
    gm = make_fx(lambda x: x.split(x.shape[0] // 2)[1] * 2, tracing_mode="symbolic")(torch.randn(6, 3))
    take_apart(gm.graph)
    gm.recompile()
    assert "aten.split.Tensor" in named(gm)
