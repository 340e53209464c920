"""An entry and a refusal as documents: what is written, and everything that must agree before one is believed."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch_autokernel.core.types import SIGNATURE_SCHEMA, CacheEntry, CacheKey, Refusal, digest
from torch_autokernel.store.files import Broken
from torch_autokernel.store.trust import Seal

ENTRY_FILE = "entry.json"
ARTIFACT = "artifact"
FILE_NAME = re.compile(r"artifact|source\.[A-Za-z0-9]{1,8}|vectors\.safetensors")
ARCH_NAME = re.compile(r"[A-Za-z0-9_+-][A-Za-z0-9_.+-]{0,99}")
SIGNATURE_NAME = re.compile(r"[0-9a-f]{64}")
ENTRY_NAME = re.compile(r"([0-9a-f]{32})(\.[2-9]|\.[1-9][0-9]{1,3})?")
REFUSAL_NAME = re.compile(r"refusal-[0-9a-f]{16}\.json")

_MALFORMED = (KeyError, ValueError, TypeError, AttributeError, IndexError, RecursionError)


@dataclass(frozen=True, slots=True)
class Record:
    """An entry as it lies on disk, its seal opened. `files`: name to (sha256, bytes). `op_name` is the entry's."""

    entry: CacheEntry
    files: Mapping[str, tuple[str, int]]
    op_name: str

    @property
    def speedup(self) -> float:
        timing = self.entry.verdict.timing
        return timing.speedup if timing and timing.speedup == timing.speedup else 0.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where a document lies: `<arch>/<signature>/<name>` and the full path of that."""

    arch: str
    signature: str
    name: str
    path: str


def covers(ranges: Mapping[str, tuple[int, int]], sizes: Mapping[str, int] | None) -> bool:
    """Whether all sizes lie in the ranges; always, where no sizes are given."""
    return sizes is None or all(s in sizes and low <= sizes[s] <= high for s, (low, high) in ranges.items())


def refusal_name(refusal: Refusal) -> str:
    """One file for each (key, conditions, ranges): a later refusal of the same replaces the earlier."""
    same = replace(refusal, reason="", created=0.0, signatures=())
    return f"refusal-{digest(same.to_json())[:16]}.json"


def entry_document(entry: CacheEntry, contents: Mapping[str, bytes]) -> dict[str, Any]:
    facts = {name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)} for name, data in contents.items()}
    stored = replace(entry, artifact=replace(entry.artifact, path=ARTIFACT))
    return {"entry": stored.to_json(), "files": facts}


def open_entry(data: bytes, seal: Seal, place: Place) -> Record | Broken:
    """The record that lies at `place`, or why it is not believed."""
    path = os.path.join(place.path, ENTRY_FILE)
    document = seal.open(data)
    if isinstance(document, Broken):
        return Broken(document.kind, f"{path} {document.reason}")
    try:
        files = {name: (str(f["sha256"]), int(f["bytes"])) for name, f in document["files"].items()}
        entry: CacheEntry = CacheEntry.from_json(document["entry"])
        reason = _disagreement(entry, files, place)
        op_name = entry.op_name
    except _MALFORMED as error:
        return Broken("corrupt", f"{path} does not read as an entry: {type(error).__name__}: {error}")
    if reason:
        return Broken("corrupt", f"{path}: {reason}")
    artifact = replace(entry.artifact, path=os.path.join(place.path, ARTIFACT))
    return Record(replace(entry, artifact=artifact), files, op_name)


def _disagreement(entry: CacheEntry, files: Mapping[str, tuple[str, int]], place: Place) -> str:
    """What in the entry contradicts itself or its place; empty where nothing does."""
    key, verdict, candidate = entry.key, entry.verdict, entry.candidate.id
    name = ENTRY_NAME.fullmatch(place.name)
    wrong = [
        (key.arch != place.arch or key.signature != place.signature, "its key belongs to another folder"),
        (entry.signature.schema != SIGNATURE_SCHEMA, f"signature schema {entry.signature.schema}, not {SIGNATURE_SCHEMA}"),
        (entry.signature.digest != key.signature, "its signature does not match its key"),
        (entry.candidate.signature != key.signature, "its candidate is for another signature"),
        (name is None or name[1] != candidate, "its candidate belongs to another folder"),
        (entry.artifact.candidate.id != candidate, "its artifact was made from another candidate"),
        (verdict.candidate != candidate, "its verdict is about another candidate"),
        (verdict.arch != key.arch, f"its verdict is for {verdict.arch}, not {key.arch}"),
        (not verdict.accepted, f"its kernel was not accepted ({verdict.why})"),
        (entry.artifact.path != ARTIFACT, f"its artifact is called {entry.artifact.path!r}, not {ARTIFACT!r}"),
        (files.get(ARTIFACT, ("",))[0] != entry.artifact.sha256, "its artifact's digest does not match"),
        (not any(f.startswith("source.") for f in files), "it lists no source"),
        (not all(FILE_NAME.fullmatch(f) for f in files), "it lists a file that no entry has"),
        (not all(low <= high for low, high in entry.ranges.values()), "a range of its sizes is empty"),
    ]
    return next((reason for bad, reason in wrong if bad), "")


def open_refusal(data: bytes, seal: Seal, place: Place) -> Refusal | Broken:
    """The refusal that lies at `place`, or why it is not believed."""
    document = seal.open(data)
    if isinstance(document, Broken):
        return Broken(document.kind, f"{place.path} {document.reason}")
    try:
        refusal: Refusal = Refusal.from_json(document["refusal"])
        fits = (refusal.key.arch, refusal.key.signature) == (place.arch, place.signature)
        if not fits or refusal_name(refusal) != place.name:
            return Broken("corrupt", f"{place.path}: its key belongs to another file")
    except _MALFORMED as error:
        return Broken("corrupt", f"{place.path} does not read as a refusal: {type(error).__name__}: {error}")
    return refusal


def unusable_key(key: CacheKey) -> str | None:
    """Why nothing can be kept under a key, or None."""
    if not ARCH_NAME.fullmatch(key.arch):
        return f"arch {key.arch!r} cannot name a folder; expected letters, digits and _ . + -"
    if not SIGNATURE_NAME.fullmatch(key.signature):
        return f"signature {key.signature!r} is not a sha256 in hexadecimal"
    return None
