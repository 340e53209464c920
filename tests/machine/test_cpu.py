"""What the CPU probe makes of this machine, and of machines that are only described."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from torch_autokernel.machine import cpu

ZEN4 = "fpu sse2 avx avx2 fma f16c avx512f avx512dq avx512bw avx512vl avx512_bf16 avx512_vnni"


@pytest.mark.parametrize(("machine", "facts", "key", "vector", "features"), [
    ("x86_64", {"flags": ZEN4, "model name": "Zen"}, "cpu-x86_64-avx512", 64, "avx512_bf16"),
    ("x86_64", {"flags": "fpu sse2 avx avx2 fma f16c"}, "cpu-x86_64-avx2", 32, "fma"),
    ("x86_64", {"flags": "fpu sse2 avx avx2 fma avx512f"}, "cpu-x86_64-avx2", 32, "avx512f"),
    ("x86_64", {"flags": "fpu sse2 avx"}, "cpu-x86_64", 16, "avx"),
    ("x86_64", {}, "cpu-x86_64", 16, None),
    ("aarch64", {"Features": "fp asimd bf16 i8mm sve sve2"}, "cpu-aarch64-sve", 16, "sve2"),
    ("aarch64", {"Features": "fp asimd"}, "cpu-aarch64-neon", 16, "asimd"),
    ("riscv64", {"isa": "rv64"}, "cpu-riscv64", 16, None),
])  # fmt: skip
def test_keys(machine: str, facts: dict[str, str], key: str, vector: int, features: str | None) -> None:
    arch = cpu.arch_of(machine, facts, 4, {"l1_bytes": 1})
    assert (arch.key, arch.limits["vector_bytes"], arch.limits["threads"]) == (key, vector, 4)
    assert features in arch.features if features else arch.features == ()
    assert arch.peak_flops == {} and arch.peak_bytes_per_s == 0


def test_this_machine() -> None:
    start = time.perf_counter()
    arch = cpu.Cpu().probe()
    took = time.perf_counter() - start
    assert arch is not None and arch.key.startswith("cpu-") and arch.name and cpu.Cpu().probe(1) is None
    assert arch.limits["threads"] == len(os.sched_getaffinity(0))
    assert took < 0.05
    assert type(arch).from_json(arch.to_json()) == arch


def test_threads_are_those_of_the_process() -> None:
    one = min(os.sched_getaffinity(0))
    script = "from torch_autokernel.machine.cpu import Cpu; print(Cpu().probe().limits['threads'])"
    run = subprocess.run(
        [sys.executable, "-c", f"import os; os.sched_setaffinity(0, {{{one}}}); {script}"], capture_output=True, text=True
    )
    assert run.stdout.strip() == "1", run.stderr


def test_no_system_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cpu, "PROC", tmp_path / "none")
    monkeypatch.setattr(cpu, "CACHES", tmp_path / "none")
    arch = cpu.Cpu().probe()
    assert arch is not None and set(arch.limits) == {"threads", "vector_bytes"}


def test_caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for i, (level, kind, size) in enumerate(
        [("1", "Data", "48K"), ("1", "Instruction", "32K"), ("2", "Unified", "2M"), ("3", "Unified", "odd")]
    ):
        (tmp_path / f"index{i}").mkdir()
        for name, text in (("level", level), ("type", kind), ("size", size)):
            (tmp_path / f"index{i}" / name).write_text(text + "\n")
    (tmp_path / "index9").mkdir()
    monkeypatch.setattr(cpu, "CACHES", tmp_path)
    assert cpu._caches() == {"l1_bytes": 48 << 10, "l2_bytes": 2 << 20}


def test_only_the_first_processor_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cpu, "PROC", tmp_path / "cpuinfo")
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: A: b\nflags\t\t: avx\n\nprocessor\t: 1\nmodel name\t: C\n")
    assert cpu._first_processor() == {"processor": "0", "model name": "A: b", "flags": "avx"}
