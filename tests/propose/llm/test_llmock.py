"""Against a server made for faults, and under its own verdict on how a client behaves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tests.propose.llm.streams import ASK
from torch_autokernel.propose.llm.client import Client, Limits, Server
from torch_autokernel.propose.llm.talk import Reply

pytestmark = pytest.mark.slow
pytest.importorskip("llmock")
DIALECTS = ["openai", "anthropic"]


def ask(llmock: Any, dialect: str, **limits: Any) -> Reply:
    async def run() -> Reply:
        client = Client(Server(llmock.base_url(dialect), "llmock-test-key", dialect), Limits(seconds=20.0, stall_seconds=0.5, **limits))
        try:
            return await client.complete(ASK)
        finally:
            await client.close()

    return asyncio.run(run())


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_plain_answer(llmock: Any, dialect: str) -> None:
    llmock.reply("int main() {}")
    reply = ask(llmock, dialect)
    assert reply.ok and reply.text == "int main() {}" and reply.usage.prompt > 0 and reply.usage.completion > 0
    assert len(llmock.requests) == 1
    llmock.assert_resilient()


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(("status", "requests"), [(429, 3), (503, 3), (529, 3), (500, 3), (400, 1), (401, 1), (404, 1)])
def test_errors(llmock: Any, dialect: str, status: int, requests: int) -> None:
    llmock.fail(status, times=2, retry_after=0.05 if status == 429 else None)
    reply = ask(llmock, dialect)
    assert reply.requests == len(llmock.requests) == requests
    assert reply.ok == (requests == 3) and (reply.ok or reply.problem.startswith(f"HTTP {status}"))
    if requests == 3:
        llmock.assert_resilient()


FAULTS: list[tuple[str, Callable[[Any], Any], str]] = [
    ("cut", lambda m: m.truncate(after_chunks=6), "without a finish reason"),
    ("disconnect", lambda m: m.disconnect(after_chunks=6), "after a part of the answer"),
    ("garbage", lambda m: m.corrupt(after_chunks=6), "not JSON"),
    ("stall", lambda m: m.stall(after_chunks=6, seconds=3.0), "after a part of the answer"),
]


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(("name", "fault", "told"), FAULTS, ids=[f[0] for f in FAULTS])
def test_broken_streams_are_told_and_not_repeated(llmock: Any, dialect: str, name: str, fault: Callable[[Any], Any], told: str) -> None:
    llmock.reply("one two three four five six seven eight nine ten eleven twelve")
    fault(llmock)
    reply = ask(llmock, dialect)
    assert not reply.ok and told in reply.problem and reply.requests == 1
    assert reply.text and reply.paid and len(llmock.requests) == 1
