"""Check `compiles`."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from torch_autokernel.core.types import Finding, Status


class Compiles:
    """The artifact is there and is what it claims to be.

    What it checks: the compiler gave a file; the file is there; its sha256 is the artifact's.
    Why it matters: everything else is said about exactly these bytes.
    What it misses: whether they come from the source beside them.
    Example: a kernel with a syntax error; an object exchanged after it was compiled.
    """

    name = "compiles"

    def run(self, trial: Any) -> Finding:
        artifact = trial.artifact
        if not artifact.ok:
            lines = [line for line in artifact.log.splitlines() if line.strip()]
            first = next((line for line in lines if "error" in line), lines[0] if lines else "no message")
            return Finding(self.name, Status.FAIL, f"the compiler refused it: {first.strip()}", {"log": artifact.log[-4000:]})
        path = Path(artifact.path)
        if not path.is_file():
            return Finding(self.name, Status.FAIL, f"the artifact {path} is not there")
        have = hashlib.sha256(path.read_bytes()).hexdigest()
        if have != artifact.sha256:
            return Finding(self.name, Status.FAIL, f"the file's sha256 is {have[:12]}, not {artifact.sha256[:12]} as recorded")
        return Finding(self.name, Status.PASS)
