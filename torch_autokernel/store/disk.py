"""The store: reads from its own folder and from read-only search paths, writes to its own."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch_autokernel.core.errors import StoreError
from torch_autokernel.core.types import CacheEntry, CacheKey, Refusal, Trust, digest
from torch_autokernel.store import files, record, tools, upkeep
from torch_autokernel.store.files import Broken
from torch_autokernel.store.record import Place, Record, covers
from torch_autokernel.store.shelf import Shelf
from torch_autokernel.store.trust import Seal
from torch_autokernel.store.upkeep import Item, Problem
from torch_autokernel.store.writer import Writer

log = logging.getLogger(__name__)

USABLE = (Trust.VERIFIED_HERE, Trust.SIGNED)
ATTEMPTS = 3  # how often a lookup starts again when something vanished under it


@dataclass(frozen=True, slots=True)
class Lookup:
    """What the store knows. `entry`: the fastest usable kernel for the sizes, every byte of it checked. `refusals`: the
    searches that found nothing for them, latest first. `reasons`: why each other thing on the disk was not used."""

    entry: CacheEntry | None = None
    refusals: tuple[Refusal, ...] = ()
    reasons: tuple[str, ...] = ()

    @property
    def refusal(self) -> Refusal | None:
        return self.refusals[0] if self.refusals else None


class Store:
    """Kernels and refusals by what they compute and where they run. Reading never raises, waits or writes (except for
    the time of last use); writing raises StoreError. `search_paths` are further cache folders, only read."""

    def __init__(self, root: Path, *, readonly: bool = False, search_paths: Sequence[Path] = ()) -> None:
        self.root = Path(os.path.realpath(root))
        self.readonly = readonly
        me = os.geteuid()
        self._shelf = Shelf(str(self.root), frozenset({me}))
        self._shelves = [self._shelf, *(Shelf(os.path.realpath(p), frozenset({me, 0})) for p in search_paths)]
        self._writer = Writer(self._shelf)

    # ------------------------------------------------------------------------------------------ reading
    @property
    def problem(self) -> str | None:
        """Why nothing can be put into the store, with the remedy; None where it can. Makes the folder if need be."""
        return "it was opened read-only" if self.readonly else self._writer.problem()

    @property
    def read_problem(self) -> str | None:
        """Why nothing in the store's own folder is used, with the remedy; None where it is (an absent folder is empty)."""
        return self._shelf.problem()

    def lookup(self, key: CacheKey, sizes: Mapping[str, int] | None = None) -> Lookup:
        """The best kernel and the refusals for a key whose ranges contain `sizes` (no sizes: whatever their ranges)."""
        if reason := record.unusable_key(key):
            return Lookup(reasons=(reason,))
        for _ in range(ATTEMPTS):
            found, vanished = self._look_once(key, sizes)
            if found.entry or not vanished:
                break
        return found

    def _look_once(self, key: CacheKey, sizes: Mapping[str, int] | None) -> tuple[Lookup, bool]:
        reasons: list[str] = []
        candidates: list[tuple[Shelf, Record]] = []
        vanished = False
        for shelf in self._shelves:
            if problem := shelf.problem():
                reasons.append(problem)
            for found in shelf.records(key.arch, key.signature, fresh=True):
                reason = _why_not(found, key, sizes)
                vanished |= isinstance(found, Broken) and found.kind == "missing"
                if isinstance(found, Record) and not reason:
                    candidates.append((shelf, found))
                else:
                    reasons.append(reason)
        refusals, more = self._refusals(key, sizes)
        for shelf, found in sorted(candidates, key=lambda c: (-c[1].speedup, -c[1].entry.created)):
            broken = shelf.damage(found)
            if broken is None:
                self.touch(found.entry)
                return Lookup(found.entry, refusals, tuple(reasons + more)), False
            vanished |= broken.kind == "missing"
            reasons.append(broken.reason)
        return Lookup(None, refusals, tuple(reasons + more)), vanished

    def _refusals(self, key: CacheKey, sizes: Mapping[str, int] | None) -> tuple[tuple[Refusal, ...], list[str]]:
        found = [r for shelf in self._shelves for r in shelf.refusals(key.arch, key.signature)]
        fitting = [r for r in found if isinstance(r, Refusal) and r.key == key and covers(r.ranges, sizes)]
        fitting.sort(key=lambda r: -r.created)
        return tuple(fitting), [b.reason for b in found if isinstance(b, Broken)]

    def entries(self, arch: str | None = None, abi: str | None = None) -> list[CacheEntry]:
        """All usable entries in the order of their folders. Their seals are checked, and that their files are there in
        full length; the digests of these are not: see `damage`."""
        return [r.entry for r in self._records(arch, abi)]

    def _records(self, arch: str | None, abi: str | None) -> list[Record]:
        if arch is not None and not record.ARCH_NAME.fullmatch(arch):
            return []
        out: dict[tuple[str, str], Record] = {}
        for shelf in self._shelves:
            for found in shelf.records(arch):
                if isinstance(found, Record) and not _why_not(found, None, None) and abi in (None, found.entry.key.abi):
                    out.setdefault((found.op_name, str(found.entry.ranges)), found)
        return list(out.values())

    def refusals(self, arch: str | None = None, abi: str | None = None) -> list[Refusal]:
        """All refusals that are in order."""
        found = [r for shelf in self._shelves for r in shelf.refusals(arch)]
        return [r for r in found if isinstance(r, Refusal) and abi in (None, r.key.abi)]

    def manifest_digest(self, arch: str | None, abi: str | None) -> str:
        """A digest of the set of usable kernels: it changes when, and only when, one comes or goes."""
        return digest(sorted({r.op_name for r in self._records(arch, abi)}))

    def damage(self, entry: CacheEntry) -> str | None:
        """Why the entry's files are not, byte for byte, what was put; None where they are. For callers that hold an
        entry of `entries` and are about to load it."""
        for shelf in self._shelves:
            for found in shelf.records(entry.key.arch, entry.key.signature, fresh=True):
                if isinstance(found, Record) and found.entry.artifact.path == entry.artifact.path:
                    broken = shelf.damage(found)
                    return broken.reason if broken else None
        return f"{entry.artifact.path} is no longer in the store, or its entry is damaged"

    def touch(self, entry: CacheEntry) -> None:
        """Note that the entry is in use: what was used least recently goes first."""
        folder = os.path.dirname(entry.artifact.path)
        if self.readonly or not folder.startswith(self._shelf.top + os.sep):
            return
        try:
            os.utime(folder)
        except OSError as error:
            log.debug("time of last use not noted for %s: %s", folder, error)

    # ------------------------------------------------------------------------------------------ writing
    def put(self, entry: CacheEntry, files: Mapping[str, Path | bytes]) -> CacheEntry:
        """The entry as it lies in the store, with the path of its artifact there. `files`: `artifact`, `source.<suffix>`
        and, if any, `vectors.safetensors`. An entry that is there already, judged by the same verifier, stays as it is
        and is given back. Raises StoreError where the entry contradicts itself or cannot be written."""
        self._demand_writable()
        contents = {name: _content(name, data) for name, data in files.items()}
        _demand_consistent(entry, contents)
        with self._writer.writing():
            return self._writer.place_entry(entry, contents)

    def refuse(self, refusal: Refusal) -> None:
        """Keep a refusal, in place of an earlier one for the same key, conditions and ranges."""
        self._demand_writable()
        if reason := record.unusable_key(refusal.key):
            raise StoreError(f"the refusal cannot be kept: {reason}")
        with self._writer.writing():
            self._writer.place_refusal(refusal)

    def remove(self, what: CacheKey | CacheEntry) -> int:
        """How many entries were removed: all of a key, or the one given."""
        self._demand_writable()
        key = what if isinstance(what, CacheKey) else what.key
        with self._writer.writing():
            found = self._shelf.records(key.arch, key.signature, fresh=True)
            paths = [os.path.dirname(r.entry.artifact.path) for r in found if isinstance(r, Record) and _is(r.entry, what)]
            for path in paths:
                self._writer.discard(path)
        return len(paths)

    def remove_refusals(self, key: CacheKey | None = None) -> int:
        """How many refusals were removed: those of a key, or all."""
        self._demand_writable()
        with self._writer.writing():
            seal = self._shelf.seal()
            places = [p for p in self._refusal_places(key) if key is None or self._is_for(p, key, seal)]
            for place in places:
                self._writer.discard(place.path)
        return len(places)

    def _refusal_places(self, key: CacheKey | None) -> list[Place]:
        places = self._shelf.places(key.arch, key.signature) if key else self._shelf.places()
        return [p for p in places if record.REFUSAL_NAME.fullmatch(p.name)]

    def _is_for(self, place: Place, key: CacheKey, seal: Seal | Broken) -> bool:
        found = self._shelf.refusal(place, seal)
        return isinstance(found, Refusal) and found.key == key

    # ------------------------------------------------------------------------------------------ tools
    def tool(self, name: str) -> bytes | None:
        """What `keep_tool` kept under this name on this machine, unchanged; None where that is not there."""
        found = tools.read(self._shelf, name)
        return None if isinstance(found, Broken) else found

    def keep_tool(self, name: str, content: bytes) -> None:
        """Keep what was built here beside kernels, in place of an earlier one of that name."""
        self._demand_writable()
        with self._writer.writing():
            tools.place(self._shelf, self._writer, name, content)

    # ------------------------------------------------------------------------------------------ upkeep
    def items(self) -> list[Item]:
        """Every entry and refusal in the store's own folder, valid or not, least recently used first."""
        return upkeep.items(self._shelf)

    def gc(self, max_bytes: int | None = None, max_age_s: float | None = None) -> list[Item]:
        """What was removed: all that was last used longer ago than `max_age_s`, then the least recently used until at
        most `max_bytes` are left."""
        self._demand_writable()
        with self._writer.writing():
            return upkeep.collect(self._shelf, self._writer, max_bytes, max_age_s)

    def check(self, repair: bool = False) -> list[Problem]:
        """Everything in the store's own folder that is not as it should be, every byte read. `repair` removes what is of
        no use to anybody and closes what is open to other users; what is merely unknown or foreign stays."""
        return upkeep.check(self._shelf, self._writer, repair and not self.readonly, locked=not self.readonly)

    def _demand_writable(self) -> None:
        if problem := self.problem:
            raise StoreError(f"the cache cannot be written: {problem}")


def _is(entry: CacheEntry, what: CacheKey | CacheEntry) -> bool:
    """Whether a stored entry is the one meant, or lies under the key meant."""
    if isinstance(what, CacheKey):
        return entry.key == what
    return (entry.key, entry.candidate.id, entry.ranges) == (what.key, what.candidate.id, what.ranges)


def _why_not(found: Record | Broken, key: CacheKey | None, sizes: Mapping[str, int] | None) -> str:
    """Why a thing found on the disk does not serve; empty where it does."""
    if isinstance(found, Broken):
        return found.reason
    entry, kernel = found.entry, f"kernel {found.entry.candidate.id[:12]}"
    if entry.trust not in USABLE:
        return f"{kernel} is {entry.trust.value}: it must be judged on this machine before it is used"
    if key is not None and entry.key != key:
        return f"{kernel} was built with another toolchain (abi {entry.key.abi}, not {key.abi})"
    if not covers(entry.ranges, sizes):
        ranges = ", ".join(f"{s} in {low}..{high}" for s, (low, high) in entry.ranges.items())
        return f"{kernel} is for other sizes ({ranges})"
    return ""


def _content(name: str, data: Path | bytes) -> bytes:
    if not record.FILE_NAME.fullmatch(name):
        raise StoreError(f"no entry has a file {name!r}; known: artifact, source.<suffix>, vectors.safetensors")
    if isinstance(data, bytes):
        return data
    try:
        return data.read_bytes()
    except OSError as error:
        raise StoreError(f"{data} cannot be read: {error.strerror}") from error


def _demand_consistent(entry: CacheEntry, contents: Mapping[str, bytes]) -> None:
    """Raise StoreError where the key cannot be used or a file is not what was judged."""
    if reason := record.unusable_key(entry.key):
        raise StoreError(f"the entry cannot be kept: {reason}")
    text = entry.candidate.source.text.encode()
    if any(data != text for name, data in contents.items() if name.startswith("source.")):
        raise StoreError("the source file is not the candidate's source; pass `candidate.source.text`")
    if too_large := [n for n, data in contents.items() if len(data) > files.LARGEST]:
        raise StoreError(f"{too_large[0]} has more than {files.LARGEST} bytes")
