"""Evolution with islands and an archive of what is good in different ways.

Attempts belong to an island (children to that of their first parent). Of each island the best attempt is kept for each cell:
the approach that its author named, and its size in code (powers of two). Parents are drawn from the cells, the better ones more
often; every few generations from all islands. A generation mixes improving, combining two parents, doing it differently, and
repairing what was rejected. Everything follows from the seed and the attempts; there is no other state.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch_autokernel.core.types import Arch, Assignment, Attempt, Json, Region

ISLANDS = 2
MIGRATION = 4  # every so many generations parents come from all islands
ROUNDS = 12
PATIENCE = 4  # rounds without improvement
MOST_NOTES = 4
MOST_NOTE = 300
DIFFER, COMBINE, REPAIR = 0.15, 0.40, 0.50  # upper ends: the rest improves
APPROACHES = (
    "one pass over memory with everything fused", "vectorised along the contiguous dimension with remainder lanes",
    "parallel over rows, each row in cache between passes", "blocked so that a tile stays in L1",
    "several independent accumulators", "parallel over columns in stripes", "recompute instead of storing",
    "split long rows between threads and combine in a fixed order",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class State(Json):
    """`asked`: assignments given out; `improved`: the round in which the best one came."""

    seed: str
    attempts: tuple[Attempt, ...] = ()
    generation: int = 0
    asked: int = 0
    rounds: int = 0
    improved: int = 0


Fitness = tuple[int, float]


def fitness(attempt: Attempt) -> Fitness:
    """Greater is better: timed, accepted, ran, was rejected, did not run. Within a class the measured speed."""
    artifact, verdict = attempt.artifact, attempt.verdict
    if artifact is None or not artifact.ok:
        return 0, 0.0
    rough = artifact.facts.get("rough_ns")
    speed = -float(rough) if rough is not None else float("-inf")
    if verdict is None:
        return (2, speed) if rough is not None else (0, 0.0)
    if not verdict.accepted:
        return 1, speed
    return (4, verdict.timing.low) if verdict.timing is not None else (3, speed)


class Evolution:
    """Breeds from the best of each kind. `seed` makes two runs equal."""

    name = "evolution"

    def __init__(self, seed: int = 0, rounds: int = ROUNDS, patience: int = PATIENCE, islands: int = ISLANDS) -> None:
        self.seed, self.rounds, self.patience, self.islands = seed, rounds, patience, islands

    def init(self, region: Region, arch: Arch) -> State:
        return State(f"{self.seed} {region.signature.digest} {sorted(region.sizes.items())}")

    def ask(self, state: State, n: int) -> tuple[State, Sequence[Attempt]]:
        return state, state.attempts

    def tell(self, state: State, attempts: Sequence[Attempt]) -> State:
        before = max(map(fitness, state.attempts), default=(0, 0.0))
        after = max(map(fitness, attempts), default=(0, 0.0))
        rounds = state.rounds + 1
        improved = rounds if after > before else state.improved
        return replace(state, attempts=state.attempts + tuple(attempts), rounds=rounds, improved=improved)

    def stop(self, state: State, close: bool) -> str | None:
        if state.rounds >= self.rounds:
            return f"{state.rounds} rounds"
        if state.rounds - state.improved >= self.patience:
            return f"no improvement in {self.patience} rounds"
        return None

    def assign(self, state: State, n: int) -> tuple[State, Sequence[Assignment]]:
        rng = random.Random(f"{state.seed} {state.generation}")
        homes = islands(state.attempts, self.islands)
        everybody = state.generation % MIGRATION == MIGRATION - 1
        out = []
        for i in range(n):
            island = (state.generation + i) % self.islands
            here = [a for a in state.attempts if everybody or homes[a.candidate.id] == island]
            out.append(_assignment(rng, here, state.asked + i))
        return replace(state, generation=state.generation + 1, asked=state.asked + n), out


def islands(attempts: Sequence[Attempt], count: int) -> Mapping[str, int]:
    """The island of each attempt by its candidate's id."""
    homes: dict[str, int] = {}
    for a in attempts:
        parent = next((p for p in a.candidate.parents if p in homes), None)
        homes.setdefault(a.candidate.id, homes[parent] if parent else int(a.candidate.id[:8], 16) % count)
    return homes


def strategy_of(attempt: Attempt) -> str:
    return str(attempt.candidate.source.schedule.get("strategy") or attempt.candidate.proposer)


def elites(attempts: Sequence[Attempt]) -> list[Attempt]:
    """The best attempt of each cell among those that ran and were not rejected, best first."""
    cells: dict[tuple[str, int], Attempt] = {}
    for a in attempts:
        if fitness(a)[0] < 2:
            continue
        assert a.artifact is not None
        cell = strategy_of(a), int(a.artifact.facts.get("code_bytes", 0)).bit_length()
        if cell not in cells or fitness(a) > fitness(cells[cell]):
            cells[cell] = a
    return sorted(cells.values(), key=lambda a: (fitness(a), a.candidate.id), reverse=True)


def repairable(attempts: Sequence[Attempt]) -> list[Attempt]:
    """Kernels that were rejected or do not compile, latest first; not answers without a kernel, nor what has been corrected."""
    tried = {p for a in attempts for p in a.candidate.parents}
    return [
        a for a in reversed(attempts) if failure(a) and a.candidate.source.language != "none" and a.candidate.id not in tried
    ]


def failure(attempt: Attempt) -> str:
    """What was wrong with an attempt in one line, or nothing."""
    artifact, verdict = attempt.artifact, attempt.verdict
    if artifact is not None and not artifact.ok:
        lines = [" ".join(line.split()) for line in artifact.log.splitlines() if line.strip()]
        return next((line for line in lines if "error" in line.lower()), lines[0] if lines else "no reason was given")[
            :MOST_NOTE
        ]
    return verdict.why[:MOST_NOTE] if verdict is not None and not verdict.accepted else ""


def _assignment(rng: random.Random, attempts: Sequence[Attempt], sample: int) -> Assignment:
    good, broken = elites(attempts), repairable(attempts)
    notes = tuple(f"an earlier kernel failed: {text}" for text in _latest(attempts))
    dice, approach = rng.random(), APPROACHES[sample % len(APPROACHES)]
    if not good:
        if broken and dice < 0.5:
            return Assignment("repair", sample, "", (broken[0],), notes)
        return Assignment("translate", sample, approach, (), notes)
    first = _draw(rng, good)
    if dice < DIFFER:
        taken = tuple(dict.fromkeys(strategy_of(a) for a in good))
        return Assignment("differ", sample, approach, (first,), notes, taken[:8])
    if dice < COMBINE and len(good) > 1:
        second = _draw(rng, [a for a in good if a is not first])
        return Assignment("combine", sample, "", (first, second), notes)
    if COMBINE <= dice < REPAIR and broken:
        return Assignment("repair", sample, "", (broken[0],), notes)
    return Assignment("improve", sample, "", (first,), notes)


def _draw(rng: random.Random, ranked: Sequence[Attempt]) -> Attempt:
    """One of them, each half as often as the one before it."""
    return rng.choices(list(ranked), [2.0**-i for i in range(len(ranked))])[0]


def _latest(attempts: Sequence[Attempt]) -> list[str]:
    """What went wrong lately, each thing once."""
    return list(dict.fromkeys(text for a in reversed(attempts[-40:]) if (text := failure(a))))[:MOST_NOTES]
