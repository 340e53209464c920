"""The stopwatch on a clock that the test moves: what is measured, what it is compared with, and what is refused.

No test asks how fast this machine is.
"""

from __future__ import annotations

from typing import Any

import pytest

from torch_autokernel.core.types import Timing
from torch_autokernel.verify import timing
from torch_autokernel.verify.timing import Suspect, evaluate, measure, relative_error


class Clock:
    """Stands in for the module `time`. `drift` makes everything slower as time goes by."""

    def __init__(self, drift: float = 0.0) -> None:
        self.now = 1e9
        self.drift = drift

    def run(self, ns: float) -> None:
        self.now += ns * (1 + self.drift * (self.now - 1e9) / 1e9)

    def perf_counter_ns(self) -> int:
        return int(self.now)

    def monotonic(self) -> float:
        return self.now / 1e9

    def sleep(self, seconds: float) -> None:
        self.now += seconds * 1e9


class FakePeer:
    """Contenders that take as long as they are told. `clock_factor` is how fast the peer's own clock runs."""

    def __init__(self, clock: Clock, ns: dict[str, float], clock_factor: float = 1.0) -> None:
        self.clock, self.ns, self.clock_factor = clock, ns, clock_factor
        self.runs: list[str] = []
        self.late = self.switched = self.slow_trips = 0
        self.values: dict[str, list[list[float]]] = {}
        self.more: dict[str, int] = {}

    def ask(self, message: dict[str, Any], timeout: float) -> dict[str, Any]:
        self.clock.now += 50_000
        self.slow_trips = max(0, self.slow_trips - 1)
        self.clock.now += 20e6 if self.slow_trips else 0
        if message["do"] != "run":
            return {"set": 1, "values": self.values[message["name"]]} if message["do"] == "glance" else {}
        self.runs.append(message["name"])
        before = self.clock.now
        self.clock.run(message["calls"] * self.ns[message["name"]])
        spent = self.clock.now - before
        if self.late:
            self.late -= 1
            self.clock.now += 5e6
        self.switched = max(0, self.switched - 1)
        return {"ns": spent * self.clock_factor, "switches": self.switched, **self.more}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(timing, "time", made)
    return made


def race(clock: Clock, kernel_ns: float, *, seconds: float = 1e6, floor: float = 0.0, **baselines: float) -> Timing | str:
    ours, theirs = FakePeer(clock, {"k0": kernel_ns}), FakePeer(clock, baselines)
    runners = {"k0": ours, **dict.fromkeys(baselines, theirs)}
    measured = measure(runners, clock.monotonic() + seconds, seed=3)  # type: ignore[arg-type]
    return measured if isinstance(measured, str) else evaluate("k0", measured, floor)


def timed(result: Timing | str) -> Timing:
    assert isinstance(result, Timing), result
    return result


def test_the_ratio_is_against_the_best_baseline(clock: Clock) -> None:
    found = timed(race(clock, 10_000, eager=15_000, inductor=20_000))
    assert found.baseline == "eager" and found.speedup == pytest.approx(1.5, rel=0.02) and found.low > 1
    found = timed(race(clock, 10_000, eager=20_000, inductor=12_000))
    assert found.baseline == "inductor" and found.speedup == pytest.approx(1.2, rel=0.02)


def test_a_sleeping_kernel_is_slower(clock: Clock) -> None:
    found = timed(race(clock, 10_000_000, eager=20_000, inductor=15_000))
    assert found.high < 0.01


def test_drift_of_the_machine_cancels(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(drift=2.0)
    monkeypatch.setattr(timing, "time", clock)
    found = timed(race(clock, 10_000, eager=15_000, inductor=20_000))
    assert found.samples_ns[-1] > 1.5 * found.samples_ns[0]
    assert found.speedup == pytest.approx(1.5, rel=0.1) and found.low > 1.2


def test_a_hopeless_baseline_sits_out_but_is_told(clock: Clock) -> None:
    found = timed(race(clock, 10_000, eager=100_000, inductor=15_000))
    assert found.others["eager"] == pytest.approx(100_000, rel=0.05) and found.baseline == "inductor"
    assert set(found.others) == {"eager", "inductor", "kernel"}


def test_without_inductor_eager_is_the_baseline(clock: Clock) -> None:
    assert timed(race(clock, 10_000, eager=100_000)).baseline == "eager"


def test_a_kernel_makes_up_for_the_fusion_that_it_prevents(clock: Clock) -> None:
    found = timed(race(clock, 10_000, eager=30_000, inductor=20_000, edge=15_000))
    assert found.baseline == "inductor fused across the edge"
    assert found.speedup == pytest.approx(20 / 25, rel=0.02) and found.high < 1
    assert found.samples_ns[0] == pytest.approx(25_000, rel=0.02)


def test_fusion_across_the_edge_is_inductors_alone(clock: Clock) -> None:
    found = timed(race(clock, 10_000, eager=15_000, inductor=200_000, edge=15_000))
    assert found.baseline == "eager" and found.speedup == pytest.approx(1.5, rel=0.02)


def test_more_rounds_only_while_the_interval_is_wide(clock: Clock) -> None:
    assert len(timed(race(clock, 10_000, eager=15_000, inductor=20_000)).samples_ns) == timing.LEAST_ROUNDS


def test_the_budget_bounds_the_rounds(clock: Clock) -> None:
    found = timed(race(clock, 50e6, eager=50e6, inductor=50e6, seconds=2.5))
    assert timing.FEWEST_ROUNDS <= len(found.samples_ns) < timing.LEAST_ROUNDS


def test_too_small_a_budget_is_a_reason(clock: Clock) -> None:
    result = race(clock, 1e9, eager=1e9, inductor=1e9, seconds=10)
    assert isinstance(result, str) and not isinstance(result, Suspect) and "8 are needed" in result


def test_faster_than_possible_is_suspect(clock: Clock) -> None:
    result = race(clock, 1_000, eager=15_000, inductor=20_000, floor=2_000)
    assert isinstance(result, Suspect) and result.startswith("faster than possible: 1000 ns a call")


@pytest.mark.parametrize("factor", [0.5, 1.5])
def test_a_peers_clock_that_disagrees_is_no_timing(clock: Clock, factor: float) -> None:
    ours, theirs = FakePeer(clock, {"k0": 10_000.0}, factor), FakePeer(clock, {"eager": 15_000.0})
    measured = measure({"k0": ours, "eager": theirs}, clock.monotonic() + 1e6)  # type: ignore[dict-item]
    assert not isinstance(measured, str)
    result = evaluate("k0", measured, 0.0)
    assert isinstance(result, str) and "clocks disagree on k0" in result


def test_a_block_that_was_noticed_late_is_taken_again(clock: Clock) -> None:
    peer = FakePeer(clock, {"k0": 10_000.0})
    peer.late = 1
    block = timing._block(peer, "k0", 600, 50_000)  # type: ignore[arg-type]
    assert peer.runs == ["k0", "k0"] and block.outer == pytest.approx(block.inner, rel=0.01) and not block.disturbed


def test_a_block_that_lost_its_core_is_taken_again_but_not_for_ever(clock: Clock) -> None:
    peer = FakePeer(clock, {"k0": 10_000.0})
    peer.switched = 3
    assert not timing._block(peer, "k0", 600, 50_000).disturbed and len(peer.runs) == 3  # type: ignore[arg-type]
    peer.switched = 100
    assert timing._block(peer, "k0", 600, 50_000).disturbed and len(peer.runs) == 3 + timing.TRIES  # type: ignore[arg-type]


def test_a_long_block_may_lose_its_core_for_as_small_a_share(clock: Clock) -> None:
    peer = FakePeer(clock, {"k0": 1e8})
    peer.switched = 2  # the block itself sees one
    assert not timing._block(peer, "k0", 1, 50_000).disturbed and len(peer.runs) == 1  # type: ignore[arg-type]
    peer.switched = 3
    assert not timing._block(peer, "k0", 1, 50_000).disturbed and len(peer.runs) == 3  # type: ignore[arg-type]


def test_what_a_thread_lost_decides_where_it_is_known(clock: Clock) -> None:
    peer = FakePeer(clock, {"k0": 10_000.0})
    for lost, disturbed in ((50_000, False), (80_000, True)):  # of 6 ms
        peer.switched, peer.more = 100, {"lost": lost}
        assert timing._block(peer, "k0", 600, 50_000).disturbed is disturbed, lost  # type: ignore[arg-type]
    peer.switched, peer.more = 2, {"lost": int(5e7)}  # one long interruption of a second
    assert timing._block(peer, "k0", 100_000, 50_000).disturbed  # type: ignore[arg-type]


def test_slow_answers_at_the_start_are_not_subtracted_later(clock: Clock) -> None:
    ours, theirs = FakePeer(clock, {"k0": 10_000.0}), FakePeer(clock, {"eager": 15_000.0})
    ours.slow_trips = theirs.slow_trips = 20
    measured = measure({"k0": ours, "eager": theirs}, clock.monotonic() + 1e6)  # type: ignore[dict-item]
    assert not isinstance(measured, str)
    assert timed(evaluate("k0", measured, 0.0)).speedup == pytest.approx(1.5, rel=0.02)


def test_every_contender_runs_once_a_round(clock: Clock) -> None:
    peer = FakePeer(clock, {"k0": 10_000.0, "eager": 11_000.0, "inductor": 12_000.0})
    measured = measure(dict.fromkeys(peer.ns, peer), clock.monotonic() + 1e6, seed=5)  # type: ignore[arg-type]
    assert not isinstance(measured, str)
    count = len(measured.samples["k0"])
    rounds = [tuple(peer.runs[i : i + 3]) for i in range(len(peer.runs) - 3 * count, len(peer.runs), 3)]
    assert all(sorted(r) == ["eager", "inductor", "k0"] for r in rounds) and len(set(rounds)) > 1


def test_wrong_outputs_of_timed_calls_are_suspect(clock: Clock) -> None:
    ours, theirs = FakePeer(clock, {}), FakePeer(clock, {})
    ours.values["k0"], theirs.values["eager"] = [[1.0, 2.0], [0.0, 0.0]], [[1.0, 2.0], [3.0, 4.0]]
    reason = timing._glance(ours, "k0", theirs, 1)  # type: ignore[arg-type]
    assert isinstance(reason, Suspect) and reason == "output 1 of a timed call is wrong: relative error 1 against eager"
    ours.values["k0"] = [[1.0, 2.0], [3.001, 3.999]]
    assert timing._glance(ours, "k0", theirs, 1) is None  # type: ignore[arg-type]


def test_between_rounds_contents_change_and_outputs_are_looked_at(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, dict[str, Any]]] = []

    class Told(FakePeer):
        def ask(self, message: dict[str, Any], timeout: float) -> dict[str, Any]:
            asked.append((min(self.ns), message))
            return super().ask(message, timeout)

    ours, theirs = Told(clock, {"k0": 1e5}), Told(clock, {"eager": 2e5})
    ours.values["k0"] = theirs.values["eager"] = [[1.0]]
    audit = timing._Audit(ours, ["k0"], theirs, 3)  # type: ignore[arg-type]
    measured = measure({"k0": ours, "eager": theirs}, clock.monotonic() + 1e6, audit.between)  # type: ignore[dict-item]
    assert isinstance(measured, timing._Measured)
    fresh = [(who, m["set"], m["seed"]) for who, m in asked if m["do"] == "refresh"]
    rounds = len(measured.samples["k0"])
    assert [f[1:] for f in fresh if f[0] == "k0"] == [f[1:] for f in fresh if f[0] == "eager"] and len(fresh) == 2 * (rounds - 1)
    assert {f[1] for f in fresh} <= {0, 1, 2} and len({f[2] for f in fresh}) == rounds - 1
    assert not audit.wrong
    ours.values["k0"] = [[9.0]]
    monkeypatch.setattr(timing, "GLANCES", 1.0)
    audit.between()
    ours.values["k0"] = [[1.0]]
    audit.all()
    assert isinstance(audit.wrong["k0"], Suspect), "once wrong, wrong"


@pytest.mark.parametrize(("have", "want", "error"), [
    ([], [], 0.0),
    ([0.0, 0.0], [0.0, 0.0], 0.0),
    ([1.0], [0.0], float("inf")),
    ([3.0, 4.0], [0.0, 5.0], (10 / 25) ** 0.5),
    ([1.0], [1.0, 1.0], float("inf")),
    ([float("nan")] * 2, [float("nan")] * 2, 0.0),
    ([float("nan"), 1.0], [1.0, 1.0], float("inf")),
])  # fmt: skip
def test_relative_error(have: list[float], want: list[float], error: float) -> None:
    assert relative_error(have, want) == pytest.approx(error)


def test_a_disturbed_measurement_is_made_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever came out of the first; the calmer of the two counts."""
    shares = iter([0.6, 0.05, 0.4, 0.5, 0.1])
    made: list[timing._Measured] = []

    def measure(runners: Any, deadline: float, between: Any) -> timing._Measured:
        made.append(timing._Measured(disturbed=next(shares)))
        return made[-1]

    clock = Clock()
    monkeypatch.setattr(timing, "time", clock)
    monkeypatch.setattr(timing, "measure", measure)
    assert timing.calm({}, 1e9) is made[1]
    assert timing.calm({}, 1e9) is made[2] and len(made) == 4
    assert timing.calm({}, 1e9) is made[4] and len(made) == 5
    shares = iter([0.9])
    assert timing.calm({}, clock.monotonic()) is made[5], "there was no time for a second one"


def test_baselines_whose_clocks_disagree_are_measured_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """A candidate's clocks are its own matter."""
    made: list[timing._Measured] = []
    outer = {"eager": [100.0] * 8, "k0": [100.0] * 8}
    inner = iter([{"eager": [60.0] * 8, "k0": [99.0] * 8}, {"eager": [99.0] * 8, "k0": [99.0] * 8}, {"eager": [99.0] * 8, "k0": [60.0] * 8}])

    def measure(runners: Any, deadline: float, between: Any) -> timing._Measured:
        made.append(timing._Measured(samples=outer, inner=next(inner)))
        return made[-1]

    monkeypatch.setattr(timing, "time", Clock())
    monkeypatch.setattr(timing, "measure", measure)
    assert timing.calm({}, 1e9) is made[1] and len(made) == 2
    assert timing.calm({}, 1e9) is made[2] and len(made) == 3
