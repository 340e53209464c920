"""Check `instructions`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch_autokernel.core.types import Finding, Status
from torch_autokernel.lang import x86
from torch_autokernel.lang.elf import Elf, read_elf

_X86_64, _AARCH64 = 62, 183


class Instructions:
    """The machine code has no instruction that a computation does not need.

    What it checks: every instruction of the object: system calls, clocks (`rdtsc`), processor identity, hardware transactions
    (which read memory without faulting), memory protection keys, port access, random numbers, the thread's own data but for
    the stack protector's word; jumps into the middle of an instruction; system calls hidden inside another one.
    Why it matters: what a symbol table does not show. A kernel that knows the time can tell a judge from a user.
    What it misses: what ordinary loads from guessed addresses would tell; other machines than x86-64 and aarch64.
    Example: `__builtin_ia32_rdtsc()`; `asm("syscall")`; `.byte 0x0f, 0x05`; `_xbegin()` around a read behind the buffer.
    """

    name = "instructions"

    def run(self, trial: Any) -> Finding:
        try:
            found = read_elf(Path(trial.artifact.path).read_bytes())
        except (OSError, ValueError) as error:
            return Finding(self.name, Status.FAIL, str(error))
        if found.machine not in (_X86_64, _AARCH64):
            return Finding(self.name, Status.PASS, f"not looked at for machine {found.machine}")
        bad = refused(found)
        if bad:
            return Finding(self.name, Status.FAIL, f"at {bad[0]}", {"found": bad[:20]})
        return Finding(self.name, Status.PASS, "", {"code_bytes": found.code_bytes})


def refused(found: Elf) -> list[str]:
    """Address and kind of each instruction that is not allowed."""
    if found.machine == _X86_64:
        return x86.refused(found.code)
    return [what for address, code in found.code for what in _arm(code, address)]


def _arm(code: bytes, base: int) -> list[str]:
    """Exception-generating instructions (svc, hvc, smc, brk is let through), and reads of the clocks' registers."""
    out = []
    for at in range(0, len(code) - 3, 4):
        word = int.from_bytes(code[at : at + 4], "little")
        if word & 0xFFE0001F in (0xD4000001, 0xD4000002, 0xD4000003):
            out.append(f"{base + at:#x}: svc, hvc or smc")
        if word & 0xFFFFFF00 == 0xD53BE000:  # mrs of cntfrq_el0, cntpct_el0, cntvct_el0
            out.append(f"{base + at:#x}: the clock's register")
    return out
