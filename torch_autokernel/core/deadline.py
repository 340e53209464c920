"""When work that was begun has to be over. Who waits for other programs asks here."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

ENDED = "the time was over before it was done"  # the log of what the deadline ended
_END: ContextVar[float | None] = ContextVar("end", default=None)


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
