"""A conversation as a value: what is asked, what came back, what it cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch_autokernel.core.types import Json, digest

CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Message(Json):
    """`speaker` is system, user or assistant."""

    speaker: str
    text: str


@dataclass(frozen=True, slots=True)
class Request(Json):
    """One question. `sample` tells equal questions apart, so that each gets an answer of its own. `schema` is a JSON schema
    that the answer must follow."""

    model: str
    messages: tuple[Message, ...]
    max_tokens: int
    temperature: float | None = None
    schema: Mapping[str, Any] | None = None
    logprobs: bool = False
    seed: int | None = None
    sample: int = 0

    @property
    def digest(self) -> str:
        return digest(self.to_json())

    @property
    def prompt_bytes(self) -> int:
        return sum(len(m.text.encode()) for m in self.messages)


@dataclass(frozen=True, slots=True)
class Usage(Json):
    """Tokens. `cached` of the prompt's came from the server's cache; `estimated` of the sum were not told but counted here."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0
    estimated: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.prompt + other.prompt, self.completion + other.completion, self.cached + other.cached,
                     self.estimated + other.estimated)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Reply(Json):
    """An answer, or as much of one as came. `problem` says why it is not complete; `usage` counts all `requests` that were
    made for it; `seconds` is wall time, waiting included. `model` is the name that the server gave itself."""

    text: str = ""
    finish: str = ""
    usage: Usage = field(default_factory=Usage)
    requests: int = 0
    seconds: float = 0.0
    model: str = ""
    logprobs: tuple[float, ...] = ()
    problem: str = ""

    @property
    def ok(self) -> bool:
        return not self.problem

    @property
    def paid(self) -> bool:
        """Whether a server did work for it, so that asking again would be paying again."""
        return bool(self.usage.prompt or self.usage.completion)


class Broken(Exception):
    """A server's answer is not of the protocol. Never leaves this package: it becomes a reply's problem."""
