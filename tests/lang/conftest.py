"""Small signatures and a compiler for the tests of this room."""

from __future__ import annotations

import ctypes
import pathlib
import subprocess
from collections.abc import Callable

import pytest

from torch_autokernel.core.types import Arch, Artifact, Candidate, Op, Ref, Signature, Source, TensorSpec
from torch_autokernel.lang import compiler
from torch_autokernel.lang.cpp import Cpp
from torch_autokernel.machine.cpu import Cpu

ADD = """#include <cstdint>
extern "C" void kernel(const float* x, const float* w, float* y, int64_t M, int64_t N) {
#pragma omp parallel for
  for (int64_t i = 0; i < M * N; i++) y[i] = x[i] + w[i];
}
"""


def add_signature(dtype: str = "float32") -> Signature:
    spec = TensorSpec.contiguous(("s0", "s1"), dtype)
    return Signature(
        (Op("aten.add.Tensor", (Ref(0), Ref(1)), {}, ("s0", "s1"), dtype),), (spec, spec), (2,), (spec,), ("s0", "s1")
    )


def candidate(text: str, **source: object) -> Candidate:
    return Candidate(add_signature().digest, Source("cpp", text, **source), "test")  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def arch() -> Arch:
    found = Cpu().probe()
    assert found is not None
    if reason := Cpp().missing(found):
        pytest.skip(reason)
    return found


@pytest.fixture(scope="session")
def build(arch: Arch, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[Artifact]]:
    def compile_(*candidates: Candidate, signature: Signature | None = None) -> list[Artifact]:
        return Cpp().compile(candidates, signature or add_signature(), arch, tmp_path_factory.mktemp("build"))

    return compile_


ENTRIES = """#include <stdint.h>
#include <string.h>
/* Copies input 0 to output 0: `sizes[0]` floats. */
void copy(void* const* b, const int64_t* s, void* w, void* stream) { memcpy(b[1], b[0], 4 * s[0]); }
void nothing(void* const* b, const int64_t* s, void* w, void* stream) {}
/* Writes every size that it is given, then the workspace's address, as int64. */
void sizes2(void* const* b, const int64_t* s, void* w, void* stream) {
  int64_t* out = (int64_t*)b[1];
  out[0] = s[0], out[1] = s[1], out[2] = (int64_t)w;
}
/* Fills its workspace and sums it: output = 255 * bytes if the memory is really there. */
void fill(void* const* b, const int64_t* s, void* w, void* stream) {
  unsigned char* p = (unsigned char*)w;
  int64_t total = 0;
  memset(p, 255, s[0]);
  for (int64_t i = 0; i < s[0]; i++) total += p[i];
  *(int64_t*)b[1] = total;
}
"""


@pytest.fixture(scope="session")
def entry(arch: Arch, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], int]:
    """Addresses of entries written by hand, so that the launcher is tested without the language."""
    found = compiler.find_compiler()
    assert not isinstance(found, str), found
    folder: pathlib.Path = tmp_path_factory.mktemp("entries")
    (folder / "entries.cpp").write_text(f'extern "C" {{\n{ENTRIES}\n}}\n')
    subprocess.run([*found.command, "-O1", "-shared", "-fPIC", "entries.cpp", "-o", "entries.so"], cwd=folder, check=True)
    library = ctypes.CDLL(str(folder / "entries.so"))

    def address(name: str) -> int:
        return ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0

    return address
