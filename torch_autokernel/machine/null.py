"""A device that does not exist, so that the whole story runs without a compiler."""

from __future__ import annotations

from torch_autokernel.core.types import Arch


class NullArch:
    """The arch `null`: kernels for it are their own references, run by Python."""

    def probe(self, index: int = 0) -> Arch | None:
        return Arch("null", limits={"threads": 1, "vector_bytes": 16}, name="no device") if index == 0 else None
