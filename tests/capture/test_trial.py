"""A decorated function that no kernel takes: through torch.compile, or as it is, whichever was faster; never run twice where that
can be seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import torch_autokernel as ak
from tests.capture.engines import ReferenceEngine
from torch_autokernel.capture import direct, trial


class Ratio:
    def __init__(self, median: float) -> None:
        self.median, self.low, self.high = median, median - 0.01, median + 0.01


@pytest.fixture
def refusing(engine: ReferenceEngine, monkeypatch: pytest.MonkeyPatch) -> ReferenceEngine:
    engine.wanted = lambda region: False
    monkeypatch.setattr(ReferenceEngine, "timed", True)
    return engine


def measured(speed: float, monkeypatch: pytest.MonkeyPatch) -> list[set[str]]:
    """What was timed; torch.compile is so many times as fast as the plain function."""
    asked: list[set[str]] = []

    def samples(contenders: dict[str, Callable[[], Any]]) -> Any:
        asked.append(set(contenders))
        for call in contenders.values():
            call()
        return lambda one, other: Ratio(speed if (one, other) == (trial.COMPILED, trial.PLAIN) else 1 / speed)

    monkeypatch.setattr(trial, "_samples", samples)
    return asked


def swish(x: torch.Tensor) -> torch.Tensor:
    return x * torch.sigmoid(x)


def test_what_compiling_makes_slower_runs_as_it_is(refusing: ReferenceEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = measured(0.3, monkeypatch)
    fast = ak.autokernel(swish)
    x = torch.randn(4, 8)
    for _ in range(3):
        assert torch.equal(fast(x), swish(x))
    assert asked == [{"compiled", "plain"}] and [type(p) for p in fast.plans.values()] == [direct.Plain]
    assert "0 direct kernels" in repr(fast)
    again = ak.autokernel(swish)  # the outcome is kept
    assert torch.equal(again(x), swish(x)) and len(asked) == 1 and len(again.plans) == 1
    calls: list[Any] = []
    monkeypatch.setattr(fast, "_compiled", lambda *args: calls.append(args) or swish(*args))
    fast(x)
    assert not calls
    fast(x.requires_grad_())  # training is for torch.compile
    assert len(calls) == 1


@pytest.mark.parametrize("speed", [1.0, 1.4])
def test_what_compiling_makes_faster_is_compiled(
    speed: float, refusing: ReferenceEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = measured(speed, monkeypatch)
    fast = ak.autokernel(swish)
    x = torch.randn(4, 8)
    torch.testing.assert_close(fast(x), swish(x))
    assert len(asked) == 1 and not fast.plans and fast._compiled is not None and fast.reason == "not wanted"


def test_nothing_is_timed_where_nothing_may_be_searched(refusing: ReferenceEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = measured(0.3, monkeypatch)
    fast = ak.autokernel(swish, on_miss="fallback")
    x = torch.randn(4, 8)
    torch.testing.assert_close(fast(x), swish(x))
    assert not asked and not fast.plans


def test_a_function_that_changes_its_argument_is_not_run_again(refusing: ReferenceEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = measured(0.3, monkeypatch)
    counted = ak.autokernel(lambda x: x.add_(1))
    x = torch.zeros(3)
    counted(x)
    assert not asked and torch.equal(x, torch.ones(3))


class Scaled(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight


def test_a_module_that_is_trained_is_compiled(refusing: ReferenceEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    measured(0.3, monkeypatch)
    module = ak.autokernel(Scaled())
    x = torch.randn(4, 8)
    with torch.no_grad():
        assert torch.equal(module(x), x * module.weight) and len(module.forward.plans) == 1
    calls: list[Any] = []
    monkeypatch.setattr(module.forward, "_compiled", lambda *args: calls.append(args) or args[0] * module.weight)
    module(x).sum().backward()
    assert module.weight.grad is not None and len(calls) == 1


def test_the_trial_times_both() -> None:
    """Real functions, the one much slower: no more than the order is asserted."""

    def busy() -> None:
        for _ in range(20_000):
            pass

    found = trial._samples({"slow": busy, "fast": lambda: None})
    assert found("fast", "slow").low > 1 > found("slow", "fast").high
