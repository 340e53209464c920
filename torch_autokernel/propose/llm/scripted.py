"""A model that follows a script: for tests, demonstrations and replays. Contacts nobody and is deterministic."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from torch_autokernel.propose.llm.talk import Reply, Request, Usage

BYTES_PER_TOKEN = 4


class Scripted:
    """Answers by a function of the question, or with given texts in turn (the last one again and again). A text counts a token
    for every four bytes. `delay` in seconds, by question."""

    def __init__(
        self, script: Callable[[Request], str | Reply] | Sequence[str] = (), delay: Callable[[Request], float] | None = None
    ) -> None:
        self._script = script
        self._delay = delay
        self.asked: list[Request] = []

    async def complete(self, request: Request) -> Reply:
        self.asked.append(request)
        if self._delay is not None:
            await asyncio.sleep(self._delay(request))
        if callable(self._script):
            answer = self._script(request)
        else:
            answer = self._script[min(len(self.asked), len(self._script)) - 1] if self._script else ""
        return answer if isinstance(answer, Reply) else reply(request, answer)


def reply(request: Request, text: str) -> Reply:
    """A complete answer with its usage; cut, and incomplete, where it is longer than was asked for."""
    tokens, prompt = _tokens(len(text.encode())), _tokens(request.prompt_bytes)
    if tokens > request.max_tokens:
        text = text.encode()[: request.max_tokens * BYTES_PER_TOKEN].decode("utf-8", "ignore")
        problem = "incomplete: the answer was cut at its greatest length"
        return Reply(text, "length", Usage(prompt, request.max_tokens), 1, model=request.model, problem=problem)
    return Reply(text, "stop", Usage(prompt, tokens), 1, model=request.model)


def _tokens(size: int) -> int:
    return -(-size // BYTES_PER_TOKEN)
