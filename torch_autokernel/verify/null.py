"""The null architecture's runner: a candidate of the null language is Python text, and runs in this process.

It exists so that the whole story runs in a second in tests. For any real architecture it refuses: what is foreign runs in a
worker.
"""

from __future__ import annotations

import torch

from torch_autokernel.core import points
from torch_autokernel.core.errors import UsageError
from torch_autokernel.core.types import Arch, Artifact, Region
from torch_autokernel.machine.worker import Outcome
from torch_autokernel.verify.bank import Prepared
from torch_autokernel.verify.runner import How, Result, storage_bytes


class NullRunner:
    native = False

    def __init__(self, arch: Arch, region: Region, artifact: Artifact) -> None:
        if arch.key != "null" or artifact.candidate.source.language != "null":
            what = f"candidates for {arch.key!r} in {artifact.candidate.source.language!r}"
            raise UsageError(f"{what} do not run in this process", hint="only the null language on the null architecture does")
        self._region = region
        self._artifact = artifact

    def run(self, prepared: Prepared, edge: str = "end") -> Result:
        inputs = [t.clone() if 0 not in t.stride() else t for t in prepared.inputs]
        try:
            call = points.languages.get("null")().load(self._artifact, self._region.signature)
            with torch.no_grad():
                outputs = tuple(t.clone() for t in call(*inputs))
        except Exception as error:  # the candidate's boundary: whatever it raises is its outcome
            return Result(Outcome("exit", f"{type(error).__name__}: {error}"))
        wrong = [o.shape for o, s in zip(outputs, self._region.signature.output_specs, strict=True)
                 if tuple(o.shape) != s.concrete(prepared.case.sizes).shape]  # fmt: skip
        if wrong:
            return Result(Outcome("exit", f"an output has shape {tuple(wrong[0])}"))
        shown = tuple(o.view(torch.uint8) if o.dtype == torch.bool else o for o in outputs)
        return Result(Outcome("ok"), (), shown, tuple(bytearray(storage_bytes(t)) for t in inputs))

    def again(self, prepared: Prepared, calls: int, how: How = How()) -> Result:  # noqa: B008
        return self.run(prepared)

    def seal(self) -> None:
        """Nothing to protect."""

    def fresh(self) -> None:
        """Nothing to renew."""

    def close(self) -> None:
        """Nothing to end."""
