"""What an extension must offer. Each protocol is the whole contract; the hardest rule stands in its docstring."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from torch_autokernel.core.types import Arch, Artifact, Attempt, Candidate, Finding, Kernel, Region, Signature


class Proposer(Protocol):
    """Makes candidates. Returns text and runs nothing."""

    name: str

    def propose(self, region: Region, arch: Arch, parents: Sequence[Attempt], n: int) -> list[Candidate]:
        """At most n candidates that are new with respect to `parents`; an empty list when there are no more."""

    def refuses(self, region: Region, arch: Arch) -> str | None:
        """Why this proposer can make nothing for the region, or None."""


class Language(Protocol):
    """Compiles and loads. `missing` gives a reason, not a bool."""

    name: str
    suffix: str

    def missing(self, arch: Arch) -> str | None:
        """Why nothing can be compiled for `arch` here, and what to install; None where all is there."""

    def fingerprint(self, arch: Arch) -> str:
        """What of the toolchain can change a binary: compiler, version, flags, headers, entry ABI."""

    def prototype(self, signature: Signature) -> str:
        """The exact text an author has to fill."""

    def compile(self, candidates: Sequence[Candidate], signature: Signature, arch: Arch, folder: Path) -> list[Artifact]:
        """One artifact for each candidate, in order; a refusal by the compiler is an artifact without a path."""

    def load(self, artifact: Artifact, signature: Signature) -> Any:
        """A callable over tensors that returns a tuple of new tensors; raises GuardMiss for tensors that do not fit."""


class ArchProbe(Protocol):
    """Finds a device."""

    def probe(self, index: int = 0) -> Arch | None:
        """The device at `index`, or None."""


class Check(Protocol):
    """Looks at one property of a candidate. Must fail on its own planted bug."""

    name: str

    def run(self, trial: Any) -> Finding:
        """PASS, FAIL with the reason, or SKIP with the reason; see `verify.judge.Trial`."""


class Strategy(Protocol):
    """Chooses parents. State is a value, so a run can be replayed."""

    def init(self, region: Region, arch: Arch) -> Any: ...
    def ask(self, state: Any, n: int) -> tuple[Any, Sequence[Attempt]]: ...
    def tell(self, state: Any, attempts: Sequence[Attempt]) -> Any: ...


__all__ = ["ArchProbe", "Check", "Kernel", "Language", "Proposer", "Strategy"]
