"""Where instructions begin, against objdump, and what is refused."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from torch_autokernel.lang import x86
from torch_autokernel.lang.elf import read_elf

LIBRARIES = ("/lib/x86_64-linux-gnu/libm.so.6", "/usr/lib/x86_64-linux-gnu/libgomp.so.1", "/lib64/libm.so.6", "/lib64/libgomp.so.1")


def starts(code: bytes, base: int) -> list[int]:
    out = []
    for item in x86.decode(code, base):
        assert not isinstance(item, int), hex(base + item)
        out.append(base + item.at)
    return out


@pytest.mark.parametrize("path", LIBRARIES)
def test_lengths_are_those_of_objdump(path: str) -> None:
    if not Path(path).exists() or shutil.which("objdump") is None:
        pytest.skip("no such library, or no objdump")
    elf = read_elf(Path(path).read_bytes())
    if elf.machine != 62:
        pytest.skip("not x86-64")
    base, code = max(elf.code, key=lambda block: len(block[1]))
    code = code[:60000]
    command = ["objdump", "-d", "-w", "--no-show-raw-insn", f"--start-address={base:#x}", f"--stop-address={base + len(code):#x}"]
    text = subprocess.run([*command, path], capture_output=True, text=True, check=True).stdout
    want = {int(m[1], 16): m[2] for m in re.finditer(r"^\s+([0-9a-f]+):\t(.*)$", text, re.MULTILINE)}
    have = {base + i.at for i in x86.decode(code, base) if isinstance(i, x86.Instruction)}
    # objdump takes fwait and the instruction behind it as one; the last one may be cut off
    waits = {at + 1 for at, what in want.items() if what.split(" ")[0] in ("fstcw", "fstsw", "fclex")}
    odd = {at for at in (have ^ set(want)) - waits if at < base + len(code) - 16}
    assert len(want) > 10000 and not odd, sorted(map(hex, odd))[:5]


REFUSED = {
    "0f05": "syscall", "cd80": "int", "0f34": "sysenter", "0f31": "rdtsc", "0f01f9": "system instruction", "0f01ef": "wrpkru",
    "0fa2": "cpuid", "c7f800000000": "transaction", "0f01d5": "xend", "480fc7f0": "rdrand", "f30fc7f8": "rdpid", "f4": "hlt",
    "64488b042500000000": "thread", "f3480faec0": "base address", "e460": "port", "0f33": "rdpmc", "ff2d00000000": "far jump",
    "eb01b890909090": "middle", "06": "no known instruction", "c4": "no known instruction",
}  # fmt: skip


@pytest.mark.parametrize("code", REFUSED)
def test_refused(code: str) -> None:
    found = x86.refused([(0x1000, bytes.fromhex(code))])
    assert any(REFUSED[code] in f for f in found), found


def test_hidden_system_call_needs_a_computed_jump() -> None:
    immediate = bytes.fromhex("b80f05c390")  # mov eax, ...0f 05...
    assert not x86.refused([(0, immediate)])
    assert x86.refused([(0, immediate + bytes.fromhex("ffe0"))]) == ["0x1: syscall inside another instruction, and a computed jump"]


ALLOWED = (
    "c3", "64488b042528000000", "0faef8", "0fae30", "660f1f440000", "62f17c485800", "c5f877", "f3c3", "e800000000", "0fae5c24fc",
    "ff2500000000", "f00fc110", "0f0b", "cc", "662e0f1f840000000000",
)  # fmt: skip


@pytest.mark.parametrize("code", ALLOWED)
def test_allowed(code: str) -> None:
    base = 0x1000
    assert [f for f in x86.refused([(base, bytes.fromhex(code)), (base + len(code) // 2, b"\xc3")]) if "middle" not in f] == []
