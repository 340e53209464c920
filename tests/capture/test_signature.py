"""Signatures and printed references: canonical, faithful, general where they may be."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import fx

from torch_autokernel.capture import ops
from torch_autokernel.capture.operators import bind_sizes, run_reference
from torch_autokernel.capture.partition import partition
from torch_autokernel.capture.reference import load_reference, print_reference
from torch_autokernel.capture.signature import Captured
from torch_autokernel.capture.whole import capture_whole, trace
from torch_autokernel.core.errors import CaptureError
from torch_autokernel.core.types import Signature


def region(function: Callable[..., Any], *inputs: torch.Tensor) -> Captured:
    return capture_whole(function, inputs).captured


def shuffled(gm: fx.GraphModule, seed: int) -> fx.Graph:
    """The same graph in another topological order with other names."""
    rng = random.Random(seed)
    graph = fx.Graph()
    done: dict[fx.Node, fx.Node] = {}
    todo = list(gm.graph.nodes)
    while todo:
        ready = [n for n in todo if n.op != "output" and all(a in done for a in n.all_input_nodes)] or todo
        node = rng.choice(ready)
        todo.remove(node)
        done[node] = graph.node_copy(node, lambda n: done[n])
        done[node].name = f"n{rng.getrandbits(40)}"
        done[node].meta = node.meta
    return graph


def layer(x: torch.Tensor, y: torch.Tensor, w: torch.Tensor) -> Any:
    h = x + y.sigmoid()
    n = F.layer_norm(h, (h.shape[-1],)) * w
    return h.sin(), n, h.sum(-1), (x * y).amax(0)


@pytest.mark.parametrize("seed", range(8))
def test_digest_survives_renaming_and_reordering(seed: int) -> None:
    gm, _, _ = trace(layer, (torch.randn(4, 6), torch.randn(4, 6), torch.randn(6)))
    want = sorted(c.region.signature.digest for c in partition(gm.graph).regions)
    got = sorted(c.region.signature.digest for c in partition(shuffled(gm, seed)).regions)
    assert len(want) == 2 and got == want


def test_digest_tells_apart() -> None:
    def f(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x.exp() - y

    a = torch.randn(4, 6)
    variants = {
        "same": (a, a.clone()), "dtype": (a.double(), a.double()), "rank": (a[None], a[None]),
        "square": (torch.randn(4, 4), torch.randn(4, 4)), "stride": (torch.randn(6, 4).t(), a), "broadcast": (a, torch.randn(6)),
        "expanded": (a, torch.randn(1, 6).expand(4, 6)), "one": (torch.randn(1, 6), torch.randn(1, 6)),
    }  # fmt: skip
    digests = {name: region(f, *v).region.signature.digest for name, v in variants.items()}
    assert len(set(digests.values())) == len(digests), digests
    assert region(f, torch.randn(5, 7), torch.randn(5, 7)).region.signature.digest == digests["same"]
    assert region(lambda x, y: y - x.exp(), *variants["same"]).region.signature.digest != digests["same"]
    assert region(lambda x, y: x.exp() - y * 2, *variants["same"]).region.signature.digest != digests["same"]


def test_sizes_are_general_and_pinned_only_where_they_must_be() -> None:
    sig = region(lambda x: x.view(x.shape[0], 4, -1).sum(-1), torch.randn(6, 20)).region.signature
    assert sig.inputs[0].shape == ("s0", 20)
    sig = region(lambda x: F.softmax(x, -1), torch.randn(6, 20)).region.signature
    assert sig.inputs[0].shape == ("s0", "s1") and sig.symbols == ("s0", "s1")
    sig = region(lambda x: (x * 2).flatten(0, 1).sum(-1), torch.randn(6, 20, 3)).region.signature
    assert sig.output_specs[0].shape == ("s0*s1",)
    sig = capture_whole(lambda x: F.softmax(x, -1), (torch.randn(6, 20),), static_sizes=(20,)).captured.region.signature
    assert sig.inputs[0].shape == ("s0", 20)


def test_the_size_that_a_roll_wraps_at_is_one_number() -> None:
    sig = region(lambda x: torch.roll(x, 2, 1).exp(), torch.randn(6, 20)).region.signature
    assert sig.inputs[0].shape == ("s0", 20)
    sig = region(lambda x: torch.fmod(x, 20) * 2, torch.randn(6, 20)).region.signature
    assert sig.inputs[0].shape == ("s0", "s1")


FAITHFUL: dict[str, tuple[Callable[..., Any], list[Any]]] = {
    "layer": (layer, [(4, 6), (4, 6), (6,)]),
    "constants": (lambda x: torch.where(x > 0, x, float("-inf")).clamp(max=3.0) + float("inf") * 0.0, [(4, 6)]),
    "iota": (lambda x: x + torch.arange(6) * 2, [(4, 6)]),
    "cross_entropy": (lambda x: F.cross_entropy(x, torch.arange(4)), [(4, 6)]),
    "group_norm": (lambda x: F.group_norm(x, 2), [(2, 4, 3, 3)]),
    "bf16": (lambda x: (x.bfloat16() * 3).float().softmax(-1), [(4, 6)]),
    "var": (lambda x: x.var(0) + x.std(-1).sum(), [(4, 6)]),
    "roll": (lambda x: torch.cat((x[:, 2:], x[:, :2] * 2), 1).cos(), [(4, 6)]),
    "select": (lambda x: x.exp()[1] + x.exp()[:, 0].sum(), [(4, 6)]),
    "permuted": (lambda x: x.exp().permute(2, 0, 1) * 2, [(2, 3, 4)]),
}


@pytest.mark.parametrize("name", FAITHFUL)
def test_the_printed_reference_computes_the_same(name: str) -> None:
    function, shapes = FAITHFUL[name]
    torch.manual_seed(0)
    inputs = [torch.randn(s) for s in shapes]
    whole = capture_whole(function, inputs)
    sig = whole.captured.region.signature
    assert Signature.from_json(sig.to_json()).digest == sig.digest
    call = load_reference(print_reference(sig))
    got = run_reference(sig, call, [inputs[i] for i in whole.order])
    want = torch.utils._pytree.tree_leaves(function(*inputs))
    for i, w in zip(whole.outputs, want, strict=True):
        torch.testing.assert_close(got[i], w, rtol=1e-5, atol=1e-5, equal_nan=True)
        assert got[i].stride() == w.stride()
    assert bind_sizes(sig, [inputs[i] for i in whole.order]) == dict(whole.captured.region.sizes)


@pytest.mark.parametrize(
    ("function", "reason"),
    [(lambda x: x @ x.t() @ x, "2 matrix products"), (lambda x: torch.linalg.inv(x @ x.t()), "linalg_inv"),
     (lambda x: x.view(-1), "view of one"), (lambda x: x, "view of one|nothing"),
     (lambda x: torch.rand_like(x) + x, "rand"), (lambda x: (x.exp(), x.exp().nonzero()), "traced|nonzero"), (lambda x: 3, "nothing")],
)  # fmt: skip
def test_what_is_no_single_region(function: Callable[..., Any], reason: str) -> None:
    with pytest.raises(CaptureError, match=reason):
        region(function, torch.randn(4, 6))


def test_problem_order_is_the_callers() -> None:
    class M(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w, self.b = torch.nn.Parameter(torch.randn(6)), torch.nn.Parameter(torch.randn(6))

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return self.b + y.exp() * self.w - x

    from torch_autokernel.capture.whole import region_of

    sig = region_of(M(), [torch.randn(4, 6), torch.randn(4, 6).double()]).signature
    assert [s.dtype for s in sig.inputs] == ["float32", "float64", "float32", "float32"]
    assert sig.inputs[0].shape == ("s0", "s1") and sig.inputs[2].shape == ("s1",)


def test_regions_never_make_a_cycle_through_extern_calls() -> None:
    def f(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        a = x.sigmoid()
        return (a @ w).softmax(-1) + a * 2

    gm, _, _ = trace(f, (torch.randn(4, 4), torch.randn(4, 4)))
    found = partition(gm.graph)
    assert [len(c.outputs) for c in found.regions] == [1, 1]
    assert all(not any(ops.is_extern(ops.name_of(n.target)) for n in c.members) for c in found.regions)
