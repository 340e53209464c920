"""Reading an artifact: the bytes that are loaded are the bytes that were judged."""

from __future__ import annotations

import hashlib
from pathlib import Path

from torch_autokernel.core.errors import ToolchainError
from torch_autokernel.core.types import Artifact


def read_checked(artifact: Artifact) -> bytes:
    """The artifact's bytes; raises ToolchainError where they are gone or are not those that were judged."""
    try:
        content = Path(artifact.path).read_bytes()
    except OSError as error:
        raise ToolchainError(f"the artifact {artifact.path} cannot be read: {error.strerror}") from error
    if (found := hashlib.sha256(content).hexdigest()) != artifact.sha256:
        raise ToolchainError(
            f"the artifact {artifact.path} has sha256 {found[:12]}..., not {artifact.sha256[:12]}...",
            hint="the file was changed; remove the entry with `autokernel cache rm`",
        )
    return content
