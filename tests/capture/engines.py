"""An engine that finds a kernel for every region at once: the kernel is the printed reference. What capture does (cutting,
printing, swapping, falling back) is tested with it without a compiler."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch

from torch_autokernel.capture.operators import run_reference
from torch_autokernel.capture.reference import load_reference, print_reference
from torch_autokernel.core.config import Config
from torch_autokernel.core.errors import GuardMiss
from torch_autokernel.core.types import (
    Arch,
    Artifact,
    CacheEntry,
    CacheKey,
    Candidate,
    Finding,
    Refusal,
    Region,
    Signature,
    Source,
    Status,
    Trust,
    Verdict,
    digest,
)
from torch_autokernel.engine import Decision
from torch_autokernel.store import Lookup


def entry_of(region: Region, salt: str = "") -> CacheEntry:
    """An accepted entry whose kernel is the region's reference."""
    key = CacheKey(region.signature.digest, "test", "test" + salt)
    candidate = Candidate(region.signature.digest, Source("test", region.reference), "test")
    artifact = Artifact(candidate, "/nowhere", digest(region.reference), "kernel")
    verdict = Verdict(candidate.id, "test", (Finding("test", Status.PASS),), ("test",))
    return CacheEntry(key, region.signature, candidate, artifact, verdict, Trust.VERIFIED_HERE, region.reference)


def _check(signature: Signature, tensors: Sequence[torch.Tensor]) -> None:
    """Refuses what the launcher refuses."""
    if [str(t.dtype).removeprefix("torch.") for t in tensors] != [s.dtype for s in signature.inputs]:
        raise GuardMiss("another dtype")
    if any(t.is_neg() or t.is_conj() for t in tensors):
        raise GuardMiss("a lazily negated tensor")
    try:
        signature.bind(tuple(tuple(t.shape) for t in tensors), tuple(t.stride() for t in tensors))
    except ValueError as error:
        raise GuardMiss(str(error)) from error


class FakeStore:
    def __init__(self) -> None:
        self.entries: dict[str, CacheEntry] = {}
        self.refused: list[Refusal] = []

    def refuse(self, refusal: Refusal) -> None:
        self.refused.append(refusal)

    def lookup(self, key: CacheKey) -> Lookup:
        return Lookup(refusals=tuple(r for r in self.refused if r.key == key))

    def manifest_digest(self, arch: str, abi: str) -> str:
        return digest(sorted(e.op_name for e in self.entries.values()))


class ReferenceEngine:
    """Stands where `Engine` stands. `calls` lists the signatures whose kernels ran; `wanted` may refuse regions."""

    arch = Arch("test")
    timed = False
    abi = "test"
    obstacle = ""

    def __init__(self, wanted: Callable[[Region], bool] = lambda region: True, salt: str = "") -> None:
        self.store = FakeStore()
        self.wanted = wanted
        self.salt = salt
        self.calls: list[str] = []
        self.regions: list[Region] = []
        self.lock = threading.Lock()

    def entries(self) -> list[CacheEntry]:
        return list(self.store.entries.values())

    def resolve(self, regions: Sequence[Region], config: Config) -> list[Decision]:
        out = []
        for region in regions:
            if not self.wanted(region):
                out.append(Decision(region, "refused", "not wanted"))
                continue
            known = region.signature.digest in self.store.entries
            entry = self.store.entries.setdefault(region.signature.digest, entry_of(region, self.salt))
            self.regions.append(region)
            out.append(Decision(region, "hit" if known else "generated", "reference", entry))
        return out

    def load(self, entry: CacheEntry) -> Callable[..., Any]:
        function = load_reference(print_reference(entry.signature))

        def call(*tensors: Any) -> Any:
            _check(entry.signature, tensors)
            with self.lock:
                self.calls.append(entry.signature.digest)
            return run_reference(entry.signature, function, tensors)

        return call
