"""Verified kernels of related regions, as examples: exact on what must fit (language, dtypes), then by operations in common."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from torch_autokernel.core.types import CacheEntry, Candidate, Region, Signature

LEAST = 0.3  # of the operations, weighted by how often they occur


def related(region: Region, entries: Iterable[CacheEntry], language: str, most: int = 2) -> tuple[Candidate, ...]:
    """At most `most` kernels of other regions, the most similar first; of equally similar ones the faster."""
    scored = []
    for entry in entries:
        if entry.candidate.source.language != language or entry.signature.digest == region.signature.digest:
            continue
        if not dtypes(entry.signature) <= dtypes(region.signature) or not entry.verdict.accepted:
            continue
        likeness = similarity(region.signature, entry.signature)
        if likeness >= LEAST:
            speedup = entry.verdict.timing.speedup if entry.verdict.timing else 0.0
            scored.append((likeness, speedup, entry.candidate.id, entry.candidate))
    scored.sort(key=lambda row: row[:3], reverse=True)
    return tuple(row[3] for row in scored[:most])


def dtypes(signature: Signature) -> frozenset[str]:
    return frozenset(s.dtype for s in (*signature.inputs, *signature.output_specs))


def similarity(one: Signature, other: Signature) -> float:
    """Operations in common, of all of both, counted with their number; between 0 and 1."""
    a, b = (Counter(op.target.rpartition(".")[0] or op.target for op in s.ops) for s in (one, other))
    return sum((a & b).values()) / max(1, sum((a | b).values()))
