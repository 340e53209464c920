"""Small entries and refusals to keep, made without torch and without a compiler."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch_autokernel.core.types import (
    Artifact,
    CacheEntry,
    CacheKey,
    Candidate,
    Finding,
    Op,
    Ref,
    Refusal,
    Signature,
    Source,
    Status,
    TensorSpec,
    Timing,
    Trust,
    Verdict,
)

ARCH, ABI = "cpu-x86_64-avx2", "abi-1"
Files = Mapping[str, Path | bytes]


def signature(n: int = 0) -> Signature:
    """y = x + n over a vector of any length."""
    spec = TensorSpec.contiguous(("s0",), "float32")
    return Signature((Op("aten.add.Tensor", (Ref(0), n), {}, ("s0",), "float32"),), (spec,), (1,), (spec,), ("s0",))


def key(n: int = 0, arch: str = ARCH, abi: str = ABI) -> CacheKey:
    return CacheKey(signature(n).digest, arch, abi)


def binary(text: str, size: int = 600) -> bytes:
    """Stands for a compiled kernel."""
    block = hashlib.sha256(text.encode()).digest()
    return (b"\x7fELF" + block * (size // len(block) + 1))[:size]


def timing(speedup: float) -> Timing:
    return Timing(
        (100.0, 101.5), (100.0 * speedup, 101.5 * speedup), "inductor", speedup, speedup * 0.9, speedup * 1.1, "paired"
    )


def entry(
    n: int = 0,
    body: str = "",
    *,
    speedup: float = 1.5,
    ranges: Mapping[str, tuple[int, int]] | None = None,
    trust: Trust = Trust.VERIFIED_HERE,
    arch: str = ARCH,
    abi: str = ABI,
    size: int = 600,
    **changes: Any,
) -> CacheEntry:
    """An entry for signature `n`; `body` tells candidates apart."""
    of = signature(n)
    source = Source(
        "cpp", f'extern "C" void kernel(const float* x, float* y, long n) {{ /* {n} {body} */ }}', schedule={"bytes": size}
    )
    candidate = Candidate(of.digest, source, "schedule")
    artifact = Artifact(candidate, "/nowhere/kernel.so", hashlib.sha256(binary(source.text, size)).hexdigest(), "ak_entry")
    verdict = Verdict(candidate.id, arch, (Finding("numerics", Status.PASS),), ("numerics",), timing(speedup), 7, "1")
    made = CacheEntry(
        key(n, arch, abi), of, candidate, artifact, verdict, trust, "def reference(x0, s0): ...", ranges or {}, 1e9
    )
    return dataclasses.replace(made, **changes)


def files(of: CacheEntry) -> dict[str, Path | bytes]:
    source = of.candidate.source
    artifact = binary(source.text, source.schedule["bytes"])
    return {"artifact": artifact, "source.cpp": source.text.encode(), "vectors.safetensors": b"\x08" + bytes(7) + b"{}" * 4}


def refusal(n: int = 0, reason: str = "nothing was faster", conditions: str = "1 schedule", **changes: Any) -> Refusal:
    return dataclasses.replace(Refusal(key(n), reason, conditions, {}, 1e9), **changes)
