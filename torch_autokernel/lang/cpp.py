"""C++ kernels: text to shared object to callable.

The author's text is a translation unit of its own; the entry that the launcher calls is another one, compiled once for
each batch, so nothing in the text can change it. A declaration with the expected types follows the text, under another
file name: a `kernel` of other types is a compiler error, and the text's own line numbers stay.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch_autokernel.core.dims import Dim
from torch_autokernel.core.errors import ToolchainError
from torch_autokernel.core.types import Arch, Artifact, Candidate, Signature, Source, digest
from torch_autokernel.lang import batch, gate, prototype
from torch_autokernel.lang.artifact import read_checked
from torch_autokernel.lang.compiler import FLAGS, INCLUDE, Compiler, find_compiler, headers_digest
from torch_autokernel.lang.elf import read_elf
from torch_autokernel.machine.cpu import Cpu

log = logging.getLogger(__name__)

ENTRY_ABI = 1  # what ak_entry's arguments mean, and the layout that goes with it
ALLOWED_FLAGS = re.compile(
    r"-O[23]|-mprefer-vector-width=(128|256|512)|-f(no-)?(unroll-loops|tree-vectorize|tree-slp-vectorize)|-ffp-contract=(off|fast)"
)


class Cpp:
    """C++17 with OpenMP, compiled for this machine's CPU by g++ or clang++."""

    name = "cpp"
    suffix = ".cpp"

    def missing(self, arch: Arch) -> str | None:
        here = Cpu().probe()
        if here is None or arch.key != here.key:
            return f"C++ kernels are compiled for this machine's CPU, {here.key if here else 'unknown'!r}, not for {arch.key!r}"
        found = find_compiler()
        return found if isinstance(found, str) else batch.has_ninja()

    def fingerprint(self, arch: Arch) -> str:
        """Digest of compiler, target, flags, headers and entry ABI; raises ToolchainError without a compiler."""
        return digest([ENTRY_ABI, self._compiler().identity, FLAGS, headers_digest()])[:32]

    def prototype(self, signature: Signature) -> str:
        return prototype.render(signature)

    def compile(self, candidates: Sequence[Candidate], signature: Signature, arch: Arch, folder: Path) -> list[Artifact]:
        """One artifact for each candidate, in order. Raises ToolchainError only where nothing could be compiled."""
        compiler = self._compiler()
        folder.mkdir(parents=True, exist_ok=True)
        batch_folder = Path(tempfile.mkdtemp(prefix="cpp-", dir=folder)).resolve()
        plans = [_Plan(c, signature, batch_folder, i) for i, c in enumerate(candidates)]
        good = [p for p in plans if not p.problem]
        first = []
        for workspace in sorted({p.has_workspace for p in good}):
            text = batch_folder / f"entry{int(workspace)}.cpp"
            text.write_text(prototype.entry_text(signature, workspace))
            object_file = text.with_suffix(".o")
            first.append(batch.Job((*compiler.command, *FLAGS, "-c", text.name, "-o", object_file.name), object_file))
        results = batch.run([p.job(compiler) for p in good], batch_folder, first) if good else []
        done = {p.index: p.artifact(r) for p, r in zip(good, results, strict=True)}
        return [done[p.index] if p.index in done else p.refusal() for p in plans]

    def load(self, artifact: Artifact, signature: Signature) -> Any:
        """The launcher over the object's entry; raises ToolchainError where the file is not what was judged."""
        from torch_autokernel.lang.launch import launcher  # imported here: compiling needs no torch

        library = _open(read_checked(artifact), artifact.path)
        try:
            address = ctypes.cast(getattr(library, artifact.entry), ctypes.c_void_p).value
        except AttributeError as error:
            raise ToolchainError(f"{artifact.path} has no function {artifact.entry}") from error
        return launcher(address or 0, signature, artifact.launch.get("workspace", 0), owner=library)

    def _compiler(self) -> Compiler:
        found = find_compiler()
        if isinstance(found, str):
            raise ToolchainError(found, hint="`autokernel doctor` shows what is there")
        return found


class _Plan:
    """One candidate on its way through a batch: refused already, or a job for the compiler."""

    def __init__(self, candidate: Candidate, signature: Signature, folder: Path, index: int) -> None:
        self.candidate, self.index = candidate, index
        self.source = folder / f"kernel{index}.cpp"
        self.object = folder / f"kernel{index}.so"
        self.workspace: Dim = 0
        self.has_workspace = False
        self.problem = self._look(candidate.source, signature)
        if not self.problem:
            tail = prototype.check_text(signature, self.has_workspace)
            self.source.write_text(f'#line 1 "kernel.cpp"\n{candidate.source.text}\n{tail}')

    def _look(self, source: Source, signature: Signature) -> str:
        """Why the compiler need not see it, or nothing."""
        if source.language != "cpp":
            return f"the source is in {source.language!r}, not 'cpp'"
        if source.entry != "kernel":
            return f"the entry is called {source.entry!r}; it must be 'kernel'"
        if refused := [f for f in source.flags if not ALLOWED_FLAGS.fullmatch(f)]:
            return f"flags not allowed: {' '.join(refused)}"
        if findings := gate.findings(source.text):
            return "\n".join(f"kernel.cpp: {f}" for f in findings)
        found = prototype.read(source.text, signature, source.launch.get("workspace"))
        self.workspace, self.has_workspace = found.workspace, found.has_workspace
        if not found.problem:
            return ""
        return f"kernel.cpp: {found.problem}\nThe prototype must be:\n{prototype.render(signature, found.has_workspace)}"

    def job(self, compiler: Compiler) -> batch.Job:
        # without start files: what the compiler adds there runs at loading and jumps through registers, as no kernel may
        bare = ("-shared", "-nostartfiles", "-Wl,--as-needed", "-Wl,-z,defs")
        flags = (*FLAGS, *self.candidate.source.flags, "-I", str(INCLUDE), *bare)
        pieces = (self.source.name, f"entry{int(self.has_workspace)}.o", "-lm")
        return batch.Job((*compiler.command, *flags, *pieces, "-o", self.object.name), self.object)

    def refusal(self, reason: str = "", seconds: float = 0.0) -> Artifact:
        return Artifact(self.candidate, "", "", prototype.ENTRY, log=reason or self.problem, seconds=seconds)

    def artifact(self, result: batch.Result) -> Artifact:
        if result.code or not self.object.exists():
            return self.refusal(result.log or f"the compiler ended with code {result.code}", result.seconds)
        content = self.object.read_bytes()
        elf = read_elf(content)
        if elf.initializers or elf.finalizers:
            return self.refusal("the object runs code when it is loaded (a global with a constructor?)", result.seconds)
        facts = {
            "bytes": len(content), "code_bytes": elf.code_bytes, "imports": elf.imports, "needed": elf.needed,
        }  # fmt: skip
        sha256 = hashlib.sha256(content).hexdigest()
        launch = {"workspace": self.workspace}
        return Artifact(self.candidate, str(self.object), sha256, prototype.ENTRY, launch, facts, result.log, result.seconds)


def _open(content: bytes, name: str) -> ctypes.CDLL:
    """The object mapped from a private copy of the checked bytes: whoever changes or truncates the file later does not
    change a running kernel. Where no temporary folder allows execution, from `name` itself."""
    reasons = []
    with tempfile.TemporaryDirectory(prefix="autokernel-") as folder:
        path = Path(folder) / "kernel.so"
        path.write_bytes(content)
        for candidate in (str(path), name):
            try:
                return ctypes.CDLL(candidate, mode=os.RTLD_NOW | os.RTLD_LOCAL)
            except OSError as error:
                reasons.append(str(error))
    raise ToolchainError(f"{name} cannot be loaded: {'; '.join(reasons)}", hint="rebuild it on this machine")
