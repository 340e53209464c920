"""The disk fails, fills up, or the process is killed at any step: afterwards the store is consistent, and the next put
makes it whole."""

from __future__ import annotations

import errno
import hashlib
import multiprocessing
import os
import random
import signal
import subprocess
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import filelock  # noqa: F401  (a child that gave up its rights may not be able to import it)
import pytest

from tests.store import samples
from torch_autokernel.core.errors import AutoKernelError, StoreError
from torch_autokernel.core.types import CacheEntry
from torch_autokernel.store import Store

Action = Callable[[Store], object]
WRITES = ("open", "write", "fsync", "rename", "mkdir", "unlink", "rmdir")
NOBODY = 65534
SEED = random.SystemRandom().randrange(1 << 32)


class Faults:
    """Stands in front of everything in `os` that changes the disk, and does `deed` at the `at`-th call of all."""

    def __init__(self, at: int, deed: Callable[[str], object]) -> None:
        self.at, self.deed, self.calls, self.hit = at, deed, 0, ""

    def install(self, patch: Callable[[Any, str, Any], object]) -> None:
        for name in WRITES:
            patch(os, name, self._guarded(name, getattr(os, name)))

    def _guarded(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if name != "open" or args[1] & os.O_CREAT:
                self.calls += 1
                if self.calls == self.at:
                    self.hit = name
                    self.deed(name)
            return real(*args, **kwargs)

        return call


def raise_full(name: str) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def kill(name: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def put(store: Store, entry: CacheEntry | None = None) -> CacheEntry:
    entry = entry or samples.entry()
    return store.put(entry, samples.files(entry))


def supersede(store: Store) -> None:
    old = samples.entry()
    put(store, samples.entry(verdict=type(old.verdict)(**{**fields(old.verdict), "verifier": "2"})))


def fields(value: Any) -> dict[str, Any]:
    return {name: getattr(value, name) for name in value.__dataclass_fields__}


ACTIONS: dict[str, tuple[Action | None, Action]] = {
    "first put": (None, put),
    "second put": (lambda s: put(s, samples.entry(1)), put),
    "put in place of a damaged one": (lambda s: Path(put(s).artifact.path).write_bytes(b"junk"), put),
    "put in place of an older one": (put, supersede),
    "refuse": (put, lambda s: s.refuse(samples.refusal())),
    "refuse again": (lambda s: s.refuse(samples.refusal()), lambda s: s.refuse(samples.refusal(created=2e9))),
    "remove": (put, lambda s: s.remove(samples.key())),
    "gc": (put, lambda s: s.gc(max_bytes=0)),
    "check and repair": (lambda s: Path(put(s).artifact.path).write_bytes(b"junk"), lambda s: s.check(repair=True)),
}


def consistent(root: Path, note: object) -> list[str]:
    """A process that comes later sees whole things only. What check finds beside them, by kind."""
    store = Store(root)
    assert store.problem is None, note
    for entry in store.entries():
        found = store.lookup(entry.key, {"s0": 3}).entry
        whole = (
            found is not None and hashlib.sha256(Path(found.artifact.path).read_bytes()).hexdigest() == found.artifact.sha256
        )
        assert whole or store.lookup(entry.key).reasons, note
    return sorted({p.kind for p in store.check()})


def recovers(root: Path, note: object) -> None:
    """The next put succeeds and sweeps; with repair nothing remains."""
    store = Store(root)
    kept = put(store)
    assert store.lookup(kept.key).entry == kept, note
    store.check(repair=True)
    assert store.check() == [], note
    assert store.lookup(kept.key).entry == kept, note


@pytest.mark.parametrize("name", ACTIONS)
def test_the_nth_write_fails(tmp_path: Path, name: str) -> None:
    prepare, act = ACTIONS[name]
    failed = 0
    for at in range(1, 1000):
        store = Store(tmp_path / str(at))
        if prepare:
            prepare(store)
        faults = Faults(at, raise_full)
        with pytest.MonkeyPatch.context() as patch:
            faults.install(patch.setattr)
            try:
                said = act(store)
                failed += isinstance(said, list) and any("No space left" in getattr(p, "reason", "") for p in said)
            except StoreError as error:
                failed += 1
                assert "No space left" in str(error) and error.hint or "cannot be made" in str(error), (name, at)
        left = consistent(store.root, (name, at))
        assert set(left) <= {"leftover", "corrupt", "untrusted"}, (name, at, left)
        assert "leftover" not in left or faults.hit in ("unlink", "rmdir"), (name, at, faults.hit)
        recovers(store.root, (name, at))
        if faults.calls < at:
            break
    assert at > 5 and failed > 1, (at, failed)


def in_child(work: Callable[[], object], as_user: int | None = None) -> int:
    """The exit status of a forked child that did the work: not 0 if it raised, which it then prints."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            if as_user is not None:
                os.setuid(as_user)
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitpid(pid, 0)[1]


@pytest.mark.parametrize("name", ["first put", "put in place of an older one", "refuse again", "gc"])
def test_the_process_is_killed_at_the_nth_write(tmp_path: Path, name: str) -> None:
    prepare, act = ACTIONS[name]
    leftovers = 0
    for at in range(1, 1000):
        store = Store(tmp_path / str(at))
        if prepare:
            prepare(store)

        def work(store: Store = store, at: int = at) -> None:
            Faults(at, kill).install(setattr)
            act(store)

        status = in_child(work)
        left = consistent(store.root, (name, at))
        assert set(left) <= {"leftover", "untrusted"}, (name, at, left)
        leftovers += "leftover" in left
        recovers(store.root, (name, at))
        if status == 0:
            break
        assert os.WIFSIGNALED(status)
    assert at > 5 and leftovers > 1, (at, leftovers)


def test_a_leftover_is_reported_and_left_until_repair(store: Store) -> None:
    def work() -> None:
        Faults(8, kill).install(setattr)
        put(store)

    assert os.WIFSIGNALED(in_child(work))
    found = [p for p in store.check() if p.kind == "leftover"]
    assert found and found == [p for p in store.check() if p.kind == "leftover"]
    assert all(p.repaired for p in store.check(repair=True) if p.kind == "leftover")
    assert [p for p in store.check() if p.kind == "leftover"] == []


def test_short_writes(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, bytes(data)[:7]))
    kept = put(store)
    assert store.lookup(kept.key).entry == kept


def test_a_write_that_lies_is_noticed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that says it wrote, and did not."""
    monkeypatch.setattr(os, "write", lambda fd, data: len(data))
    with pytest.raises(AutoKernelError):
        put(store)
    monkeypatch.undo()
    recovers(store.root, "lost writes")


@pytest.mark.parametrize("call", ["open", "lstat", "fstat", "read", "listdir"])
def test_a_disk_that_cannot_be_read_is_a_miss(store: Store, call: str) -> None:
    kept = put(store)

    def broken(*args: Any, **kwargs: Any) -> Any:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, call, broken)
        found, entries = Store(store.root).lookup(kept.key), Store(store.root).entries()
    assert found.entry is None and found.reasons and entries == []


def test_the_nth_read_fails(store: Store) -> None:
    kept = put(store)
    hits = 0
    for at in range(1, 1000):
        count = 0

        def counted(real: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                nonlocal count
                count += 1
                if count == at:  # noqa: B023
                    raise OSError(errno.EIO, os.strerror(errno.EIO))
                return real(*args, **kwargs)

            return call

        with pytest.MonkeyPatch.context() as patch:
            for name in ("open", "lstat", "fstat", "read", "listdir", "utime"):
                patch.setattr(os, name, counted(getattr(os, name)))
            found = Store(store.root).lookup(kept.key)
        assert found.entry in (kept, None)
        hits += found.entry is None
        if count < at:
            break
    assert at > 10 and hits > 5, (at, hits)
    assert store.lookup(kept.key).entry == kept


# --------------------------------------------------------------------------------------------- real file systems
@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KB."""
    where = tmp_path / "tiny"
    where.mkdir(mode=0o700)
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k,mode=700", "tmpfs", str(where)], capture_output=True)
    if made.returncode:
        pytest.skip(f"no file system can be mounted: {made.stderr.decode().strip()}")
    yield where
    subprocess.run(["umount", "-l", str(where)], check=True)


def test_a_full_disk(tiny: Path) -> None:
    store = Store(tiny / "cache")
    kept = put(store)
    large = samples.entry(1, size=1 << 20)
    with pytest.raises(StoreError, match="No space left") as caught:
        store.put(large, samples.files(large))
    assert "free some space" in caught.value.hint
    assert store.lookup(kept.key).entry == kept and store.lookup(large.key).entry is None and store.check() == []
    stored = 0
    with pytest.raises(StoreError, match="No space left"):
        for n in range(2, 100):
            put(store, samples.entry(n))
            stored += 1
    assert 2 < stored == len(store.entries()) - 1 and store.check() == []
    assert len(store.gc(max_bytes=0)) == stored + 1 and put(store) == kept


def test_a_file_system_mounted_read_only(tiny: Path) -> None:
    store = Store(tiny / "cache")
    kept = put(store)
    subprocess.run(["mount", "-o", "remount,ro", str(tiny)], check=True)
    reader = Store(tiny / "cache")
    assert "cannot be written by you" in (reader.problem or "") and "TORCH_AUTOKERNEL_CACHE_DIR" in (reader.problem or "")
    assert reader.lookup(kept.key).entry == kept and reader.entries() == [kept]
    with pytest.raises(StoreError, match="cannot be written"):
        put(reader, samples.entry(1))
    assert [p.kind for p in reader.check(repair=True)] == ["unreadable"]
    absent = Store(tiny / "absent")
    assert "cannot be made" in (absent.problem or "") and absent.lookup(kept.key).entry is None


def test_a_read_only_folder() -> None:
    """As a user whom permissions bind; root hands over to one."""
    with tempfile.TemporaryDirectory() as outer:

        def work() -> None:
            store = Store(Path(outer) / "cache")
            kept = put(store)
            for path in (store.root / "v1", store.root):
                os.chmod(path, 0o500)
                assert "cannot be written by you" in (store.problem or "")
                assert store.lookup(kept.key).entry == kept and store.entries() == [kept]
                with pytest.raises(StoreError, match="cannot be written by you"):
                    store.refuse(samples.refusal())
                os.chmod(path, 0o700)
            os.chmod(kept.artifact.path, 0)
            assert "Permission denied" in store.lookup(kept.key).reasons[0]
            os.chmod(store.root / "v1" / samples.ARCH / kept.key.signature, 0)
            assert "cannot be listed" in store.lookup(kept.key).reasons[0] and store.entries() == []
            os.chmod(store.root / "v1" / samples.ARCH / kept.key.signature, 0o700)

        if os.geteuid() == 0:
            os.chown(outer, NOBODY, NOBODY)
        assert in_child(work, as_user=NOBODY if os.geteuid() == 0 else None) == 0


# --------------------------------------------------------------------------------------------- many at once
def storm(root: str, seed: int, until: float, queue: Any) -> None:
    """Everything at random until the time is up; reports what it did, or the first thing that was not as it should be."""
    lot = random.Random(seed)
    store = Store(Path(root))
    done: dict[str, int] = {}
    try:
        while time.time() < until:
            n = lot.randrange(4)
            deed = lot.choices(["put", "lookup", "entries", "remove", "gc", "refuse"], [4, 12, 3, 1, 1, 1])[0]
            done[deed] = done.get(deed, 0) + 1
            if deed == "put":
                kept = put(store, samples.entry(n, str(lot.randrange(3)), size=5000))
                assert kept.signature.digest == samples.key(n).signature
            elif deed == "lookup":
                done["hit"] = done.get("hit", 0) + look(store, n)
            elif deed == "entries":
                assert all(e.verdict.accepted for e in store.entries()) and store.manifest_digest(None, None)
            elif deed == "remove":
                store.remove(samples.key(n))
            elif deed == "gc":
                store.gc(max_bytes=30_000)
            else:
                store.refuse(samples.refusal(n))
        queue.put(done)
    except BaseException as error:
        queue.put(f"seed {seed}: {type(error).__name__}: {error}")
        raise


def look(store: Store, n: int) -> bool:
    """Whether there was a hit; a hit is whole, unless it was removed meanwhile."""
    found = store.lookup(samples.key(n), {"s0": 5})
    bad = [r for r in found.reasons if "is not there" not in r]
    assert not bad, bad
    if found.entry is None:
        return False
    assert found.entry.key == samples.key(n)
    try:
        data = Path(found.entry.artifact.path).read_bytes()
    except FileNotFoundError:
        return True
    assert hashlib.sha256(data).hexdigest() == found.entry.artifact.sha256
    return True


def run(target: Callable[..., None], argument_lists: list[tuple[Any, ...]]) -> list[Any]:
    """What each process put into its queue."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    processes = [context.Process(target=target, args=(*arguments, queue)) for arguments in argument_lists]
    for process in processes:
        process.start()
    results = [queue.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(30)
    return results


def test_four_processes_do_everything_at_once(store: Store) -> None:
    print("seed", SEED)
    assert store.problem is None
    results = run(storm, [(str(store.root), SEED + i, time.time() + 4.0) for i in range(4)])
    assert all(isinstance(r, dict) for r in results), results
    print(results)
    assert sum(r.get("hit", 0) for r in results) > 10 and sum(r.get("put", 0) for r in results) > 10
    assert store.check() == []


def put_same(root: str, start: float, queue: Any) -> None:
    store = Store(Path(root))
    time.sleep(max(0.0, start - time.time()))
    try:
        queue.put(put(store).artifact.path)
    except BaseException as error:
        queue.put(error)
        raise


def test_two_processes_put_the_same(store: Store) -> None:
    first, second = run(put_same, [(str(store.root), time.time() + 1.0)] * 2)
    assert isinstance(first, str) and first == second
    assert len(store.entries()) == 1 and store.check() == []
