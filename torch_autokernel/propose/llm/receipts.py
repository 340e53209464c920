"""Every answered call on disk, so that a run that was killed pays for none of them twice; and the conversation to read.

One JSON line a call: the question, the answer, who asked. A line counts once it is whole and on the disk; whoever loses a
line loses that call and no other. No key can be in it: neither questions nor answers hold one.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch_autokernel.core.types import digest
from torch_autokernel.propose.llm.talk import Reply, Request

log = logging.getLogger(__name__)


class Receipts:
    """Answers by server, dialect and question. Without a path nothing is kept. Usable from several threads."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._known: dict[str, Reply] = {}
        self._torn = False
        for line in self.lines():
            self._known[line["key"]] = Reply.from_json(line["reply"])

    def lines(self) -> Iterator[dict[str, Any]]:
        """The calls in the order in which they were answered; a torn line is passed over."""
        if self.path is None or not self.path.exists():
            return
        content = self.path.read_bytes()
        self._torn = bool(content) and not content.endswith(b"\n")
        for raw in content.split(b"\n"):
            if not raw.strip():
                continue
            try:
                line = json.loads(raw)
                Reply.from_json(line["reply"])
                line["key"] + ""
            except (ValueError, KeyError, TypeError):
                log.info("a torn line in %s is passed over", self.path)
                continue
            yield line

    def find(self, server: str, request: Request) -> Reply | None:
        with self._lock:
            return self._known.get(_key(server, request))

    def keep(self, server: str, request: Request, reply: Reply, **who: str) -> None:
        """Write the call down before anybody acts on it. A disk that cannot be written costs the line, not the run."""
        key = _key(server, request)
        line = {"key": key, "at": time.time(), **who, "request": request.to_json(), "reply": reply.to_json()}
        raw = json.dumps(line, allow_nan=False).encode() + b"\n"
        with self._lock:
            self._known[key] = reply
            if self.path is None:
                return
            try:
                self._append(raw)
            except OSError as error:
                log.warning("the conversation %s cannot be written: %s", self.path, error)

    def _append(self, raw: bytes) -> None:
        assert self.path is not None
        handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            if self._torn:
                raw, self._torn = b"\n" + raw, False
            while raw:
                raw = raw[os.write(handle, raw) :]
            os.fsync(handle)
        finally:
            os.close(handle)


def _key(server: str, request: Request) -> str:
    return digest([server, request.to_json()])
