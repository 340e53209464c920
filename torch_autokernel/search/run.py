"""A hunt's rounds on disk, so that it can be taken up after a kill: one JSON line a round, written when the round is over.

The strategy's state is not stored: it follows from the rounds. A line counts once it is whole. `ended` lines close a sitting:
what was spent before them is not charged to the next one.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from torch_autokernel.core.types import Attempt, Case, Expense, Json

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Round(Json):
    """What one round did. `assigned`: how many assignments were given out at its beginning; `pending`: whether these were still
    under way at its end; `book`: what the work that it used has cost. The rest is how the hunt stood afterwards."""

    attempts: tuple[Attempt, ...]
    assigned: int = 0
    pending: bool = False
    book: tuple[Expense, ...] = ()
    cases: tuple[Case, ...] | None = None
    best: str = ""
    close: bool = False
    final: bool = True
    reasons: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()


class Run:
    """The rounds in `path`; without a path nothing is kept, nor where another process is at the same hunt. `sitting` are the
    rounds of a sitting that was not ended."""

    def __init__(self, path: Path | None) -> None:
        self.rounds: list[Round] = []
        self.sitting: list[Round] = []
        self._lock: FileLock | None = None
        self.path = path if path is not None and self._alone(path) else None
        if self.path is not None and self.path.exists():
            self._read(self.path)

    def _alone(self, path: Path) -> bool:
        """Take the lock, which a killed process gives back."""
        lock = FileLock(path.with_suffix(".lock"))
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock.acquire(blocking=False)
        except Timeout:
            log.info("another process is at the hunt %s: this one is not written down", path)
            return False
        except OSError as error:
            log.warning("the run %s cannot be written: %s", path, error)
            return False
        self._lock = lock
        return True

    def _read(self, path: Path) -> None:
        content = path.read_bytes()
        whole, newline, torn = content.rpartition(b"\n")
        if torn:
            log.info("a torn line in %s is passed over", path)
            with open(path, "r+b") as file:
                file.truncate(len(whole) + len(newline))
        for raw in whole.split(b"\n"):
            try:
                line = json.loads(raw) if raw.strip() else {}
                if "ended" in line:
                    self.sitting = []
                elif line:
                    found = Round.from_json(line)
                    self.rounds.append(found)
                    self.sitting.append(found)
            except (ValueError, KeyError, TypeError) as error:
                log.warning("the run %s is begun anew: %s", path, error)
                self.rounds, self.sitting = [], []
                path.unlink()
                return

    def write(self, done: Round) -> None:
        self._append(done.to_json())

    def end(self, reason: str, resumable: bool) -> None:
        """The sitting is over; a run that need not be taken up again is deleted."""
        if self.path is not None and resumable:
            self._append({"ended": reason})
        elif self.path is not None:
            self.path.unlink(missing_ok=True)
        if self._lock is not None:
            self._lock.release()
        self.path = self._lock = None

    def _append(self, line: Mapping[str, Any]) -> None:
        if self.path is None:
            return
        raw = json.dumps(line, allow_nan=False).encode() + b"\n"
        try:
            handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                while raw:
                    raw = raw[os.write(handle, raw) :]
                os.fsync(handle)
            finally:
                os.close(handle)
        except OSError as error:
            log.warning("the run %s cannot be written: %s", self.path, error)
            self.path = None
