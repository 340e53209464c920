"""Servers that lie and dawdle, over real sockets: lengths that are not true, trickled bytes, silence, resets."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import struct
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest

from tests.propose.llm.streams import ASK, CHAT, CHAT_TEXT, chunk, sse
from torch_autokernel.core.types import Budget, Expense
from torch_autokernel.propose.llm.client import Client, Limits, Server
from torch_autokernel.propose.llm.desk import Desk, Model
from torch_autokernel.propose.llm.talk import Reply, Request
from torch_autokernel.search.budget import Ledger

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
WHOLE = sse(*CHAT)


async def request_of(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(int(v) for k, _, v in (x.partition(b":") for x in head.lower().split(b"\r\n")) if k == b"content-length")
    return await reader.readexactly(length)


async def serving(handler: Handler, work: Callable[[str], Awaitable[object]]) -> None:
    async def guarded(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handler(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client went away
        finally:
            writer.close()

    server = await asyncio.start_server(guarded, "127.0.0.1", 0)
    try:
        await work(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1")
    finally:
        server.close()


def ask(handler: Handler, **limits: float) -> Reply:
    found: list[Reply] = []

    async def work(url: str) -> None:
        client = Client(Server(url), Limits(**{"tries": 1, "seconds": 20.0, **limits}))  # type: ignore[arg-type]
        found.append(await client.complete(ASK))
        await client.close()

    asyncio.run(serving(handler, work))
    return found[0]


def says(head: bytes, *parts: bytes, pause: float = 0.0, reset: bool = False) -> Handler:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        for part in (head + b"\r\n", *parts):
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(pause)
        if reset:
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    return handler


def test_a_whole_stream_byte_by_byte() -> None:
    reply = ask(says(OK + b"connection: close\r\n", *(WHOLE[i : i + 1] for i in range(len(WHOLE)))))
    assert reply.ok and reply.text == CHAT_TEXT


@pytest.mark.parametrize(
    ("head", "body", "told"),
    [
        (OK + b"content-length: 100000\r\n", sse(chunk("a")), "after a part of the answer"),
        (OK + b"content-length: 20\r\n", WHOLE, "without a finish reason"),
        (OK + b"content-length: -1\r\n", WHOLE, "connection failed"),
        (OK + b"transfer-encoding: chunked\r\n", b"ffff\r\n" + sse(chunk("a")), "after a part of the answer"),
        (OK + b"transfer-encoding: chunked\r\n", b"zz\r\n", "connection failed"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 4\r\n", b"abcd", "connection failed"),
        (b"nonsense\r\n", b"", "connection failed"),
        (OK + b"connection: close\r\n", sse(chunk("a")) + b"data: {\"choi", "without a finish reason"),
    ],
)  # fmt: skip
def test_lies_about_length_and_form(head: bytes, body: bytes, told: str) -> None:
    reply = ask(says(head, body))
    assert told in reply.problem and not reply.ok


def test_a_reset_after_a_part() -> None:
    reply = ask(says(OK, sse(chunk("a")), pause=0.05, reset=True))
    assert "after a part of the answer" in reply.problem and reply.text == "a" and reply.usage.completion == 1


@pytest.mark.parametrize("where", ["body", "head"])
def test_a_trickle_ends_at_the_wall_time(where: str) -> None:
    endless = (b": \n" for _ in range(10_000)) if where == "body" else (b"x-a: b\r\n" for _ in range(10_000))
    head = OK if where == "body" else OK[:-2]
    reply = ask(says(head, *endless, pause=0.02), seconds=0.5)
    assert "no complete answer within 0.5 s" in reply.problem


def test_silence_ends_after_the_stall() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        await reader.read()

    reply = ask(silent, stall_seconds=0.2)
    assert "ReadTimeout" in reply.problem


def test_nobody_listens() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    reply = asyncio.run(Client(Server(f"http://127.0.0.1:{port}"), Limits(tries=1)).complete(ASK))
    assert "connection failed: ConnectError" in reply.problem and not reply.paid


def test_a_hundred_at_once_under_faults_lose_no_attempt_and_no_token() -> None:
    """The server counts what it sent. Its faults: 429, 529, resets before and within the answer, cut streams, garbage, stalls."""
    told: Counter[str] = Counter()
    served: list[tuple[int, int]] = []  # prompt and completion tokens of answers whose usage was told
    broken: list[int] = []  # tokens of answers that broke off
    faults = ["429", "529", "reset", "half", "cut", "garbage", "stall", "fine", "fine", "fine"]
    rng = random.Random(5)

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        body = json.loads(await request_of(reader))
        fault = rng.choice(faults)
        told[fault] += 1
        prompt, words = len(body["messages"][-1]["content"]), [f"w{i} " for i in range(rng.randrange(2, 9))]
        if fault in ("429", "529"):
            writer.write(f"HTTP/1.1 {fault} busy\r\nretry-after-ms: 2\r\ncontent-length: 0\r\n\r\n".encode())
            return await writer.drain()
        if fault == "reset":
            return writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if fault == "stall":
            await reader.read()
            return None
        kept = words if fault == "fine" else words[:-1]
        writer.write(OK + b"connection: close\r\n\r\n" + sse(*(chunk(w) for w in kept)))
        await writer.drain()
        if fault == "fine":
            served.append((prompt, len(words)))
            writer.write(sse(chunk(None, "stop"), {"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": len(words)}}, "[DONE]"))
        else:
            broken.append(len(kept))
            await asyncio.sleep(0.02)
            if fault == "garbage":
                writer.write(b"data: {{{\n\n")
            if fault == "half":
                writer.write(b"data: \xff\n\n")
        return await writer.drain()

    ledger, replies = Ledger(Budget()), []

    async def work(url: str) -> None:
        client = Client(Server(url), Limits(tries=6, stall_seconds=0.3, at_once=100), sleep=lambda s: asyncio.sleep(min(s, 0.02)))
        desk = Desk([Model("m", client, server=url)])
        asks = [Request("m", ASK.messages[:1] + (type(ASK.messages[1])("user", "x" * (i + 1)),), 50, sample=i) for i in range(100)]
        replies.extend(await asyncio.gather(*(desk.ask(desk.models[0], a, ledger, "translator", "r") for a in asks)))
        await client.close()

    asyncio.run(serving(handler, work))
    (row,) = ledger.book
    assert isinstance(row, Expense) and row.calls == len(replies) == 100
    assert row.requests == sum(r.requests for r in replies) == sum(told.values())
    assert all(told[f] for f in faults), told
    fine = [r for r in replies if r.ok]
    assert len(fine) == told["fine"] == len(served) and row.failed == 100 - len(fine)
    assert sorted((r.usage.prompt, r.usage.completion) for r in fine) == sorted(served)
    cut = [r for r in replies if r.paid and not r.ok]
    assert sorted(r.usage.completion for r in cut) == sorted(broken)
    assert row.completion_tokens == sum(c for _, c in served) + sum(broken)
    assert row.prompt_tokens == sum(p for p, _ in served) + sum(r.usage.prompt for r in cut)
    assert row.estimated == sum(r.usage.estimated for r in cut)


def test_a_cancelled_call_tells_what_it_has_cost() -> None:
    heard = asyncio.Event()
    ledger, found = Ledger(Budget()), []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        writer.write(OK + b"\r\n" + sse(chunk("a"), chunk("b")))
        await writer.drain()
        heard.set()
        found.append(await reader.read())  # until the client goes away

    async def work(url: str) -> None:
        desk = Desk([Model("m", Client(Server(url)), server=url)])
        task = asyncio.ensure_future(desk.ask(desk.models[0], ASK, ledger, "translator", "r"))
        await heard.wait()
        await asyncio.sleep(0.1)
        task.cancel()
        await asyncio.wait([task])
        for _ in range(100):
            await asyncio.sleep(0.01)
            if found:
                break
        assert desk.receipts.find(url, ASK) is None

    asyncio.run(serving(handler, work))
    (row,) = ledger.book
    assert found == [b""] and row.completion_tokens == 2 and row.failed == 1 and row.estimated == row.cost.tokens
