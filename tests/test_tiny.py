"""The whole story in seconds and without a compiler: capture, propose, judge, store, swap in, find again, on the null device."""

from __future__ import annotations

import dataclasses
import pathlib
import time

import pytest
import torch

import torch_autokernel as ak
from tests.integration.child import GenerousClock
from torch_autokernel.capture.backend import autokernel as backend
from torch_autokernel.capture.whole import region_of
from torch_autokernel.core import deadline
from torch_autokernel.core.config import config
from torch_autokernel.engine import Engine


def norm(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * w


@pytest.fixture
def null(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    monkeypatch.setattr("torch_autokernel.search.loop.Stopwatch", GenerousClock)
    monkeypatch.setattr("torch_autokernel.search.gates.refusal", lambda region, arch: None)
    torch._dynamo.reset()
    with config.patch(arch="null", proposers=("null",), cache_dir=str(tmp_path)):
        yield tmp_path


def test_the_whole_story(null: pathlib.Path) -> None:
    x, w = torch.randn(5, 8), torch.randn(8)
    f = ak.autokernel(norm)
    torch.testing.assert_close(f(x, w), norm(x, w))
    assert len(f.plans) == 1, f.reason
    engine = Engine.current(config.resolve())
    (entry,) = engine.store.entries(engine.arch.key)
    assert entry.verdict.accepted and entry.candidate.proposer == "null"

    again = ak.autokernel(norm, on_miss="fallback")  # another function: it finds the kernel in the cache
    torch.testing.assert_close(again(x, w), norm(x, w))
    assert len(again.plans) == 1, again.reason

    compiled = torch.compile(norm, backend=backend, options={"on_miss": "fallback", "rest": "eager"})
    torch.testing.assert_close(compiled(x, w), norm(x, w))


def test_direct_calls_and_graphs_have_kernels_of_their_own(null: pathlib.Path) -> None:
    """What pays without an operator around it may not pay with one; the other way round it does."""
    engine, found = Engine.current(config.resolve()), config.resolve({"on_miss": "fallback"})
    inside = region_of(norm, (torch.randn(5, 8), torch.randn(8)))
    direct = dataclasses.replace(inside, phase="direct")
    assert [d.outcome for d in engine.resolve([direct], config.resolve())] == ["generated"]
    assert [d.outcome for d in engine.resolve([direct, inside], found)] == ["hit", "miss"]
    assert not engine.entries(), "a kernel for direct calls became an operator"

    other = region_of(lambda x: x.tanh() * 2, (torch.randn(5, 8),))
    assert [d.outcome for d in engine.resolve([other], config.resolve())] == ["generated"]
    assert [d.outcome for d in engine.resolve([dataclasses.replace(other, phase="direct"), other], found)] == ["hit", "hit"]


def test_what_does_not_pay_alone_does_not_pay_in_a_graph(null: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A region that was refused for direct calls is not searched again for graphs; the other way round it is."""
    from torch_autokernel.propose.null import NullProposer

    engine = Engine.current(config.resolve())
    inside = region_of(norm, (torch.randn(5, 8), torch.randn(8)))
    other = region_of(lambda x: x.tanh() * 2, (torch.randn(5, 8),))
    with monkeypatch.context() as patch:
        patch.setattr(NullProposer, "refuses", lambda *args: "not wanted")
        first = [dataclasses.replace(inside, phase="direct"), other]
        assert [d.outcome for d in engine.resolve(first, config.resolve())] == ["refused", "refused"]
    for phase, region, outcome in [("backward", inside, "refused"), ("inference", inside, "refused"), ("direct", other, "generated")]:
        (decision,) = engine.resolve([dataclasses.replace(region, phase=phase)], config.resolve())
        assert decision.outcome == outcome and ("not wanted" in decision.reason) == (outcome == "refused")


@pytest.mark.parametrize("seconds", [0.2, 300.0])
def test_what_the_budget_ended_is_not_begun_again_at_once(
    null: pathlib.Path, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    """Not in the same budget, for sizes about as large, on that day. Where the budget was not the reason, the next call asks."""
    from torch_autokernel.propose.null import NullProposer

    asked: list[int] = []

    def slow(self, region, parents_arch, parents, n):  # type: ignore[no-untyped-def]
        asked.append(region.sizes["s0"])
        time.sleep(0.3)
        raise deadline.Over

    monkeypatch.setattr(NullProposer, "propose", slow)
    engine = Engine.current(config.resolve())

    def outcome(rows: int, allowed: float) -> str:
        region = region_of(norm, (torch.randn(rows, 8), torch.randn(8)))
        return engine.resolve([region], dataclasses.replace(config.resolve(), max_seconds=allowed))[0].outcome

    assert [outcome(rows, seconds) for rows in (5, 5, 9)] == (["miss", "refused", "refused"] if seconds < 1 else ["miss"] * 3)
    assert len(asked) == (1 if seconds < 1 else 3)
    assert outcome(500, seconds) == "miss" and outcome(5, 2 * seconds) == "miss"
    asked.clear()
    monkeypatch.setattr("torch_autokernel.store.refusals.AGAIN_SECONDS", 0.0)
    assert outcome(5, seconds) == "miss" and asked


def test_a_wrong_proposal_is_refused_and_remembered(null: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch_autokernel.propose.null import NullProposer

    honest = NullProposer.propose

    def wrong(self, region, parents_arch, parents, n):  # type: ignore[no-untyped-def]
        from dataclasses import replace

        out = honest(self, region, parents_arch, parents, n)
        return [replace(c, source=replace(c.source, text=c.source.text.replace("1e-06", "1e-01"))) for c in out]

    monkeypatch.setattr(NullProposer, "propose", wrong)
    x, w = torch.randn(5, 8), torch.randn(8)
    f = ak.autokernel(norm)
    torch.testing.assert_close(f(x, w), norm(x, w))
    assert not f.plans and "numerics" in f.reason
    monkeypatch.setattr(NullProposer, "propose", honest)
    g = ak.autokernel(norm)
    g(x, w)
    assert not g.plans and "numerics" in g.reason, "the refusal was not kept"
