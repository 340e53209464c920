"""What is taken for attention, and what is not; the graph around it stays right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import fx

import torch_autokernel  # noqa: F401  (registers the backend)
from tests.capture.engines import ReferenceEngine
from torch_autokernel.capture import attention, ops
from torch_autokernel.capture.partition import partition
from torch_autokernel.capture.whole import capture_whole, trace
from torch_autokernel.core.errors import CaptureError
from torch_autokernel.core.products import ATTENTION

T, D = 12, 8
Tensor = torch.Tensor


def qkv(heads: int = 3, keys: int = T, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    torch.manual_seed(5)
    return [torch.randn(2, h, n, D).to(dtype) for h, n in ((3, T), (heads, keys), (heads, keys))]


def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(q @ k.transpose(-1, -2) * 0.3, -1) @ v


def causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    t = torch.arange(q.shape[2])
    s = (q @ k.transpose(-1, -2)).masked_fill(t[None, :] > t[:, None], float("-inf"))
    return torch.softmax(s, -1) @ v


def biased(q: Tensor, k: Tensor, v: Tensor, slopes: Tensor) -> Tensor:
    t = torch.arange(q.shape[2])
    bias = -(t[None, :] - t[:, None]).abs() * slopes[:, None, None]
    return torch.softmax(q @ k.transpose(-1, -2) / D**0.5 + bias, -1) @ v


def grouped(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return plain(q, k.repeat_interleave(3, 1), v.repeat_interleave(3, 1))


def torchs(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(q.shape[0], q.shape[2], -1)


def safe(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """As torch decomposes scaled_dot_product_attention."""
    s = (q * D**-0.25) @ (k.transpose(-1, -2) * D**-0.25) + bias
    nothing = ~(s != float("-inf")).any(-1, keepdim=True)
    return torch.where(nothing, 0.0, torch.softmax(s, -1)) @ v


def joined(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    out = plain(q, k, v)
    return out.transpose(1, 2).contiguous().view(2, T, 3 * D) + 1


def single(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(q[0, 0] @ k[0, 0].T, -1) @ v[0, 0]


def einsum(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    s = torch.einsum("bhqd,bhkd->bhqk", q, k).float().softmax(-1).to(q.dtype)
    return torch.einsum("bhqk,bhkd->bhqd", s, v)


def capped(q: Tensor, k: Tensor, v: Tensor, keep: Tensor) -> Tensor:
    s = 30 * torch.tanh(q @ k.transpose(-1, -2) / 30)
    return torch.softmax(torch.where(keep, s, -1e9), -1) @ v


SPELLINGS: dict[str, tuple[Callable[..., Any], list[Tensor]]] = {
    "plain": (plain, qkv()),
    "causal": (causal, qkv()),
    "biased": (biased, [*qkv(), torch.rand(3)]),
    "grouped": (grouped, qkv(1)),
    "safe": (safe, [*qkv(), torch.randn(T, T)]),
    "joined": (joined, qkv()),
    "single": (single, qkv()),
    "einsum": (einsum, qkv(dtype=torch.bfloat16)),
    "capped": (capped, [*qkv(keys=7), torch.rand(T, 7) > 0.5]),
    "grouped_causal": (lambda q, k, v: causal(q, k.repeat_interleave(3, 1), v.repeat_interleave(3, 1)), qkv(1)),
    "decode": (plain, [qkv()[0][:, :, :1], *qkv()[1:]]),
    "torchs": (torchs, qkv()),
}


def graph_of(fn: Callable[..., Any], args: list[Tensor]) -> fx.Graph:
    return trace(fn, args)[0].graph


HEARTS = (*ops.PRODUCTS, ATTENTION)


def products(graph: fx.Graph) -> list[fx.Node]:
    return [n for n in graph.nodes if ops.name_of(n.target) in HEARTS]


@pytest.mark.parametrize("name", SPELLINGS)
def test_spelling_is_one_region(name: str) -> None:
    graph = graph_of(*SPELLINGS[name])
    (found,) = attention.find(graph)
    assert set(products(graph)) <= set(found.members)
    captured = attention.capture(found, "inference")
    assert captured.outputs == (found.result,)
    regions = partition(graph).regions
    assert any(r.members == captured.members for r in regions)
    others = [n for r in regions if r.members != captured.members for n in r.members]
    assert not set(others) & (set(found.members) - found.copies)


@pytest.mark.parametrize("options", [{"rest": "eager"}, {}], ids=["eager", "inductor"])
@pytest.mark.parametrize("name", SPELLINGS)
def test_graph_computes_the_same(name: str, options: dict[str, str], engine: ReferenceEngine) -> None:
    if options == {} and name not in ("safe", "grouped_causal", "capped", "torchs"):
        pytest.skip("one compilation with Inductor takes seconds; four of them cover its rewritings")
    fn, args = SPELLINGS[name]
    compiled = torch.compile(fn, backend="autokernel", options=options)
    with torch.no_grad():
        got, want = compiled(*args), fn(*args)
    loose = 1e-2 if got.dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(got, want, rtol=loose, atol=loose)
    held = [r for r in engine.regions if any(o.target in HEARTS for o in r.signature.ops)]
    assert len(held) == 1 and held[0].signature.digest in engine.calls


def test_torchs_attention_is_left_alone_where_its_sums_are_read() -> None:
    def both(q: Tensor, k: Tensor, v: Tensor) -> Any:
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, True)

    assert not attention.find(graph_of(both, qkv()))
    dropped = lambda q, k, v: torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.1)[0]  # noqa: E731
    assert not attention.find(graph_of(dropped, qkv()))
    with pytest.raises(CaptureError, match="is not among"):
        capture_whole(both, qkv())


def other_axis(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(q @ k.transpose(-1, -2), -2) @ v


def returns_weights(q: Tensor, k: Tensor, v: Tensor) -> Any:
    w = torch.softmax(q @ k.transpose(-1, -2), -1)
    return w @ v, w


def returns_scores(q: Tensor, k: Tensor, v: Tensor) -> Any:
    s = q @ k.transpose(-1, -2)
    return torch.softmax(s, -1) @ v, s.sum()


def no_softmax(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.relu(q @ k.transpose(-1, -2)) @ v


def no_maximum(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    e = torch.exp(q @ k.transpose(-1, -2))
    return (e / e.sum(-1, keepdim=True)) @ v


def two_scores(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(q @ k.transpose(-1, -2) + q @ v.transpose(-1, -2), -1) @ v


REFUSED = [other_axis, returns_weights, returns_scores, no_softmax, no_maximum, two_scores]


@pytest.mark.parametrize("fn", REFUSED)
def test_other_things_are_no_attention(fn: Callable[..., Any]) -> None:
    assert attention.find(graph_of(fn, qkv())) == []


def test_double_precision_is_left_alone() -> None:
    assert attention.find(graph_of(plain, qkv(dtype=torch.float64))) == []


def test_side_values_that_others_read_are_copied_or_read() -> None:
    """A mask made of iotas serves two attentions and another reader; a bias made of an input, read by others, is an input."""

    def fn(q: Tensor, k: Tensor, v: Tensor, b: Tensor) -> Any:
        t = torch.arange(T)
        dead = t[None, :] > t[:, None]
        bias = b * 2
        first = torch.softmax((q @ k.transpose(-1, -2) + bias).masked_fill(dead, float("-inf")), -1) @ v
        second = torch.softmax((first @ k.transpose(-1, -2)).masked_fill(dead, float("-inf")), -1) @ v
        return second, dead, bias

    graph = graph_of(fn, [*qkv(), torch.randn(T, T)])
    one, two = attention.find(graph)
    shared = set(one.members) & set(two.members)
    assert shared and shared <= one.copies and shared <= two.copies
    captured = attention.capture(one, "inference")
    assert any(ops.name_of(n.target) == "aten.mul.Tensor" for n in captured.inputs)


def test_regions_around_attentions_make_no_cycle(engine: ReferenceEngine) -> None:
    """Values before one attention are read behind another, and a mask comes from the first one's result."""

    def fn(x: Tensor, w: Tensor) -> Tensor:
        h = torch.sin(x)
        early = torch.cos(h)
        a = plain(h, h * early, h)
        mask = a.mean(-1) > 0
        s = (torch.tanh(a) @ early.transpose(-1, -2)).masked_fill(mask[:, :, None, :], -1e4)
        b = torch.softmax(s, -1) @ (a + h)
        return torch.exp(b * early) + h * w + a

    args = [qkv()[0], torch.randn(D)]
    compiled = torch.compile(fn, backend="autokernel", options={"rest": "eager", "strict": True})
    with torch.no_grad():
        torch.testing.assert_close(compiled(*args), fn(*args))
    assert sum(any(o.target in ops.PRODUCTS for o in r.signature.ops) for r in engine.regions) == 2


def test_mutation_in_between_is_respected(engine: ReferenceEngine) -> None:
    def fn(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        s = torch.softmax(q @ k.transpose(-1, -2), -1)
        k.mul_(2.0)
        return s @ v + k.sum()

    args, again = qkv(), qkv()
    compiled = torch.compile(fn, backend="autokernel", options={"rest": "eager", "strict": True})
    with torch.no_grad():
        torch.testing.assert_close(compiled(*args), fn(*again))
    torch.testing.assert_close(args[1], again[1])


def test_one_region_for_all_lengths(engine: ReferenceEngine) -> None:
    compiled = torch.compile(causal, backend="autokernel", options={"rest": "eager"}, dynamic=True)
    with torch.no_grad():
        for length in (12, 30, 7):
            args = [torch.randn(2, 3, length, D) for _ in range(3)]
            torch.testing.assert_close(compiled(*args), causal(*args))
    assert len({r.signature.digest for r in engine.regions}) == 1
    assert len(engine.calls) == 3


def test_whole_function_may_be_an_attention() -> None:
    region = capture_whole(plain, qkv()).captured.region
    assert [o.target for o in region.signature.ops].count("aten.bmm.default") == 2
