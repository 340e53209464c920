"""A decorated function that no kernel takes: through torch.compile, or as it is, whichever was faster; never run twice where that
can be seen."""

from __future__ import annotations

import copy
import gc
import threading
import time
import types
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch

import torch_autokernel as ak
from tests.capture.engines import ReferenceEngine
from torch_autokernel.capture import direct, purity, trial
from torch_autokernel.capture.decorator import Accelerated
from torch_autokernel.capture.whole import region_of
from torch_autokernel.core.config import config


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
    assert asked == [{"compiled", "plain"}] and list(fast.settled.values()) == [True] and not fast.plans
    again = ak.autokernel(swish)  # the outcome is kept
    calls = counted(again, monkeypatch)
    assert torch.equal(again(x), swish(x)) and len(asked) == 1 and not calls
    again(torch.randn(5, 8))  # another kind of call has a trial of its own
    assert len(asked) == 2 and calls


def counted(fast: Any, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The calls that go through torch.compile."""
    calls: list[Any] = []
    monkeypatch.setattr(fast, "_compiled", lambda *args: calls.append(args) or fast._plain(*args))
    return calls


@pytest.mark.parametrize("speed", [1.0, 1.4])
def test_what_compiling_makes_faster_is_compiled(
    speed: float, refusing: ReferenceEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = measured(speed, monkeypatch)
    fast = ak.autokernel(swish)
    x = torch.randn(4, 8)
    torch.testing.assert_close(fast(x), swish(x))
    assert len(asked) == 1 and not fast.plans and fast._compiled is not None and fast.reason == "not wanted"
    calls = counted(fast, monkeypatch)
    fast(x)
    assert len(calls) == 1


def test_nothing_is_timed_where_nothing_may_be_searched(refusing: ReferenceEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = measured(0.3, monkeypatch)
    fast = ak.autokernel(swish, on_miss="fallback")
    x = torch.randn(4, 8)
    torch.testing.assert_close(fast(x), swish(x))
    assert not asked and not fast.plans and not any(fast.settled.values())


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


class Stack(torch.nn.Module):
    """Layers in a loop, which is none over time."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(Scaled() for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


@pytest.mark.parametrize("speed", [0.3, 1.2])
def test_what_is_settled_is_not_asked_again(speed: float, refusing: ReferenceEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    measured(speed, monkeypatch)
    module = ak.autokernel(Stack())
    x = torch.randn(4, 8)
    calls = counted(module.forward, monkeypatch)
    for recorded, needed in ((False, False), (True, True), (True, False)):
        x.requires_grad_(needed)
        module.forward.patience = 0  # else they are asked only after some calls
        with torch.set_grad_enabled(recorded):
            wanted = [module(x) for _ in range(4)][0]
            with monkeypatch.context() as patch:
                patch.setattr(module.forward, "settled", None)  # whatever is not found in C looks into it
                calls.clear()
                torch.testing.assert_close(module(x), wanted)
                assert wanted.requires_grad == recorded and len(calls) == int(speed > 1)
    assert [(r.gradients, len(r.parameters)) for r in module.forward._settled_routes] == [(False, 0), (True, 3), (True, 3)]


@pytest.mark.parametrize("frozen", [True, False])
def test_other_parameters_that_are_trained_are_asked_anew(
    frozen: bool, refusing: ReferenceEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured(0.3, monkeypatch)
    module, x = ak.autokernel(Stack()), torch.randn(4, 8)
    module.requires_grad_(not frozen)
    for _ in range(3):
        module(x)
    known, asked = module.forward._settled_routes, module.forward.tried
    assert len(known) == 1 and asked == int(not frozen)
    module.layers[1].weight.requires_grad_(frozen)
    module.forward.patience = 0
    for _ in range(3):
        assert module(x).requires_grad
    assert module.forward.tried == asked + 1 and len(module.forward._settled_routes) == 1


def test_a_kind_of_call_that_had_to_wait_is_asked_in_the_end(refusing: ReferenceEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """While calls go on unasked, nothing is settled for one of another kind."""
    measured(0.3, monkeypatch)
    module = ak.autokernel(Scaled())
    module(torch.randn(4, 8))
    assert module.forward.tried == 1 and module.forward.patience
    for _ in range(module.forward.patience + 2):
        module(torch.randn(5, 8))
    assert module.forward.tried == 2 and len(module.forward._settled_routes) == 2


def test_a_replaced_parameter_is_let_go(refusing: ReferenceEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    measured(0.3, monkeypatch)
    module, x = ak.autokernel(Stack()), torch.randn(4, 8)
    module(x)
    gone = weakref.ref(module.layers[0].weight)
    module.load_state_dict({k: v.clone() for k, v in module.state_dict().items()}, assign=True)
    module.forward.patience = 0
    for _ in range(2):
        torch.testing.assert_close(module(x), restored(module, x))
    gc.collect()
    assert gone() is None


def restored(module: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    return Stack.forward(module, x)  # type: ignore[arg-type]


@pytest.mark.parametrize("speed", [0.3, 1.2])
def test_training_is_timed_forward_and_backward(speed: float, refusing: ReferenceEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Apart from inference; what the trial computes leaves no gradients behind."""
    asked = measured(speed, monkeypatch)
    module = ak.autokernel(Scaled())
    x = torch.randn(4, 8)
    with torch.no_grad():
        module(x)
    calls, backward = counted(module.forward, monkeypatch), []
    module.weight.register_post_accumulate_grad_hook(lambda p: backward.append(p))
    y = module(x)
    assert len(asked) == 2 and module.weight.grad is None and not backward
    y.sum().backward()
    assert torch.equal(module.weight.grad, x.sum(0)) and len(backward) == 1
    assert len(module.forward.settled) == 2 and all(slow == (speed < 1) for slow in module.forward.settled.values())
    calls.clear()
    module(x)
    assert len(calls) == int(speed > 1)


def test_a_hook_would_notice_the_trial(refusing: ReferenceEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = measured(0.3, monkeypatch)
    fast, x = ak.autokernel(swish), torch.randn(4, 8, requires_grad=True)
    seen: list[Any] = []
    x.register_hook(seen.append)
    fast(x).sum().backward()
    assert not asked and len(seen) == 1


def test_dropout_draws_as_without_a_trial(refusing: ReferenceEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    measured(0.3, monkeypatch)
    fast = ak.autokernel(lambda x: torch.nn.functional.dropout(x, 0.5))
    x = torch.ones(64)
    torch.manual_seed(3)
    wanted = torch.nn.functional.dropout(x, 0.5)
    torch.manual_seed(3)
    got = fast(x)
    assert list(fast.settled.values()) == [True] and torch.equal(got, wanted)


def test_a_kernel_slower_than_the_call_is_not_used(engine: ReferenceEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ReferenceEngine, "timed", True)
    speeds, asked = {"kernel": 0.5}, []

    def samples(contenders: dict[str, Callable[[], Any]]) -> Any:
        asked.append(sorted(contenders))
        return lambda one, other: Ratio(speeds[one])

    monkeypatch.setattr(trial, "_samples", samples)
    x = torch.randn(4, 8)
    slow = ak.autokernel(swish)
    calls = counted(slow, monkeypatch)
    assert torch.equal(slow(x), swish(x)) and torch.equal(slow(x), swish(x))
    assert asked == [["kernel", "plain"]] and not slow.plans and not calls and slow.reason == direct.SLOWER
    again = ak.autokernel(swish)
    again(x)
    assert len(asked) == 1 and not again.plans
    speeds["kernel"] = 1.5
    other = ak.autokernel(lambda x: torch.sin(x) * 2)
    other(x)
    assert len(asked) == 2 and len(other.plans) == 1


def test_the_trial_times_both() -> None:
    """Real functions, the one much slower: no more than the order is asserted."""

    def busy() -> None:
        for _ in range(20_000):
            pass

    found = trial._samples({"slow": busy, "fast": lambda: None})
    assert found("fast", "slow").low > 1 > found("slow", "fast").high


def test_one_kernel_within_two_calls_has_two_trials(engine: ReferenceEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ReferenceEngine, "timed", True)
    asked: list[int] = []
    monkeypatch.setattr(trial, "_samples", lambda contenders: asked.append(1) or (lambda one, other: Ratio(1.5)))
    wholes = [region_of(f, [torch.randn(4, 8)]) for f in (swish, lambda x: swish(x) + 1)]
    (decision,) = engine.resolve([wholes[0]], config.resolve({}))
    for whole in (*wholes, *wholes):
        assert trial.kernel_pays(whole, decision, lambda: lambda: None, lambda: None, config.resolve({}))
    assert len(asked) == 2


class Counter(torch.nn.Module):
    """Keeps what it saw: a call that is made twice would be noticed."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        self.calls += 1
        return torch.relu(x) * scale


@pytest.mark.parametrize("faster", [trial.PLAIN, trial.COMPILED])
def test_what_must_not_be_repeated_is_timed_in_use(
    faster: str, refusing: ReferenceEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every call is made once, by one way or the other; then by the faster one alone."""
    clock = [0.0]
    monkeypatch.setattr(trial, "time", types.SimpleNamespace(perf_counter=lambda: clock[0]))
    module, x = ak.autokernel(Counter()), torch.randn(4, 8)
    made: list[str] = []

    def way(name: str) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            made.append(name)
            clock[0] += 1e-5 if name == faster else 2e-5
            return Counter.forward(module, *args)

        return call

    monkeypatch.setattr(Accelerated, "_plain", property(lambda self: way(trial.PLAIN)))
    monkeypatch.setattr(module.forward, "_otherwise", way(trial.COMPILED))
    for _ in range(50):
        assert torch.equal(module(x), x.relu())
    assert module.calls == len(made) == 50
    turns = 2 * (trial._NOT_COUNTED + trial._ENOUGH)
    assert made[:4] == [trial.PLAIN, trial.COMPILED, trial.PLAIN, trial.COMPILED]
    assert sum(name == trial.PLAIN for name in made[:turns]) == turns // 2
    assert set(made[turns:]) == {faster} and not module.forward.in_use
    assert module.forward.known is not None, "what is settled is found in C"


def test_long_calls_are_timed_in_use_for_some_seconds_only() -> None:
    slow, clock = trial.InUse({"a": lambda: None, "b": lambda: None}), iter(range(10_000))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trial, "time", types.SimpleNamespace(perf_counter=lambda: float(next(clock))))
        calls = 0
        while slow.fastest is None:
            slow()
            calls += 1
    assert calls == 2 * (trial._NOT_COUNTED + trial._FEWEST)


class Grows(torch.nn.Module):
    """Cannot be put back."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.seen = torch.nn.Parameter(torch.ones(8)), []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(x.shape)
        return torch.relu(x) * self.weight


class Costs(torch.autograd.Function):
    """Takes time, on a clock that stands still otherwise, forward and back."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, clock: list[float], there: float, back: float) -> torch.Tensor:
        ctx.clock, ctx.seconds = clock, back
        clock[0] += there
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, given: torch.Tensor) -> Any:
        ctx.clock[0] += ctx.seconds
        return given, None, None, None


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    found = [0.0]
    monkeypatch.setattr(trial, "time", types.SimpleNamespace(perf_counter=lambda: found[0]))
    return found


def contest(clock: list[float], one: tuple[float, float], other: tuple[float, float]) -> trial.InUse:
    ways = {n: (lambda x, c=c: Costs.apply(x, clock, *c)) for n, c in (("one", one), ("other", other))}
    return trial.InUse(ways, recorded=True)


def steps(found: trial.InUse, step: Callable[[torch.Tensor], None], most: int = 400) -> int:
    """How many until it is settled."""
    for k in range(most):
        if found.fastest is not None:
            return k
        step(torch.ones(3, requires_grad=True))
    raise AssertionError("never settled")


@pytest.mark.parametrize("one, other, faster", [
    ((1e-4, 3e-4), (2e-4, 1e-4), "other"), ((1e-4, 1e-4), (1e-4, 2e-4), "one"), ((3e-4, 1e-4), (1e-4, 1e-4), "other"),
])  # fmt: skip
def test_training_in_use_counts_both_ways(one: Any, other: Any, faster: str, clock: list[float]) -> None:
    found = contest(clock, one, other)
    steps(found, lambda x: found(x).sum().backward())
    assert found.fastest == faster
    assert all(len(times) >= trial._ENOUGH for times in (*found.seconds.values(), *found.back.values()))


def test_several_calls_before_they_go_back(clock: list[float]) -> None:
    """What is passed on the way is passed either way; a gradient may be asked for twice, or of some calls alone."""
    found, went = contest(clock, (1e-4, 2e-4), (1e-4, 1e-4)), [0]

    def step(x: torch.Tensor) -> None:
        loss = (found(x) + found(x)).sum()
        went[0] += sum(turn > 2 * trial._NOT_COUNTED for turn in (found.turns - 1, found.turns))
        loss.backward(retain_graph=True)
        loss.backward()
        found(x)

    steps(found, step)
    assert found.fastest == "other" and sum(map(len, found.back.values())) == went[0]
    assert {n: {round(t, 9) for t in times} for n, times in found.back.items()} == {"one": {2e-4}, "other": {1e-4}}


def test_training_that_never_goes_back_is_settled_too(clock: list[float]) -> None:
    found = contest(clock, (1e-4, 1e-4), (2e-4, 1e-4))
    assert steps(found, lambda x: found(x)) >= trial._PATIENCE * trial._ENOUGH
    assert found.fastest == "one"


def test_the_way_back_is_not_timed_where_nobody_records(clock: list[float]) -> None:
    found = contest(clock, (1e-4, 1e-4), (2e-4, 1e-4))
    with torch.no_grad():
        steps(found, lambda x: found(x))
    assert found.fastest == "one"
    leaf = torch.ones(3, requires_grad=True)
    passed = trial.InUse({"a": lambda x: (x, None, 3), "b": lambda x: (x, None, 3)}, recorded=True)
    for _ in range(10):
        passed(leaf)[0].sum().backward()


def test_training_in_use_with_compiled_autograd() -> None:
    found = trial.InUse({"a": torch.exp, "b": torch.exp}, recorded=True)
    x = torch.ones(3, requires_grad=True)
    for _ in range(8):
        x.grad = None
        with torch._dynamo.compiled_autograd._enable(torch.compile(backend="eager")):
            found(x).sum().backward()
        torch.testing.assert_close(x.grad, x.exp())


@pytest.mark.parametrize("faster", [trial.PLAIN, trial.COMPILED])
def test_training_that_cannot_be_undone_is_timed_in_use(
    faster: str, clock: list[float], refusing: ReferenceEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, x = ak.autokernel(Grows()), torch.randn(4, 8)
    made: list[str] = []

    def way(name: str) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            made.append(name)
            return Costs.apply(Grows.forward(module, *args), clock, 1e-5, 1e-5 if name == faster else 2e-5)

        return call

    monkeypatch.setattr(Accelerated, "_plain", property(lambda self: way(trial.PLAIN)))
    monkeypatch.setattr(module.forward, "_otherwise", way(trial.COMPILED))
    for _ in range(60):
        module(x).sum().backward()
    assert len(module.seen) == len(made) == 60 and set(made[-20:]) == {faster} and not module.forward.in_use
    assert len(module.forward.settled) == 1


@pytest.mark.parametrize("size, way", [(8, trial.PLAIN), (2**21, trial.COMPILED)])
def test_which_random_numbers_come_is_known_by_the_size(size: int, way: str, refusing: ReferenceEngine) -> None:
    class Drops(Grows):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.seen.append(x.shape)
            return torch.nn.functional.dropout(x, 0.5)

    module = ak.autokernel(Drops())
    for _ in range(3):
        module(torch.ones(size, requires_grad=True)).sum().backward()
    assert list(module.forward.settled.values()) == [way == trial.PLAIN] and not module.forward.in_use


def test_lists_and_dictionaries_are_kinds_by_their_sizes(refusing: ReferenceEngine) -> None:
    class Batch(Grows):
        def forward(self, batch: Any) -> torch.Tensor:
            self.seen.append(1)
            x = batch["x"] if isinstance(batch, dict) else batch[0]
            return torch.relu(x) * self.weight

    module = ak.autokernel(Batch())
    for n in (4, 5, 4):
        for batch in ({"x": torch.randn(n, 8), 3: 1.5}, [torch.randn(n, 8), 0.5], {"x": torch.randn(n, 8), 3: 2.5}):
            assert torch.equal(module(batch), Grows.forward(module, batch["x"] if isinstance(batch, dict) else batch[0]))
    assert len(module.forward.settled) == 4, "by container and size, not by numbers"


def test_heavy_and_light_calls_by_turns_do_not_decide() -> None:
    """Each way meets as many of both."""
    clock = [0.0]

    def way(factor: float) -> Callable[[float], None]:
        def call(weight: float) -> None:
            clock[0] += factor * weight

        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trial, "time", types.SimpleNamespace(perf_counter=lambda: clock[0]))
        for period in (2, 3, 4, 5):
            contest, n = trial.InUse({"slower": way(1.3), "faster": way(1.0)}), 0
            while contest.fastest is None:
                contest(1e-3 if n % period else 5e-3)
                n += 1
            assert contest.fastest == "faster", period


def test_random_numbers_are_drawn_in_one_way() -> None:
    """Which numbers a program gets must not depend on a clock."""
    contest = trial.InUse({"compiled": lambda: torch.rand(2), "plain": lambda: torch.rand(3)})
    calls = 0
    while contest.fastest is None:
        contest()
        calls += 1
    assert contest.fastest == "compiled" and calls == 1


def test_what_compiles_again_and_again_is_left() -> None:
    clock = [0.0]

    def compiles() -> None:
        clock[0] += 2.0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trial, "time", types.SimpleNamespace(perf_counter=lambda: clock[0]))
        contest, calls = trial.InUse({"compiled": compiles, "plain": lambda: None}), 0
        while contest.fastest is None:
            contest()
            calls += 1
    assert contest.fastest == "plain" and calls <= 10


@pytest.mark.parametrize("speed", [0.3, 1.2])
def test_few_sizes_decide_for_those_that_are_about_as_large(
    speed: float, refusing: ReferenceEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = measured(speed, monkeypatch)
    fast = ak.autokernel(swish)
    for n in range(8, 20):
        x = torch.randn(4, n)
        torch.testing.assert_close(fast(x), swish(x))
    assert len(asked) == 4
    calls = counted(fast, monkeypatch)
    fast.known = None
    fast(torch.randn(4, 19))
    assert len(calls) == int(speed > 1)
    fast(torch.randn(4, 1900))  # much larger: a trial of its own
    assert len(asked) == 5


def test_numbers_that_vary_are_one_kind_in_use(refusing: ReferenceEngine) -> None:
    """Or each would have a contest of its own, which ends never."""
    module, x = ak.autokernel(Counter()), torch.randn(4, 8)
    for n in range(80):
        module(x, n / 7)
    assert module.calls == 80 and len(module.forward.settled) == 1 and not module.forward.in_use


def test_only_sizes_decide_for_others(refusing: ReferenceEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a flag chooses may be another computation."""

    def either(x: torch.Tensor, how: str) -> torch.Tensor:
        return x * torch.sigmoid(x) if how == "a" else x.sort(-1).values

    asked = measured(0.3, monkeypatch)
    fast = ak.autokernel(either)
    for n in range(8, 12):
        fast(torch.randn(4, n), "a")
    assert len(asked) == 4
    fast(torch.randn(4, 12), "b")
    assert len(asked) == 5
    for n in range(100):  # not without end
        fast(torch.randn(4, 12), f"c{n}")
    assert len(asked) <= 40


# ---- training calls that change their module ----
class Normed(torch.nn.Module):
    """Changes buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.norm(x))


class Keeps(Normed):
    """Sets attributes: a number, a tensor, one that was not there."""

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.seen = 0, None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        with torch.no_grad():
            self.seen = self.mean(x)
        self.late = x.detach()
        return torch.relu(self.norm(x)) * 2

    def mean(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(0)


def trained(module: torch.nn.Module, xs: list[torch.Tensor]) -> list[Any]:
    out: list[Any] = [torch.autograd.grad(module(x).square().sum(), list(module.parameters())) for x in xs]
    return [*out, dict(module.named_buffers())]


def test_without_gradients_it_is_timed_in_use(refusing: ReferenceEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = measured(0.3, monkeypatch)
    module = ak.autokernel(Normed())
    with torch.no_grad():
        module(torch.randn(4, 8))
    assert not asked and module.forward.in_use and int(module.norm.num_batches_tracked) == 1


@pytest.mark.parametrize("kind", [Normed, Keeps])
@pytest.mark.parametrize("speed", [0.5, 2.0])
def test_a_training_call_that_changes_its_module_is_timed_and_undone(
    kind: type[Normed], speed: float, refusing: ReferenceEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, plain = measured(speed, monkeypatch), kind()
    fast, xs = ak.autokernel(copy.deepcopy(plain)), [torch.randn(4, 8) for _ in range(3)]
    counted(fast.forward, monkeypatch)
    torch.testing.assert_close(trained(fast, xs), trained(plain, xs), rtol=0, atol=0)
    assert asked == [{"compiled", "plain"}] and list(fast.forward.settled.values()) == [speed < 1]
    if kind is Keeps:
        assert fast.calls == 3 and torch.equal(fast.seen, plain.seen) and torch.equal(fast.late, xs[-1])


def test_what_a_trial_changes_is_put_back_though_it_fails(refusing: ReferenceEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(contenders: dict[str, Callable[[], Any]]) -> Any:
        for call in contenders.values():
            call()
        raise RuntimeError("in the middle")

    monkeypatch.setattr(trial, "_samples", fails)
    plain = Keeps()
    fast, xs = ak.autokernel(copy.deepcopy(plain)), [torch.randn(4, 8)]
    counted(fast.forward, monkeypatch)
    torch.testing.assert_close(trained(fast, xs), trained(plain, xs), rtol=0, atol=0)
    assert fast.calls == 1


def test_who_saved_a_buffer_before_a_trial_may_go_back(refusing: ReferenceEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    measured(0.5, monkeypatch)
    module = Normed()
    fast, w = ak.autokernel(module), torch.ones(8, requires_grad=True)
    before = (w * module.norm.running_mean).sum(), fast.forward._plain(torch.randn(4, 8)).sum()
    versions = [b._version for b in module.buffers()]
    found = trial.compiling_pays(Normed.forward, (torch.randn(4, 8),), module, fast.forward._plain, config.resolve({}))
    assert found is False and [b._version for b in module.buffers()] == versions
    before[1].backward()


def test_what_cannot_be_put_back_is_not_made_again() -> None:
    class Set(Keeps):
        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, value)

    class Property(Keeps):
        @property
        def late(self) -> Any: ...

        @late.setter
        def late(self, value: Any) -> None: ...

    class Parameter(Normed):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                self.norm.weight.mul_(2)
            return self.norm(x)

    class Input(Normed):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.norm(x.mul_(2))

    class Other(Normed):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            other = self.norm
            other.eps = 1e-3
            return self.norm(x)

    class Asks(Normed):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.norm(x) if torch.is_grad_enabled() else x

    class Grows(Normed):
        def __init__(self) -> None:
            super().__init__()
            self.all: list[Any] = []

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.all.append(x)
            return self.norm(x)

    x = torch.randn(4, 8)
    for kind in (Set, Property, Parameter, Input, Other, Asks, Grows):
        module = kind()
        before = dict(module.__dict__)
        assert trial.repeatable(kind.forward, (x,), module, True) is None, kind
        assert module.__dict__ == before, kind
    for kind in (Normed, Keeps):
        module = kind()
        before = dict(module.__dict__)
        assert trial.repeatable(kind.forward, (x,), module) is None
        found = trial.repeatable(kind.forward, (x,), module, True)
        assert found is not None and found.changed is module and len(found.buffers) == 3
        assert module.__dict__ == before
    module = Normed()
    with torch.inference_mode():
        module.norm.running_mean = torch.zeros(8)
    assert trial.repeatable(Normed.forward, (x,), module, True) is None


class Caches(Normed):
    """Makes a container, and adds to it."""

    def __init__(self) -> None:
        super().__init__()
        self.cache: Any = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.cache is None:
            self.cache = {}
        if len(x) not in self.cache:
            self.cache[len(x)] = x.detach().sum()
        return self.norm(x) * self.cache[len(x)]


def test_containers_that_are_kept_are_left_alone(refusing: ReferenceEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    measured(0.5, monkeypatch)
    plain = Caches()
    fast, xs = ak.autokernel(copy.deepcopy(plain)), [torch.randn(n, 8) for n in (4, 5, 4, 6)]
    counted(fast.forward, monkeypatch)
    torch.testing.assert_close(trained(fast, xs), trained(plain, xs), rtol=0, atol=0)
    assert fast.cache.keys() == plain.cache.keys() and all(type(v) is torch.Tensor for v in fast.cache.values())


class Remembers(torch.nn.Module):
    """Its state hangs on the graph of the calls before."""

    def __init__(self) -> None:
        super().__init__()
        self.lin = torch.nn.Linear(8, 8)
        self.register_buffer("state", torch.zeros(4, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.state = torch.tanh(self.lin(x)) + 0.9 * self.state * torch.sigmoid(self.state)
        return self.state


def test_a_trial_does_not_go_back_through_what_a_module_remembers(refusing: ReferenceEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    measured(0.5, monkeypatch)
    plain, found = Remembers(), []
    for module in (plain, ak.autokernel(copy.deepcopy(plain))):
        if module is not plain:
            counted(module.forward, monkeypatch)
        x, other = torch.ones(4, 8), torch.ones(4, 8, requires_grad=True)
        for _ in range(2):
            module.state = module.state.detach()
            (module(x) + module(other) + module(x)).sum().backward()
        found.append([p.grad for p in module.parameters()] + [other.grad])
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("kind", [Normed, Keeps, Grows])
def test_checkpoints_see_the_same_operations_again(kind: type, refusing: ReferenceEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.utils.checkpoint import checkpoint

    measured(2.0, monkeypatch)
    plain, found = kind(), []
    for module in (plain, ak.autokernel(copy.deepcopy(plain))):
        module.zero_grad()
        for k in range(4):
            x = torch.linspace(-1, 2, 32).view(4, 8) + k
            checkpoint(module, x, use_reentrant=False).square().sum().backward()
            module(x).square().sum().backward()
        found.append([p.grad for p in module.parameters()])
    torch.testing.assert_close(*found)


def test_trials_of_other_threads_are_waited_for(refusing: ReferenceEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a module is not as its users know it nobody else looks at it."""
    within, go_on, order = threading.Event(), threading.Event(), []
    fast = ak.autokernel(Keeps())

    def samples(contenders: dict[str, Callable[[], Any]]) -> Any:
        for call in contenders.values():
            call()
        within.set()
        go_on.wait(10)
        order.append("trial over")
        return lambda one, other: Ratio(0.5)

    monkeypatch.setattr(trial, "_samples", samples)
    counted(fast.forward, monkeypatch)

    def other() -> None:
        within.wait(10)
        fast(torch.randn(5, 8)).sum().backward()
        order.append("other call")

    threads = [threading.Thread(target=lambda: fast(torch.randn(4, 8)).sum().backward()), threading.Thread(target=other)]
    for t in threads:
        t.start()
    within.wait(10)
    time.sleep(0.2)
    assert order == []
    go_on.set()
    for t in threads:
        t.join(30)
    assert order[0] == "trial over" and "other call" in order
    assert fast.calls == 2 and int(fast.norm.num_batches_tracked) == 2


def test_a_call_that_waits_for_its_own_threads_goes_on(refusing: ReferenceEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread's trial would have to wait for this one's, which waits for that thread."""
    monkeypatch.setattr(trial, "_LONGEST_TRIAL", 0.2)
    inner = ak.autokernel(Keeps())

    class Spawns(Grows):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.seen.append(1)
            found: list[torch.Tensor] = []
            t = threading.Thread(target=lambda: found.append(inner(x)))
            t.start()
            t.join(20)
            return found[0] * self.weight

    measured(0.5, monkeypatch)
    counted(inner.forward, monkeypatch)
    outer = ak.autokernel(Spawns())
    counted(outer.forward, monkeypatch)
    outer(torch.randn(4, 8)).sum().backward()
    assert inner.calls == 1 and len(outer.seen) == 1


def test_a_view_without_a_way_back_is_not_timed(clock: list[float]) -> None:
    def stale(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        h = x * 2
        a, _b = h.chunk(2)
        with torch.no_grad():
            h.clamp_(-1, 1)
        return h, a

    found = trial.InUse({"one": stale, "other": stale}, recorded=True)
    for _ in range(8):
        h, _a = found(torch.ones(4, requires_grad=True))
        h.sum().backward()


def test_gradients_of_gradients_settle_for_the_call_as_it_is(clock: list[float]) -> None:
    made: list[str] = []

    def compiled(x: torch.Tensor) -> torch.Tensor:
        made.append("compiled")
        return x.exp()

    found = trial.InUse({"compiled": compiled, "plain": torch.exp}, recorded=True)
    x = torch.ones(3, requires_grad=True)
    (g,) = torch.autograd.grad(found(x).sum(), x, create_graph=True)
    g.sum().backward()
    assert found.fastest == "plain" and not made


def test_a_gradient_penalty_of_a_call_that_is_timed_in_use(refusing: ReferenceEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    module, compiled = ak.autokernel(Grows()), []
    monkeypatch.setattr(module.forward, "_otherwise", lambda *args: compiled.append(1))
    for _ in range(3):
        x = torch.randn(4, 8, requires_grad=True)
        (g,) = torch.autograd.grad(module(x).square().sum(), x, create_graph=True)
        g.square().sum().backward()
    assert not compiled and list(module.forward.settled.values()) == [True]


def test_odd_containers_are_some_kind(refusing: ReferenceEngine) -> None:
    fast, x, within = ak.autokernel(lambda x, extra: x * 2), torch.randn(4), []
    within.append(within)
    themselves: dict[str, Any] = {}
    themselves["me"] = themselves
    nested = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])
    for extra in (within, themselves, [nested], [[1.0] * 100] * 100):
        for _ in range(2):
            assert torch.equal(fast(x, extra), x * 2)


def test_methods_of_base_classes_are_read_too() -> None:
    class Derived(Grows):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.tanh(super().forward(x))

    class Called(torch.nn.Linear):
        def __call__(self, x: torch.Tensor) -> torch.Tensor:
            return super().__call__(x)

    class Holds(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part = Called(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.part(x)

    class Fine(Normed):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.tanh(super().forward(x))

    assert "may change" in str(purity.watch(Derived.forward, Derived()).reason)
    assert "to be called" in str(purity.watch(Holds.forward, Holds()).reason)
    assert purity.watch(Fine.forward, Fine()).reason is None


def test_lazy_modules(refusing: ReferenceEngine) -> None:
    fast = ak.autokernel(torch.nn.Sequential(torch.nn.LazyLinear(8), torch.nn.ReLU()))
    for _ in range(3):
        assert fast(torch.randn(4, 5)).shape == (4, 8)
