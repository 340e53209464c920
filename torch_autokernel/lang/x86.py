"""Where instructions begin in x86-64 machine code, and which of them no computation needs.

A length decoder, no more: prefixes, opcode map, ModRM, displacement, immediate (Intel SDM volume 2, appendix A). Only what a
compiler emits for user code is understood; bytes that are no such instruction are told as such.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_LEGACY = frozenset((0x66, 0xF2, 0xF3, 0x2E, 0x36, 0x3E, 0x26, 0x64, 0x65, 0xF0, 0x67))
_ARITHMETIC = [op for op in range(0x40) if op & 7 < 4]
_MODRM = frozenset(
    (*_ARITHMETIC, 0x63, 0x69, 0x6B, 0x80, 0x81, *range(0x83, 0x90), 0xC0, 0xC1, 0xC6, 0xC7, *range(0xD0, 0xD4),
     *range(0xD8, 0xE0), 0xF6, 0xF7, 0xFE, 0xFF)
)  # fmt: skip
_BYTE = frozenset(
    (*(op for op in range(0x40) if op & 7 == 4), 0x6A, 0x6B, *range(0x70, 0x81), 0x83, 0xA8, *range(0xB0, 0xB8), 0xC0, 0xC1,
     0xC6, 0xCD, *range(0xE0, 0xE8), 0xEB)
)  # fmt: skip
_WORD = frozenset((*(op for op in range(0x40) if op & 7 == 5), 0x68, 0x69, 0x81, 0xA9, 0xC7))  # 4 bytes, or 2 after 66
_INVALID = frozenset((0x06, 0x07, 0x0E, 0x16, 0x17, 0x1E, 0x1F, 0x27, 0x2F, 0x37, 0x3F, 0x60, 0x61, 0x82, 0x9A, 0xCE, 0xD4,
                      0xD5, 0xD6, 0xEA))  # fmt: skip
_TWO_BARE = frozenset((0x05, 0x06, 0x07, 0x08, 0x09, 0x0B, 0x0E, *range(0x30, 0x38), 0x77, 0xA0, 0xA1, 0xA2, 0xA8, 0xA9, 0xAA,
                       *range(0xC8, 0xD0)))  # fmt: skip
_TWO_BYTE = frozenset((0x0F, *range(0x70, 0x74), 0xA4, 0xAC, 0xBA, 0xC2, 0xC4, 0xC5, 0xC6))

ONE, TWO = 1, 2  # opcode maps
_HIDDEN = {b"\x0f\x05": "syscall", b"\x0f\x34": "sysenter", b"\xcd\x80": "int 0x80"}
_PLAIN_REFUSED = {
    (ONE, 0xCD): "int", (ONE, 0xF1): "int1", (ONE, 0xF4): "hlt", (ONE, 0xCF): "iret", (ONE, 0xCA): "far return",
    (ONE, 0xCB): "far return", (ONE, 0x8E): "a segment register", (ONE, 0xFA): "cli", (ONE, 0xFB): "sti",
    **{(ONE, op): "port input or output" for op in (*range(0x6C, 0x70), *range(0xE4, 0xE8), *range(0xEC, 0xF0))},
    (TWO, 0x01): "a system instruction (rdtscp, xgetbv, wrpkru, xend)", (TWO, 0x00): "a system instruction",
    (TWO, 0x05): "syscall", (TWO, 0x07): "sysret", (TWO, 0x30): "wrmsr", (TWO, 0x31): "rdtsc", (TWO, 0x32): "rdmsr",
    (TWO, 0x33): "rdpmc", (TWO, 0x34): "sysenter", (TWO, 0x35): "sysexit", (TWO, 0xA2): "cpuid",
}  # fmt: skip


@dataclass(frozen=True)
class Instruction:
    """`map` is 1 (one byte), 2 (0F), 3 (0F 38), 4 (0F 3A), or 0 for vector encodings. `target` is where a direct branch
    goes."""

    at: int
    length: int
    map: int
    opcode: int
    modrm: int = -1
    prefixes: bytes = b""
    displacement: int = 0
    target: int | None = None

    @property
    def register(self) -> int:
        """The ModRM byte's middle field."""
        return self.modrm >> 3 & 7

    @property
    def direct(self) -> bool:
        """Whether ModRM names a register, not memory."""
        return self.modrm >= 0xC0


def decode(code: bytes, base: int = 0) -> Iterator[Instruction | int]:
    """Each instruction of the code, which is loaded at `base`; last, where it cannot be decoded any further, that offset."""
    at = 0
    while at < len(code):
        try:
            found = _one(code, at, base)
        except IndexError:
            yield at
            return
        if found is None:
            yield at
            return
        yield found
        at += found.length


def _one(code: bytes, at: int, base: int) -> Instruction | None:
    p = at
    while code[p] in _LEGACY:
        p += 1
    prefixes, rex = code[at:p], 0
    if code[p] & 0xF0 == 0x40:
        rex, p = code[p], p + 1
    opcode, p = code[p], p + 1
    if opcode in (0xC4, 0xC5, 0x62) and not rex:
        return _vector(code, at, p, opcode, prefixes)
    short = 0x66 in prefixes
    if opcode != 0x0F:
        if opcode in _INVALID:
            return None
        modrm, p, shift = _address(code, p) if opcode in _MODRM else (-1, p, 0)
        p += _immediate(opcode, modrm, short, rex, 0x67 in prefixes)
        return Instruction(at, p - at, ONE, opcode, modrm, prefixes, shift, _branch(code, p, base, opcode))
    opcode, p = code[p], p + 1
    if opcode in (0x38, 0x3A):
        which, opcode, p = (3 if opcode == 0x38 else 4), code[p], p + 1
        modrm, p, shift = _address(code, p)
        return Instruction(at, p + (which == 4) - at, which, opcode, modrm, prefixes, shift)
    if 0x80 <= opcode < 0x90:
        p += 4
        return Instruction(at, p - at, TWO, opcode, -1, prefixes, 0, base + p + _signed(code, p - 4, 4))
    modrm, p, shift = (-1, p, 0) if opcode in _TWO_BARE else _address(code, p)
    p += opcode in _TWO_BYTE
    code[p - 1]
    return Instruction(at, p - at, TWO, opcode, modrm, prefixes, shift)


def _immediate(opcode: int, modrm: int, short: bool, rex: int, small_address: bool) -> int:
    if opcode in _BYTE:
        return 1
    if opcode in _WORD:
        return 2 if short else 4
    if opcode in (0xE8, 0xE9):
        return 4
    if 0xB8 <= opcode < 0xC0:
        return 8 if rex & 8 else 2 if short else 4
    if 0xA0 <= opcode < 0xA4:
        return 4 if small_address else 8
    if opcode in (0xF6, 0xF7) and modrm >> 3 & 7 < 2:
        return 1 if opcode == 0xF6 else 2 if short else 4
    return {0xC2: 2, 0xCA: 2, 0xC8: 3}.get(opcode, 0)


def _branch(code: bytes, end: int, base: int, opcode: int) -> int | None:
    if opcode in (0xE8, 0xE9):
        return base + end + _signed(code, end - 4, 4)
    if 0x70 <= opcode < 0x80 or opcode in (0xEB, 0xE0, 0xE1, 0xE2, 0xE3):
        return base + end + _signed(code, end - 1, 1)
    code[end - 1]
    return None


def _signed(code: bytes, at: int, count: int) -> int:
    if at + count > len(code):
        raise IndexError
    return int.from_bytes(code[at : at + count], "little", signed=True)


def _address(code: bytes, p: int) -> tuple[int, int, int]:
    """ModRM, where its operand ends, and its displacement."""
    modrm, p = code[p], p + 1
    mode, low = modrm >> 6, modrm & 7
    if mode == 3:
        return modrm, p, 0
    width = (0, 1, 4)[mode]
    if low == 4:
        if mode == 0 and code[p] & 7 == 5:
            width = 4
        p += 1
    elif mode == 0 and low == 5:
        width = 4
    return modrm, p + width, _signed(code, p, width) if width else 0


def _vector(code: bytes, at: int, p: int, lead: int, prefixes: bytes) -> Instruction | None:
    """VEX and EVEX."""
    if lead == 0xC5:
        which, p = 1, p + 1
    else:
        which = code[p] & (0x1F if lead == 0xC4 else 7)
        p += 2 if lead == 0xC4 else 3
    if which not in (1, 2, 3, 5, 6):
        return None
    opcode, p = code[p], p + 1
    if which == 1 and opcode == 0x77:
        return Instruction(at, p - at, 0, opcode, -1, prefixes)
    modrm, p, shift = _address(code, p)
    p += which == 3 or (which == 1 and opcode in _TWO_BYTE)
    code[p - 1]
    return Instruction(at, p - at, 0, (which << 8) | opcode, modrm, prefixes, shift)


def refused(blocks: Iterable[tuple[int, bytes]]) -> list[str]:
    """What blocks of code (address, bytes) have that no computation needs, each with its address; what hides between
    instructions too, where a jump could get there."""
    blocks, found, starts, targets, indirect = list(blocks), list[str](), set[int](), dict[int, int](), False
    for base, code in blocks:
        for item in decode(code, base):
            if isinstance(item, int):
                found.append(f"{base + item:#x}: bytes that are no known instruction")
                break
            starts.add(base + item.at)
            if word := _word(item):
                found.append(f"{base + item.at:#x}: {word}")
            if item.target is not None:
                targets[item.target] = base + item.at
            indirect |= item.map == ONE and item.opcode == 0xFF and item.register in (2, 4) and item.modrm not in (0x15, 0x25)
    found += [f"{at:#x}: a jump into the middle of an instruction" for to, at in targets.items() if to not in starts]
    return found + [what for base, code in blocks if indirect for what in _hidden(code, base, starts)]


def _hidden(code: bytes, base: int, starts: set[int]) -> list[str]:
    out = []
    for pattern, name in _HIDDEN.items():
        at = code.find(pattern)
        while at >= 0:
            if base + at not in starts:
                out.append(f"{base + at:#x}: {name} inside another instruction, and a computed jump")
            at = code.find(pattern, at + 1)
    return out


def _word(i: Instruction) -> str:
    if name := _PLAIN_REFUSED.get((i.map, i.opcode)):
        return name
    thread = next((p for p in i.prefixes if p in (0x64, 0x65)), 0)
    if thread and not (thread == 0x64 and i.displacement == 0x28):
        return "the thread's own data (fs, gs)"
    if i.map == ONE and i.opcode in (0xC6, 0xC7) and i.modrm == 0xF8:
        return "a hardware transaction (xbegin, xabort)"
    if i.map == ONE and i.opcode == 0xFF and i.register in (3, 5):
        return "a far jump"
    if i.map == TWO and i.opcode == 0xC7 and i.direct and i.register in (6, 7):
        return "rdrand, rdseed or rdpid"
    if i.map == TWO and i.opcode == 0xAE and (i.direct and 0xF3 in i.prefixes and i.register < 4):
        return "the thread's base address"
    if i.map == TWO and i.opcode == 0xAE and not i.direct and i.register in (4, 5) and 0x66 not in i.prefixes:
        return "xsave or xrstor"
    return ""
