"""What keeps a cache folder small and whole: collection by last use, and a check of every byte."""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

from torch_autokernel.core.errors import StoreError
from torch_autokernel.store import files, record, trust
from torch_autokernel.store.files import FILE_MODE, FOLDER_MODE, Broken
from torch_autokernel.store.record import ENTRY_FILE, ENTRY_NAME, REFUSAL_NAME, Place
from torch_autokernel.store.shelf import Shelf
from torch_autokernel.store.trust import Seal
from torch_autokernel.store.writer import Writer

REMOVABLE = ("corrupt", "missing", "leftover")


@dataclass(frozen=True, slots=True)
class Item:
    """An entry's folder or a refusal's file. `last_used` is seconds since the epoch."""

    path: str
    bytes: int
    last_used: float


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is not as it should be. `kind` as in `Broken`, and `leftover`: of a writer that died."""

    path: str
    kind: str
    reason: str
    repaired: bool = False


# --------------------------------------------------------------------------------------------- collection
def items(shelf: Shelf) -> list[Item]:
    """Every entry and refusal, valid or not, least recently used first."""
    if shelf.problem():
        return []
    known = (p for p in shelf.places() if ENTRY_NAME.fullmatch(p.name) or REFUSAL_NAME.fullmatch(p.name))
    found = (_item(p.path) for p in known)
    return sorted((i for i in found if i), key=lambda i: (i.last_used, i.path))


def _item(path: str) -> Item | None:
    try:
        facts = os.lstat(path)
        sizes = [os.lstat(f"{path}/{name}").st_size for name in files.listing(path)] if stat.S_ISDIR(facts.st_mode) else []
    except OSError:
        return None
    return Item(path, sum(sizes) or facts.st_size, facts.st_mtime)


def collect(shelf: Shelf, writer: Writer, max_bytes: int | None, max_age_s: float | None) -> list[Item]:
    """What was removed, each in one step; folders left empty go too."""
    kept = items(shelf)
    total = sum(i.bytes for i in kept)
    now = time.time()
    removed = []
    for item in kept:
        too_old = max_age_s is not None and now - item.last_used > max_age_s
        too_much = max_bytes is not None and total > max_bytes
        if too_old or too_much:
            writer.discard(item.path)
            removed.append(item)
            total -= item.bytes
    for item in removed:
        with contextlib.suppress(OSError):  # not empty
            os.rmdir(os.path.dirname(item.path))
            os.rmdir(os.path.dirname(os.path.dirname(item.path)))
    return removed


# --------------------------------------------------------------------------------------------- check
def check(shelf: Shelf, writer: Writer, repair: bool, locked: bool) -> list[Problem]:
    """Everything wrong in the folder. With `locked`, it is looked at while nobody writes; without, a writer's temporary
    folder may be taken for a leftover."""
    if not os.path.lexists(shelf.root):
        return []
    found = [_closed(p) if repair else p for p in _open_to_others(shelf)]
    if problem := shelf.problem():
        return found if problem in (p.reason for p in found) else [*found, Problem(shelf.root, "unreadable", problem)]
    if not os.path.lexists(shelf.top):
        return found
    if not locked:
        return found + list(_survey(shelf, writer))
    try:
        with writer.lock():
            survey = list(_survey(shelf, writer))
            return found + ([_removed(p, writer) for p in survey] if repair else survey)
    except StoreError as error:
        return [*found, *_survey(shelf, writer), Problem(writer.lock_file, "unreadable", str(error))]


def _open_to_others(shelf: Shelf) -> Iterator[Problem]:
    """Whatever of ours other users can write; below `v1` also what they can read."""
    paths = [shelf.root, os.path.join(shelf.root, trust.KEY_FILE), shelf.top]
    for folder, folders, names in os.walk(shelf.top):
        paths += [os.path.join(folder, name) for name in (*folders, *names)]
    for path in paths:
        try:
            facts = os.lstat(path)
        except OSError:
            continue
        open_bits = facts.st_mode & (files.OTHERS_WRITE if path == shelf.root else 0o077)
        if open_bits and facts.st_uid in shelf.owners and not stat.S_ISLNK(facts.st_mode):
            broken = files.unfit(path, facts, shelf.owners, folder=stat.S_ISDIR(facts.st_mode))
            reason = broken.reason if broken else f"{path} is open to other users (mode {facts.st_mode & 0o777:o})"
            yield Problem(path, "permissions", reason)


def _closed(problem: Problem) -> Problem:
    try:
        folder = stat.S_ISDIR(os.lstat(problem.path).st_mode)
        os.chmod(problem.path, FOLDER_MODE if folder else FILE_MODE)
    except OSError as error:
        return replace(problem, reason=f"{problem.reason}; not repaired: {error.strerror}")
    return replace(problem, repaired=True)


def _removed(problem: Problem, writer: Writer) -> Problem:
    if problem.kind not in REMOVABLE:
        return problem
    try:
        writer.discard(problem.path)
    except OSError as error:
        return replace(problem, reason=f"{problem.reason}; not repaired: {error.strerror}")
    return replace(problem, repaired=True)


def _survey(shelf: Shelf, writer: Writer) -> Iterator[Problem]:
    seal = shelf.seal()
    if isinstance(seal, Broken):
        path = os.path.join(shelf.root, trust.KEY_FILE)
        yield Problem(path, "untrusted", f"{seal.reason}; what it signed is void, and the next kernel gets a new one")
    for name in files.listing(writer.temporary):
        path = os.path.join(writer.temporary, name)
        yield Problem(path, "leftover", f"{path} was left by a process that did not finish")
    yield from _strangers(shelf, writer)
    for place in shelf.places():
        if ENTRY_NAME.fullmatch(place.name):
            yield from _check_entry(shelf, place, seal)
        elif REFUSAL_NAME.fullmatch(place.name):
            found = shelf.refusal(place, seal)
            if isinstance(found, Broken):
                yield Problem(place.path, found.kind, found.reason)
        else:
            yield _stranger(place.path)


def _stranger(path: str) -> Problem:
    return Problem(path, "foreign", f"{path} was not made by this store; remove it by hand if nobody wants it")


def _strangers(shelf: Shelf, writer: Writer) -> Iterator[Problem]:
    """What stands on the upper floors and is no folder of ours."""
    own = {os.path.basename(writer.temporary): True, os.path.basename(writer.lock_file): False}
    for arch in files.listing(shelf.top):
        folder = os.path.join(shelf.top, arch)
        if arch not in own and not record.ARCH_NAME.fullmatch(arch):
            yield _stranger(folder)
        elif own.get(arch, True) and (broken := files.unfit_folder(folder, shelf.owners)):
            yield Problem(folder, broken.kind, broken.reason)
        for name in () if arch in own else files.listing(folder):
            path = os.path.join(folder, name)
            if not record.SIGNATURE_NAME.fullmatch(name):
                yield _stranger(path)
            elif broken := files.unfit_folder(path, shelf.owners):
                yield Problem(path, broken.kind, broken.reason)


def _check_entry(shelf: Shelf, place: Place, seal: Seal | Broken) -> Iterator[Problem]:
    found = files.unfit_folder(place.path, shelf.owners) or shelf.entry(place, seal, fresh=True)
    if isinstance(found, Broken):
        yield Problem(place.path, found.kind, found.reason)
        return
    if broken := shelf.damage(found):
        kind = "corrupt" if broken.kind == "foreign" else broken.kind  # a link instead of our own file serves nobody
        yield Problem(place.path, kind, broken.reason)
        return
    for name in files.listing(place.path):
        if name != ENTRY_FILE and name not in found.files:
            yield _stranger(os.path.join(place.path, name))
