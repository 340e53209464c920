"""Every attempt, one JSON line each, in the order in which they were made."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch_autokernel.core.types import Attempt, Region

log = logging.getLogger(__name__)


class Journal:
    """Appends to `path`. A line is written with one call, so several processes may share a journal."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, region: Region, attempt: Attempt, note: str = "") -> None:
        """Add an attempt; a full disk or a read-only folder costs the line, not the search."""
        line = {"at": time.time(), "signature": region.signature.digest, "sizes": dict(region.sizes), "phase": region.phase,
                "note": note, "attempt": attempt.to_json()}  # fmt: skip
        try:
            with open(self.path, "ab", buffering=0) as file:
                file.write(json.dumps(line, allow_nan=False).encode() + b"\n")
        except OSError as error:
            log.warning("the journal %s cannot be written: %s", self.path, error)

    def read(self) -> Iterator[dict[str, Any]]:
        """The lines; a torn one is skipped."""
        if not self.path.exists():
            return
        for line in self.path.read_text(errors="replace").splitlines():
            try:
                yield json.loads(line)
            except ValueError:
                log.info("a torn line in %s is skipped", self.path)
