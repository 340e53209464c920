from __future__ import annotations

import io

import pytest

from torch_autokernel.app.progress import Progress, told
from torch_autokernel.app.report import duration, size, table
from torch_autokernel.core.events import Event


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0 ns"), (3.2e-7, "320 ns"), (2.5e-5, "25 us"), (0.0123, "12.3 ms"), (4.125, "4.12 s"), (200, "3 min 20 s"),
     (18000, "5 h"), (259200, "3 days")],
)  # fmt: skip
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (3 << 20, "3.0 MiB"), (1 << 42, "4096.0 GiB")]
)
def test_sizes(count: int, text: str) -> None:
    assert size(count) == text


def test_table() -> None:
    assert table(["name", "n"], [["a", "10"], ["long name", "5"]], right=[1]) == "name        n\na          10\nlong name   5"


def test_on_a_terminal_one_line_is_updated_and_removed() -> None:
    stream = Terminal()
    progress = Progress(stream)
    progress.status("one")
    progress.status("x" * 500)
    progress.line("stays")
    progress.close()
    written = stream.getvalue()
    assert written.startswith("\r\x1b[Kone\r\x1b[K") and written.endswith("\r\x1b[Kstays\n")
    assert "x" * 300 not in written


def test_elsewhere_plain_lines_and_no_control_characters() -> None:
    stream = io.StringIO()
    progress = Progress(stream)
    progress.status("not told")
    progress.line("told")
    progress(Event("search.compiled", {"signature": "ab", "compiled": 3, "of": 4}))
    assert stream.getvalue() == "told\n"
    loud = Progress(stream, verbose=1)
    loud(Event("search.compiled", {"signature": "ab", "compiled": 3, "of": 4}))
    assert stream.getvalue() == "told\nregion ab: 3 of 4 candidates compiled\n"


def test_events_that_are_not_known_or_not_of_their_form_are_told_plainly() -> None:
    assert told(Event("some.thing", {"signature": "x", "n": 3})) == "some thing: n 3"
    assert told(Event("search.compiled", {"compiled": 3})) == "search compiled: compiled 3"
