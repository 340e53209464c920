"""C++ kernels: from text to callable, and every way in which a text is refused."""

from __future__ import annotations

import os
import pathlib
import time
from collections.abc import Callable

import pytest
import torch

from tests.lang.conftest import ADD, add_signature, candidate
from torch_autokernel.core.errors import GuardMiss, ToolchainError
from torch_autokernel.core.types import Arch, Artifact, Op, Ref, Signature, TensorSpec
from torch_autokernel.lang import batch, compiler, prototype
from torch_autokernel.lang.cpp import Cpp

Build = Callable[..., list[Artifact]]


def test_from_text_to_callable(build: Build) -> None:
    (artifact,) = build(candidate(ADD))
    assert artifact.ok and artifact.log == "" and artifact.seconds > 0 and artifact.entry == "ak_entry"
    assert {"GOMP_parallel", "omp_get_num_threads"} <= set(artifact.facts["imports"])
    assert artifact.facts["needed"] == ("libgomp.so.1",) and artifact.facts["bytes"] == os.path.getsize(artifact.path)
    run = Cpp().load(artifact, add_signature())
    for shape in [(1, 1), (3, 5), (64, 129)]:
        x, w = torch.randn(shape), torch.randn(shape)
        assert torch.equal(run(x, w)[0], x + w)
    with pytest.raises(GuardMiss):
        run(x, w.double())
    assert Artifact.from_json(artifact.to_json()) == artifact


ALL = ("float64", "float32", "bfloat16", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")


def test_every_dtype_and_the_order_of_arguments(build: Build) -> None:
    """Each input is copied to an output of its dtype; sizes arrive in the order of the symbols."""
    inputs = tuple(TensorSpec.contiguous(("s1", "s0"), d) for d in ALL)
    outputs = (*inputs, TensorSpec((2,), "int64", (1,)))
    n = len(inputs)
    signature = Signature(
        (Op("aten.clone.default", (Ref(0),)),) * (n + 1), inputs, tuple(range(n, 2 * n + 1)), outputs, ("s1", "s0")
    )
    shape = prototype.render(signature)
    names = ", ".join(line.strip().split("//")[0].strip().rstrip(",") for line in shape.splitlines()[1:-1])
    copies = "".join(f"for (int64_t i = 0; i < s1 * s0; i++) y{i}[i] = x{i}[i];\n" for i in range(n))
    text = f'#include <cstdint>\nextern "C" void kernel({names}) {{\n{copies} y{n}[0] = s1; y{n}[1] = s0; }}\n'
    (artifact,) = build(candidate(text), signature=signature)
    assert artifact.ok, artifact.log
    tensors = [(torch.randn(3, 5) * 3).to(getattr(torch, d)) for d in ALL]
    results = Cpp().load(artifact, signature)(*tensors)
    assert all(torch.equal(a, b) for a, b in zip(tensors, results[:-1], strict=True))
    assert results[-1].tolist() == [3, 5]


def test_workspace_in_the_authors_names(build: Build) -> None:
    text = """#include <cstdint>
#include <cstring>
// workspace: 4*N + 8*M*N + 64
extern "C" void kernel(const float* x, const float* w, float* y, int64_t M, int64_t N, void* workspace) {
  std::memset(workspace, 0, 4 * N + 8 * M * N + 64);
  for (int64_t i = 0; i < M * N; i++) y[i] = x[i] + w[i] + static_cast<float*>(workspace)[N];
}
"""
    (artifact,) = build(candidate(text))
    assert artifact.launch == {"workspace": "8*s0*s1 + 4*s1 + 64"}, artifact.log
    x, w = torch.randn(7, 9), torch.randn(7, 9)
    assert torch.equal(Cpp().load(artifact, add_signature())(x, w)[0], x + w)


def test_workspace_from_the_launch_plan(build: Build) -> None:
    text = ADD.replace("int64_t N)", "int64_t N, void* scratch)")
    good, bad = build(
        candidate(text, launch={"workspace": "4*s0"}), candidate("// workspace: 8*M\n" + text, launch={"workspace": "4*s0"})
    )
    assert good.launch == {"workspace": "4*s0"}
    assert "asks for 8*s0 bytes of workspace, its launch plan for 4*s0" in bad.log


REFUSED = {
    "syntax": (ADD.replace("w[i];", "w[i]"), r"kernel.cpp:4:\d+: error"),
    "unknown name": (ADD.replace("w[i]", "z[i]"), r"kernel.cpp:4:\d+: error: 'z' was not declared"),
    "type": (
        ADD.replace("const float* x", "const double* x"),
        "parameter 1 is `const double\\* x`, expected type `const float\\*`",
    ),
    "not const": (ADD.replace("const float* w", "float* w"), "parameter 2 is `float\\* w`"),
    "size type": (ADD.replace("int64_t N", "int N"), "parameter 5 is `int N`, expected type `int64_t`"),
    "count": (ADD.replace(", int64_t N", ""), "kernel has 4 parameters, expected 5"),
    "no kernel": ("int x;", "expected one definition of kernel, found 0"),
    "two kernels": (ADD + ADD, "found 2"),
    "commented out": (f"/*{ADD}*/", "found 0"),
    "C++ linkage": (ADD.replace('extern "C" ', ""), "conflicting declaration"),
    "static": (ADD.replace('extern "C" ', "static "), "prototype:1"),
    "hidden type": ("#define float double\n" + ADD, "conflicting declaration|conflicting types"),
    "namespace": (
        "namespace a {\n" + ADD.replace("#include <cstdint>\n", "using int64_t = long;\n").replace('extern "C" ', "") + "}",
        "undefined reference to|undefined symbol",
    ),
    "own entry": (
        ADD + 'extern "C" void ak_entry(void* const*, const int64_t*, void*, void*) {}',
        "multiple definition of|duplicate symbol",
    ),
    "undefined function": (
        ADD.replace("w[i];", "w[i], missing();").replace('extern "C"', 'void missing();\nextern "C"', 1),
        "undefined reference to|undefined symbol",
    ),
    "global constructor": (
        "static double start = __builtin_cos((double)(long)&start);\n" + ADD.replace("w[i]", "w[i] + start"),
        "runs code when it is loaded",
    ),
    "include of a file": (ADD.replace("<cstdint>", '"/etc/passwd"'), 'line 1: #include "/etc/passwd" is not allowed'),
    "workspace without line": (ADD.replace("N)", "N, void* w2)"), "no line `// workspace: <bytes>`"),
    "workspace without parameter": ("// workspace: 4*N\n" + ADD, "no last parameter `void\\* workspace`"),
    "workspace of another name": ("// workspace: 4*K\n" + ADD.replace("N)", "N, void* w2)"), "is no polynomial over M, N: 'K'"),
    "workspace with division": ("// workspace: M/2\n" + ADD.replace("N)", "N, void* w2)"), "is no polynomial"),
    "two workspaces": ("// workspace: M\n// workspace: N\n" + ADD.replace("N)", "N, void* w2)"), "2 lines `// workspace:`"),
}


def test_bad_texts_are_refused_for_the_named_reason_and_stop_no_other(build: Build) -> None:
    import re

    texts = [text for text, _ in REFUSED.values()]
    artifacts = build(*map(candidate, texts), candidate(ADD))
    assert len(artifacts) == len(texts) + 1 and artifacts[-1].ok
    for (name, (text, reason)), artifact in zip(REFUSED.items(), artifacts, strict=False):
        assert not artifact.ok and artifact.sha256 == "", name
        assert re.search(reason, artifact.log), f"{name}: {artifact.log}"
        assert artifact.candidate == candidate(text)


def test_a_wrong_prototype_shows_the_right_one(build: Build) -> None:
    (artifact,) = build(candidate(REFUSED["type"][0]))
    assert "    const float* x0,  // float32 [s0, s1], strides [s1, 1]\n" in artifact.log


def test_sources_of_other_kinds(build: Build) -> None:
    from torch_autokernel.core.types import Candidate, Source

    other = Candidate("x", Source("triton", ADD), "test")
    entry = candidate(ADD, entry="main")
    flags = candidate(ADD, flags=("-fplugin=evil.so",))
    fast = candidate(ADD, flags=("-O3", "-ffast-math"))
    fine = candidate(ADD, flags=("-O2", "-mprefer-vector-width=256"))
    logs = [a.log for a in build(other, entry, flags, fast, fine)]
    assert (
        logs
        == [
            "the source is in 'triton', not 'cpp'",
            "the entry is called 'main'; it must be 'kernel'",
            "flags not allowed: -fplugin=evil.so",
            "flags not allowed: -ffast-math",
            "",
        ]
        or "prefer-vector" in logs[-1]
    )


def test_nothing_to_compile(build: Build) -> None:
    assert build() == []


def test_arithmetic_is_ieee(build: Build) -> None:
    """No flag lets the compiler drop NaN tests or regroup a sum."""
    text = ADD.replace("y[i] = x[i] + w[i];", "y[i] = x[i] != x[i] ? 1.0f : (x[i] + w[i]) - w[i];")
    (artifact,) = build(candidate(text))
    x, w = torch.tensor([[float("nan"), 1e-8, float("inf")]]), torch.tensor([[0.0, 1.0, float("inf")]])
    out = Cpp().load(artifact, add_signature())(x, w)[0][0]
    assert out[0] == 1.0 and out[1] == 0.0 and out[2].isnan()


# ------------------------------------------------------------------------------------------ loading
def test_changed_truncated_and_missing_files_are_refused(build: Build) -> None:
    (artifact,) = build(candidate(ADD))
    path = pathlib.Path(artifact.path)
    content = path.read_bytes()
    for damaged in (content[:-1], content[: len(content) // 2], b"", content[:100] + bytes([content[100] ^ 1]) + content[101:]):
        path.write_bytes(damaged)
        with pytest.raises(ToolchainError, match="sha256"):
            Cpp().load(artifact, add_signature())
    path.unlink()
    with pytest.raises(ToolchainError, match="cannot be read"):
        Cpp().load(artifact, add_signature())


def test_a_loaded_kernel_outlives_its_file(build: Build) -> None:
    (artifact,) = build(candidate(ADD))
    run = Cpp().load(artifact, add_signature())
    with open(artifact.path, "r+b") as file:
        file.truncate(0)
    x = torch.ones(3, 5)
    assert torch.equal(run(x, x)[0], x + x)


def test_what_is_no_object_or_has_no_entry_is_an_error(build: Build, tmp_path: pathlib.Path) -> None:
    import dataclasses
    import hashlib

    (artifact,) = build(candidate(ADD))
    with pytest.raises(ToolchainError, match="has no function nope"):
        Cpp().load(dataclasses.replace(artifact, entry="nope"), add_signature())
    other = tmp_path / "other.so"
    other.write_bytes(b"not an object")
    fake = dataclasses.replace(artifact, path=str(other), sha256=hashlib.sha256(b"not an object").hexdigest())
    with pytest.raises(ToolchainError, match="cannot be loaded"):
        Cpp().load(fake, add_signature())


def test_two_kernels_loaded_together_are_two(build: Build) -> None:
    one, two = build(candidate(ADD), candidate(ADD.replace("+ w", "- w")))
    x, w = torch.randn(3, 5), torch.randn(3, 5)
    a, b = Cpp().load(one, add_signature()), Cpp().load(two, add_signature())
    assert torch.equal(a(x, w)[0], x + w) and torch.equal(b(x, w)[0], x - w)


# ------------------------------------------------------------------------------------------ toolchain
def test_missing_gives_a_reason(arch: Arch, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Cpp().missing(arch) is None
    assert "not for 'sm_90'" in (Cpp().missing(Arch("sm_90")) or "")
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "CXX='no-such-compiler' is not a program" in (Cpp().missing(arch) or "")
    with pytest.raises(ToolchainError, match="no-such-compiler"):
        Cpp().fingerprint(arch)
    monkeypatch.setenv("CXX", "false")
    assert "does not work" in (Cpp().missing(arch) or "")
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", "/nonexistent")
    assert "no C++ compiler on PATH (looked for g++, c++, clang++); install" in (Cpp().missing(arch) or "")


def test_the_fingerprint_depends_on_what_changes_a_binary(
    arch: Arch, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    first = Cpp().fingerprint(arch)
    assert first == Cpp().fingerprint(arch)
    compiler._probe.cache_clear()
    assert first == Cpp().fingerprint(arch), "the same in another process"
    found = compiler.find_compiler()
    assert not isinstance(found, str)
    (tmp_path / "g++").symlink_to(found.command[0])
    with monkeypatch.context() as patch:
        patch.setenv("CXX", str(tmp_path / "g++"))
        assert first == Cpp().fingerprint(arch), "the path does not count"
        patch.setenv("CXX", f"{found.command[0]} -mno-avx")
        assert first != Cpp().fingerprint(arch), "the instruction set does"
    with monkeypatch.context() as patch:
        patch.setattr(compiler, "INCLUDE", tmp_path)
        (tmp_path / "a.h").write_text("")
        compiler.headers_digest.cache_clear()
        assert first != Cpp().fingerprint(arch), "the headers do"
    compiler.headers_digest.cache_clear()
    monkeypatch.setattr("torch_autokernel.lang.cpp.ENTRY_ABI", 99)
    assert first != Cpp().fingerprint(arch), "the entry's ABI does"


def test_a_slow_compilation_is_stopped(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = """#include <cstdint>
#include <utility>
template <int A, int B> struct t { static constexpr long v = t<A - 1, B>::v + t<A - 1, B + (1 << (A > 20 ? 20 : A))>::v; };
template <int B> struct t<0, B> { static constexpr long v = B; };
extern "C" void kernel(const float* x, const float* w, float* y, int64_t M, int64_t N) { y[0] = t<26, 0>::v; }
"""
    monkeypatch.setattr(batch.run, "__defaults__", ((), 1))
    start = time.perf_counter()
    slow, good = build(candidate(bomb), candidate(ADD))
    assert good.ok and not slow.ok
    assert "the compiler was stopped after 1 s" in slow.log or "memory" in slow.log
    assert time.perf_counter() - start < 20


def test_compiling_loads_no_torch(tmp_path: pathlib.Path) -> None:
    import subprocess
    import sys

    script = """import sys
from torch_autokernel.lang.cpp import Cpp
from torch_autokernel.machine.cpu import Cpu
Cpp().missing(Cpu().probe())
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True)
