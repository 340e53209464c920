"""Least recently used goes first; check finds everything that is not ours or not whole."""

from __future__ import annotations

import os
import time
from pathlib import Path

from tests.store import samples
from torch_autokernel.core.types import CacheEntry
from torch_autokernel.store import Store


def put(store: Store, n: int, used: float | None = None) -> CacheEntry:
    """An entry, last used at a time."""
    kept = store.put(samples.entry(n), samples.files(samples.entry(n)))
    if used is not None:
        os.utime(Path(kept.artifact.path).parent, (used, used))
    return kept


def test_collection_takes_the_least_recently_used_first(store: Store) -> None:
    now = time.time()
    a, b, c = put(store, 0, now - 30), put(store, 1, now - 20), put(store, 2, now - 10)
    assert [Path(i.path).name for i in store.items()] == [e.candidate.id for e in (a, b, c)]
    assert store.lookup(a.key).entry == a  # now it is the latest
    one = store.items()[0].bytes
    removed = store.gc(max_bytes=sum(i.bytes for i in store.items()) - one)
    assert [i.path for i in removed] == [str(Path(b.artifact.path).parent)] and removed[0].bytes == one
    assert {e.op_name for e in store.entries()} == {a.op_name, c.op_name}
    assert not Path(b.artifact.path).parents[1].exists()  # the signature's folder was left empty
    assert store.gc(max_bytes=1 << 30) == [] and store.gc() == []


def test_collection_by_age(store: Store) -> None:
    old, young = put(store, 0, time.time() - 1000), put(store, 1)
    store.refuse(samples.refusal(2))
    (refusal,) = store.root.rglob("refusal-*")
    os.utime(refusal, (0, 0))
    assert {i.path for i in store.gc(max_age_s=500)} == {str(Path(old.artifact.path).parent), str(refusal)}
    assert store.entries() == [young] and store.refusals() == [] and store.check() == []


def test_collection_takes_what_is_damaged_too(store: Store) -> None:
    kept = put(store, 0)
    Path(kept.artifact.path).unlink()
    assert len(store.items()) == 1 and len(store.gc(max_bytes=0)) == 1 and store.items() == []


def test_touch_is_use(store: Store) -> None:
    a, b = put(store, 0, 100), put(store, 1, 200)
    store.touch(a)
    assert [Path(i.path).name for i in store.items()] == [b.candidate.id, a.candidate.id]
    store.remove(a)
    store.touch(a)  # gone: nobody minds


def test_check_names_everything_that_is_not_as_it_should_be(store: Store) -> None:
    kept = put(store, 0)
    put(store, 1)
    top = store.root / "v1"
    folder = Path(kept.artifact.path).parent
    strange = [top / ".odd", top / "note.txt", top / samples.ARCH / "odd", folder.parent / "odd", folder / "artifact.bak"]
    for path in strange:
        path.write_text("?")
        path.chmod(0o600)
    (top / ".tmp" / "abc").mkdir(mode=0o700)
    (top / ".tmp" / "abc" / "artifact").touch(mode=0o600)
    broken = Path(put(store, 2).artifact.path)  # this put sweeps the leftover
    (top / ".tmp" / "abc").mkdir(mode=0o700)
    broken.write_bytes(b"x")
    found = {p.path: p.kind for p in store.check()}
    expected = {str(p): "foreign" for p in strange}
    assert found == {**expected, str(top / ".tmp" / "abc"): "leftover", str(broken.parent): "corrupt"}
    assert store.check() == store.check()  # looking changes nothing
    assert {p.path for p in store.check(repair=True) if p.repaired} == {str(top / ".tmp" / "abc"), str(broken.parent)}
    assert {p.path for p in store.check()} == {str(p) for p in strange}
    assert store.lookup(kept.key).entry == kept and len(store.entries()) == 2


def test_check_leaves_what_other_rooms_keep_in_the_root(store: Store) -> None:
    put(store, 0)
    (store.root / "work").mkdir(mode=0o755)
    (store.root / "work" / "scratch").touch(mode=0o644)
    assert store.check(repair=True) == [] and (store.root / "work" / "scratch").exists()


def test_check_closes_what_is_open_to_others(store: Store) -> None:
    kept = put(store, 0)
    paths = [store.root / "v1", Path(kept.artifact.path), Path(kept.artifact.path).parents[1], store.root / "machine.key"]
    for path in paths:
        path.chmod(0o755 if path.is_dir() else 0o644)
    found = store.check()
    assert {p.path for p in found if p.kind == "permissions"} == {str(p) for p in paths}
    assert all(p.repaired for p in store.check(repair=True) if p.kind == "permissions")
    assert store.check() == [] and store.lookup(kept.key).entry == kept
