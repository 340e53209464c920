"""Check `loading`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch_autokernel.core.types import Finding, Status
from torch_autokernel.lang.elf import Elf, read_elf

# What the loader may be told. Not among it: run paths, filters, audit libraries, text relocations.
_TAGS = frozenset(
    "NEEDED PLTRELSZ PLTGOT HASH STRTAB SYMTAB RELA RELASZ RELAENT STRSZ SYMENT INIT FINI SONAME PLTREL JMPREL BIND_NOW "
    "INIT_ARRAY FINI_ARRAY INIT_ARRAYSZ FINI_ARRAYSZ FLAGS RELRSZ RELR RELRENT GNU_HASH VERSYM RELACOUNT FLAGS_1 VERDEF "
    "VERDEFNUM VERNEED VERNEEDNUM".split()
)


class Loading:
    """Loading the object runs nothing of its author's and changes nothing for others.

    What it checks: no constructors or destructors beyond those that a compiler adds, no functions that the loader would call to
    bind a symbol (IFUNC), no memory that is writable and executable, no executable stack, no run paths, filters or text
    relocations, no symbols that the loader shares with other objects.
    Why it matters: such code runs in the user's process before any guard, with nobody watching its result.
    What it misses: nothing that the loader is told by the file; what an allowed library does when it is loaded.
    Example: `__attribute__((constructor))`; a global with a constructor; `__attribute__((ifunc("pick")))`; `-z execstack`.
    """

    name = "loading"

    def run(self, trial: Any) -> Finding:
        try:
            found = read_elf(Path(trial.artifact.path).read_bytes())
        except (OSError, ValueError) as error:
            return Finding(self.name, Status.FAIL, str(error))
        reason = problem(found)
        return Finding(self.name, Status.FAIL if reason else Status.PASS, reason)


def problem(found: Elf) -> str:
    """What is wrong with how the object is loaded, or nothing."""
    if found.initializers or found.finalizers:
        return "it runs code of its own when it is loaded or unloaded"
    if found.resolvers:
        return f"the loader would call {found.resolvers} functions of it to bind symbols (IFUNC)"
    if found.writable_code:
        return "it asks for memory that is writable and executable"
    if found.executable_stack:
        return "it asks for an executable stack"
    if bad := [tag for tag in found.tags if tag not in _TAGS]:
        return f"it tells the loader {', '.join(bad)}"
    if found.unique:
        return f"it shares symbols with other objects: {', '.join(found.unique[:4])}"
    return ""
