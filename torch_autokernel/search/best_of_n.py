"""The plainest strategy: candidates do not build on each other; the proposer is only told what was there before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch_autokernel.core.types import Arch, Attempt, Region


@dataclass(frozen=True, slots=True)
class State:
    """Attempts in the order in which they were judged."""

    attempts: tuple[Attempt, ...] = ()


class BestOfN:
    """All attempts so far are the parents, so that a proposer does not repeat itself."""

    name = "best_of_n"

    def init(self, region: Region, arch: Arch) -> State:
        return State()

    def ask(self, state: State, n: int) -> tuple[State, Sequence[Attempt]]:
        return state, state.attempts

    def tell(self, state: State, attempts: Sequence[Attempt]) -> State:
        return State(state.attempts + tuple(attempts))
