"""Writing: everything is made whole in a temporary folder, under the one lock, and then renamed into place.

Whoever holds the lock owns the temporary folder, so whatever lies there when the lock is taken was left by a writer
that died, and is swept away.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping

from torch_autokernel.core.errors import StoreError
from torch_autokernel.core.types import CacheEntry, Refusal
from torch_autokernel.store import files, record, trust
from torch_autokernel.store.files import Broken
from torch_autokernel.store.record import ENTRY_FILE, ENTRY_NAME, Place, Record
from torch_autokernel.store.shelf import Shelf
from torch_autokernel.store.trust import KEY_FILE, Seal

log = logging.getLogger(__name__)

LOCK_SECONDS = 60.0
POLL_SECONDS = 0.005
ELSEWHERE = "give another folder in TORCH_AUTOKERNEL_CACHE_DIR"


class Writer:
    """Writes into the shelf's folder. Every method after `writing` is called within it."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self.temporary = os.path.join(shelf.top, ".tmp")
        self.lock_file = os.path.join(shelf.top, ".lock")

    def problem(self) -> str | None:
        """Why nothing can be written, with the remedy, or None. Makes the folder where it is not there."""
        root = self._shelf.root
        try:
            os.makedirs(root, files.FOLDER_MODE, exist_ok=True)
        except OSError as error:
            return f"{root} cannot be made: {error.strerror}; {ELSEWHERE}"
        if problem := self._shelf.problem():
            return problem
        for path in (root, self._shelf.top):
            if os.path.exists(path) and not os.access(path, os.W_OK | os.X_OK):
                return f"{path} cannot be written by you; {ELSEWHERE}, or change its permissions"
        seal = self._shelf.seal()
        if isinstance(seal, Broken) and seal.kind not in ("missing", "corrupt"):
            return seal.reason
        return None

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """The lock, held; raises StoreError for whatever the disk refuses meanwhile."""
        from filelock import FileLock, Timeout  # imported here: it costs 50 ms, and a cache hit does not need it

        try:
            files.make_folder(self._shelf.top)
            with FileLock(self.lock_file, LOCK_SECONDS, mode=files.FILE_MODE, poll_interval=POLL_SECONDS):
                files.make_folder(self.temporary)
                yield
        except Timeout as error:
            hint = "another process has held it all the time; look for one that hangs"
            raise StoreError(f"the lock {self.lock_file} was not free within {LOCK_SECONDS:.0f} s", hint) from error
        except OSError as error:
            hint = f"free some space, or {ELSEWHERE}; `autokernel cache check --repair` tidies up"
            raise StoreError(f"the cache cannot be written: {error}", hint) from error

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """The lock, held, and the temporary folder swept."""
        with self.lock():
            self._sweep()
            yield

    def _sweep(self) -> None:
        for name in files.listing(self.temporary):
            _delete(os.path.join(self.temporary, name))

    def _demand_seal(self) -> Seal:
        """The seal; where its secret is lost or damaged there is a new one, and what the old one signed is void."""
        seal = self._shelf.seal()
        if isinstance(seal, Seal):
            return seal
        if seal.kind not in ("missing", "corrupt"):
            raise StoreError(f"the cache cannot be written: {seal.reason}")
        self._place_file(trust.new_secret(), os.path.join(self._shelf.root, KEY_FILE))
        seal = self._shelf.seal()
        if isinstance(seal, Broken):
            raise StoreError(f"the cache cannot be written: {seal.reason}")
        return seal

    def _place_file(self, data: bytes, path: str) -> None:
        temporary = self._temporary()
        try:
            files.write(temporary, data)
            os.rename(temporary, path)
        except BaseException:
            _delete(temporary)
            raise
        _sync(os.path.dirname(path))

    def place_sealed(self, document: Mapping[str, str], content: bytes, path: str) -> None:
        """The content at `path`, and beside it the document that speaks of it, sealed."""
        text = self._demand_seal().close(document)
        self._place_file(content, path)
        self._place_file(text, f"{path}.json")

    def _temporary(self) -> str:
        return os.path.join(self.temporary, secrets.token_hex(8))

    def _folder(self, arch: str, signature: str) -> str:
        """The folder of a signature, made where it is not there; raises StoreError for one that is not to be trusted."""
        path = self._shelf.top
        for name in (arch, signature):
            path = os.path.join(path, name)
            with contextlib.suppress(FileExistsError):  # not a folder: said below
                files.make_folder(path)
            if broken := files.unfit_folder(path, self._shelf.owners):
                raise StoreError(f"the cache cannot be written: {broken.reason}", "remove it, or move it away")
        return path

    def place_entry(self, entry: CacheEntry, contents: Mapping[str, bytes]) -> CacheEntry:
        """The entry as it then lies on the disk. It takes the first free name of its candidate; what it supersedes goes."""
        seal = self._demand_seal()
        folder = self._folder(entry.key.arch, entry.key.signature)
        name = self._free_name(folder, entry.candidate.id)
        place = Place(entry.key.arch, entry.key.signature, name, f"{folder}/{name}")
        text = _document(entry, contents, seal)
        made = record.open_entry(text, seal, place)
        if isinstance(made, Broken):
            raise StoreError(f"the entry contradicts itself: {made.reason}")
        variants, useless = self._siblings(made, seal)
        for path, other in variants.items():
            if _as_good(other, made) and self._shelf.damage(other) is None:
                self._tidy([*useless, *(p for p in variants if p != path)])
                return other.entry
        self._place_folder({**contents, ENTRY_FILE: text}, place.path)
        self._tidy([*useless, *variants])
        return made.entry

    def _free_name(self, folder: str, candidate: str) -> str:
        """The candidate's id, or that and a number: it may serve several toolchains and ranges of sizes."""
        taken = set(files.listing(folder))
        names = (candidate, *(f"{candidate}.{n}" for n in range(2, 10_000)))
        return next(name for name in names if name not in taken)

    def _siblings(self, made: Record, seal: Seal) -> tuple[dict[str, Record], list[str]]:
        """Folders of the same candidate: those with the same key and ranges, and those of no use to anybody."""
        variants: dict[str, Record] = {}
        useless = []
        wanted = made.entry
        for place in self._shelf.places(wanted.key.arch, wanted.key.signature):
            name = ENTRY_NAME.fullmatch(place.name)
            if name is None or name[1] != wanted.candidate.id or files.unfit_folder(place.path, self._shelf.owners):
                continue
            found = self._shelf.entry(place, seal, fresh=True)
            if isinstance(found, Broken):
                useless += [place.path] if found.kind in ("corrupt", "missing") else []
            elif (found.entry.key, found.entry.ranges) == (wanted.key, wanted.ranges):
                variants[place.path] = found
        return variants, useless

    def _place_folder(self, contents: Mapping[str, bytes], path: str) -> None:
        temporary = self._temporary()
        try:
            os.mkdir(temporary, files.FOLDER_MODE)
            for name, data in contents.items():
                files.write(os.path.join(temporary, name), data)
            files.sync_folder(temporary)
            os.rename(temporary, path)
        except BaseException:
            _delete(temporary)
            raise
        _sync(os.path.dirname(path))

    def place_refusal(self, refusal: Refusal) -> None:
        seal = self._demand_seal()
        folder = self._folder(refusal.key.arch, refusal.key.signature)
        name = record.refusal_name(refusal)
        place = Place(refusal.key.arch, refusal.key.signature, name, f"{folder}/{name}")
        text = seal.close({"refusal": refusal.to_json()})
        made = record.open_refusal(text, seal, place)
        if isinstance(made, Broken):
            raise StoreError(f"the refusal contradicts itself: {made.reason}")
        self._place_file(text, place.path)

    def discard(self, path: str) -> None:
        """Take a file or folder out of the readers' sight in one step, then delete it; raises OSError."""
        temporary = self._temporary()
        os.rename(path, temporary)
        _delete(temporary)

    def _tidy(self, paths: list[str]) -> None:
        for path in paths:
            try:
                self.discard(path)
            except OSError as error:
                log.warning("%s could not be removed: %s", path, error)


def _document(entry: CacheEntry, contents: Mapping[str, bytes], seal: Seal) -> bytes:
    try:
        return seal.close(record.entry_document(entry, contents))
    except (TypeError, ValueError) as error:
        raise StoreError(f"the entry cannot be written as JSON: {error}") from error


def _as_good(other: Record, made: Record) -> bool:
    """Whether nothing new would be said by putting `made` in place of `other`."""
    old, new = other.entry, made.entry
    return (old.trust, old.verdict.verifier, old.verdict.required) == (new.trust, new.verdict.verifier, new.verdict.required)


def _sync(folder: str) -> None:
    """The name is there for every reader already; only after a power failure could it be missing."""
    try:
        files.sync_folder(folder)
    except OSError as error:
        log.warning("%s was not flushed to the disk: %s", folder, error)


def _delete(path: str) -> None:
    """Delete what no reader sees any more; what resists is left to the next sweep."""
    try:
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        log.warning("%s could not be deleted: %s", path, error)
