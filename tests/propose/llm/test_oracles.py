"""The official SDKs read the same streams as we do, and give the same text, finish reason and token counts."""

from __future__ import annotations

import asyncio
from typing import Any

import anthropic
import httpx
import httpx2 as sdk_http
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.propose.llm import streams
from tests.propose.llm.streams import ASK, CHAT, MESSAGES, START, USAGE, chunk, sse
from torch_autokernel.propose.llm.client import Client, Server
from torch_autokernel.propose.llm.talk import Reply

HEADERS = {"content-type": "text/event-stream"}


def ours(raw: bytes, dialect: str) -> Reply:
    async def run() -> Reply:
        transport = httpx.MockTransport(lambda r: httpx.Response(200, headers=HEADERS, stream=httpx.ByteStream(raw)))
        client = Client(Server("http://llm.test/v1", "key", dialect), transport=transport)
        try:
            return await client.complete(ASK)
        finally:
            await client.close()

    return asyncio.run(run())


def mocked(raw: bytes) -> Any:
    """A client of the HTTP library that both SDKs use, httpx's successor."""
    answer = lambda request: sdk_http.Response(200, headers=HEADERS, stream=sdk_http.ByteStream(raw))
    return sdk_http.Client(transport=sdk_http.MockTransport(answer))


def openai_reads(raw: bytes) -> tuple[str, str | None, int, int]:
    client = openai.OpenAI(api_key="key", base_url="http://llm.test/v1", http_client=mocked(raw), max_retries=0)
    text, finish, usage = "", None, (0, 0)
    for part in client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}], stream=True):
        for choice in part.choices:
            text += choice.delta.content or ""
            finish = choice.finish_reason or finish
        if part.usage:
            usage = (part.usage.prompt_tokens, part.usage.completion_tokens)
    return text, finish, *usage


def anthropic_reads(raw: bytes) -> tuple[str, str | None, int, int]:
    client = anthropic.Anthropic(api_key="key", base_url="http://llm.test", http_client=mocked(raw), max_retries=0)
    with client.messages.stream(model="m", max_tokens=9, messages=[{"role": "user", "content": "x"}]) as stream:
        message = stream.get_final_message()
    u = message.usage
    prompt = u.input_tokens + (u.cache_read_input_tokens or 0) + (u.cache_creation_input_tokens or 0)
    return "".join(b.text for b in message.content if b.type == "text"), message.stop_reason, prompt, u.output_tokens


TEXTS = st.lists(st.text(st.characters(blacklist_categories=("Cs",)), min_size=1, max_size=12), max_size=8)


@settings(max_examples=30)
@given(TEXTS, st.sampled_from(["\n\n", "\r\n\r\n"]))
def test_as_openai_reads_it(texts: list[str], end: str) -> None:
    raw = sse(CHAT[0], *(chunk(t) for t in texts), *CHAT[-3:], end=end)
    reply = ours(raw, "openai")
    assert (reply.text, reply.finish, reply.usage.prompt, reply.usage.completion) == openai_reads(raw) and reply.ok
    assert reply.usage.prompt == USAGE["prompt_tokens"]


@settings(max_examples=30)
@given(TEXTS)
def test_as_anthropic_reads_it(texts: list[str]) -> None:
    deltas = [{"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": t}} for t in texts]
    raw = streams.anthropic(START, MESSAGES[1], *deltas, *MESSAGES[-3:])
    reply = ours(raw, "anthropic")
    text, reason, *usage = anthropic_reads(raw)
    assert reply.ok and (reply.text, [reply.usage.prompt, reply.usage.completion]) == (text, usage) and reason == "end_turn"


@pytest.mark.parametrize("raw", [sse(chunk("a"), "[DONE]"), sse(chunk("a"))])
def test_a_stream_without_a_finish_reason_that_the_sdk_accepts_silently(raw: bytes) -> None:
    assert openai_reads(raw)[:2] == ("a", None)
    assert "without a finish reason" in ours(raw, "openai").problem
