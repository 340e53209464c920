"""The parser against every split of the bytes, and against a slow one written from the standard's grammar."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torch_autokernel.propose.llm.sse import Event, Parser
from torch_autokernel.propose.llm.talk import Broken


def parse(*chunks: bytes) -> list[Event]:
    parser = Parser()
    return [e for c in chunks for e in parser.feed(c)]


def slow(text: str) -> list[Event]:
    """The whole text at once, as the standard describes it."""
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    events, name, data = [], "", []
    for line in text.split("\n")[:-1]:
        if line == "":
            if data:
                events.append(Event(name or "message", "\n".join(data)))
            name, data = "", []
        elif line.startswith("data:"):
            data.append(line[5:].removeprefix(" "))
        elif line == "data":
            data.append("")
        elif line.startswith("event:"):
            name = line[6:].removeprefix(" ")
    return events


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_every_split_into_two_gives_the_same(end: str) -> None:
    text = f"\ufeff: comment{end}event: a{end}data: gr\u00fc\u00df{end}data:  two{end}{end}id: 7{end}data{end}{end}data: open{end}"
    raw = text.encode()
    wanted = [Event("a", "gr\u00fc\u00df\n two"), Event("message", "")]
    assert slow(text) == wanted
    for cut in range(len(raw) + 1):
        assert parse(raw[:cut], raw[cut:]) == wanted
    assert parse(*(raw[i : i + 1] for i in range(len(raw)))) == wanted


LINE = st.sampled_from(["data: a", "data:b", "data", "data:  ü", "event: x", "event:", ": c", "", "", "id: 3", "datax: 1", "retry"])


@settings(max_examples=200)
@given(st.lists(st.tuples(LINE, st.sampled_from(["\n", "\r\n", "\r"])), max_size=20), st.lists(st.integers(0, 200), max_size=8))
def test_against_the_slow_parser(lines: list[tuple[str, str]], cuts: list[int]) -> None:
    raw = "".join(line + end for line, end in lines).encode()
    edges = [0, *sorted(min(c, len(raw)) for c in cuts), len(raw)]
    chunks = [raw[a:b] for a, b in zip(edges, edges[1:], strict=False)]
    assert parse(*chunks) == slow(raw.decode())


def test_an_unfinished_event_is_none_but_seen() -> None:
    parser = Parser()
    assert list(parser.feed(b"data: x\n")) == [] and parser.open


@pytest.mark.parametrize("raw", [b"data: \xff\n\n", b"data: \xc3(\n\n"])
def test_bytes_that_are_not_utf8_are_refused(raw: bytes) -> None:
    with pytest.raises(Broken, match="not UTF-8"):
        parse(raw)


def test_what_came_before_the_damage_counts() -> None:
    seen = []
    with pytest.raises(Broken):
        for event in Parser().feed(b"data: a\n\ndata: b\n\ndata: \xff\n\n"):
            seen.append(event.data)
    assert seen == ["a", "b"]


@pytest.mark.parametrize("raw", [b"data: " + b"x" * 200, b"data: 12345678\n" * 30])
def test_an_event_has_a_greatest_length(raw: bytes) -> None:
    with pytest.raises(Broken, match="more than 100 characters"):
        list(Parser(100).feed(raw))
