"""One candidate that somebody brought, as a proposer."""

from __future__ import annotations

from collections.abc import Sequence

from torch_autokernel.core.types import Arch, Attempt, Candidate, Region


class Given:
    """Proposes the candidate that it was made with, once."""

    name = "given"

    def __init__(self, candidate: Candidate) -> None:
        self._candidate = candidate

    def refuses(self, region: Region, arch: Arch) -> str | None:
        return None if region.signature.digest == self._candidate.signature else "the kernel was written for another region"

    def propose(self, region: Region, arch: Arch, parents: Sequence[Attempt], n: int) -> list[Candidate]:
        known = {p.candidate.id for p in parents}
        return [] if n < 1 or self._candidate.id in known or self.refuses(region, arch) else [self._candidate]
