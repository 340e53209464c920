"""When a request is made again, and after how long: the rules that the field's clients share."""

from __future__ import annotations

import email.utils
import math
import random
from collections.abc import Mapping

RETRIED = frozenset({408, 409, 429}) | frozenset(range(500, 600))  # 529 is Anthropic's "overloaded"
BASE_SECONDS = 0.5
CAP_SECONDS = 8.0


def retriable(status: int) -> bool:
    return status in RETRIED


def told_delay(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds that the server asks to wait: `retry-after-ms` before `retry-after` (seconds or a date); None where it asks for
    nothing that can be understood. `now` is seconds since the epoch."""
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        text = headers.get(name, "").strip()
        if not text:
            continue
        try:
            value = float(text) * unit
        except ValueError:
            value = _date(text, now) if name == "retry-after" else math.nan
        if math.isfinite(value) and value >= 0:
            return value
    return None


def _date(text: str, now: float) -> float:
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - now)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def backoff(attempt: int, rng: random.Random) -> float:
    """Seconds before attempt number `attempt` + 1: doubled each time up to a cap, less up to a quarter by chance."""
    longest: float = min(CAP_SECONDS, BASE_SECONDS * 2 ** min(attempt, 16))
    return longest * (1 - 0.25 * rng.random())
