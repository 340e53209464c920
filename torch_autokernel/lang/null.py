"""The language `null`: a kernel is its reference, PyTorch source that Python runs. No compiler, for arch `null` only."""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch_autokernel.core.errors import GuardMiss
from torch_autokernel.core.types import Arch, Artifact, Candidate, Signature
from torch_autokernel.lang.artifact import read_checked

log = logging.getLogger(__name__)


class Null:
    """Text with a function `reference(x0, ..., s0, ...)`. It runs in this process: nothing but our own tests use it."""

    name = "null"
    suffix = ".txt"

    def missing(self, arch: Arch) -> str | None:
        return None if arch.key == "null" else f"the language 'null' serves the arch 'null' only, not {arch.key!r}"

    def fingerprint(self, arch: Arch) -> str:
        return "null-1"

    def prototype(self, signature: Signature) -> str:
        names = [f"x{i}" for i in range(len(signature.inputs))] + list(signature.symbols)
        return f"def reference({', '.join(names)}):  # returns a tuple of {len(signature.outputs)}"

    def compile(self, candidates: Sequence[Candidate], signature: Signature, arch: Arch, folder: Path) -> list[Artifact]:
        """The text as a file each; text that is no Python is refused, as a compiler would."""
        return [self._compile(c, folder) for c in candidates]

    def _compile(self, candidate: Candidate, folder: Path) -> Artifact:
        start, text = time.perf_counter(), candidate.source.text
        try:
            compile(text, "<kernel>", "exec")
        except (SyntaxError, ValueError) as error:
            return Artifact(candidate, "", "", "reference", log=str(error), seconds=time.perf_counter() - start)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{candidate.id}{self.suffix}"
        path.write_text(text)
        facts = {"bytes": len(text.encode()), "imports": (), "needed": ()}
        return Artifact(candidate, str(path), hashlib.sha256(text.encode()).hexdigest(), "reference", {"workspace": 0}, facts,
                        seconds=time.perf_counter() - start)  # fmt: skip

    def load(self, artifact: Artifact, signature: Signature) -> Any:
        """A callable over tensors; raises ToolchainError where the file is not what the artifact says."""
        import torch

        content = read_checked(artifact)
        space: dict[str, Any] = {"torch": torch, "aten": torch.ops.aten, "prims": torch.ops.prims}
        space |= {"inf": math.inf, "nan": math.nan}
        exec(compile(content, artifact.path, "exec"), space)
        reference = space["reference"]

        def call(*tensors: Any) -> tuple[Any, ...]:
            sizes = _bind(signature, tensors)
            with torch.no_grad():
                results = reference(*tensors, *(sizes[s] for s in signature.symbols))
                return tuple(map(_fresh, results, [s.concrete(sizes) for s in signature.output_specs]))

        def _fresh(result: Any, spec: Any) -> Any:
            out = torch.empty_strided(spec.shape, spec.stride, dtype=getattr(torch, spec.dtype))
            return out.copy_(result)

        return call


def _bind(signature: Signature, tensors: Sequence[Any]) -> dict[str, int]:
    """The symbols' values; raises GuardMiss where the tensors do not fit."""
    if len(tensors) != len(signature.inputs):
        raise GuardMiss(f"{len(tensors)} tensors were given where {len(signature.inputs)} were expected")
    for i, (tensor, spec) in enumerate(zip(tensors, signature.inputs, strict=True)):
        dtype, ndim = str(getattr(tensor, "dtype", type(tensor).__name__)).removeprefix("torch."), getattr(tensor, "ndim", -1)
        if (dtype, ndim) != (spec.dtype, len(spec.shape)):
            raise GuardMiss(f"input {i} is {dtype} of rank {ndim} where {spec.dtype} of rank {len(spec.shape)} was expected")
    try:
        sizes = signature.bind(tuple(tuple(t.shape) for t in tensors), tuple(t.stride() for t in tensors))
    except ValueError as error:
        raise GuardMiss(str(error)) from None
    for name, size in sizes.items():
        if size < (least := max(1, signature.guards.get(name, 1))):
            raise GuardMiss(f"{name} = {size} where at least {least} was expected")
    return sizes
