"""Facts as they happen: a typed event goes to every subscriber; decisions are counted.

`core` knows no sink: `capture` forwards to torch's counters and structured trace, `app` draws progress.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

log = logging.getLogger("torch_autokernel.events")


@dataclass(frozen=True, slots=True)
class Event:
    """`name` is dotted (`region.hit`, `search.attempt`); `at` is seconds since the epoch."""

    name: str
    facts: dict[str, Any] = field(default_factory=dict)
    at: float = 0.0


_SUBSCRIBERS: list[Callable[[Event], None]] = []


def emit(name: str, **facts: Any) -> None:
    """Tell every subscriber. A subscriber's error is logged and never reaches the one who emits."""
    event = Event(name, facts, time.time())
    for subscriber in _SUBSCRIBERS:
        try:
            subscriber(event)
        except Exception:  # a sink must not break the product; this is the one boundary for sinks
            log.exception("a subscriber failed on %s", name)


@contextmanager
def subscribed(subscriber: Callable[[Event], None]) -> Iterator[None]:
    """Subscribe for the length of a with-block."""
    _SUBSCRIBERS.append(subscriber)
    try:
        yield
    finally:
        _SUBSCRIBERS.remove(subscriber)


def subscribe(subscriber: Callable[[Event], None]) -> None:
    """Subscribe for good (once)."""
    if subscriber not in _SUBSCRIBERS:
        _SUBSCRIBERS.append(subscriber)
