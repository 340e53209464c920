"""The client over `httpx.MockTransport`: what it makes of every answer, when it asks again, what it never shows."""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import httpx
import pytest

from tests.propose.llm.streams import ASK, CHAT, CHAT_TEXT, KEY, MESSAGES, START, USAGE, anthropic, chunk, sse
from torch_autokernel.core.errors import ConfigError
from torch_autokernel.propose.llm import chat, retry
from torch_autokernel.propose.llm.client import Client, Limits, Server
from torch_autokernel.propose.llm.talk import Reply, Request, Usage

SSE = {"content-type": "text/event-stream; charset=utf-8"}
Answer = httpx.Response | Exception


class Bytes(httpx.AsyncByteStream):
    """A body in pieces; an exception among them is raised."""

    def __init__(self, *pieces: bytes | Exception) -> None:
        self.pieces = pieces

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self.pieces:
            if isinstance(piece, Exception):
                raise piece
            yield piece


def stream(*pieces: bytes | Exception, **headers: str) -> httpx.Response:
    return httpx.Response(200, headers={**SSE, **headers}, stream=Bytes(*pieces))


def plain(status: int, text: str = "", json_: Any = None, **headers: str) -> httpx.Response:
    kind = "text/plain" if json_ is None else "application/json"
    raw = (text if json_ is None else json.dumps(json_)).encode()
    named = {k.replace("_", "-"): v for k, v in headers.items()}
    return httpx.Response(status, headers={"content-type": kind, **named}, stream=Bytes(raw))


class Talk:
    """A client over given answers; keeps the requests and the waits."""

    def __init__(self, *answers: Answer | Callable[[httpx.Request], Answer], dialect: str = "openai", **limits: Any) -> None:
        self.answers, self.requests, self.waits = list(answers), [], []  # type: ignore[var-annotated]
        self.server = Server("http://llm.test/v1", KEY, dialect)
        self.client = Client(self.server, Limits(**limits), transport=httpx.MockTransport(self._answer), sleep=self._sleep,
                             rng=random.Random(1))  # fmt: skip

    async def _sleep(self, seconds: float) -> None:
        self.waits.append(seconds)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self.answers[min(len(self.requests), len(self.answers)) - 1]
        answer = answer(request) if callable(answer) else answer
        if isinstance(answer, Exception):
            raise answer
        return answer

    def ask(self, request: Request = ASK) -> Reply:
        async def run() -> Reply:
            try:
                return await self.client.complete(request)
            finally:
                await self.client.close()

        return asyncio.run(run())


def pieces(raw: bytes, cuts: Sequence[int]) -> list[bytes]:
    edges = [0, *cuts, len(raw)]
    return [raw[a:b] for a, b in zip(edges, edges[1:], strict=False)]


# ---------------------------------------------------------------------- what is sent
def test_the_request_in_openais_dialect() -> None:
    talk = Talk(stream(sse(*CHAT)))
    talk.ask(Request("m", ASK.messages, 100, 0.5, {"type": "object"}, True, 7, sample=3))
    (sent,) = talk.requests
    assert str(sent.url) == "http://llm.test/v1/chat/completions"
    assert sent.headers["authorization"] == f"Bearer {KEY}" and sent.headers["accept-encoding"] == "identity"
    body = json.loads(sent.content)
    assert body["messages"] == [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}]
    assert (body["model"], body["max_tokens"], body["temperature"], body["seed"]) == ("m", 100, 0.5, 7)
    assert body["stream"] is True and body["stream_options"] == {"include_usage": True} and body["logprobs"] is True
    assert body["response_format"]["json_schema"]["schema"] == {"type": "object"} and "sample" not in body


def test_openais_own_host_gets_what_its_newer_models_take() -> None:
    request = Request("m", ASK.messages, 100, 0.5, seed=7)
    body = chat.body(request, "https://api.openai.com/v1")
    assert body["max_completion_tokens"] == 100 and not {"max_tokens", "temperature", "seed"} & set(body)


def test_the_request_in_anthropics_dialect() -> None:
    talk = Talk(stream(anthropic(*MESSAGES)), dialect="anthropic")
    talk.ask(Request("m", ASK.messages, 100, 0.5, {"type": "object"}, True, 3))
    (sent,) = talk.requests
    assert str(sent.url) == "http://llm.test/v1/messages"
    assert sent.headers["x-api-key"] == KEY and sent.headers["anthropic-version"] and "authorization" not in sent.headers
    body = json.loads(sent.content)
    assert body["system"] == "be brief" and body["messages"] == [{"role": "user", "content": "hello"}]
    assert body["output_config"] == {"format": {"type": "json_schema", "schema": {"type": "object"}}}
    assert not {"temperature", "seed", "logprobs", "sample"} & set(body)


# ---------------------------------------------------------------------- what comes back
def test_splits_of_a_chat_stream_give_the_same() -> None:
    raw = sse(*CHAT)
    for cut in range(1, len(raw), 3):
        reply = Talk(stream(*pieces(raw, [cut]))).ask()
        assert (reply.text, reply.finish, reply.problem) == (CHAT_TEXT, "stop", "")
    reply = Talk(stream(*pieces(raw, range(1, len(raw))))).ask()
    assert reply.text == CHAT_TEXT and reply.usage == Usage(12, 3, 4) and reply.model == "served-name" and reply.requests == 1


def test_a_messages_stream_byte_by_byte() -> None:
    raw = anthropic(*MESSAGES).replace(b"\n", b"\r\n")
    reply = Talk(stream(*pieces(raw, range(1, len(raw)))), dialect="anthropic").ask()
    assert reply.ok and reply.text == CHAT_TEXT and reply.usage == Usage(12, 7, 4)


def test_logprobs_are_kept() -> None:
    first = chunk("a")
    first["choices"][0]["logprobs"] = {"content": [{"token": "a", "logprob": -0.25}, {"token": "b", "logprob": None}]}
    assert Talk(stream(sse(first, chunk(None, "stop"), "[DONE]"))).ask().logprobs == (-0.25,)


def test_an_answer_in_one_piece_is_taken_too() -> None:
    whole = {"model": "n", "choices": [{"index": 0, "message": {"content": "hi"}, "finish_reason": "stop"}], "usage": USAGE}
    reply = Talk(plain(200, json_=whole)).ask()
    assert reply.ok and reply.text == "hi" and reply.usage == Usage(12, 3, 4)


def test_usage_in_every_chunk_is_not_added_up() -> None:
    told = [chunk("a", usage={**USAGE, "completion_tokens": 1}), chunk("b", usage={**USAGE, "completion_tokens": 2})]
    assert Talk(stream(sse(*told, chunk(None, "stop"), "[DONE]"))).ask().usage == Usage(12, 2, 4)


@pytest.mark.parametrize(
    ("raw", "dialect", "told", "text"),
    [
        (sse(chunk("a"), "[DONE]"), "openai", "without a finish reason", "a"),
        (sse(chunk("a")), "openai", "without a finish reason", "a"),
        (b"", "openai", "without a finish reason", ""),
        (sse(chunk("a"), chunk(None, "length"), "[DONE]"), "openai", "incomplete", "a"),
        (sse(chunk("a"), chunk(None, "content_filter"), "[DONE]"), "openai", "content_filter", "a"),
        (sse(chunk("a"), '{"choices": [{'), "openai", "not JSON", "a"),
        (sse(chunk("a"), "[1]"), "openai", "not a JSON object", "a"),
        (sse(chunk("a"), {"error": {"message": "overloaded", "code": 529}}), "openai", "overloaded", "a"),
        (sse(*CHAT, chunk("more")), "openai", "", CHAT_TEXT),
        (sse({"nothing": 1}), "openai", "without choices", ""),
        (sse({**chunk("x"), "choices": [{"index": 1, "delta": {"content": "x"}}]}), "openai", "not asked for", ""),
        (sse(chunk(3)), "openai", "not text", ""),
        (sse(chunk("a")) + b"data: \xff\n\n", "openai", "not UTF-8", "a"),
        (anthropic(*MESSAGES[:-1]), "anthropic", "before message_stop", CHAT_TEXT),
        (anthropic(*MESSAGES[:-2]), "anthropic", "without a finish reason", CHAT_TEXT),
        (anthropic(START, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}), "anthropic", "Overloaded", ""),
        (anthropic({"type": "message_start"}), "anthropic", "without 'message'", ""),
    ],
)  # fmt: skip
def test_what_is_not_a_whole_answer_is_told(raw: bytes, dialect: str, told: str, text: str) -> None:
    talk = Talk(stream(raw), dialect=dialect)
    reply = talk.ask()
    assert told in reply.problem and bool(told) == bool(reply.problem)
    assert reply.text == text and len(talk.requests) == 1


def test_tokens_that_nobody_told_are_estimated_and_marked() -> None:
    reply = Talk(stream(sse(chunk("a"), chunk("b")))).ask()
    assert reply.usage.completion == 2 and reply.usage.prompt > 0 and reply.usage.estimated == reply.usage.prompt + 2
    reply = Talk(stream(anthropic(*MESSAGES[:5])), dialect="anthropic").ask()
    assert (reply.usage.prompt, reply.usage.completion, reply.usage.estimated) == (12, 2, 1)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (lambda r: plain(302, location="http://elsewhere.test/"), "not done"),
        (lambda r: stream(sse(*CHAT), **{"content-encoding": "gzip"}), "gzip"),
        (lambda r: plain(200, "<html>", content_type="text/html"), "text/html"),
        (lambda r: plain(200, json_={"error": {"message": "no such model"}}), "no such model"),
        (lambda r: plain(200, json_={"choices": []}), "without choices"),
    ],
)
def test_other_answers_are_refused_at_once(answer: Callable[[httpx.Request], httpx.Response], told: str) -> None:
    talk = Talk(answer)
    reply = talk.ask()
    assert told in reply.problem and len(talk.requests) == 1 and not reply.text


# ---------------------------------------------------------------------- caps
def test_bytes_are_capped() -> None:
    reply = Talk(stream(*[sse(chunk("a" * 100))] * 50), bytes=2000).ask()
    assert "more than 2000 bytes" in reply.problem and len(reply.text) < 2000


def test_output_beyond_what_was_asked_for_is_cut_off() -> None:
    reply = Talk(stream(*[sse(chunk("a"))] * 1000)).ask()
    assert "more output than the 100 tokens" in reply.problem and len(reply.text) < 300


# ---------------------------------------------------------------------- asking again
@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 504, 529])
def test_what_may_pass_is_asked_again(status: int) -> None:
    talk = Talk(plain(status, json_={"error": {"message": "busy"}}), stream(sse(*CHAT)))
    reply = talk.ask()
    assert reply.ok and reply.requests == 2 and len(talk.waits) == 1 and 0.375 <= talk.waits[0] <= 0.5


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_what_will_not_pass_is_not_asked_again(status: int) -> None:
    talk = Talk(plain(status, json_={"error": {"message": "no", "code": status}}), stream(sse(*CHAT)))
    reply = talk.ask()
    assert reply.problem == f"HTTP {status}: no ({status})" and reply.requests == 1 and not talk.waits and not reply.paid


@pytest.mark.parametrize("error", [httpx.ConnectError("x"), httpx.ReadTimeout("x"), httpx.RemoteProtocolError("x"), httpx.ReadError("x")])
def test_a_lost_connection_is_tried_again(error: Exception) -> None:
    talk = Talk(error, stream(sse(*CHAT)))
    assert talk.ask().ok and len(talk.requests) == 2


def test_a_connection_lost_before_any_output_is_tried_again_and_after_some_not() -> None:
    talk = Talk(stream(sse(CHAT[0]), httpx.ReadError("reset")), stream(sse(*CHAT)))
    assert talk.ask().ok and len(talk.requests) == 2
    talk = Talk(stream(sse(chunk("a")), httpx.ReadError("reset")), stream(sse(*CHAT)))
    reply = talk.ask()
    assert "after a part of the answer" in reply.problem and reply.text == "a" and reply.paid and len(talk.requests) == 1


def test_tokens_of_a_try_that_was_given_up_count() -> None:
    talk = Talk(stream(anthropic(START), httpx.ReadError("reset")), stream(anthropic(*MESSAGES)), dialect="anthropic")
    reply = talk.ask()
    assert reply.ok and reply.requests == 2 and reply.usage == Usage(24, 8, 8)


def test_tries_end() -> None:
    talk = Talk(lambda r: plain(503, text="down"), tries=3)
    reply = talk.ask()
    assert reply.problem == "HTTP 503: down; given up after 3 tries" and reply.requests == 3 and len(talk.waits) == 2


@pytest.mark.parametrize(
    ("headers", "wait"),
    [({"retry-after-ms": "1500", "retry-after": "9"}, 1.5), ({"retry-after": "2"}, 2.0), ({"retry-after-ms": "soon", "retry-after": "3"}, 3.0),
     ({"retry-after": "0"}, 0.0)],
)  # fmt: skip
def test_the_server_says_how_long(headers: dict[str, str], wait: float) -> None:
    talk = Talk(plain(429, **headers), stream(sse(*CHAT)))
    assert talk.ask().ok and talk.waits == [wait]


def test_a_wait_longer_than_what_is_left_ends_it() -> None:
    talk = Talk(plain(429, retry_after="3600"), seconds=30.0)
    reply = talk.ask()
    assert "longer than what is left" in reply.problem and not talk.waits


def test_delays_told_and_not_told() -> None:
    now = 784111777.0  # Sun, 06 Nov 1994 08:49:37 GMT
    assert retry.told_delay({"retry-after": "Sun, 06 Nov 1994 08:49:47 GMT"}, now) == 10.0
    assert retry.told_delay({"retry-after": "Sun, 06 Nov 1994 08:00:00 GMT"}, now) == 0.0
    for odd in ("", "soon", "-1", "nan", "inf"):
        assert retry.told_delay({"retry-after": odd}, now) is None
    rng = random.Random(0)
    waits = [retry.backoff(i, rng) for i in range(12)]
    assert all(0.75 * min(8.0, 0.5 * 2**i) <= w <= min(8.0, 0.5 * 2**i) for i, w in enumerate(waits))


# ---------------------------------------------------------------------- the key
def test_the_key_is_never_shown(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    echo = [
        lambda r: plain(401, json_={"error": {"message": f"bad key {r.headers['authorization']}"}}),
        lambda r: plain(503, text=f"key {KEY}"),
        lambda r: stream(sse(chunk(KEY[:7]), chunk(KEY[7:]), chunk(None, "stop"))),
        lambda r: stream(sse(chunk("a"), {"error": KEY})),
        lambda r: httpx.ConnectError(f"cannot send {r.headers['authorization']}"),
        lambda r: stream(sse(f"{{{KEY}")),
    ]
    for answer in echo:
        talk = Talk(answer)
        reply = talk.ask()
        assert KEY not in json.dumps(reply.to_json()) and "[key]" in reply.text + reply.problem
        assert KEY not in repr(talk.client) + repr(talk.server) + repr(vars(talk.client))
    assert KEY not in caplog.text


@pytest.mark.parametrize(
    ("url", "key"),
    [("ftp://x", ""), ("nonsense", ""), ("http://user:secretsecret@x/v1", ""), ("http://x/v1?api-key=secretsecret", ""), ("http://x", "secretsecret\n"),
     ("http://x", "secret secret")],
)  # fmt: skip
def test_addresses_and_keys_that_cannot_be_used(url: str, key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Server(url, key)
    assert "secret" not in str(caught.value)


# ---------------------------------------------------------------------- many at once
def test_no_more_at_once_than_allowed() -> None:
    running, most = 0, 0

    async def answer(request: httpx.Request) -> httpx.Response:
        nonlocal running, most
        running, most = running + 1, max(most, running + 1)
        await asyncio.sleep(0.001)
        running -= 1
        return stream(sse(*CHAT))

    async def run() -> list[Reply]:
        client = Client(Server("http://llm.test/v1"), Limits(at_once=3), transport=httpx.MockTransport(answer))
        replies = await asyncio.gather(*(client.complete(ASK) for _ in range(20)))
        await client.close()
        return list(replies)

    assert all(r.ok for r in asyncio.run(run())) and most == 3
