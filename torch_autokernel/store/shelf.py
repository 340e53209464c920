"""One cache folder, read only. It waits for nobody and raises for nothing that may lie on the disk."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

from torch_autokernel.core.types import Refusal
from torch_autokernel.store import files, record, trust
from torch_autokernel.store.files import Broken
from torch_autokernel.store.record import ENTRY_FILE, Place, Record
from torch_autokernel.store.trust import Seal

VERSION = "v1"
SETTLED_NS = 50_000_000  # a file younger than this may change again without a new time stamp

Identity = tuple[int, int, int, int, int, int]


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a text was found to be, and under which seal. `identity` is None while the time stamp can still lie."""

    identity: Identity | None
    text: bytes
    seal: str
    result: Record | Broken


class Shelf:
    """The folder `root`; only what belongs to one of `owners` counts."""

    def __init__(self, root: str, owners: frozenset[int]) -> None:
        self.root = root
        self.top = os.path.join(root, VERSION)
        self.owners = owners
        self._seen: dict[str, _Seen] = {}

    def problem(self) -> str | None:
        """Why nothing in the folder is used, or None. A folder that is not there is empty."""
        for path in (self.root, self.top):
            broken = files.unfit_folder(path, self.owners)
            if broken and broken.kind == "missing" and not os.path.lexists(path):
                return None
            if broken:
                return broken.reason
        return None

    def seal(self) -> Seal | Broken:
        return trust.read_seal(self.root, self.owners)

    def places(self, arch: str | None = None, signature: str | None = None) -> Iterator[Place]:
        """Everything that lies two floors below `v1`, whatever it is; names that start with a dot are not arches."""
        for a in files.listing(self.top) if arch is None else [arch]:
            if not record.ARCH_NAME.fullmatch(a):
                continue
            for s in files.listing(os.path.join(self.top, a)) if signature is None else [signature]:
                folder = os.path.join(self.top, a, s)
                for name in files.listing(folder):
                    yield Place(a, s, name, f"{folder}/{name}")

    def records(self, arch: str | None = None, signature: str | None = None, *, fresh: bool = False) -> list[Record | Broken]:
        """Every entry with its seal opened, or why it is not believed. `fresh` reads the texts again even where no
        time stamp has changed."""
        if self.problem():
            return []
        seal = self.seal()
        trusted: dict[str, Broken | None] = {}
        out: list[Record | Broken] = []
        for place in self.places(arch, signature):
            if record.ENTRY_NAME.fullmatch(place.name):
                broken = self._unfit_above(place, trusted)
                out.append(broken or self._entry(place, seal, fresh))
        if not out and arch and signature and (broken := files.unlisted(f"{self.top}/{arch}/{signature}")):
            return [broken]
        return out

    def refusals(self, arch: str | None = None, signature: str | None = None) -> list[Refusal | Broken]:
        """Every refusal, or why it is not believed."""
        if self.problem():
            return []
        seal = self.seal()
        trusted: dict[str, Broken | None] = {}
        out = []
        for place in self.places(arch, signature):
            if record.REFUSAL_NAME.fullmatch(place.name):
                out.append(self._unfit_above(place, trusted) or self.refusal(place, seal))
        return out

    def refusal(self, place: Place, seal: Seal | Broken) -> Refusal | Broken:
        if isinstance(seal, Broken):
            return Broken("untrusted", f"{place.path} cannot be checked: {seal.reason}")
        data = files.read(place.path, self.owners)
        return data if isinstance(data, Broken) else record.open_refusal(data, seal, place)

    def damage(self, found: Record) -> Broken | None:
        """The first file of the entry that is not, byte for byte, what was written; None where all are."""
        folder = os.path.dirname(found.entry.artifact.path)
        for name, (sha256, size) in found.files.items():
            path = f"{folder}/{name}"
            data = files.read(path, self.owners, size)
            if isinstance(data, Broken):
                return data
            if hashlib.sha256(data).hexdigest() != sha256:
                return Broken("corrupt", f"{path} is not what was written: its digest differs")
        return None

    def _unfit_above(self, place: Place, trusted: dict[str, Broken | None]) -> Broken | None:
        for folder in (f"{self.top}/{place.arch}", f"{self.top}/{place.arch}/{place.signature}"):
            if folder not in trusted:
                trusted[folder] = files.unfit_folder(folder, self.owners)
            if broken := trusted[folder]:
                return broken
        return None

    def _entry(self, place: Place, seal: Seal | Broken, fresh: bool) -> Record | Broken:
        if broken := files.unfit_folder(place.path, self.owners):
            return broken
        found = self.entry(place, seal, fresh)
        return found if isinstance(found, Broken) else self._shrunk(found, place) or found

    def _shrunk(self, found: Record, place: Place) -> Broken | None:
        """A file of the entry that is gone or has another size: what can be told without reading it."""
        for name, (_, size) in found.files.items():
            try:
                facts = os.lstat(f"{place.path}/{name}")
            except OSError:
                return Broken("missing", f"{place.path}/{name} is not there")
            if facts.st_size != size:
                return Broken("corrupt", f"{place.path}/{name} has {facts.st_size} bytes where {size} were written")
        return None

    def entry(self, place: Place, seal: Seal | Broken, fresh: bool) -> Record | Broken:
        """The entry at a place, parsed once as long as its text stays the same."""
        path = f"{place.path}/{ENTRY_FILE}"
        if isinstance(seal, Broken):
            return Broken("untrusted", f"{path} cannot be checked: {seal.reason}")
        try:
            identity = _identity(os.lstat(path))
        except OSError:
            return Broken("missing", f"{path} is not there")
        seen = self._seen.get(path)
        if seen and seen.seal == seal.id and not fresh and seen.identity == identity:
            return seen.result
        data = files.read(path, self.owners)
        if isinstance(data, Broken):
            return data
        settled = identity if time.time_ns() - max(identity[:2]) > SETTLED_NS else None
        text = hashlib.sha256(data).digest()
        same = seen and seen.seal == seal.id and seen.text == text
        result = seen.result if seen and same else record.open_entry(data, seal, place)
        self._seen[path] = _Seen(settled, text, seal.id, result)
        return result


def _identity(facts: os.stat_result) -> Identity:
    return facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino, facts.st_size, facts.st_mode, facts.st_uid
