"""The plainest strategy: candidates do not build on each other; the proposer is only told what was there before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch_autokernel.core.types import Arch, Assignment, Attempt, Region

ROUNDS = 2  # of proposing; a second one only where the first came close or nothing was right


@dataclass(frozen=True, slots=True)
class State:
    """Attempts in the order in which they were judged."""

    attempts: tuple[Attempt, ...] = ()
    rounds: int = 0
    asked: int = 0


class BestOfN:
    """All attempts so far are the parents, so that a proposer does not repeat itself. Authors translate, each time anew."""

    name = "best_of_n"

    def init(self, region: Region, arch: Arch) -> State:
        return State()

    def ask(self, state: State, n: int) -> tuple[State, Sequence[Attempt]]:
        return state, state.attempts

    def tell(self, state: State, attempts: Sequence[Attempt]) -> State:
        return replace(state, attempts=state.attempts + tuple(attempts), rounds=state.rounds + 1)

    def assign(self, state: State, n: int) -> tuple[State, Sequence[Assignment]]:
        return replace(state, asked=state.asked + n), [Assignment("translate", state.asked + i) for i in range(n)]

    def stop(self, state: State, close: bool) -> str | None:
        if any(_won(a) for a in state.attempts):
            return "a faster kernel was found"
        if state.rounds >= ROUNDS:
            return f"{state.rounds} rounds"
        return None if close or not state.rounds else "the last round did not come near"


def _won(attempt: Attempt) -> bool:
    verdict = attempt.verdict
    return verdict is not None and verdict.accepted and verdict.timing is not None and verdict.timing.low > 1
