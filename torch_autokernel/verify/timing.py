"""How much faster a kernel is than the best of eager and Inductor, as an interval.

Every contender is called as a compiled graph would call it: inputs given, outputs allocated by everybody, the kernel through
an operator behind torch's dispatcher. Candidates and baselines live in two processes with the same settings; one waits while
the other runs. The clock is here, outside of both; the peers' own clocks must agree with it. Sets of input buffers take
turns; between rounds their contents change, and outputs of timed calls are looked at. Where Inductor could have fused across
the region's edge, the kernel has to make up for what that saves: against Inductor, its time counts plus that of one write
and one read of the tensors there.
"""

from __future__ import annotations

import logging
import math
import os
import random
import shutil
import signal
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from torch_autokernel.core import events
from torch_autokernel.core.errors import WorkerError
from torch_autokernel.core.types import Arch, Artifact, Region, Timing
from torch_autokernel.verify.floor import floor_ns
from torch_autokernel.verify.statistics import Ratio, calls_for, paired_ratio, weaker
from torch_autokernel.verify.zygote import Peer, Zygote

log = logging.getLogger(__name__)

BLOCK_NS = 4e6  # a sample is a block of calls of at least this length; a round trip of a message is about 0.05 ms
SETTLE_SECONDS = 0.001  # before a block, so that the other peer's idle threads have gone to sleep
WAKE_NS = 500_000
LATE = 0.05  # a block is disturbed where the outer clock shows this much more than the inner one
LOST = 0.01  # or where its one thread had no core for as large a share
SLICE_NS = 4e6  # or, where there are more, where others may have had a core for a share of `LATE`: each for so long
BUSY = 0.2  # share of disturbed blocks above which everything is measured once more
BUSY_PAUSE_SECONDS = 1.0
TRIES = 4  # of a block that other processes disturb
LEAST_ROUNDS, MOST_ROUNDS = 20, 80  # more than the least only while the interval is wide
NARROW = 0.01  # half-width of the log interval at which more rounds add nothing
CLEAR = 4.0  # so many half-widths away from 1, too
FEWEST_ROUNDS = 8  # with fewer there is no timing, only a reason
SITS_OUT = 1.6  # a baseline this much slower than the best in calibration is not measured further
CLOCK_TOLERANCE = 0.15  # relative disagreement of inner and outer clock
COLD_ROUNDS = 7
MOST_BALLAST = 96 << 20  # bytes that are written to empty the caches
GLANCES = 0.1  # share of the rounds after which a candidate's outputs are looked at; besides, after the last one
GLANCE_TOLERANCE = 0.1  # error of timed outputs relative to the baseline's root mean square; the judge does the fine work
SET_BYTES = 192 << 20  # all input sets together aim to stay below this


class Suspect(str):
    """Why there is no timing, where that speaks against the candidate."""

    __slots__ = ()


@dataclass
class _Baseline:
    """A region's baselines as they come to life in their peer."""

    peer: Peer
    seed: int
    sets: int
    reply: dict[str, Any] | None = None


@dataclass
class _Measured:
    """Samples by contender, and what the peers' own clocks said."""

    samples: dict[str, list[float]] = field(default_factory=dict)
    inner: dict[str, list[float]] = field(default_factory=dict)
    medians: dict[str, float] = field(default_factory=dict)  # of all, those included that sat out
    disturbed: float = 0.0  # share of the samples
    cold: dict[str, float] = field(default_factory=dict)  # median by the peers' clocks, nothing in the caches


class Stopwatch:
    """Times artifacts of regions. One zygote for its life; a peer for each region's baselines, and for each call's candidates.

    `folder` keeps Inductor's compiled baselines, so that a region timed again costs no compilation."""

    def __init__(self, arch: Arch, threads: int | None = None, seconds: float = 10.0, folder: Path | None = None) -> None:
        self.arch = arch
        self.threads = threads or _threads()
        self.seconds = seconds
        self._temporary = folder is None
        self._folder = Path(folder or tempfile.mkdtemp(prefix="autokernel-timing-"))
        self._zygote: Zygote | None = None
        self._baselines: dict[str, _Baseline] = {}

    # ------------------------------------------------------------------ baselines, in the background
    def prepare(self, region: Region) -> None:
        """Start building the region's baselines in their peer; `time` waits for them. Returns at once."""
        name = _identity(region)
        if name in self._baselines:
            return
        zygote = self._start()
        base = _Baseline(zygote.fork(), int.from_bytes(os.urandom(6), "little"), _set_count(region))
        base.peer.tell({"do": "baselines", **self._order(region, base)})
        self._baselines[name] = base

    def forget(self, region: Region) -> None:
        """End the region's baselines."""
        if base := self._baselines.pop(_identity(region), None):
            with suppress(WorkerError):
                if self._zygote:
                    self._zygote.notice()
            base.peer.close()

    def _start(self) -> Zygote:
        if self._zygote is None:
            self._zygote = Zygote(self._folder, self._folder / "inductor")
            self._zygote.warm()
        return self._zygote

    def _order(self, region: Region, base: _Baseline) -> dict[str, Any]:
        return {"region": region.to_json(), "seed": base.seed, "sets": base.sets, "threads": self.threads}

    # ------------------------------------------------------------------ timing
    def time(
        self, region: Region, artifacts: Sequence[Artifact], budget_seconds: float | None = None, fresh: bool = False
    ) -> list[Timing | str]:
        """A timing for each artifact, in order, or the reason why there is none (`Suspect` where the candidate is to blame).
        Waiting for the baselines counts. `fresh` takes new processes and inputs for both sides: where the memory of a process
        lies can be worth a few per cent."""
        deadline = time.monotonic() + (self.seconds if budget_seconds is None else budget_seconds)
        if fresh:
            self.forget(region)
        try:
            self.prepare(region)
            base = self._baselines[_identity(region)]
            self._await(base, deadline)
        except (WorkerError, OSError) as error:
            self.forget(region)
            return [f"the baselines could not be built: {error}"] * len(artifacts)
        try:
            return self._race(region, artifacts, base, deadline)
        except (WorkerError, OSError) as error:
            self.forget(region)
            return [f"the timing broke off: {error}"] * len(artifacts)

    def _await(self, base: _Baseline, deadline: float) -> None:
        assert self._zygote is not None
        self._zygote.settle(base.peer, max(0.0, deadline - time.monotonic()))
        if base.reply is None:
            base.reply = base.peer.hear(max(0.0, deadline - time.monotonic()))
            events.emit("timing.baselines", seconds=base.reply["seconds"], problems=base.reply["problems"])

    def _race(
        self, region: Region, artifacts: Sequence[Artifact], base: _Baseline, deadline: float
    ) -> list[Timing | str]:
        assert self._zygote is not None and base.reply is not None
        names = [f"k{i}" for i in range(len(artifacts))]
        peer = self._zygote.fork()
        others = [b.peer for b in self._baselines.values() if b is not base]
        try:
            self._zygote.settle(peer, max(1.0, deadline - time.monotonic()))
            for other in others:
                other.signal(signal.SIGSTOP)
            order = {"do": "candidates", **self._order(region, base), "distribution": base.reply["distribution"]}
            artifacts_json = {n: a.to_json() for n, a in zip(names, artifacts, strict=True)}
            problems = peer.ask({**order, "artifacts": artifacts_json}, max(1.0, deadline - time.monotonic()))["problems"]
            runners = {n: peer for n in names if n not in problems}
            if not runners:
                return [problems[n] for n in names]
            runners |= dict.fromkeys(base.reply["names"], base.peer)
            audit = _Audit(peer, [n for n in names if n in runners], base.peer, base.sets)
            measured = calm(runners, deadline, audit.between)
            if isinstance(measured, _Measured):
                measured.cold = _cold(runners, list(measured.samples), self.arch, deadline)
            audit.all()
            return [problems.get(n) or audit.wrong.get(n) or self._timing(region, n, measured, base) for n in names]
        finally:
            peer.close()
            for other in others:
                other.signal(signal.SIGCONT)

    def _timing(self, region: Region, name: str, measured: _Measured | str, base: _Baseline) -> Timing | str:
        if isinstance(measured, str):
            return measured
        assert base.reply is not None
        note = f"{self.threads} threads, {base.sets} input sets, {base.reply['distribution']} inputs, seed {base.seed}"
        note += "; direct calls against torch.compile" if region.direct else ""
        for broken, why in base.reply["problems"].items():
            note += f"; Inductor could not compile {broken} ({why})"
        return evaluate(name, measured, floor_ns(region, self.arch, self.threads), note, region.sizes)

    def close(self) -> None:
        """End every process."""
        if self._zygote:
            with suppress(WorkerError):
                self._zygote.notice()
        for base in self._baselines.values():
            base.peer.signal(signal.SIGCONT)
            base.peer.close()
        self._baselines.clear()
        if self._zygote:
            self._zygote.close()
            self._zygote = None
        if self._temporary:
            shutil.rmtree(self._folder, ignore_errors=True)


# ---------------------------------------------------------------------- measuring
class _Audit:
    """What happens between rounds, untimed: one set of inputs gets other contents, on both sides the same, and now and then the
    outputs of a timed call are looked at. `wrong` holds what was found, by candidate."""

    def __init__(self, peer: Peer, names: Sequence[str], base: Peer, sets: int) -> None:
        self.peer, self.names, self.base, self.sets = peer, names, base, sets
        self.wrong: dict[str, str] = {}
        self._random = random.Random(os.urandom(8))

    def between(self) -> None:
        for name in self.names:
            if self._random.random() < GLANCES:
                self._look(name)
        fresh = {"do": "refresh", "set": self._random.randrange(self.sets), "seed": self._random.getrandbits(48)}
        for peer in (self.peer, self.base):
            peer.ask(fresh, 60.0)

    def all(self) -> None:
        """Look at every candidate's last timed call."""
        for name in self.names:
            self._look(name)

    def _look(self, name: str) -> None:
        if name not in self.wrong and (reason := _glance(self.peer, name, self.base, self._random.getrandbits(48))):
            self.wrong[name] = reason


Between = Callable[[], None]


def calm(runners: Mapping[str, Peer], deadline: float, between: Between | None = None) -> _Measured | str:
    """`measure`, once more after a pause where other processes disturbed it much, whatever came out; the calmer one counts."""
    first = measure(runners, deadline, between)
    if isinstance(first, str) or _unrest(first) <= BUSY or time.monotonic() + BUSY_PAUSE_SECONDS > deadline:
        return first
    time.sleep(BUSY_PAUSE_SECONDS)
    second = measure(runners, deadline, between)
    return first if isinstance(second, str) or _unrest(second) > _unrest(first) else second


def _unrest(measured: _Measured) -> float:
    """The share of blocks that were disturbed; all, where a baseline's clocks disagree, which is no candidate's doing."""
    off = any(_clocks_disagree(measured, n) for n in measured.samples if not n.startswith("k"))
    return 1.0 if off else measured.disturbed


def measure(
    runners: Mapping[str, Peer], deadline: float, between: Between | None = None, seed: int | None = None
) -> _Measured | str:
    """Samples of every contender in interleaved rounds, or why there are none. `between` is called after each round but the
    last."""
    trips = {id(p): _round_trip(p) for p in runners.values()}
    once = {name: _calibrate(peer, name, trips[id(peer)]) for name, peer in runners.items()}
    measured = _Measured(medians=dict(once))
    best = min((t for n, t in once.items() if n in ("eager", "inductor")), default=0.0)
    slow = {n for n in ("eager", "inductor") if n in once and once[n] > SITS_OUT * best}
    racing = [n for n in once if n not in slow or (n == "inductor" and "edge" in once)]
    calls = {n: calls_for(once[n], BLOCK_NS) for n in racing}
    round_seconds = sum(calls[n] * once[n] / 1e9 + SETTLE_SECONDS for n in racing)
    fits = int((deadline - time.monotonic()) / round_seconds)
    if fits < FEWEST_ROUNDS:
        return f"a round takes {round_seconds:.3g} s, so only {max(fits, 0)} fit into the budget; {FEWEST_ROUNDS} are needed"
    shuffler, disturbed = random.Random(seed), 0
    measured.samples, measured.inner = {n: [] for n in racing}, {n: [] for n in racing}
    for count in range(1, MOST_ROUNDS + 1):
        shuffler.shuffle(racing)
        began = time.monotonic()
        for name in racing:
            block = _block(runners[name], name, calls[name], trips[id(runners[name])])
            measured.samples[name].append(block.outer / calls[name])
            measured.inner[name].append(block.inner / calls[name])
            disturbed += block.disturbed
        left = deadline - time.monotonic()
        if time.monotonic() - began > left or (count >= LEAST_ROUNDS and _narrow(measured.samples)):
            break
        if between is not None and count < MOST_ROUNDS:
            between()
    measured.disturbed = disturbed / (count * len(racing))
    measured.medians |= {n: statistics.median(s) for n, s in measured.samples.items()}
    return measured


def _cold(runners: Mapping[str, Peer], names: Sequence[str], arch: Arch, deadline: float) -> dict[str, float]:
    """Median nanoseconds of single calls, each after other memory has filled the caches. For reports only: a single short call
    is timed by the peer's own clock."""
    count = min(MOST_BALLAST, 2 * max(arch.limits.get("l3_bytes", 0), arch.limits.get("l2_bytes", 0), 1 << 20))
    samples: dict[str, list[float]] = {n: [] for n in names if n != "edge"}
    for _ in range(COLD_ROUNDS):
        if time.monotonic() > deadline:
            break
        for name, found in samples.items():
            found.append(float(runners[name].ask({"do": "run", "name": name, "calls": 1, "cold": count}, 60.0)["ns"]))
    return {n: statistics.median(found) for n, found in samples.items() if found}


def _narrow(samples: Mapping[str, Sequence[float]]) -> bool:
    """Whether every candidate's interval is narrow, absolutely or for its distance from 1. Stopping as soon as an interval
    leaves 1 would favour whoever leads by chance; at `CLEAR` half-widths that is no matter."""
    bases = [n for n in ("eager", "inductor") if n in samples]
    for name in (n for n in samples if n.startswith("k")):
        for base in bases:
            found = paired_ratio(samples[name], samples[base])
            if not found.low or math.log(found.high / found.low) > 2 * max(NARROW, abs(math.log(found.median)) / CLEAR):
                return False
    return True


def _round_trip(peer: Peer) -> float:
    """Least nanoseconds of a message that asks for nothing: what is subtracted may be too little, never too much."""
    spent = []
    for _ in range(25):
        start = time.perf_counter_ns()
        peer.ask({"do": "nothing"}, 10.0)
        spent.append(time.perf_counter_ns() - start)
    return min(spent)


def _calibrate(peer: Peer, name: str, trip_ns: float) -> float:
    """Nanoseconds a call, roughly: blocks of growing length, the last one at least 1 ms long."""
    calls = 1
    while True:
        block = _block(peer, name, calls, trip_ns)
        if block.outer > 1e6 or calls >= 4096:
            return max(1.0, block.outer / calls)
        calls *= 4


class _Block(NamedTuple):
    """Nanoseconds by the clock here and by the peer's own; whether another process took a core away meanwhile."""

    outer: float
    inner: float
    disturbed: bool


def _block(peer: Peer, name: str, calls: int, trip_ns: float, tries: int = TRIES) -> _Block:
    """The first of some blocks that nobody disturbed, or else the shortest.

    Two threads that wait for each other are up to ten times slower while a third process runs, and which contender is hit
    is chance. The peer's threads are woken first, untimed: a core that slept takes a millisecond."""
    best: _Block | None = None
    for _ in range(tries):
        time.sleep(SETTLE_SECONDS)
        peer.ask({"do": "wake", "ns": WAKE_NS}, 60.0)
        start = time.perf_counter_ns()
        reply = peer.ask({"do": "run", "name": name, "calls": calls}, 60.0)
        outer, inner = max(1.0, time.perf_counter_ns() - start - trip_ns), float(reply["ns"])
        late = outer - inner > max(LATE * outer, 1.5 * trip_ns)
        taken = reply["lost"] > LOST * outer if "lost" in reply else reply["switches"] * SLICE_NS > LATE * outer
        block = _Block(outer, inner, late or taken)
        if best is None or not block.disturbed or block.outer < best.outer:
            best = block
        if not best.disturbed:
            break
    assert best is not None
    return best


# ---------------------------------------------------------------------- evaluating
def evaluate(
    name: str, measured: _Measured, floor: float, note: str = "", sizes: Mapping[str, int] | None = None
) -> Timing | str:
    """The timing of contender `name` from samples, or what is wrong with them."""
    for contender in (name, *(n for n in measured.samples if not n.startswith("k"))):
        if reason := _clocks_disagree(measured, contender):
            return reason
    samples, medians = measured.samples, measured.medians
    if statistics.median(samples[name]) < floor:
        return Suspect(f"faster than possible: {statistics.median(samples[name]):.0f} ns a call, where moving the data "
                       f"alone takes {floor:.0f} ns")  # fmt: skip
    baseline: str = min((n for n in ("eager", "inductor") if n in samples), key=lambda n: medians[n])
    found, ours, theirs = paired_ratio(samples[name], samples[baseline]), samples[name], samples[baseline]
    if "edge" in samples and "inductor" in samples:
        burdened = [k + e for k, e in zip(ours, samples["edge"], strict=True)]
        fused = paired_ratio(burdened, samples["inductor"])
        if fused.median < found.median:
            ours, theirs, baseline = burdened, samples["inductor"], "inductor fused across the edge"
        found = weaker(found, fused)
    method = (f"{len(ours)} interleaved rounds of blocks of {BLOCK_NS / 1e6:.0f} ms or one call, medians of paired ratios, "
              f"95% sign-test interval, {measured.disturbed:.0%} of the blocks disturbed, {note}")  # fmt: skip
    others = {n: t for n, t in medians.items() if not n.startswith("k")} | {"kernel": medians[name]}
    cold = {"kernel" if n == name else n: t for n, t in measured.cold.items() if n == name or not n.startswith("k")}
    others |= {f"{n}, cold caches": t for n, t in cold.items()}
    return _timing(ours, theirs, baseline, found, method, sizes or {}, others)


def _timing(
    ours: Sequence[float], theirs: Sequence[float], baseline: str, found: Ratio, method: str, sizes: Mapping[str, int],
    others: Mapping[str, float],
) -> Timing:  # fmt: skip
    return Timing(_brief(ours), _brief(theirs), baseline, found.median, found.low, found.high, method, dict(sizes),
                  {n: round(t, 1) for n, t in others.items()})  # fmt: skip


def _brief(samples: Sequence[float]) -> tuple[float, ...]:
    return tuple(round(x, 1) for x in samples)


def _clocks_disagree(measured: _Measured, name: str) -> str | None:
    """Looks at the rounds in which they agree best: being woken late spoils some rounds, a wrong clock all."""
    pairs = sorted(zip(measured.samples[name], measured.inner[name], strict=True), key=lambda p: abs(p[0] - p[1]) / p[0])
    outer, inner = pairs[len(pairs) // 4]
    if abs(outer - inner) > CLOCK_TOLERANCE * outer:
        return f"clocks disagree on {name}: {outer:.0f} ns a call from outside, {inner:.0f} ns by the process's own clock"
    return None


def _glance(peer: Peer, name: str, base: Peer, seed: int) -> str | None:
    """What is wrong with the outputs of the last timed call, or None: some elements against the eager baseline's."""
    secret = seed ^ 0x5EED
    ours = peer.ask({"do": "glance", "name": name, "seed": secret}, 60.0)
    theirs = base.ask({"do": "glance", "name": "eager", "seed": secret, "set": ours["set"]}, 60.0)
    for i, (have, want) in enumerate(zip(ours["values"], theirs["values"], strict=True)):
        if (error := relative_error(have, want)) > GLANCE_TOLERANCE:
            return Suspect(f"output {i} of a timed call is wrong: relative error {error:.3g} against eager")
    return None


def relative_error(have: Sequence[float], want: Sequence[float]) -> float:
    """Root mean square of the differences over that of `want`, over the places where both are finite; infinite where
    the counts or more than a tenth of the non-finite places differ."""
    if len(have) != len(want):
        return float("inf")
    finite = [(h, w) for h, w in zip(have, want, strict=True) if abs(h) < 1e300 and abs(w) < 1e300]
    odd = sum((abs(h) < 1e300) != (abs(w) < 1e300) for h, w in zip(have, want, strict=True))
    if odd > len(want) / 10:
        return float("inf")
    norm = sum(w * w for _h, w in finite)
    error = sum((h - w) ** 2 for h, w in finite)
    return (error / norm) ** 0.5 if norm else (0.0 if error == 0 else float("inf"))


# ---------------------------------------------------------------------- small
def _identity(region: Region) -> str:
    return f"{region.signature.digest} {sorted(region.sizes.items())} {region.edge_bytes} {region.direct}"


def _set_count(region: Region) -> int:
    size = sum(s.storage_elements(region.sizes) * s.itemsize for s in region.signature.inputs)
    return max(2, min(4, SET_BYTES // max(size, 1)))


def _threads() -> int:
    import torch

    return int(torch.get_num_threads())
