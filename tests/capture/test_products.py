"""Which matrix products become regions, alone or with what stands behind them; the graph around them stays right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn.functional import gelu, linear

import torch_autokernel as ak
from tests.capture.engines import ReferenceEngine
from torch_autokernel.capture import ops
from torch_autokernel.capture.partition import partition
from torch_autokernel.capture.signature import Captured
from torch_autokernel.capture.whole import capture_whole, region_of, trace
from torch_autokernel.core.errors import CaptureError

Tensor = torch.Tensor
HALF = torch.bfloat16


def drawn(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    torch.manual_seed(5)
    return [torch.randn(s).to(dtype) for s in ((12, 8), (10, 8), (10,))]


def regions(fn: Callable[..., Any], args: list[Tensor]) -> list[Captured]:
    return partition(trace(fn, args)[0].graph).regions


def names(captured: Captured) -> list[str]:
    return [n.target.__name__ for n in captured.members]


def with_product(found: list[Captured]) -> list[Captured]:
    return [c for c in found if any(ops.name_of(n.target) in ops.PRODUCTS for n in c.members)]


def activated(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return torch.relu(linear(x, w, b)) * 2


def widened(x: Tensor, w: Tensor, scale: Tensor) -> Tensor:
    return torch.relu(linear(x, w.to(x.dtype)) * scale)


def test_a_product_joins_what_widens_its_weights() -> None:
    given = [torch.randn(3, 12), torch.randint(-9, 9, (10, 12), dtype=torch.int8), torch.rand(10)]
    (whole,) = regions(widened, given)
    assert names(whole) == ["convert_element_type.default", "permute.default", "mm.default", "mul.Tensor", "relu.default"]
    assert [names(p) for p in whole.parts] == [["convert_element_type.default"], ["mul.Tensor", "relu.default"]]
    (alone,) = regions(lambda x, w, s: linear(x, (w - 3).to(x.dtype)), given)
    assert names(alone)[-2:] == ["permute.default", "mm.default"] and alone.outputs[0].target is torch.ops.aten.mm.default
    half = [given[0].bfloat16(), given[1], given[2].bfloat16()]
    (whole,) = regions(widened, half)
    assert [names(p)[0] for p in whole.parts] == ["mm.default", "convert_element_type.default", "mul.Tensor"]


def test_widened_weights_of_two_products_stay_apart() -> None:
    given = [torch.randn(3, 12), torch.randint(-9, 9, (12, 10), dtype=torch.int8)]

    def twice(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        wide = w.to(x.dtype)
        return torch.relu(x @ wide), torch.relu((x * 2) @ wide)

    assert all("convert_element_type.default" not in names(c) for c in with_product(regions(twice, given)))


@pytest.mark.parametrize("fn", [
    lambda x, w, s: (linear(x, w.to(x.dtype)), w.to(x.dtype) * 2), lambda x, w, s: linear(x, torch.exp(w.float()).to(x.dtype) * s[:, None]),
    lambda x, w, s: linear(x, w.to(x.dtype).softmax(-1)), lambda x, w, s: linear(torch.sin(x), w[:, :12].float().sum(0).expand(10, 12)),
], ids=["read by others", "allowed", "a reduction", "a row"])  # fmt: skip
def test_what_is_joined_before_a_product_stays_right(fn: Callable[..., Any], engine: ReferenceEngine) -> None:
    given = [torch.randn(3, 12), torch.randint(-9, 9, (10, 12), dtype=torch.int8), torch.rand(10)]
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(fn, backend="autokernel", fullgraph=True)(*given), fn(*given))


def test_products_in_low_precision_are_regions() -> None:
    fn = lambda x, w, b: linear(torch.sin(x), w, b).amax(-1)  # noqa: E731
    (product,) = with_product(regions(fn, drawn(HALF)))
    assert names(product) == ["addmm.default"] and product.parts == ()
    assert with_product(regions(fn, drawn())) == []  # BLAS stands where nothing follows
    assert with_product(regions(fn, drawn(torch.float64))) == []


def test_a_product_joins_what_stands_behind_it() -> None:
    (whole,) = regions(activated, drawn())
    assert names(whole) == ["addmm.default", "relu.default", "mul.Tensor"]
    assert [names(p) for p in whole.parts] == [["relu.default", "mul.Tensor"]]
    (whole,) = regions(activated, drawn(HALF))
    assert [names(p) for p in whole.parts] == [["addmm.default"], ["relu.default", "mul.Tensor"]]


def read_twice(x: Tensor, w: Tensor, b: Tensor) -> Any:
    y = linear(x, w, b)
    return torch.relu(y), y.sum(-1)


def folded(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return torch.softmax(linear(x, w, b), -1)


def saved(x: Tensor, w: Tensor, b: Tensor) -> Any:
    y = linear(x, w, b)
    return y, torch.relu(y)


def doubled(x: Tensor, w: Tensor, b: Tensor) -> Any:
    y = linear(x, w, b)
    return torch.relu(y), torch.sin(y)


def wider(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return linear(x, w, b) + torch.ones(3, 12, 10)


@pytest.mark.parametrize("fn", [read_twice, folded, saved, doubled, wider])
def test_other_neighbours_stay_apart(fn: Callable[..., Any]) -> None:
    assert with_product(regions(fn, drawn())) == []
    assert [names(c) for c in with_product(regions(fn, drawn(HALF)))] == [["addmm.default"]]


def test_a_product_that_is_spread_out_stays_apart() -> None:
    spread = lambda x, w, b: torch.relu(torch.mm(b[None], w) + x)  # noqa: E731
    assert with_product(regions(spread, drawn())) == []
    assert [names(c) for c in with_product(regions(spread, drawn(HALF)))] == [["mm.default"]]


def test_one_of_two_products_joins() -> None:
    """Of x a + x b the sum takes one product along; the other one is read by it."""
    fn = lambda x, w, v: x @ w + x @ v  # noqa: E731
    torch.manual_seed(5)
    args = [torch.randn(12, 8), torch.randn(8, 10), torch.randn(8, 10)]
    (whole,) = with_product(regions(fn, args))
    assert names(whole) == ["mm.default", "add.Tensor"] and len(whole.inputs) == 3


class Block(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.norm = torch.nn.Linear(16, 24), torch.nn.Linear(24, 16), torch.nn.LayerNorm(16)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down(gelu(self.up(self.norm(x))))
        return x + torch.bmm(y, y.transpose(-1, -2) * 0.1) @ y


@pytest.mark.parametrize("dtype", [torch.float32, HALF], ids=["fp32", "bf16"])
@pytest.mark.parametrize("options", [{"rest": "eager"}, {}], ids=["eager", "inductor"])
def test_graph_computes_the_same(dtype: torch.dtype, options: dict[str, str], engine: ReferenceEngine) -> None:
    """Forward and backward, at a second size too."""
    torch.manual_seed(5)
    block = Block().to(dtype)
    compiled = torch.compile(block, backend="autokernel", options={**options, "strict": True}, dynamic=True)
    for rows in (6, 9):
        x = torch.randn(2, rows, 16).to(dtype)
        results = []
        for call in (compiled, block):
            block.zero_grad()
            y = call(x)
            y.float().square().mean().backward()
            results.append([y.detach(), *(p.grad.clone() for p in block.parameters() if p.grad is not None)])
        for got, want in zip(*results, strict=True):
            worst = (got - want).abs().max() / want.abs().max()
            assert worst < (3e-2 if dtype == HALF else 1e-5), worst
    held = [r for r in engine.regions if any(o.target in ops.PRODUCTS for o in r.signature.ops)]
    assert len(held) > 5 or dtype != HALF
    assert {r.signature.digest for r in held} & set(engine.calls) or not held


def test_a_decorated_layer_is_called_directly(engine: ReferenceEngine) -> None:
    fast = ak.autokernel(lambda x, w, b: gelu(linear(x, w, b)), strict=True)
    x, w, b = drawn(HALF)
    with torch.no_grad():
        torch.testing.assert_close(fast(x, w, b), gelu(linear(x, w, b)))
    assert len(fast.plans) == 1


def test_whole_functions_with_more_products() -> None:
    """Nobody generates one kernel for two products; but somebody may write one, and have it judged."""
    two = lambda x, w: torch.relu(x @ w) @ w  # noqa: E731
    args = [torch.randn(8, 8), torch.randn(8, 8)]
    with pytest.raises(CaptureError, match="2 matrix products"):
        capture_whole(two, args)
    assert sum(op.target in ops.PRODUCTS for op in region_of(two, args).signature.ops) == 2
