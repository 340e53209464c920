"""One server, one key: questions over HTTP, answers as values.

The model and the server are those that were asked for; nothing here falls back to others, and redirects are not followed.
A question is asked again only before any output of it has come. The whole of it, waiting and retries included, ends at
`Limits.seconds`, whatever the server does. The key stands in the request's header and nowhere else.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

from torch_autokernel.core.errors import ConfigError
from torch_autokernel.propose.llm import chat, messages, retry
from torch_autokernel.propose.llm.sse import Parser
from torch_autokernel.propose.llm.talk import CANCELLED, Broken, Reply, Request, Usage

log = logging.getLogger(__name__)

BYTES_PER_TOKEN = 3.0  # for estimates only, where a server tells nothing; English and code have about four
MOST_ERROR = 1 << 16  # bytes of an error's body that are read
SHORTEST_SECRET = 8  # shorter keys are placeholders ("none", "EMPTY")
DIALECTS: dict[str, ModuleType] = {chat.NAME: chat, messages.NAME: messages}


@dataclass(frozen=True)
class Server:
    """Where to ask, and in which dialect. Raises ConfigError for an address or key that cannot be used."""

    base_url: str
    key: str = field(default="", repr=False)
    dialect: str = chat.NAME

    def __post_init__(self) -> None:
        parts = urlsplit(self.base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError("the LLM's base URL is not an http address", hint="give one like http://127.0.0.1:8000/v1")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ConfigError("the LLM's base URL holds a user, a query or a fragment",
                              hint="give the key as TORCH_AUTOKERNEL_LLM_API_KEY")  # fmt: skip
        if self.dialect not in DIALECTS:
            raise ConfigError(f"no LLM dialect named {self.dialect!r}; known: {', '.join(DIALECTS)}")
        if not all(33 <= ord(c) <= 126 for c in self.key):
            raise ConfigError("the LLM's key holds spaces or characters that are not ASCII", hint="look for a line break in it")

    def scrub(self, text: str) -> str:
        """The text without the key."""
        return text.replace(self.key, "[key]") if len(self.key) >= SHORTEST_SECRET else text


@dataclass(frozen=True)
class Limits:
    """For one question: wall seconds in all, seconds without a byte, decoded bytes, tries. `at_once` holds for the client."""

    seconds: float = 300.0
    stall_seconds: float = 60.0
    connect_seconds: float = 15.0
    bytes: int = 8 << 20
    tries: int = 4
    at_once: int = 8


class _Again(Exception):
    """The try failed before any output and may be repeated."""

    def __init__(self, reason: str, delay: float | None = None) -> None:
        super().__init__(reason)
        self.delay = delay


class Client:
    """Asks one server. All calls on one event loop. `transport`, `sleep`, `rng` and `clock` are there for tests."""

    def __init__(
        self, server: Server, limits: Limits = Limits(), *, transport: Any = None,  # noqa: B008
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep, rng: random.Random | None = None,
    ) -> None:  # fmt: skip
        self.server = server
        self.limits = limits
        self._dialect = DIALECTS[server.dialect]
        self._transport = transport
        self._sleep = sleep
        self._rng = rng or random.Random()
        self._http: Any = None
        self._slots: asyncio.Semaphore | None = None

    async def complete(self, request: Request) -> Reply:
        """The answer, or as much as came and the problem. Cancelling the task ends the request, and this is told too."""
        if self._slots is None:
            self._slots = asyncio.Semaphore(self.limits.at_once)
        async with self._slots:
            call = _Call(self, request)
            start = time.monotonic()
            try:
                problem = await asyncio.wait_for(call.run(start + self.limits.seconds), self.limits.seconds)
            except (TimeoutError, asyncio.TimeoutError):
                problem = f"no complete answer within {self.limits.seconds:g} s"
            except asyncio.CancelledError:  # what came until then is paid for, so it is told
                problem = CANCELLED
            return call.reply(problem, time.monotonic() - start)

    async def close(self) -> None:
        if self._http is not None:
            await self._http.aclose()
        self._http = self._slots = None

    def http(self) -> Any:
        """The HTTP client, made on first use: whoever asks nothing needs no httpx."""
        if self._http is None:
            try:
                import httpx
            except ImportError as error:
                raise ConfigError("an LLM is configured but httpx is not installed",
                                  hint="pip install 'torch-autokernel[llm]'") from error  # fmt: skip
            limits, most = self.limits, self.limits.at_once
            timeout = httpx.Timeout(limits.stall_seconds, connect=limits.connect_seconds, pool=None)
            pool = httpx.Limits(max_connections=most, max_keepalive_connections=most)
            self._http = httpx.AsyncClient(transport=self._transport, timeout=timeout, limits=pool, follow_redirects=False)
        return self._http


class _Call:
    """One question under way."""

    def __init__(self, client: Client, request: Request) -> None:
        self.client, self.request = client, request
        self.server, self.limits = client.server, client.limits
        self.dialect = client._dialect
        self.requests = 0
        self.before = Usage()  # what tries that were given up had told already
        self.fold: Any = self.dialect.Fold()

    async def run(self, deadline: float) -> str:
        """The problem, or nothing."""
        for attempt in range(self.limits.tries):
            try:
                return await self._once()
            except _Again as again:
                reason = str(again)
                if attempt + 1 == self.limits.tries:
                    break
                self.before += self.fold.usage or Usage()
                self.fold = self.dialect.Fold()
                delay = again.delay if again.delay is not None else retry.backoff(attempt, self.client._rng)
                if time.monotonic() + delay >= deadline:
                    return f"{reason}; the wait of {delay:.3g} s before the next try is longer than what is left"
                log.info("%s; asked again in %.3g s", self.server.scrub(reason), delay)
                await self.client._sleep(delay)
        return f"{reason}; given up after {self.limits.tries} tries"

    async def _once(self) -> str:
        import httpx

        http = self.client.http()
        url, base = self.dialect.url(self.server.base_url), self.server.base_url
        headers = {"accept": "text/event-stream", "accept-encoding": "identity", **self.dialect.headers(self.server.key)}
        self.requests += 1
        try:
            async with http.stream("POST", url, json=self.dialect.body(self.request, base), headers=headers) as response:
                if response.status_code != 200:
                    return await self._refused(response)
                return await self._read(response)
        except Broken as error:
            return str(error)
        except httpx.InvalidURL as error:
            return f"the address cannot be used: {error}"
        except httpx.TransportError as error:
            return self._lost(error)

    def _lost(self, error: Exception) -> str:
        reason = f"the connection failed: {type(error).__name__}: {error}".rstrip(": ")
        if self.fold.deltas:
            return f"{reason}, after a part of the answer"
        if self.fold.finish:
            return reason
        raise _Again(reason) from error

    async def _refused(self, response: Any) -> str:
        """The problem of an answer that is no success; raises _Again where it may pass."""
        status = response.status_code
        content = bytearray()
        async for chunk in response.aiter_raw():
            content += chunk
            if len(content) >= MOST_ERROR:
                break
        reason = f"HTTP {status}"
        if 300 <= status < 400:
            return f"{reason}: the server wants to send the request elsewhere, which is not done"
        if said := _said(bytes(content[:MOST_ERROR])):
            reason += f": {said}"
        if retry.retriable(status):
            raise _Again(reason, retry.told_delay(response.headers, time.time()))
        return reason

    async def _read(self, response: Any) -> str:
        encoding = response.headers.get("content-encoding", "identity")
        if encoding not in ("", "identity"):
            raise Broken(f"the answer is encoded as {encoding!r}, which was not asked for")
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == "application/json":
            return await self._whole(response)
        if kind != "text/event-stream":
            raise Broken(f"the answer is {kind or 'of no type'!r}, not a stream of events")
        parser, seen = Parser(), 0
        async for chunk in response.aiter_raw():
            seen += len(chunk)
            for event in parser.feed(chunk):
                self.fold.event(event, None if event.data.strip() == "[DONE]" else _json(event.data))
                if self.fold.done:  # a server may leave the connection open, or say more: it does not count
                    return str(self.fold.problem())
                if self.fold.deltas > 2 * self.request.max_tokens + 16:
                    raise Broken(f"more output than the {self.request.max_tokens} tokens that were asked for")
            if seen > self.limits.bytes:
                raise Broken(f"an answer of more than {self.limits.bytes} bytes")
        return str(self.fold.problem())

    async def _whole(self, response: Any) -> str:
        content = bytearray()
        async for chunk in response.aiter_raw():
            content += chunk
            if len(content) > self.limits.bytes:
                raise Broken(f"an answer of more than {self.limits.bytes} bytes")
        data = _json(content.decode("utf-8", "replace"))
        if isinstance(data, dict) and data.get("error"):
            raise Broken(f"the server said: {chat.error_text(data)}")
        self.fold.whole(data)
        return str(self.fold.problem())

    def reply(self, problem: str, seconds: float) -> Reply:
        """What came, with its cost. Tokens that no server told are estimated where there was output."""
        fold = self.fold
        text = self.server.scrub("".join(fold.parts))
        usage = fold.usage
        if fold.deltas and (usage is None or problem):
            told = usage or Usage()
            prompt = told.prompt or math.ceil(self.request.prompt_bytes / BYTES_PER_TOKEN)
            completion = max(told.completion, fold.deltas)
            usage = Usage(prompt, completion, told.cached, prompt + completion - told.prompt - told.completion)
        logprobs = tuple(fold.logprobs)
        problem = self.server.scrub(" ".join(problem.split()))[:500]
        if problem:
            log.info("a call of %s failed: %s", self.request.model, problem)
        usage = self.before + (usage or Usage())
        return Reply(text, fold.finish, usage, self.requests, seconds, fold.model, logprobs, problem)


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise Broken(f"a chunk that is not JSON: {text[:80]!r}") from None


def _said(content: bytes) -> str:
    text = content.decode("utf-8", "replace").strip()
    try:
        return chat.error_text(json.loads(text))
    except (ValueError, RecursionError):
        return next(iter(text.splitlines()), "")[:200]
