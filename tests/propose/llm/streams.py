"""Streams as servers write them."""

from __future__ import annotations

import json
from typing import Any

from torch_autokernel.propose.llm.talk import Message, Request

KEY = "sk-verysecretkey123"
ASK = Request("m", (Message("system", "be brief"), Message("user", "hello")), 100)


def sse(*data: Any, end: str = "\n\n") -> bytes:
    return "".join(f"data: {d if isinstance(d, str) else json.dumps(d, ensure_ascii=False)}{end}" for d in data).encode()


def chunk(content: Any = None, finish: str | None = None, **extra: Any) -> dict[str, Any]:
    delta = {} if content is None and finish else {"content": content}
    return {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "served-name",
            "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **extra}  # fmt: skip


USAGE = {"prompt_tokens": 12, "completion_tokens": 3, "total_tokens": 15, "prompt_tokens_details": {"cached_tokens": 4}}
CHAT = [
    {**chunk(), "choices": [{"index": 0, "delta": {"role": "assistant", "content": None}, "finish_reason": None}]},
    chunk("Grüße, "), chunk("世界"), chunk(" 🙂"), chunk(None, "stop"),
    {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "served-name", "choices": [], "usage": USAGE},
    "[DONE]",
]  # fmt: skip
CHAT_TEXT = "Grüße, 世界 🙂"


def anthropic(*events: dict[str, Any]) -> bytes:
    return "".join(f"event: {e['type']}\ndata: {json.dumps(e, ensure_ascii=False)}\n\n" for e in events).encode()


START = {"type": "message_start", "message": {"id": "x", "type": "message", "role": "assistant", "model": "served-name", "content": [],
         "stop_reason": None, "stop_sequence": None,
         "usage": {"input_tokens": 5, "cache_read_input_tokens": 4, "cache_creation_input_tokens": 3, "output_tokens": 1}}}  # fmt: skip
MESSAGES = [
    START,
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "ping"},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Grüße, "}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "世界 🙂"}},
    {"type": "content_block_stop", "index": 0},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": {"output_tokens": 7}},
    {"type": "message_stop"},
]  # fmt: skip
