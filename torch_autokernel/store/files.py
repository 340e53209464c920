"""Reading what somebody may have damaged, and writing what must never be half there."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass

FILE_MODE, FOLDER_MODE = 0o600, 0o700
OTHERS_WRITE = 0o022
LARGEST = 1 << 28  # bytes; nothing the store holds comes near


@dataclass(frozen=True, slots=True)
class Broken:
    """Why something on disk is not used. `kind`: `missing`, `unreadable`, `permissions`, `corrupt` (of no use to
    anybody), `untrusted` (perhaps of use elsewhere), `foreign` (not the store's own)."""

    kind: str
    reason: str


def read(path: str, owners: frozenset[int], size: int | None = None) -> bytes | Broken:
    """The bytes of a regular file that only we can write. No symbolic link is followed and no pipe waited for."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        return _unopened(path, error)
    try:
        facts = os.fstat(fd)
        if broken := unfit(path, facts, owners, folder=False):
            return broken
        if size is not None and facts.st_size != size:
            return Broken("corrupt", f"{path} has {facts.st_size} bytes where {size} were written")
        if facts.st_size > LARGEST:
            return Broken("corrupt", f"{path} has {facts.st_size} bytes; at most {LARGEST} are read")
        return _read_all(fd)
    except OSError as error:
        return Broken("unreadable", f"{path} cannot be read: {error.strerror}")
    finally:
        os.close(fd)


def _unopened(path: str, error: OSError) -> Broken:
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return Broken("missing", f"{path} is not there")
    if error.errno == errno.ELOOP:
        return Broken("foreign", f"{path} is a symbolic link")
    return Broken("unreadable", f"{path} cannot be read: {error.strerror}")


def _read_all(fd: int) -> bytes:
    parts = []
    while part := os.read(fd, 1 << 20):
        parts.append(part)
    return b"".join(parts)


def unfit(path: str, facts: os.stat_result, owners: frozenset[int], *, folder: bool) -> Broken | None:
    """Why a file or folder with these facts is not to be trusted, or None."""
    if stat.S_ISLNK(facts.st_mode):
        return Broken("foreign", f"{path} is a symbolic link")
    if not (stat.S_ISDIR if folder else stat.S_ISREG)(facts.st_mode):
        return Broken("foreign", f"{path} is not a {'folder' if folder else 'regular file'}")
    if facts.st_uid not in owners:
        return Broken("foreign", f"{path} belongs to user {facts.st_uid}, not to you (user {os.geteuid()})")
    if facts.st_mode & OTHERS_WRITE:
        remedy = f"chmod {FOLDER_MODE if folder else FILE_MODE:o} {path}"
        return Broken("permissions", f"{path} can be written by other users; {remedy}")
    return None


def unfit_folder(path: str, owners: frozenset[int]) -> Broken | None:
    """Why a folder is not to be trusted, or None."""
    try:
        return unfit(path, os.lstat(path), owners, folder=True)
    except OSError as error:
        return _unopened(path, error)


def listing(path: str) -> list[str]:
    """The names in a folder, sorted; none where it cannot be listed."""
    try:
        return sorted(os.listdir(path))
    except OSError:
        return []


def unlisted(path: str) -> Broken | None:
    """Why a folder that is there cannot be listed, or None."""
    try:
        os.listdir(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        return Broken("unreadable", f"{path} cannot be listed: {error.strerror}")
    return None


def write(path: str, data: bytes) -> None:
    """A new file that is on the disk when this returns; raises OSError."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_folder(path: str) -> None:
    """The folder's names are on the disk when this returns, where the file system can do that; raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(fd)


def make_folder(path: str) -> None:
    """The folder, made where it is not there; raises OSError."""
    try:
        os.mkdir(path, FOLDER_MODE)
    except FileExistsError:
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            raise
