"""What a shared object asks of others, read from its ELF file: no `nm` or `readelf` needed."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

PROGBITS, DYNAMIC, DYNSYM, INIT_ARRAY, FINI_ARRAY, PREINIT_ARRAY = 1, 6, 11, 14, 15, 16
EXECUTABLE, NEEDED = 4, 1
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_DYNAMIC = struct.Struct("<qQ")


@dataclass(frozen=True)
class Elf:
    """`imports`: undefined dynamic symbols. `exports`: defined ones. `needed`: libraries. `initializers`: functions
    that run when the object is loaded, `finalizers`: when it is unloaded (a compiler adds one of each)."""

    imports: tuple[str, ...]
    exports: tuple[str, ...]
    needed: tuple[str, ...]
    initializers: int
    finalizers: int
    code_bytes: int


def read_elf(content: bytes) -> Elf:
    """The facts of a 64-bit little-endian shared object; raises ValueError for anything else."""
    if content[:6] != b"\x7fELF\x02\x01":
        raise ValueError(f"not a 64-bit little-endian ELF file: it starts with {content[:6]!r}")
    try:
        return _read(content)
    except (struct.error, IndexError, ValueError, OverflowError) as error:
        raise ValueError(f"a truncated or damaged ELF file: {error}") from None


def _read(content: bytes) -> Elf:
    sections = _Sections(content)
    imports: set[str] = set()
    exports: set[str] = set()
    needed: list[str] = []
    for section, names in sections.with_names(DYNSYM):
        for name, _, _, index, _, _ in _SYMBOL.iter_unpack(section):
            if text := _string(names, name):
                (exports if index else imports).add(text)
    for section, names in sections.with_names(DYNAMIC):
        needed += [_string(names, value) for tag, value in _DYNAMIC.iter_unpack(section) if tag == NEEDED]
    initializers = sections.pointers(INIT_ARRAY) + sections.pointers(PREINIT_ARRAY)
    return Elf(tuple(sorted(imports)), tuple(sorted(exports)), tuple(needed), initializers, sections.pointers(FINI_ARRAY),
               sections.code_bytes())  # fmt: skip


class _Sections:
    def __init__(self, content: bytes) -> None:
        self.content = content
        _, _, _, _, _, _, offset, _, _, _, _, size, count, _ = _HEADER.unpack_from(content)
        self.rows = [_SECTION.unpack_from(content, offset + i * size) for i in range(count)]

    def body(self, row: tuple[int, ...]) -> bytes:
        return self.content[row[4] : row[4] + row[5]]

    def with_names(self, kind: int) -> Iterator[tuple[bytes, bytes]]:
        """Each section of a kind, with the string table that it refers to."""
        for row in self.rows:
            if row[1] == kind:
                yield self.body(row), self.body(self.rows[row[6]])

    def pointers(self, kind: int) -> int:
        return sum(row[5] // 8 for row in self.rows if row[1] == kind)

    def code_bytes(self) -> int:
        return sum(row[5] for row in self.rows if row[1] == PROGBITS and row[2] & EXECUTABLE)


def _string(table: bytes, at: int) -> str:
    return table[at : table.index(b"\0", at)].decode("utf-8", "replace") if at < len(table) else ""
