"""Answers read strictly: exactly what was asked for, or the reason why it is not that. Nothing is guessed or repaired."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch_autokernel.core.types import Case, Region

MOST_KERNEL = 200_000  # characters
MOST_CASES = 8
LARGEST_SIZE = 1 << 13
NAMES = {"cpp": ("cpp", "c++", "cc", "cxx"), "null": ("python", "py")}
_THOUGHT = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)
_FENCE = re.compile(r"^[ ]{0,3}(`{3,})[ \t]*([^\n`]*?)[ \t]*$")
_STRATEGY = re.compile(r"^\s*\**strategy\**\s*:\s*\**\s*(.+?)\s*$", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True)
class Kernel:
    text: str
    strategy: str


@dataclass(frozen=True)
class Unreadable:
    reason: str


def kernel(answer: str, language: str) -> Kernel | Unreadable:
    """The one fenced block of an answer, and its strategy."""
    answer = _THOUGHT.sub("", answer)
    blocks, prose, problem = _blocks(answer)
    if problem:
        return Unreadable(problem)
    if len(blocks) != 1:
        return Unreadable(f"the answer has {len(blocks)} fenced blocks, expected exactly one")
    name, text = blocks[0]
    allowed = NAMES.get(language, (language,))
    if name and name.lower() not in allowed:
        return Unreadable(f"the block is marked {name!r}, expected {allowed[0]!r}")
    if not text.strip():
        return Unreadable("the block is empty")
    if len(text) > MOST_KERNEL:
        return Unreadable(f"the block has more than {MOST_KERNEL} characters")
    if "\0" in text:
        return Unreadable("the block holds a NUL character")
    said = _STRATEGY.search(prose)
    return Kernel(text, tag(said.group(1)) if said else "unnamed")


def tag(text: str) -> str:
    """A strategy's name in a form in which equal ones are equal."""
    return " ".join(re.sub(r"[^a-z0-9]+", " ", text.lower()).split())[:40].strip() or "unnamed"


def _blocks(answer: str) -> tuple[list[tuple[str, str]], str, str]:
    """The fenced blocks (name, text), everything else, and what is wrong with the fences."""
    blocks: list[tuple[str, str]] = []
    prose: list[str] = []
    fence, name = "", ""
    held: list[str] = []
    for line in answer.replace("\r\n", "\n").split("\n"):
        found = _FENCE.match(line)
        if fence:
            if found and len(found.group(1)) >= len(fence) and not found.group(2):
                blocks.append((name, "\n".join(held) + "\n"))
                fence, held = "", []
            else:
                held.append(line)
        elif found:
            fence, name = found.group(1), found.group(2)
        else:
            prose.append(line)
    return blocks, "\n".join(prose), "a fenced block is not closed" if fence else ""


CASES_SCHEMA: dict[str, Any] = {
    "type": "object", "additionalProperties": False, "required": ["cases"],
    "properties": {"cases": {"type": "array", "items": {
        "type": "object", "additionalProperties": False, "required": ["sizes", "distribution", "why"],
        "properties": {
            "sizes": {"type": "array", "items": {
                "type": "object", "additionalProperties": False, "required": ["symbol", "value"],
                "properties": {"symbol": {"type": "string"}, "value": {"type": "integer"}},
            }},
            "distribution": {"type": "string"}, "why": {"type": "string"},
        },
    }}},
}  # fmt: skip
OPINION_SCHEMA: dict[str, Any] = {
    "type": "object", "additionalProperties": False, "required": ["probability", "reasons"],
    "properties": {"probability": {"type": "number"}, "reasons": {"type": "array", "items": {"type": "string"}}},
}  # fmt: skip


def cases(answer: str, region: Region, distributions: Sequence[str], seed: int) -> list[Case] | Unreadable:
    """The cases of a tester's answer. One that is not possible for the region spoils only itself."""
    data = _object(answer, ("cases",))
    if isinstance(data, Unreadable):
        return data
    if not isinstance(data["cases"], list):
        return Unreadable("`cases` is not a list")
    out: list[Case] = []
    for number, row in enumerate(data["cases"][:MOST_CASES]):
        if (sizes := _sizes(row, region)) is not None and row.get("distribution") in distributions:
            note = " ".join(str(row.get("why", "")).split())[:200]
            out.append(Case(seed + number, sizes, row["distribution"], "tester", note))
    return out


def _sizes(row: Any, region: Region) -> dict[str, int] | None:
    """A value for each of the region's symbols, those left out as in the region; or None where one is not possible."""
    signature = region.signature
    if not isinstance(row, dict) or not isinstance(row.get("sizes"), list):
        return None
    sizes = {s: int(region.sizes.get(s, 1)) for s in signature.symbols}
    for entry in row["sizes"]:
        if not isinstance(entry, dict) or entry.get("symbol") not in sizes:
            return None
        value = entry.get("value")
        least = max(1, signature.guards.get(entry["symbol"], 1))
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= LARGEST_SIZE:
            return None
        sizes[entry["symbol"]] = value
    return sizes


def opinion(answer: str) -> tuple[float, tuple[str, ...]] | Unreadable:
    """A verifier's probability and reasons."""
    data = _object(answer, ("probability", "reasons"))
    if isinstance(data, Unreadable):
        return data
    value, reasons = data["probability"], data["reasons"]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or not 0 <= value <= 1:
        return Unreadable(f"the probability {value!r} is not between 0 and 1")
    if not isinstance(reasons, list) or not all(isinstance(r, str) for r in reasons):
        return Unreadable("`reasons` is not a list of texts")
    return float(value), tuple(" ".join(r.split())[:300] for r in reasons[:8])


def _object(answer: str, names: Sequence[str]) -> Mapping[str, Any] | Unreadable:
    """The JSON object that the answer is, alone or as its only fenced block, with exactly these names."""
    text = _THOUGHT.sub("", answer).strip()
    if text.startswith("```"):
        blocks, prose, problem = _blocks(text)
        if problem or len(blocks) != 1 or prose.strip():
            return Unreadable(problem or "text beside the JSON object")
        text = blocks[0][1]
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return Unreadable("the answer is not JSON")
    if not isinstance(data, dict) or set(data) != set(names):
        return Unreadable(f"the answer is not an object with {', '.join(names)}")
    return data
