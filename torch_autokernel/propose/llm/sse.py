"""Server-sent events from bytes, strictly: WHATWG's format, whatever the network does to the chunks.

Lines end in LF, CR or CRLF; the text is UTF-8 and may start with a BOM; an event counts once its blank line has come.
Differs from browsers: text that is not UTF-8 and events beyond the limit are errors, and `id` and `retry` mean nothing here.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from dataclasses import dataclass

from torch_autokernel.propose.llm.talk import Broken

MOST_EVENT = 1 << 20  # characters of one event


@dataclass(frozen=True, slots=True)
class Event:
    name: str
    data: str


class Parser:
    """`feed` gives the events that are complete with these bytes. `open` tells whether an unfinished event is left."""

    def __init__(self, most: int = MOST_EVENT) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("strict")
        self._most = most
        self._rest = ""
        self._skip_lf = False
        self._first = True
        self._name = ""
        self._data: list[str] = []
        self._size = 0

    @property
    def open(self) -> bool:
        return bool(self._rest or self._data)

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """Raises Broken for what is not UTF-8 or longer than the limit, after the events before it."""
        problem = ""
        try:
            text = self._decoder.decode(chunk)
        except UnicodeDecodeError as error:
            text = error.object[: error.start].decode()
            problem = f"the stream is not UTF-8: {error.reason}"
        if self._first and text:
            text, self._first = text.removeprefix("\ufeff"), False
        for line in self._lines(text):
            if event := self._line(line):
                yield event
        if problem:
            raise Broken(problem)
        if len(self._rest) + self._size > self._most:
            raise Broken(f"an event of more than {self._most} characters")

    def _lines(self, text: str) -> list[str]:
        """The lines that are complete; a CR at the end is one, and an LF that follows belongs to it."""
        if self._skip_lf and text:
            text, self._skip_lf = text.removeprefix("\n"), False
        if text.endswith("\r"):
            self._skip_lf = True
        whole = (self._rest + text).replace("\r\n", "\n").replace("\r", "\n")
        *lines, self._rest = whole.split("\n")
        return lines

    def _line(self, line: str) -> Event | None:
        if not line:
            event = Event(self._name or "message", "\n".join(self._data)) if self._data else None
            self._name, self._data, self._size = "", [], 0
            return event
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            self._data.append(value)
            self._size += len(value) + 1
            if self._size > self._most:
                raise Broken(f"an event of more than {self._most} characters")
        elif field == "event":
            self._name = value
        return None
