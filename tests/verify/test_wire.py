"""Messages between processes: whole, or an error that says what is wrong."""

from __future__ import annotations

import socket
import struct

import pytest

from torch_autokernel.core.errors import WorkerError
from torch_autokernel.verify import wire


@pytest.fixture
def pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair()


def test_messages_keep_their_order_and_content(pair: tuple[socket.socket, socket.socket]) -> None:
    one, two = pair
    messages = [{"a": [1, 2.5, None, "ä"]}, [], {"deep": {"x": True}}]
    for message in messages:
        wire.send(one, message)
    assert wire.waiting(two)
    assert [wire.receive(two, 1.0) for _ in messages] == messages and not wire.waiting(two)


@pytest.mark.parametrize(("raw", "word"), [
    (b"", "gone"),
    (b"\x05\0\0\0{}", "gone"),
    (struct.pack("<I", 1 << 31), "allowed"),
    (b"\x03\0\0\0{]}", "not JSON"),
])  # fmt: skip
def test_what_is_no_message_is_an_error(pair: tuple[socket.socket, socket.socket], raw: bytes, word: str) -> None:
    one, two = pair
    one.sendall(raw)
    one.close()
    with pytest.raises(WorkerError, match=word):
        wire.receive(two, 5.0)


def test_silence_is_an_error(pair: tuple[socket.socket, socket.socket]) -> None:
    with pytest.raises(WorkerError, match="in time"):
        wire.receive(pair[1], 0.01)
