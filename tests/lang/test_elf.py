"""Facts of shared objects, against what the tests know and, where it is there, `nm`."""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.lang.conftest import ADD, candidate
from torch_autokernel.core.types import Artifact
from torch_autokernel.lang.elf import read_elf

Build = Callable[..., list[Artifact]]


def test_facts(build: Build) -> None:
    text = ADD.replace("y[i] =", "y[i] = __builtin_powf(x[i], 1.3f) +").replace("#pragma omp parallel for\n", "")
    (artifact,) = build(candidate(text))
    elf = read_elf(Path(artifact.path).read_bytes())
    assert "powf" in elf.imports and elf.exports == ("ak_entry",) and "libm.so.6" in elf.needed
    assert elf.initializers == 0 and elf.finalizers == 0 and elf.code_bytes > 0
    if shutil.which("nm"):
        listed = subprocess.run(
            ["nm", "-D", "--undefined-only", artifact.path], capture_output=True, text=True, check=True
        ).stdout
        assert sorted(line.split()[-1].partition("@")[0] for line in listed.splitlines()) == list(elf.imports)


def test_what_is_no_object_is_a_value_error() -> None:
    for content in (b"", b"\x7fELF", b"hello" * 100, b"\x7fELF\x01\x01" + b"\0" * 100, b"\x7fELF\x02\x01" + b"\xff" * 200):
        with pytest.raises(ValueError):
            read_elf(content)


def test_damage_never_raises_anything_else(build: Build) -> None:
    (artifact,) = build(candidate(ADD))
    content = Path(artifact.path).read_bytes()
    seed = random.randrange(2**32)
    print("seed", seed)
    rng = random.Random(seed)
    for _ in range(300):
        damaged = bytearray(content[: rng.randrange(1, len(content))] if rng.random() < 0.3 else content)
        for _ in range(rng.randint(0, 20)):
            damaged[rng.randrange(min(len(damaged), 64)) if rng.random() < 0.5 else rng.randrange(len(damaged))] = (
                rng.randrange(256)
            )
        try:
            read_elf(bytes(damaged))
        except ValueError:
            pass
