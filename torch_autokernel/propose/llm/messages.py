"""The dialect of Anthropic's messages. Unknown events are passed over, as its documentation asks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch_autokernel.propose.llm.chat import count, error_text
from torch_autokernel.propose.llm.sse import Event
from torch_autokernel.propose.llm.talk import Broken, Request, Usage

NAME = "anthropic"
DEFAULT_BASE = "https://api.anthropic.com"
VERSION = "2023-06-01"
FINISH = {"end_turn": "stop", "stop_sequence": "stop", "max_tokens": "length", "model_context_window_exceeded": "length"}


def url(base: str) -> str:
    return f"{base.rstrip('/').removesuffix('/v1')}/v1/messages"


def headers(key: str) -> dict[str, str]:
    return {"anthropic-version": VERSION} | ({"x-api-key": key} if key else {})


def body(request: Request, base: str) -> dict[str, Any]:
    """No log-probabilities, no seed and no temperature: the dialect has none of them (the last no longer)."""
    system = "\n\n".join(m.text for m in request.messages if m.speaker == "system")
    out: dict[str, Any] = {
        "model": request.model,
        "max_tokens": request.max_tokens,
        "messages": [{"role": m.speaker, "content": m.text} for m in request.messages if m.speaker != "system"],
        "stream": True,
    }
    if system:
        out["system"] = system
    if request.schema is not None:
        out["output_config"] = {"format": {"type": "json_schema", "schema": dict(request.schema)}}
    return out


class Fold:
    """Events to an answer; see `chat.Fold`."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.finish = ""
        self.model = ""
        self.usage: Usage | None = None
        self.logprobs: list[float] = []
        self.deltas = 0
        self.done = False
        self._told: dict[str, int] = {}

    def event(self, event: Event, data: Any) -> None:
        if not isinstance(data, dict):
            raise Broken("an event that is not a JSON object")
        kind = data.get("type", event.name)
        if kind == "error":
            raise Broken(f"the server said: {error_text(data)}")
        if kind == "message_start":
            message = _object(data, "message")
            self.model = str(message.get("model", ""))
            self._usage(message.get("usage"))
        elif kind == "content_block_start":
            self._text(_object(data, "content_block").get("text"))
        elif kind == "content_block_delta":
            delta = _object(data, "delta")
            self._text(delta.get("text"))
            self.deltas += bool(delta.get("thinking") or delta.get("partial_json"))
        elif kind == "message_delta":
            self._finish(_object(data, "delta").get("stop_reason"))
            self._usage(data.get("usage"))
        elif kind == "message_stop":
            self.done = True

    def whole(self, data: Any) -> None:
        if not isinstance(data, dict) or not isinstance(data.get("content"), list):
            raise Broken("an answer without content")
        for block in data["content"]:
            self._text(block.get("text") if isinstance(block, dict) else None)
        self.model = str(data.get("model", ""))
        self._finish(data.get("stop_reason"))
        self._usage(data.get("usage"))
        self.done = True

    def problem(self) -> str:
        if not self.finish or not self.done:
            return "the stream ended without a finish reason" if not self.finish else "the stream ended before message_stop"
        if self.finish == "length":
            return "incomplete: the answer was cut at its greatest length"
        return "" if self.finish == "stop" else f"the answer ended with {self.finish!r}"

    def _text(self, text: Any) -> None:
        if text is not None and not isinstance(text, str):
            raise Broken("a text that is not text")
        if text:
            self.parts.append(text)
            self.deltas += 1

    def _finish(self, reason: Any) -> None:
        if reason:
            self.finish = FINISH.get(str(reason), str(reason))

    def _usage(self, usage: Any) -> None:
        """Counts are cumulative; a later event overrides what an earlier one told."""
        if not isinstance(usage, dict):
            return
        names = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens")
        self._told |= {n: count(usage[n]) for n in names if usage.get(n) is not None}
        told = self._told
        cached = told.get("cache_read_input_tokens", 0)
        prompt = told.get("input_tokens", 0) + told.get("cache_creation_input_tokens", 0) + cached
        self.usage = Usage(prompt, told.get("output_tokens", 0), cached)


def _object(data: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = data.get(name)
    if not isinstance(value, dict):
        raise Broken(f"an event without {name!r}")
    return value
