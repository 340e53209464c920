"""The dialect of OpenAI's chat completions, as vLLM, llama.cpp, Ollama and gateways speak it too.

Tolerated, because real servers do it: a first delta whose content is null, a served model with another name than the one
asked for, integer error codes, usage in a chunk without choices or in every chunk, a stream without `[DONE]`. Not tolerated:
a stream that ends without a finish reason.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch_autokernel.propose.llm.sse import Event
from torch_autokernel.propose.llm.talk import Broken, Request, Usage

NAME = "openai"
DEFAULT_BASE = "https://api.openai.com/v1"
FINISH = {"stop": "stop", "length": "length"}


def url(base: str) -> str:
    return f"{base.rstrip('/')}/chat/completions"


def headers(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"} if key else {}


def body(request: Request, base: str) -> dict[str, Any]:
    """For OpenAI's own host without temperature and seed, which its newer models refuse, and with its newer limit's name."""
    official = base.startswith(DEFAULT_BASE)
    out: dict[str, Any] = {
        "model": request.model,
        "messages": [{"role": m.speaker, "content": m.text} for m in request.messages],
        "max_completion_tokens" if official else "max_tokens": request.max_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if request.temperature is not None and not official:
        out["temperature"] = request.temperature
    if request.seed is not None and not official:
        out["seed"] = request.seed
    if request.logprobs:
        out["logprobs"] = True
    if request.schema is not None:
        schema = {"name": "answer", "strict": True, "schema": dict(request.schema)}
        out["response_format"] = {"type": "json_schema", "json_schema": schema}
    return out


class Fold:
    """Events to an answer. `deltas` counts pieces of output, text or reasoning: at least a token each."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.finish = ""
        self.model = ""
        self.usage: Usage | None = None
        self.logprobs: list[float] = []
        self.deltas = 0
        self.done = False

    def event(self, event: Event, data: Any) -> None:
        """Take one event in; raises Broken where it is not of the dialect."""
        if event.data.strip() == "[DONE]":
            self.done = True
            return
        if not isinstance(data, dict):
            raise Broken("a chunk that is not a JSON object")
        if event.name == "error" or data.get("error"):
            raise Broken(f"the server said: {error_text(data)}")
        self._usage(data)
        choices = data.get("choices")
        if not isinstance(choices, list):
            raise Broken("a chunk without choices")
        for choice in choices:
            self._choice(choice)

    def whole(self, data: Any) -> None:
        """Take in an answer that came in one piece although a stream was asked for."""
        if not isinstance(data, dict) or not isinstance(data.get("choices"), list) or not data["choices"]:
            raise Broken("an answer without choices")
        for choice in data["choices"]:
            if isinstance(choice, dict):
                self._choice({**choice, "delta": choice.get("message")})
        self._usage(data)
        self.done = True

    def problem(self) -> str:
        """Why the answer is not complete, or nothing."""
        if not self.finish:
            return "the stream ended without a finish reason"
        if self.finish == "length":
            return "incomplete: the answer was cut at its greatest length"
        return "" if self.finish == "stop" else f"the answer ended with {self.finish!r}"

    def _choice(self, choice: Any) -> None:
        if not isinstance(choice, dict) or choice.get("index", 0) != 0:
            raise Broken("a choice that was not asked for")
        delta = choice.get("delta") or {}
        if not isinstance(delta, dict):
            raise Broken("a delta that is not a JSON object")
        content = delta.get("content")
        if content is not None and not isinstance(content, str):
            raise Broken("a content that is not text")
        if content:
            self.parts.append(content)
        if content or delta.get("reasoning_content") or delta.get("reasoning") or delta.get("tool_calls"):
            self.deltas += 1
        for entry in (choice.get("logprobs") or {}).get("content") or ():
            value = entry.get("logprob") if isinstance(entry, dict) else None
            if isinstance(value, (int, float)) and math.isfinite(value):
                self.logprobs.append(float(value))
        if reason := choice.get("finish_reason"):
            self.finish = FINISH.get(str(reason), str(reason))

    def _usage(self, data: Mapping[str, Any]) -> None:
        if isinstance(data.get("model"), str):
            self.model = data["model"]
        usage = data.get("usage")
        if isinstance(usage, dict):
            details = usage.get("prompt_tokens_details") or {}
            self.usage = Usage(count(usage.get("prompt_tokens")), count(usage.get("completion_tokens")),
                               count(details.get("cached_tokens")))  # fmt: skip


def count(value: Any) -> int:
    """A token count; what is none counts nothing (servers leave it out or send null)."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0


def error_text(data: Any) -> str:
    """What an error's JSON says."""
    error = data.get("error", data) if isinstance(data, dict) else data
    if isinstance(error, dict):
        said = error.get("message") or error.get("detail") or error.get("type") or "no reason"
        code = error.get("code") or error.get("type")
        return f"{said} ({code})" if code and str(code) != str(said) else str(said)
    return str(error)
