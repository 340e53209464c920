"""When work that was begun has to be over. Who waits for other programs asks here."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

ENDED = "the time was over before it was done"  # the log of what the deadline ended
_END: ContextVar[float | None] = ContextVar("end", default=None)
_SPENT: ContextVar[list[float] | None] = ContextVar("spent", default=None)


class Over(Exception):
    """The time is over; raised by `check` where work is in the middle of something."""

    def __init__(self) -> None:
        super().__init__(ENDED)


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """What is done inside may take so many seconds from now; infinity for any time."""
    token = _END.set(time.monotonic() + seconds)
    try:
        yield
    finally:
        _END.reset(token)


def left() -> float | None:
    """Seconds that are left, not below 0; None where there is no end."""
    end = _END.get()
    return None if end is None or end == float("inf") else max(0.0, end - time.monotonic())


def check() -> None:
    """Raises Over where no time is left."""
    if left() == 0:
        raise Over


@contextmanager
def one_purse(fresh: bool = False) -> Iterator[None]:
    """Searches inside have one allowance of seconds together; unless it is `fresh` they share that of the purse around this
    one, where there is one."""
    token = _SPENT.set([0.0] if fresh or _SPENT.get() is None else _SPENT.get())
    try:
        yield
    finally:
        _SPENT.reset(token)


@contextmanager
def from_purse(seconds: float) -> Iterator[float]:
    """What is left of an allowance of so many seconds; what is done inside is taken from the purse."""
    spent, start = _SPENT.get(), time.monotonic()
    if spent is None:
        yield seconds
        return
    try:
        yield max(0.0, seconds - spent[0])
    finally:
        spent[0] += time.monotonic() - start
