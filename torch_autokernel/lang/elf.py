"""What a shared object asks of others and how it is loaded, read from its ELF file: no `nm` or `readelf` needed.

Two views of the same file: section headers, which linkers and tools read, and program headers, which the loader reads. Imports
and libraries are taken from both, so a file whose sections lie hides nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

PROGBITS, DYNAMIC, DYNSYM, INIT_ARRAY, FINI_ARRAY, PREINIT_ARRAY = 1, 6, 11, 14, 15, 16
EXECUTABLE, NEEDED = 4, 1
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_DYNAMIC = struct.Struct("<qQ")
_RELOCATION = struct.Struct("<QQq")

# program headers
_LOAD, _DYNAMIC_SEGMENT, _TLS, _STACK, _RELRO = 1, 2, 7, 0x6474E551, 0x6474E552
_X, _W = 1, 2
_DT = {
    0: "NULL", 1: "NEEDED", 2: "PLTRELSZ", 3: "PLTGOT", 4: "HASH", 5: "STRTAB", 6: "SYMTAB", 7: "RELA", 8: "RELASZ",
    9: "RELAENT", 10: "STRSZ", 11: "SYMENT", 12: "INIT", 13: "FINI", 14: "SONAME", 15: "RPATH", 16: "SYMBOLIC", 17: "REL",
    18: "RELSZ", 19: "RELENT", 20: "PLTREL", 22: "TEXTREL", 23: "JMPREL", 24: "BIND_NOW", 25: "INIT_ARRAY", 26: "FINI_ARRAY",
    27: "INIT_ARRAYSZ", 28: "FINI_ARRAYSZ", 29: "RUNPATH", 30: "FLAGS", 32: "PREINIT_ARRAY", 33: "PREINIT_ARRAYSZ",
    35: "RELRSZ", 36: "RELR", 37: "RELRENT", 0x6FFFFEF5: "GNU_HASH", 0x6FFFFFF0: "VERSYM", 0x6FFFFFF9: "RELACOUNT",
    0x6FFFFFFB: "FLAGS_1", 0x6FFFFFFC: "VERDEF", 0x6FFFFFFD: "VERDEFNUM", 0x6FFFFFFE: "VERNEED", 0x6FFFFFFF: "VERNEEDNUM",
    0x7FFFFFFD: "AUXILIARY", 0x7FFFFFFF: "FILTER",
}  # fmt: skip
_IFUNC_SYMBOL, _UNIQUE = 10, 10  # a symbol's type, and its binding
_IRELATIVE = {62: 37, 183: 1032}  # relocation that calls a resolver, by machine (x86-64, aarch64)


@dataclass(frozen=True)
class Elf:
    """`imports`: undefined dynamic symbols. `exports`: defined ones. `needed`: libraries. `initializers`: functions
    that run when the object is loaded, `finalizers`: when it is unloaded (a compiler adds one of each). `tags` names what the
    loader is told, `unknown_tags` among it; `data` are (address, bytes) of memory that stays writable, `resolvers` counts
    functions that the loader would call to bind a symbol, `unique` names symbols that are shared with other objects."""

    imports: tuple[str, ...]
    exports: tuple[str, ...]
    needed: tuple[str, ...]
    initializers: int
    finalizers: int
    code_bytes: int
    machine: int = 0
    tags: tuple[str, ...] = ()
    data: tuple[tuple[int, int], ...] = ()
    thread_bytes: int = 0
    writable_code: bool = False
    executable_stack: bool = False
    resolvers: int = 0
    unique: tuple[str, ...] = ()
    values: tuple[tuple[str, int], ...] = ()
    code: tuple[tuple[int, bytes], ...] = ()

    def value(self, symbol: str) -> int:
        """The address of an exported symbol, relative to where the object is loaded."""
        return dict(self.values)[symbol]


def read_elf(content: bytes) -> Elf:
    """The facts of a 64-bit little-endian shared object; raises ValueError for anything else."""
    if content[:6] != b"\x7fELF\x02\x01":
        raise ValueError(f"not a 64-bit little-endian ELF file: it starts with {content[:6]!r}")
    try:
        return _read(content)
    except (struct.error, LookupError, ValueError, OverflowError, MemoryError) as error:
        raise ValueError(f"a truncated or damaged ELF file: {error}") from None


def _read(content: bytes) -> Elf:
    sections, loaded = _Sections(content), _Loaded(content)
    imports, exports, unique = loaded.imports(), set[str](), set[str]()
    needed: list[str] = list(loaded.needed())
    values: dict[str, int] = {}
    resolvers = loaded.resolvers()
    for section, names in sections.with_names(DYNSYM):
        for name, info, _, index, value, _ in _SYMBOL.iter_unpack(section):
            if text := _string(names, name):
                (exports if index else imports).add(text)
                values |= {text: value} if index else {}
                resolvers += info & 15 == _IFUNC_SYMBOL and bool(index)
                if info >> 4 == _UNIQUE and index:
                    unique.add(text)
    for section, names in sections.with_names(DYNAMIC):
        needed += [_string(names, value) for tag, value in _DYNAMIC.iter_unpack(section) if tag == NEEDED]
    initializers = max(sections.pointers(INIT_ARRAY), loaded.pointers("INIT_ARRAYSZ")) + max(
        sections.pointers(PREINIT_ARRAY), loaded.pointers("PREINIT_ARRAYSZ"))  # fmt: skip
    return Elf(
        tuple(sorted(imports)), tuple(sorted(exports)), tuple(dict.fromkeys(needed)), initializers,
        max(sections.pointers(FINI_ARRAY), loaded.pointers("FINI_ARRAYSZ")), sections.code_bytes(), loaded.machine,
        tuple(sorted({_DT.get(tag, f"{tag:#x}") for tag, _ in loaded.dynamic})), loaded.data(), loaded.thread_bytes(),
        any(flags & _W and flags & _X for kind, flags, *_ in loaded.segments if kind == _LOAD),
        any(kind == _STACK and flags & _X for kind, flags, *_ in loaded.segments), resolvers, tuple(sorted(unique)),
        tuple(sorted(values.items())), tuple(_blocks(sections.code(), loaded.code())),
    )  # fmt: skip


def _blocks(sections: list[tuple[int, bytes]], segments: tuple[tuple[int, bytes], ...]) -> Iterator[tuple[int, bytes]]:
    """Executable sections, then whatever an executable segment holds besides them (but for zeros, which only pad)."""
    yield from sections
    for start, content in segments:
        rest = bytearray(content)
        for address, body in sections:
            if start <= address and address + len(body) <= start + len(rest):
                rest[address - start : address - start + len(body)] = bytes(len(body))
        if any(rest):
            yield start, bytes(rest)


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

    def code(self) -> list[tuple[int, bytes]]:
        return [(row[3], self.body(row)) for row in self.rows if row[1] == PROGBITS and row[2] & EXECUTABLE]

    def code_bytes(self) -> int:
        return sum(row[5] for row in self.rows if row[1] == PROGBITS and row[2] & EXECUTABLE)


class _Loaded:
    """The file as the loader sees it: segments, and the dynamic table with what it points to."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        header = _HEADER.unpack_from(content)
        self.machine, offset, size, count = header[2], header[5], header[9], header[10]
        self.segments = [_SEGMENT.unpack_from(content, offset + i * size) for i in range(count)]
        self.dynamic: list[tuple[int, int]] = []
        for kind, _, at, _, _, length, _, _ in self.segments:
            if kind == _DYNAMIC_SEGMENT:
                self.dynamic += self._table(content[at : at + length])
        self.tables = {_DT.get(tag, ""): value for tag, value in self.dynamic}

    def _table(self, body: bytes) -> Iterator[tuple[int, int]]:
        for tag, value in _DYNAMIC.iter_unpack(body[: len(body) // 16 * 16]):
            if tag == 0:
                return
            yield tag, value

    def bytes_at(self, address: int, count: int) -> bytes:
        """What is loaded there from the file."""
        for kind, _, at, start, _, length, _, _ in self.segments:
            if kind == _LOAD and start <= address < start + length:
                return self.content[at + address - start : at + min(length, address - start + count)]
        raise ValueError(f"nothing is loaded at {address:#x}")

    def name(self, at: int) -> str:
        return _string(self.bytes_at(self.tables["STRTAB"], self.tables.get("STRSZ", 0)), at)

    def needed(self) -> Iterator[str]:
        yield from (self.name(value) for tag, value in self.dynamic if tag == NEEDED)

    def _relocations(self) -> Iterator[tuple[int, int]]:
        """(symbol number, type) of each."""
        for table, size in (("RELA", "RELASZ"), ("JMPREL", "PLTRELSZ")):
            if count := self.tables.get(size, 0):
                body = self.bytes_at(self.tables[table], count)
                for _, info, _ in _RELOCATION.iter_unpack(body[: len(body) // 24 * 24]):
                    yield info >> 32, info & 0xFFFFFFFF

    def imports(self) -> set[str]:
        found = set()
        for number in {n for n, _ in self._relocations() if n}:
            name, _, _, index, _, _ = _SYMBOL.unpack(self.bytes_at(self.tables["SYMTAB"] + 24 * number, 24))
            if not index:
                found.add(self.name(name))
        return found - {""}

    def resolvers(self) -> int:
        wanted = _IRELATIVE.get(self.machine)
        return sum(kind == wanted for _, kind in self._relocations())

    def pointers(self, size: str) -> int:
        return self.tables.get(size, 0) // 8

    def data(self) -> tuple[tuple[int, int], ...]:
        """Writable memory but for what becomes read-only after relocation."""
        fixed = [(s[3], s[3] + s[6]) for s in self.segments if s[0] == _RELRO]
        found = []
        for kind, flags, _, start, _, _, length, _ in self.segments:
            if kind == _LOAD and flags & _W:
                end = start + length
                for low, high in fixed:
                    if low <= start < high:
                        start = min(high, end)
                if end > start:
                    found.append((start, end - start))
        return tuple(found)

    def thread_bytes(self) -> int:
        return sum(s[6] for s in self.segments if s[0] == _TLS)

    def code(self) -> tuple[tuple[int, bytes], ...]:
        """Address and bytes of each executable segment."""
        return tuple((s[3], self.content[s[2] : s[2] + s[5]]) for s in self.segments if s[0] == _LOAD and s[1] & _X)


def _string(table: bytes, at: int) -> str:
    return table[at : table.index(b"\0", at)].decode("utf-8", "replace") if at < len(table) else ""
