"""The CPU of this machine, read from `/proc` and `/sys`: no compiler, no torch, a few milliseconds at most."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from torch_autokernel.core.types import Arch

PROC = Path("/proc/cpuinfo")
CACHES = Path("/sys/devices/system/cpu/cpu0/cache")

X86 = ("avx", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd", "avx512_vnni",
       "avx512_bf16", "avx512_fp16", "avx512vbmi", "amx_tile", "amx_bf16", "amx_fp16", "amx_int8")  # fmt: skip
ARM = ("asimd", "fphp", "asimdhp", "asimddp", "bf16", "i8mm", "sve", "sve2", "svebf16", "sme")

# (features that all must be there, what the key ends in, bytes in a vector register), the widest first
LEVELS: dict[str, tuple[tuple[tuple[str, ...], str, int], ...]] = {
    "x86_64": (
        (("avx512f", "avx512bw", "avx512dq", "avx512vl"), "-avx512", 64),
        (("avx2", "fma"), "-avx2", 32),
        ((), "", 16),
    ),
    "aarch64": ((("sve",), "-sve", 16), ((), "-neon", 16)),
}
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}


class Cpu:
    """The CPU as an `Arch`. There is one, at index 0; its threads are those that this process may run on."""

    def probe(self, index: int = 0) -> Arch | None:
        if index != 0:
            return None
        machine = platform.machine().lower()
        return arch_of(MACHINES.get(machine, machine), _first_processor(), threads(), _caches())


def arch_of(machine: str, facts: dict[str, str], threads: int, caches: dict[str, int]) -> Arch:
    """The arch of a machine with these lines of `/proc/cpuinfo`."""
    words = set((facts.get("flags") or facts.get("Features") or "").split())
    features = tuple(f for f in (*X86, *ARM) if f in words and f in (X86 if machine == "x86_64" else ARM))
    ending, vector_bytes = "", 16
    for needed, name, width in LEVELS.get(machine, ()):
        if words.issuperset(needed):
            ending, vector_bytes = name, width
            break
    limits = {"threads": threads, **caches, "vector_bytes": vector_bytes}
    return Arch(f"cpu-{machine}{ending}", features, limits, name=facts.get("model name", machine))


def threads() -> int:
    """How many processors this process may run on."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return os.cpu_count() or 1


def _first_processor() -> dict[str, str]:
    facts: dict[str, str] = {}
    try:
        with PROC.open() as lines:
            for line in lines:
                key, colon, value = line.partition(":")
                if not colon and facts:
                    break
                facts[key.strip()] = value.strip()
    except OSError:
        pass
    return facts


def _caches() -> dict[str, int]:
    """Bytes of the data caches that processor 0 sees; a level that the system does not tell is missing."""
    out: dict[str, int] = {}
    for folder in sorted(CACHES.glob("index*")):
        try:
            level, kind, size = ((folder / name).read_text().strip() for name in ("level", "type", "size"))
        except OSError:
            continue
        if kind != "Instruction" and level in ("1", "2", "3") and size[:-1].isdigit():
            out[f"l{level}_bytes"] = int(size[:-1]) * {"K": 1 << 10, "M": 1 << 20}.get(size[-1], 1)
    return out
