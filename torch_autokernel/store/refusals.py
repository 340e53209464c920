"""When a refused search stays refused: until something changes that it depended on."""

from __future__ import annotations

import time
from collections.abc import Mapping

from torch_autokernel.core.config import Config
from torch_autokernel.core.types import CacheKey, Refusal

VERSION = "9"  # of the search as a whole: a change makes old refusals void
WHOLE = 0.9  # of the seconds allowed, from which on a search had them all
AGAIN_SECONDS = 86400.0


def conditions(config: Config) -> str:
    """What must be unchanged for a refusal to hold."""
    return f"{VERSION} {','.join(config.proposers)} {config.llm_model}"


def within_budget(config: Config) -> str:
    """What must be unchanged for a refusal to hold that only the budget is the reason for; and it must not be old."""
    return f"{conditions(config)} in {config.max_seconds:g} s"


def holds(refusal: Refusal, config: Config) -> bool:
    """Whether a search need not be begun again."""
    short = refusal.conditions == within_budget(config) and time.time() - refusal.created < AGAIN_SECONDS
    return short or refusal.conditions == conditions(config)


def final(key: CacheKey, reason: str, sizes: Mapping[str, int], config: Config) -> Refusal:
    """Of a search that came to its end, for these sizes."""
    return Refusal(key, reason, conditions(config), {k: (v, v) for k, v in sizes.items()}, time.time())


def cut_short(
    key: CacheKey, reason: str, ranges: Mapping[str, tuple[int, int]], seconds: float, config: Config
) -> Refusal | None:
    """Of a search of so many seconds that the budget ended, where it had all of that: another process would fare no better."""
    if not seconds >= WHOLE * config.max_seconds > 0:
        return None
    reason = f"{reason}; asked again with more seconds, or in a day"
    return Refusal(key, reason, within_budget(config), ranges, time.time())
