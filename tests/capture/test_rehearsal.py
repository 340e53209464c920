"""Graphs with and without their kernels: which kernels stay, what is kept of it, and that nothing else is disturbed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import fx
from torch.fx.experimental.proxy_tensor import make_fx

from tests.capture.engines import ReferenceEngine
from torch_autokernel.capture import made_up, record, rehearsal
from torch_autokernel.capture.ambient import ordinary_torch
from torch_autokernel.capture.backend import autokernel
from torch_autokernel.capture.rehearsal import Kernels, Outcome, choose
from torch_autokernel.core.types import CacheKey
from torch_autokernel.store import Store
from torch_autokernel.verify.statistics import Ratio


# ---------------------------------------------------------------------- the choice
def speeds(table: dict[str, float], asked: list[Kernels]) -> Callable[[Sequence[Kernels]], list[Ratio]]:
    def measure(sets: Sequence[Kernels]) -> list[Ratio]:
        asked.extend(sets)
        found = [table["".join(sorted(s))] for s in sets]
        return [Ratio(x, x - 0.01, x + 0.01) for x in found]

    return measure


@pytest.mark.parametrize(
    ("table", "kept", "runs"),
    [
        ({"ab": 1.0}, "ab", 1),
        ({"a": 0.99}, "", 1),
        ({"ab": 0.9, "a": 0.95, "b": 0.99}, "", 3),
        ({"ab": 0.9, "a": 1.2, "b": 0.8}, "a", 3),
        ({"abc": 0.9, "a": 1.2, "b": 1.1, "c": 0.8, "ab": 1.3}, "ab", 5),
        ({"abc": 0.9, "a": 1.2, "b": 1.1, "c": 0.8, "ab": 1.1}, "a", 5),
        ({"ab": 0.9, "a": 1.01, "b": 1.02}, "b", 3),  # both win alone, together they are known to lose
    ],
)
def test_choice(table: dict[str, float], kept: str, runs: int) -> None:
    asked: list[Kernels] = []
    groups = sorted({c for name in table for c in name})
    outcome = choose(groups, speeds(table, asked))
    assert outcome.kept == frozenset(kept) and len(asked) == runs
    assert f"{table[''.join(groups)]:.3f}x" in outcome.reason


def test_choice_tries_only_the_first_few_alone() -> None:
    asked: list[Kernels] = []
    groups = [chr(ord("a") + i) for i in range(rehearsal.MOST_GROUPS + 3)]
    table = {"".join(groups): 0.5} | dict.fromkeys(groups, 0.9)
    assert choose(groups, speeds(table, asked)).kept == frozenset()
    assert len(asked) == 1 + rehearsal.MOST_GROUPS


# ---------------------------------------------------------------------- graphs
def graph_of(function: Callable[..., Any], *inputs: Any) -> fx.Graph:
    graph: fx.Graph = make_fx(function, tracing_mode="fake")(*inputs).graph
    return graph


def test_key_is_of_what_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    engine: Any = ReferenceEngine()

    def key(n: int = 4, scale: float = 2.0, transposed: bool = False) -> CacheKey:
        x = torch.randn(n, n)
        return rehearsal.key_of(graph_of(lambda x: (x * scale).sum(1), x.t() if transposed else x), engine)

    assert key() == key() and key().abi.endswith(rehearsal.GRAPH)
    others = [key(5), key(scale=3.0), key(transposed=True)]
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    assert len({key().signature, *(o.signature for o in others)}) == 4
    monkeypatch.undo()
    assert key().signature not in {o.signature for o in others}


def test_outcomes_are_kept_for_one_set_of_kernels(tmp_path: Path) -> None:
    engine: Any = ReferenceEngine()
    engine.store = Store(tmp_path)
    key = CacheKey("a" * 64, "cpu-test", "abi" + rehearsal.GRAPH)
    kernels = {"1" * 64: "x", "2" * 64: "y"}
    assert rehearsal.recall(key, kernels, engine) is None
    rehearsal.remember(key, kernels, Outcome(frozenset({"1" * 64}), "because"), engine)
    assert rehearsal.recall(key, kernels, engine) == Outcome(frozenset({"1" * 64}), "because")
    assert rehearsal.recall(key, {**kernels, "2" * 64: "z"}, engine) is None
    rehearsal.remember(key, kernels, Outcome(frozenset(kernels), "again"), engine)
    assert rehearsal.recall(key, kernels, engine) == Outcome(frozenset(kernels), "again")
    assert len(engine.store.refusals()) == 1 and not engine.store.check()


def test_inputs_have_the_sizes_and_strides_of_the_placeholders(monkeypatch: pytest.MonkeyPatch) -> None:
    table, index = torch.randn(10, 8), torch.arange(3)
    wide = torch.randn(6, 8)[::2].t()
    graph = graph_of(lambda a, i, b: (a[i] @ b, i + 1), table, index, wide)
    values = [n.meta["val"] for n in graph.find_nodes(op="placeholder")]
    made = made_up.inputs_like(values)
    assert made is not None
    for ours, theirs in zip(made, (table, index, wide), strict=True):
        assert (ours.shape, ours.stride(), ours.dtype) == (theirs.shape, theirs.stride(), theirs.dtype)
    assert not made[1].any() and made[0].isfinite().all() and made[2].std() > 0
    monkeypatch.setattr(made_up, "_available_bytes", lambda: 100.0)
    assert made_up.inputs_like(values) is None


def test_a_graph_that_does_more_than_compute_is_not_run() -> None:
    with torch.library._scoped_library("rehearsal_test", "FRAGMENT") as library:
        library.define("send(Tensor x) -> Tensor")
        library.impl("send", lambda x: x + 1, "CompositeExplicitAutograd")
        x = torch.randn(3)
        assert not made_up.may_run(graph_of(lambda x: torch.ops.rehearsal_test.send(x) * 2, x))
        assert made_up.may_run(graph_of(lambda x: x.exp() * 2, x))


@pytest.mark.parametrize(
    ("function", "safe"),
    [
        (lambda x, i: x[i], True),
        (lambda x, i: x[i.reshape(-1)[:2].long()], True),
        (lambda x, i: torch.gather(x, 0, torch.where(i != -100, i, 0)[:, None]), True),
        (lambda x, i: F.embedding(torch.arange(3) + 1, x) + i.sum(), True),
        (lambda x, i: x[i] * (i != 2).sum(), True),
        (lambda x, i: x[i - 1], False),
        (lambda x, i: x[(x[:, 0] * 3).long()], False),
        (lambda x, i: F.embedding(i * 2, x), False),
        (lambda x, i: x.index_add(0, i + 1, x[:3]), False),
        (lambda x, i: 7 // i, False),
        (lambda x, i: (7 % i).float(), False),
        (lambda x, i: x / i[:1], True),
        (lambda x, i: i.copy_(i + 1), True),  # a counter, as batch norm's
        (lambda x, i: (i.copy_(i + 1), x[i]), False),
        (lambda x, i: (x[i], i.copy_(i + 1)), False),
        (lambda x, i: [(i.copy_(n), x[:3, 0] * n) for n in [i + 1]], False),
        (lambda x, i: i.copy_(i * 2), False),
        (lambda x, i: i.copy_(i + i), False),
        (lambda x, i: x.copy_(x + 1), True),
    ],
)
def test_made_up_integers_must_not_end_the_process(function: Callable[..., Any], safe: bool) -> None:
    """A position that is written back and indexes a cache would leave it after some runs; an integer division by 0 is a signal."""
    graph = graph_of(function, torch.randn(5, 4), torch.tensor([0, 2, 1]))
    assert made_up.may_run(graph) == safe


def test_a_region_with_nothing_beside_it_needs_no_rehearsal() -> None:
    graph = graph_of(lambda x: (x.permute(1, 0) * 2).sum(), torch.randn(3, 4))
    names = {n.name for n in graph.nodes if n.op == "call_function"}
    assert rehearsal.stands_alone(graph, names) and rehearsal.stands_alone(graph, names - {"permute"})
    assert not rehearsal.stands_alone(graph, names - {"sum_1"})


# ---------------------------------------------------------------------- in the backend
class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Linear(8, 16), torch.nn.Linear(16, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.softmax(self.second(F.gelu(self.first(x))), -1)


@pytest.fixture
def timed(engine: ReferenceEngine, monkeypatch: pytest.MonkeyPatch) -> ReferenceEngine:
    monkeypatch.setattr(ReferenceEngine, "timed", True)
    record.clear()
    return engine


def run(options: dict[str, Any] | None = None) -> tuple[Any, Any, list[Any]]:
    torch.manual_seed(0)
    torch._dynamo.reset()
    model, x = Model(), torch.randn(5, 8)
    with torch.no_grad(), record.recording() as records:
        return torch.compile(model, backend=autokernel, options=options)(x), model(x), records


def rated(monkeypatch: pytest.MonkeyPatch, rate: Callable[[Kernels], float]) -> list[Kernels]:
    """Graphs are compiled as they are, but their speed is made up."""
    asked: list[Kernels] = []

    def measurer(compiled: Any, inputs: list[Any]) -> Any:
        def measure(sets: Sequence[Kernels]) -> list[Ratio]:
            asked.extend(sets)
            for kernels in sets:
                call = compiled(kernels)
                with ordinary_torch():
                    call(list(inputs))
            return [Ratio(rate(s), 0.5, 2.0) for s in sets]

        return measure

    monkeypatch.setattr(rehearsal, "measurer", measurer)
    return asked


def test_kernels_that_lose_in_the_graph_are_left_out(timed: ReferenceEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = rated(monkeypatch, lambda kernels: 1.1 if len(kernels) == 1 and "softmax" in "".join(named(kernels)) else 0.9)

    def named(kernels: Kernels) -> list[str]:
        inside = [r for r in timed.regions if r.signature.digest in kernels]
        return ["softmax" if any("amax" in op.target for op in r.signature.ops) else "gelu" for r in inside]

    got, want, (noted,) = run()
    torch.testing.assert_close(got, want)
    assert len(asked) == 3 and noted.swapped == 1
    refused = [d for d in noted.decisions if d.outcome == "refused"]
    assert len(refused) == 1 and "left out of this graph" in refused[0].reason and refused[0].entry is None
    timed.calls.clear()
    _, _, (again,) = run()
    assert len(asked) == 3, "the outcome was kept"
    assert again.swapped == 1 and set(named(frozenset(timed.calls))) == {"softmax"}


def test_operators_cost_what_they_cost_outside(timed: ReferenceEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A compilation dispatches by way of Python, which makes the operators that torch brings slower than they will be."""
    from torch_autokernel.verify import statistics

    seen, interleave = [], statistics.interleave

    def noting(contenders: Any, *rest: Any, **more: Any) -> Any:
        seen.append(torch._C._dispatch_tls_is_dispatch_key_included(torch._C.DispatchKey.PythonDispatcher))
        return interleave(contenders, 0.01, 9)

    monkeypatch.setattr(statistics, "interleave", noting)
    run()
    assert seen and not any(seen)


def test_fallback_never_rehearses_and_remembers(timed: ReferenceEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = rated(monkeypatch, lambda kernels: 0.5)
    _, _, (first,) = run({"on_miss": "fallback"})
    assert not asked and first.swapped == 2
    _, _, (second,) = run()
    assert asked and second.swapped == 0
    count = len(asked)
    got, want, (third,) = run({"on_miss": "fallback"})
    torch.testing.assert_close(got, want)
    assert len(asked) == count and third.swapped == 0


def test_a_rehearsal_that_fails_changes_nothing(
    timed: ReferenceEngine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("no clock")

    monkeypatch.setattr(rehearsal, "measurer", broken)
    got, want, (noted,) = run()
    torch.testing.assert_close(got, want)
    assert noted.swapped == 2 and "could not be rehearsed" in caplog.text and not timed.store.refused


def test_the_real_rehearsal(timed: ReferenceEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward and backward, random numbers included: the user's generator is where it was."""
    monkeypatch.setattr(rehearsal, "SECONDS", 0.05)
    torch.manual_seed(0)
    model, x = Model(), torch.randn(5, 8)
    compiled = torch.compile(lambda x: F.dropout(model(x), 0.5).sum(), backend=autokernel)
    torch.manual_seed(3)
    compiled(x).backward()
    after = torch.random.get_rng_state()
    assert len(timed.store.refused) == 2  # one of the forward graph, one of the backward graph
    torch._dynamo.reset()
    torch.manual_seed(3)
    compiled(x).backward()
    assert torch.equal(after, torch.random.get_rng_state())
