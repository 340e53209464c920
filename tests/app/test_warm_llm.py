"""`autokernel warm` with a language model on loopback: asked where one is configured, and only there."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.app.conftest import Run
from tests.app.llm_server import Counting, serving
from torch_autokernel.app.bill import bill_table
from torch_autokernel.app.progress import told
from torch_autokernel.core.bill import Bill
from torch_autokernel.core.config import config
from torch_autokernel.core.events import Event

Go = Callable[..., Run]
Write = Callable[[str, str], Path]
KEY = "sk-do-not-show-me-123"
PROBLEM = """
import torch

def scaled(x):
    return torch.exp(x * 0.5) + x

def example_inputs():
    return [torch.randn(256, 512)]
"""
RIGHT = """strategy: one pass
```cpp
#include <cmath>
#include <cstdint>
extern "C" void kernel(const float* x0, float* y0, int64_t s0, int64_t s1) {
    for (int64_t i = 0; i < s0 * s1; ++i) y0[i] = std::exp(x0[i] * 0.5f) + x0[i];
}
```
"""
ANSWERS = (RIGHT, RIGHT.replace("0.5f", "0.4f"), "no", RIGHT.replace("y0[i] =", "y0[i] +="), RIGHT.replace(";", "", 1))


def answer(body: dict[str, Any]) -> str:
    if "response_format" in body:
        return '{"cases": []}'
    return ANSWERS[body["seed"] % len(ANSWERS)]


@pytest.fixture
def server() -> Iterator[Counting]:
    with serving(answer) as state:
        yield state


@pytest.mark.slow
def test_warm_asks_the_configured_model(run: Go, write: Write, server: Counting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("MODEL", "tiny"), ("BASE_URL", server.url), ("API_KEY", KEY)):
        monkeypatch.setenv(f"TORCH_AUTOKERNEL_LLM_{name}", value)
    config.reload()
    ran = run("warm", write("scaled.py", PROBLEM), "--max-seconds", "25", "--max-tokens", "40000", "--json", "-v")
    assert ran.code in (0, 1), ran.err
    llm = ran.json["llm"]
    assert llm["total"]["calls"] == len(server.bodies) > 0 and llm["total"]["tokens"] == server.tokens <= 40_000
    assert server.keys == {f"Bearer {KEY}"} and {b["model"] for b in server.bodies} == {"tiny"}
    assert {"translator", "tester"} <= {r["role"] for r in llm["rows"]}
    assert ran.json["targets"][0]["bill"]["total"] == llm["total"]
    (region,) = ran.json["targets"][0]["explanation"]["regions"]
    assert f"{len(server.bodies)} LLM calls, {server.tokens} tokens" in region["reason"]
    assert "[LLM: " in ran.err and "tokens" in ran.err
    holding = [p for p in tmp_path.rglob("*") if p.is_file() and KEY.encode() in p.read_bytes()]
    assert KEY not in ran.out + ran.err and not holding
    conversation = (tmp_path / "cache" / "work" / "conversation.jsonl").read_text().splitlines()
    assert len(conversation) == len(server.bodies)
    told = [json.loads(line) for line in conversation]
    assert {line["role"] for line in told} == {r["role"] for r in llm["rows"]}
    assert sum(sum(line["reply"]["usage"][n] for n in ("prompt", "completion")) for line in told) == server.tokens


@pytest.mark.slow
def test_without_a_model_nothing_is_contacted(run: Go, write: Write, server: Counting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An address and keys alone are no invitation; no HTTP client is even loaded."""
    monkeypatch.setenv("TORCH_AUTOKERNEL_LLM_BASE_URL", server.url)
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    config.reload()

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("an HTTP client was made")

    monkeypatch.setattr("httpx.AsyncClient", refuse)
    ran = run("warm", write("scaled.py", PROBLEM), "--max-seconds", "12", "--json")
    assert ran.code in (0, 1), ran.err
    assert "llm" not in ran.json and ran.json["targets"][0]["bill"] == {} and not server.bodies and "LLM" not in ran.out
    assert not (tmp_path / "cache" / "work" / "conversation.jsonl").exists()


def test_the_bill_adds_up() -> None:
    bill = Bill()
    assert bill.short() == "" and bill.tokens_per_speedup is None
    for role, tokens, problem in (("translator", 100, ""), ("translator", 50, "HTTP 500"), ("tester", 7, "")):
        facts = {"signature": "r", "role": role, "model": "m", "tokens": tokens, "seconds": 1.0, "money": 0.5, "replayed": False, "problem": problem}
        event = Event("llm.call", facts)
        bill(event)
        assert role in told(event) and problem in told(event)
    for speedup in (1.2, 1.5, 1.3):
        bill(Event("search.best", {"signature": "r", "speedup": speedup}))
    bill(Event("search.accepted", {"signature": "r"}))
    data = bill.to_json()
    assert data["total"] == {"calls": 3, "failed": 1, "replayed": 0, "tokens": 157, "seconds": 3.0, "money": 1.5}
    assert data["tokens_per_accepted_speedup"] == 157 and data["money_per_accepted_speedup"] == 1.5
    assert bill.short() == "[LLM: 3 calls, 157 tokens, 1.5 in money, best 1.50x] " and "157 tokens for each" in bill_table(bill)
