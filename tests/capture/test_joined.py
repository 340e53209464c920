"""Regions that read the same tensor are one, and fall apart where nothing pays for that one."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import fx
from torch.fx.experimental.proxy_tensor import make_fx

from tests.capture.engines import ReferenceEngine
from torch_autokernel.capture import record
from torch_autokernel.capture.backend import autokernel
from torch_autokernel.capture.partition import partition
from torch_autokernel.capture.settle import settle
from torch_autokernel.core import deadline
from torch_autokernel.core.config import Config
from torch_autokernel.core.types import Region
from torch_autokernel.engine import Decision


def norm_backward(g: torch.Tensor, h: torch.Tensor, w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Two results over different dimensions from the same two tensors."""
    return (g * h).sum(0), (g * w).sum(1, keepdim=True) * torch.exp(g)


def arguments(rows: int = 32) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    return torch.randn(rows, 64), torch.randn(rows, 64), torch.randn(64)


def graph_of(function: Any, *inputs: Any) -> fx.Graph:
    graph: fx.Graph = make_fx(function, tracing_mode="fake")(*inputs).graph
    return graph


def test_what_reads_the_same_tensor_is_one_region() -> None:
    (whole,) = partition(graph_of(norm_backward, *arguments())).regions
    assert len(whole.outputs) == 2 and len(whole.parts) == 2
    assert {n for p in whole.parts for n in p.members} == set(whole.members)
    separate = partition(graph_of(norm_backward, *arguments(rows=4))).regions  # too small to matter
    assert len(separate) == 2 and not any(c.parts for c in separate)


def test_groups_before_and_behind_an_extern_call_stay_apart() -> None:
    def function(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return torch.mm(torch.exp(x), w).softmax(-1) + x

    found = partition(graph_of(function, torch.randn(64, 64), torch.randn(64, 64))).regions
    assert len(found) == 2 and not any(c.parts for c in found)


def test_what_cannot_be_one_region_is_its_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch_autokernel.capture.partition.MAX_TENSORS", 4)
    assert len(partition(graph_of(norm_backward, *arguments())).regions) == 2


@pytest.mark.parametrize("refused", ["none", "whole", "whole and one part", "all"])
@pytest.mark.parametrize("rest", ["eager", "inductor"])
def test_results_and_records(engine: ReferenceEngine, refused: str, rest: str) -> None:
    asked: list[int] = []

    def wanted(region: Region) -> bool:
        asked.append(len(region.signature.outputs))
        whole, reduces_only = asked[-1] == 2, "aten.exp.default" not in {op.target for op in region.signature.ops}
        return {"none": True, "whole": not whole, "whole and one part": reduces_only and not whole, "all": False}[refused]

    engine.wanted = wanted
    options = {"rest": rest}
    inputs = arguments()
    with record.recording() as records:
        got = torch.compile(norm_backward, backend=autokernel, options=options)(*inputs)
    for ours, theirs in zip(got, norm_backward(*inputs), strict=True):
        torch.testing.assert_close(ours, theirs)
    swapped = {"none": 1, "whole": 2, "whole and one part": 1, "all": 0}[refused]
    (noted,) = records
    assert noted.swapped == swapped == len(engine.calls)
    assert asked[: 1 if refused == "none" else 3] == [2, 1, 1][: 1 if refused == "none" else 3]
    if refused == "all":
        assert all("together with its neighbours: not wanted" in d.reason for d in noted.decisions)


class Counting:
    """An engine that answers by a table, and says what it was asked within which time."""

    def __init__(self, outcomes: dict[str, str]) -> None:
        self.outcomes, self.asked = outcomes, list[tuple[list[str], float]]()

    def resolve(self, regions: Sequence[Region], options: Config) -> list[Decision]:
        names = [r.nodes[0] for r in regions]
        with deadline.from_purse(options.max_seconds) as seconds:
            self.asked.append((names, seconds))
        return [Decision(r, self.outcomes[n], n, _ENTRY if self.outcomes[n] == "hit" else None) for r, n in zip(regions, names, strict=True)]


_ENTRY: Any = object()


def named(name: str, size: int) -> Region:
    from tests.search.fakes import region

    return dataclasses.replace(region(rows=size), nodes=(name,))


@pytest.mark.parametrize(
    ("whole", "on_miss", "told"),
    [
        ("hit", "generate", ["whole"]),
        ("refused", "generate", ["a", "b"]),
        ("miss", "generate", ["a", "b"]),
        ("miss", "fallback", ["a", "b"]),
        ("miss", "background", ["whole"]),
        ("refused", "background", ["a", "b"]),
    ],
)
def test_parts_are_asked_for_where_the_whole_has_no_kernel(whole: str, on_miss: str, told: list[str]) -> None:
    engine = Counting({"whole": whole, "a": "hit", "b": "refused"})
    joined = [(named("whole", 8), (named("a", 9), named("b", 10)))]
    (found,) = settle(engine, joined, Config(on_miss=on_miss, max_seconds=50.0))
    assert [d.reason.partition(";")[0] for d in found] == told
    assert engine.asked[0] == (["whole"], 50.0)
    if len(told) > 1:
        assert engine.asked[1][0] == told and engine.asked[1][1] < 50.0
        assert "together" not in found[0].reason and "together with its neighbours: whole" in found[1].reason


def test_an_input_may_have_the_name_of_an_operation() -> None:
    """A saved tensor that came out of a tuple is called `getitem` in the backward graph."""

    def function(getitem: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        return (getitem * h).sum(0)

    graph = graph_of(function, *arguments()[:2])
    (placeholder, _) = graph.find_nodes(op="placeholder")
    placeholder.name = placeholder.target = "getitem"
    (found,) = partition(graph).regions
    assert placeholder in found.inputs


def test_a_view_that_is_read_inside_and_outside_shares_its_memory_as_before() -> None:
    def function(x: torch.Tensor, w: torch.Tensor) -> Any:
        y = torch.exp(x)
        half = y[:2]
        return torch.mm(half, w), half + 1, y

    graph = graph_of(function, torch.randn(4, 8), torch.randn(8, 8))
    (found,) = partition(graph).regions
    graph.lint()
    assert not any(n.target is torch.ops.aten.slice.Tensor for n in found.outputs) and len(found.outputs) == 2
    module, inputs = fx.GraphModule(torch.nn.Module(), graph), (torch.randn(4, 8), torch.randn(8, 8))
    for ours, theirs in zip(module(*inputs), function(*inputs), strict=True):
        torch.testing.assert_close(ours, theirs)
