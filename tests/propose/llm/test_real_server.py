"""Against a real model behind a real server: both dialects, streaming, usage, log-probabilities, schema, cancellation, faults."""

from __future__ import annotations

import asyncio
import json
import random
import urllib.request
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import anthropic
import openai
import pytest

from tests.propose.llm.real import KEY, real_server  # noqa: F401
from tests.search.fakes import FakeJudge, FakeProposer, region, searcher
from torch_autokernel.core.types import Budget
from torch_autokernel.propose.llm import chat
from torch_autokernel.propose.llm.author import LlmProposer
from torch_autokernel.propose.llm.client import Client, Limits, Server
from torch_autokernel.propose.llm.desk import Desk, Model
from torch_autokernel.propose.llm.parse import opinion
from torch_autokernel.propose.llm.talk import Message, Reply, Request
from torch_autokernel.search.budget import Ledger

pytestmark = pytest.mark.slow

SAY = (Message("system", "You are brief."), Message("user", "Say hello to the world."))
DIALECTS = ["openai", "anthropic"]


def ask(address: str, request: Request, dialect: str = "openai", key: str = KEY, **limits: Any) -> Reply:
    async def run() -> Reply:
        client = Client(Server(f"{address}/v1", key, dialect), Limits(**limits))
        try:
            return await client.complete(request)
        finally:
            await client.close()

    return asyncio.run(run())


def greedy(tokens: int = 24, **parts: Any) -> Request:
    return Request("any-name", SAY, tokens, 0.0, seed=1, **parts)


def test_text_and_usage_are_those_of_openais_client(real_server: str) -> None:  # noqa: F811
    reply = ask(real_server, greedy())
    system, user = SAY
    talk = [{"role": "system", "content": system.text}, {"role": "user", "content": user.text}]
    sdk = openai.OpenAI(api_key=KEY, base_url=f"{real_server}/v1")
    theirs = sdk.chat.completions.create(model="any-name", messages=talk, max_tokens=24, temperature=0, seed=1)  # type: ignore[arg-type]
    assert theirs.usage is not None and reply.text == theirs.choices[0].message.content
    assert (reply.usage.prompt, reply.usage.completion) == (theirs.usage.prompt_tokens, theirs.usage.completion_tokens)
    assert reply.text and reply.model and reply.requests == 1 and reply.finish in ("stop", "length") and not reply.usage.estimated


def test_usage_is_that_of_anthropics_client(real_server: str) -> None:  # noqa: F811
    """The texts differ: this dialect has no temperature, so the server draws."""
    reply = ask(real_server, greedy(6), "anthropic")
    system, user = SAY
    sdk = anthropic.Anthropic(api_key=KEY, base_url=real_server)
    message = sdk.messages.create(model="any", max_tokens=6, system=system.text, messages=[{"role": "user", "content": user.text}])
    u = message.usage
    assert reply.usage.prompt == u.input_tokens + (u.cache_read_input_tokens or 0) + (u.cache_creation_input_tokens or 0)
    assert reply.text and 0 < reply.usage.completion <= 6 and not reply.usage.estimated


@pytest.mark.parametrize("dialect", DIALECTS)
def test_an_answer_that_is_cut_is_incomplete(real_server: str, dialect: str) -> None:  # noqa: F811
    reply = ask(real_server, Request("m", (Message("user", "Write a very long story about a cat."),), 5, 0.0), dialect)
    assert reply.finish == "length" and "incomplete" in reply.problem and reply.usage.completion == 5


def test_log_probabilities(real_server: str) -> None:  # noqa: F811
    reply = ask(real_server, greedy(8, logprobs=True))
    assert 1 <= len(reply.logprobs) <= 8 and all(p <= 0 for p in reply.logprobs)


def test_a_schema_is_followed(real_server: str) -> None:  # noqa: F811
    schema = {"type": "object", "properties": {"probability": {"type": "number", "minimum": 0, "maximum": 1},
              "reasons": {"type": "array", "items": {"type": "string", "maxLength": 20}, "maxItems": 1}},
              "required": ["probability", "reasons"], "additionalProperties": False}  # fmt: skip
    reply = ask(real_server, Request("m", (Message("user", "How probable is rain?"),), 120, 0.0, schema, seed=3))
    data = json.loads(reply.text) if reply.ok else {}
    assert not reply.ok or set(data) == {"probability", "reasons"}
    assert reply.ok and isinstance(opinion(reply.text), tuple)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_wrong_key_and_a_bad_request_are_told_once(real_server: str, dialect: str) -> None:  # noqa: F811
    reply = ask(real_server, greedy(), dialect, key="sk-wrong-key-999")
    assert reply.problem.startswith("HTTP 401") and reply.requests == 1 and "sk-wrong" not in reply.problem
    reply = ask(real_server, Request("m", (), 5), dialect)
    assert not reply.ok and reply.requests == 1, reply


def test_cancelling_frees_the_server(real_server: str, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """Both slots are busy with long answers that are cancelled; the next question is answered all the same."""
    writing: set[int] = set()
    take = chat.Fold._choice

    def seen(self: chat.Fold, choice: Any) -> None:
        take(self, choice)
        if self.deltas:
            writing.add(id(self))

    monkeypatch.setattr(chat.Fold, "_choice", seen)

    async def run() -> tuple[list[Reply], Reply]:
        client = Client(Server(f"{real_server}/v1", KEY))
        long = Request("m", (Message("user", "Write a very long story."),), 3000, 0.9)
        tasks = [asyncio.ensure_future(client.complete(long)) for _ in range(2)]
        while len(writing) < 2:
            await asyncio.sleep(0.05)
        for task in tasks:
            task.cancel()
        cut = await asyncio.gather(*tasks)
        after = await client.complete(greedy(8))
        await client.close()
        return list(cut), after

    cut, after = asyncio.run(run())
    assert after.usage.completion > 0 and all(r.problem == "cancelled" for r in cut)
    assert all(0 < r.usage.completion < 3000 and r.usage.estimated for r in cut)


class Proxy:
    """Between client and server: passes requests on, or breaks them in a seeded order, and adds up what the server told."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.rng = random.Random(3)
        self.faults: Counter[str] = Counter()
        self.told: Counter[str] = Counter()

    def fetch(self, body: bytes) -> bytes:
        request = urllib.request.Request(f"{self.address}/v1/chat/completions", body,
                                         {"content-type": "application/json", "authorization": f"Bearer {KEY}"})  # fmt: skip
        with urllib.request.urlopen(request, timeout=60) as response:
            return bytes(response.read())

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(int(v) for k, _, v in (x.partition(b":") for x in head.lower().split(b"\r\n")) if k == b"content-length")
        body = await reader.readexactly(length)
        fault = self.rng.choice(["429", "529", "reset", "stall", "cut", "garbage", "fine", "fine", "fine", "fine"])
        self.faults[fault] += 1
        try:
            await self._answer(fault, body, reader, writer)
        finally:
            writer.close()

    async def _answer(self, fault: str, body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if fault in ("429", "529"):
            writer.write(f"HTTP/1.1 {fault} no\r\nretry-after-ms: 3\r\ncontent-length: 0\r\n\r\n".encode())
        elif fault == "stall":
            await reader.read()
        elif fault != "reset":
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")
            fetched = asyncio.get_running_loop().run_in_executor(None, self.fetch, body)
            while not (await asyncio.wait([fetched], timeout=0.5))[0]:
                writer.write(b": patience\n\n")
            raw = fetched.result()
            events = [e for e in raw.split(b"\n\n") if e.startswith(b"data: ")]
            data = [json.loads(e[6:]) for e in events if e != b"data: [DONE]"]
            if fault == "fine":
                usage = next(d["usage"] for d in data if d.get("usage"))
                self.told.update(prompt=usage["prompt_tokens"], completion=usage["completion_tokens"], fine=1)
                writer.write(raw)
            else:
                kept = [e for e, d in zip(events, data, strict=False) if d["choices"] and not d["choices"][0].get("finish_reason")]
                pieces = sum(bool(json.loads(e[6:])["choices"][0]["delta"].get("content")) for e in kept)
                self.told.update(broken=1, pieces=pieces)
                writer.write(b"\n\n".join(kept) + b"\n\n" + (b"data: {garbage\n\n" if fault == "garbage" else b""))
        await writer.drain()


async def behind(proxy: Proxy, work: Callable[[str], Awaitable[None]]) -> None:
    server = await asyncio.start_server(proxy.handle, "127.0.0.1", 0)
    try:
        await work(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1")
    finally:
        server.close()


def test_a_hundred_at_once_under_faults_and_the_ledger_equals_the_servers_count(real_server: str) -> None:  # noqa: F811
    proxy, ledger, replies = Proxy(real_server), Ledger(Budget()), []

    async def work(url: str) -> None:
        client = Client(Server(url, KEY), Limits(tries=8, stall_seconds=5.0, seconds=200.0, at_once=100),
                        sleep=lambda s: asyncio.sleep(min(s, 0.02)))  # fmt: skip
        desk = Desk([Model("m", client, server=url)])
        asks = [Request("m", (Message("user", f"Name number {i}."),), 6, 0.0, sample=i) for i in range(100)]
        replies.extend(await asyncio.gather(*(desk.ask(desk.models[0], a, ledger, "translator", "r") for a in asks)))
        await client.close()

    asyncio.run(behind(proxy, work))
    (row,) = ledger.book
    assert row.calls == len(replies) == 100 and row.requests == sum(proxy.faults.values())
    assert set(proxy.faults) == {"429", "529", "reset", "stall", "cut", "garbage", "fine"}
    whole = [r for r in replies if r.paid and not r.usage.estimated]
    broken = [r for r in replies if r.usage.estimated]
    assert len(whole) == proxy.told["fine"] and len(broken) == proxy.told["broken"] and len(whole) + len(broken) == 100
    assert sum(r.usage.prompt for r in whole) == proxy.told["prompt"]
    assert sum(r.usage.completion for r in whole) == proxy.told["completion"]
    assert sum(r.usage.completion for r in broken) == proxy.told["pieces"]
    assert row.prompt_tokens + row.completion_tokens == sum(r.usage.prompt + r.usage.completion for r in replies)


def test_a_small_model_in_the_whole_loop(real_server: str, tmp_path: Any) -> None:  # noqa: F811
    """It writes nothing useful: its answers are attempts with their cost, and the built-in proposer's kernel is kept."""
    client = Client(Server(f"{real_server}/v1", KEY), Limits(at_once=2))
    author = LlmProposer(Desk([Model("m", client)]), kernel_tokens=12, json_tokens=12)
    judge = FakeJudge()
    search = searcher(tmp_path, proposers=[FakeProposer("50000"), author], judge=judge, second_judge=judge)
    try:
        (result,) = search.search([region()], Budget(tokens=2_400))
    finally:
        search.close()
    assert result.best is not None and result.best.candidate.source.text == "50000"
    answers = [a for a in result.attempts if a.candidate.proposer == "llm:m"]
    assert answers and sum(e.cost.tokens for e in result.book) == result.cost.tokens <= 2_400
    assert all(a.candidate.cost.tokens > 12 for a in answers)
