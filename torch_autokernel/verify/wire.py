"""JSON messages over a stream socket: four bytes of length, then the text. Never pickle: the other side may run a candidate."""

from __future__ import annotations

import json
import select
import socket
import struct
import time
from typing import Any

from torch_autokernel.core.errors import WorkerError

LIMIT = 64 << 20  # bytes of one message


def send(sock: socket.socket, message: Any) -> None:
    body = json.dumps(message).encode()
    sock.sendall(struct.pack("<I", len(body)) + body)


def receive(sock: socket.socket, timeout: float | None = None) -> Any:
    """The next message; raises WorkerError where the peer is gone, silent for `timeout` seconds, or does not speak JSON."""
    deadline = None if timeout is None else time.monotonic() + timeout
    (length,) = struct.unpack("<I", _exactly(sock, 4, deadline))
    if length > LIMIT:
        raise WorkerError(f"a message of {length} bytes; at most {LIMIT} are allowed")
    try:
        return json.loads(_exactly(sock, length, deadline))
    except ValueError as error:
        raise WorkerError(f"a message that is not JSON: {error}") from None


def waiting(sock: socket.socket) -> bool:
    """Whether something can be read now (a message, or the end)."""
    return bool(select.select([sock], [], [], 0)[0])


def _exactly(sock: socket.socket, count: int, deadline: float | None) -> bytes:
    chunks = b""
    while len(chunks) < count:
        if deadline is not None and not select.select([sock], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise WorkerError("the peer did not answer in time")
        try:
            chunk = sock.recv(count - len(chunks))
        except OSError as error:
            raise WorkerError(f"the peer is gone: {error}") from None
        if not chunk:
            raise WorkerError("the peer is gone")
        chunks += chunk
    return chunks
