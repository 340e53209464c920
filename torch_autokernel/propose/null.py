"""The proposer for the null language: the reference itself is the kernel."""

from __future__ import annotations

from collections.abc import Sequence

from torch_autokernel.core.types import Arch, Attempt, Candidate, Region, Source


class NullProposer:
    """Proposes the printed reference, unchanged, for arch `null`."""

    name = "null"

    def refuses(self, region: Region, arch: Arch) -> str | None:
        return None if arch.key.startswith("null") else f"the null proposer serves the null arch only, not {arch.key}"

    def propose(self, region: Region, arch: Arch, parents: Sequence[Attempt], n: int) -> list[Candidate]:
        if self.refuses(region, arch) or n < 1:
            return []
        source = Source(language="null", text=region.reference, entry="reference")
        candidate = Candidate(region.signature.digest, source, self.name)
        return [] if candidate.id in {p.candidate.id for p in parents} else [candidate]
