"""What an extension must offer. Each protocol is the whole contract; the hardest rule stands in its docstring."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch_autokernel.core.types import (
    Arch,
    Artifact,
    Assignment,
    Attempt,
    Candidate,
    Case,
    Cost,
    Expense,
    Finding,
    Kernel,
    Region,
    Signature,
)


class Proposer(Protocol):
    """Makes candidates. Returns text and runs nothing."""

    name: str

    def propose(self, region: Region, arch: Arch, parents: Sequence[Attempt], n: int) -> list[Candidate]:
        """At most n candidates that are new with respect to `parents`; an empty list when there are no more."""

    def refuses(self, region: Region, arch: Arch) -> str | None:
        """Why this proposer can make nothing for the region, or None."""


class Purse(Protocol):
    """What may still be spent. Asked before every call, told after it; usable from several threads."""

    def reserve(self, most: Cost) -> str | None:
        """Set aside the most that a call may cost; or the reason why it may not be made."""

    def waiting(self) -> bool:
        """Whether calls are under way after which there may be more to set aside."""

    def settle(self, most: Cost, expense: Expense) -> None:
        """Give back what was set aside and write down what was spent."""


@runtime_checkable
class Author(Proposer, Protocol):
    """A proposer that waits for somebody else (a model behind a network): the search works on while it does. Its candidates
    carry their cost, which the purse has paid already; an answer without a kernel is a candidate in the language `none`.
    What it says about candidates and cases may order, drop or test work; it never accepts."""

    def configured(self, config: Any, folder: Path) -> Author:
        """The author as the configuration wants it, with its records in `folder`. Contacts nobody."""

    def begin(
        self, region: Region, arch: Arch, language: Language, assignments: Sequence[Assignment], purse: Purse
    ) -> Future[list[Candidate]]:
        """Start work on the assignments; the candidates in their order, one for each that was asked for at all."""

    def suspect(
        self, region: Region, arch: Arch, language: Language, distributions: Sequence[str], purse: Purse
    ) -> Future[list[Case]]:
        """Start looking for cases that may break candidates."""

    def review(
        self, region: Region, arch: Arch, language: Language, candidates: Sequence[Candidate], purse: Purse
    ) -> Future[list[dict[str, float]]]:
        """Start reading: for each candidate the probability by verifier that it is right; empty where nobody answered."""

    def close(self) -> None: ...


class LLM(Protocol):
    """Answers one conversation (`propose.llm.talk`). Failure is an answer with a problem, never an exception; never another
    model or server than it was made for."""

    async def complete(self, request: Any) -> Any: ...


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
    """Chooses parents. State is a value, so a run can be replayed: nothing but `tell` and `assign` brings it further."""

    def init(self, region: Region, arch: Arch) -> Any: ...
    def ask(self, state: Any, n: int) -> tuple[Any, Sequence[Attempt]]: ...
    def tell(self, state: Any, attempts: Sequence[Attempt]) -> Any: ...

    def assign(self, state: Any, n: int) -> tuple[Any, Sequence[Assignment]]:
        """At most n assignments for authors."""

    def stop(self, state: Any, close: bool) -> str | None:
        """Why no further round pays, or None. `close`: the last round came near the baseline, or others may be right."""


__all__ = ["LLM", "ArchProbe", "Author", "Check", "Kernel", "Language", "Proposer", "Purse", "Strategy"]
