"""What goes in comes out, for the key, sizes and machine it is for; an unusable folder is an empty store."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.store import samples
from torch_autokernel.core.errors import StoreError
from torch_autokernel.core.types import CacheEntry, Finding, Status, Trust
from torch_autokernel.store import Store, record, shelf, tools
from torch_autokernel.store.files import Broken
from torch_autokernel.store.record import Record
from torch_autokernel.store.shelf import Shelf


def put(store: Store, entry: CacheEntry) -> CacheEntry:
    return store.put(entry, samples.files(entry))


def folder(entry: CacheEntry) -> Path:
    return Path(entry.artifact.path).parent


def test_an_empty_store_knows_nothing(store: Store) -> None:
    found = store.lookup(samples.key(), {"s0": 8})
    assert (found.entry, found.refusal, found.reasons) == (None, None, ())
    assert store.problem is None and store.entries() == [] and store.check() == [] and store.items() == []


def test_what_was_put_is_found_by_another_process(store: Store) -> None:
    given = samples.entry()
    kept = put(store, given)
    found = Store(store.root).lookup(given.key, {"s0": 8})
    assert found.entry == kept and found.reasons == ()
    assert kept == replace(given, artifact=replace(given.artifact, path=kept.artifact.path))
    assert hashlib.sha256(Path(kept.artifact.path).read_bytes()).hexdigest() == given.artifact.sha256
    assert Store(store.root).entries(samples.ARCH, samples.ABI) == [kept]


def test_the_layout_is_the_contract(store: Store) -> None:
    kept = put(store, samples.entry())
    where = store.root / "v1" / samples.ARCH / kept.signature.digest / kept.candidate.id
    assert folder(kept) == where
    assert sorted(p.name for p in where.iterdir()) == ["artifact", "entry.json", "source.cpp", "vectors.safetensors"]
    for path in [store.root, *store.root.rglob("*")]:
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path


def test_the_path_is_stored_relative(store: Store, tmp_path: Path) -> None:
    kept = put(store, samples.entry())
    assert str(tmp_path) not in (folder(kept) / "entry.json").read_text()
    os.rename(store.root, tmp_path / "moved")
    moved = Store(tmp_path / "moved").lookup(kept.key).entry
    assert moved and moved.artifact.path.startswith(str(tmp_path / "moved"))


def test_files_may_be_given_as_paths(store: Store, tmp_path: Path) -> None:
    entry = samples.entry()
    (tmp_path / "kernel.so").write_bytes(samples.binary(entry.candidate.source.text))
    kept = store.put(entry, {**samples.files(entry), "artifact": tmp_path / "kernel.so"})
    assert store.lookup(entry.key).entry == kept


def test_the_fastest_whose_ranges_contain_the_sizes_wins(store: Store) -> None:
    small = put(store, samples.entry(0, "small", speedup=2.0, ranges={"s0": (1, 64)}))
    large = put(store, samples.entry(0, "large", speedup=3.0, ranges={"s0": (32, 4096)}))
    assert store.lookup(small.key, {"s0": 16}).entry == small
    assert store.lookup(small.key, {"s0": 64}).entry == large
    assert store.lookup(small.key).entry == large
    outside = store.lookup(small.key, {"s0": 4097})
    assert outside.entry is None and any("other sizes (s0 in 1..64)" in r for r in outside.reasons)
    assert store.lookup(small.key, {"other": 16}).entry is None


def test_the_fastest_wins_whatever_came_first(store: Store) -> None:
    for n, speeds in enumerate(([1.1, 2.5, 3.5], [3.5, 2.5, 1.1], [1.1, 3.5, float("nan")], [2.5, 3.5, 1.1])):
        for speed in speeds:
            put(store, samples.entry(n, str(speed), speedup=speed))
        best = store.lookup(samples.key(n)).entry
        assert best and best.verdict.timing and best.verdict.timing.speedup == 3.5


def test_one_candidate_may_serve_several_ranges_and_toolchains(store: Store) -> None:
    kept = [
        put(store, samples.entry(ranges={"s0": (1, 64)})),
        put(store, samples.entry(ranges={"s0": (4096, 4096)})),
        put(store, samples.entry(ranges={"s0": (1, 64)}, abi="abi-2")),
    ]
    assert len({e.artifact.path for e in kept}) == 3 and len({e.candidate.id for e in kept}) == 1
    assert store.lookup(kept[0].key, {"s0": 64}).entry == kept[0]
    assert store.lookup(kept[1].key, {"s0": 4096}).entry == kept[1]
    assert store.lookup(kept[2].key, {"s0": 8}).entry == kept[2]
    assert len(store.entries(abi="abi-2")) == 1 and len(store.entries()) == 3
    assert store.check() == []


def test_another_toolchain_is_a_miss_with_a_reason(store: Store) -> None:
    put(store, samples.entry())
    found = store.lookup(samples.key(abi="abi-2"))
    assert found.entry is None and "another toolchain (abi abi-1, not abi-2)" in found.reasons[0]


def test_putting_again_keeps_what_is_there(store: Store) -> None:
    first = put(store, samples.entry(speedup=1.5))
    again = put(store, samples.entry(speedup=1.7))
    assert again == first and len(store.entries()) == 1


def test_a_newer_verifier_supersedes(store: Store) -> None:
    first = put(store, samples.entry())
    newer = samples.entry(verdict=replace(first.verdict, verifier="2"))
    kept = put(store, newer)
    assert kept.verdict.verifier == "2" and store.entries() == [kept] and not folder(first).exists()
    assert store.lookup(kept.key).entry == kept


def test_a_damaged_entry_is_replaced(store: Store) -> None:
    first = put(store, samples.entry())
    Path(first.artifact.path).write_bytes(b"junk")
    kept = put(store, samples.entry())
    assert store.lookup(kept.key).entry == kept and not folder(first).exists()


def test_only_verified_entries_are_given_out(store: Store) -> None:
    for trust in (Trust.PROVISIONAL, Trust.UNTRUSTED):
        put(store, samples.entry(0, trust.value, trust=trust))
    found = store.lookup(samples.key())
    assert found.entry is None and len(found.reasons) == 2 and store.entries() == []
    assert all("must be judged on this machine" in reason for reason in found.reasons)
    assert put(store, samples.entry(0, "provisional")).trust is Trust.VERIFIED_HERE
    assert len(store.entries()) == 1 and len(store.items()) == 2


def test_refusals(store: Store) -> None:
    store.refuse(samples.refusal(ranges={"s0": (8, 8)}))
    assert store.lookup(samples.key(), {"s0": 8}).refusal == samples.refusal(ranges={"s0": (8, 8)})
    assert store.lookup(samples.key(), {"s0": 9}).refusal is None
    assert store.lookup(samples.key(abi="abi-2"), {"s0": 8}).refusal is None
    later = samples.refusal(conditions="2 schedule", created=2e9)
    store.refuse(later)
    assert [r.conditions for r in store.lookup(samples.key(), {"s0": 8}).refusals] == ["2 schedule", "1 schedule"]
    store.refuse(replace(later, reason="still nothing", created=3e9))
    assert len(store.refusals()) == 2 and store.lookup(samples.key(), {"s0": 8}).refusal.reason == "still nothing"  # type: ignore[union-attr]
    store.refuse(samples.refusal(1))
    assert (store.remove_refusals(samples.key()), store.remove_refusals(), store.refusals()) == (2, 1, [])


def test_remove(store: Store) -> None:
    a, b, c = (put(store, samples.entry(n, body)) for n, body in ((0, "a"), (0, "b"), (1, "")))
    assert store.remove(a) == 1 and store.entries() != [] and not folder(a).exists()
    assert store.remove(a) == 0
    assert store.remove(b.key) == 1 and store.entries() == [c]


def test_the_manifest_follows_the_set_of_kernels(store: Store) -> None:
    empty = store.manifest_digest(samples.ARCH, samples.ABI)
    kept = put(store, samples.entry())
    one = store.manifest_digest(samples.ARCH, samples.ABI)
    put(store, samples.entry(1, abi="abi-2"))
    assert empty != one == Store(store.root).manifest_digest(samples.ARCH, samples.ABI)
    store.remove(kept)
    assert store.manifest_digest(samples.ARCH, samples.ABI) == empty


def test_entries_notices_every_change_at_once(store: Store) -> None:
    kept = put(store, samples.entry())
    assert store.entries() == [kept]
    path = folder(kept) / "entry.json"
    text = path.read_bytes()
    path.write_bytes(text.replace(b'"speedup":1.5', b'"speedup":9.5'))  # same size, same inode, perhaps the same time stamp
    assert store.entries() == []
    path.write_bytes(text)
    assert store.entries() == [kept] and store.damage(kept) is None
    Path(kept.artifact.path).write_bytes(bytes(600))
    assert "digest differs" in (store.damage(kept) or "")
    os.truncate(kept.artifact.path, 599)
    assert store.entries() == [] and "599 bytes where 600" in store.lookup(kept.key).reasons[0]
    os.unlink(path)
    assert "no longer in the store" in (store.damage(kept) or "")


def test_entries_rereads_what_may_have_changed_within_its_time_stamp(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = put(store, samples.entry())
    stamp = time.time_ns()
    monkeypatch.setattr(shelf, "_identity", lambda facts: (stamp, stamp, 0, 0, 0, 0))
    assert store.entries() == [kept]
    (folder(kept) / "entry.json").write_bytes(b"{}")
    assert store.entries() == []


def test_entries_are_parsed_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = put(store, samples.entry())
    time.sleep(2 * shelf.SETTLED_NS / 1e9)
    assert store.entries() == [kept]
    monkeypatch.setattr(record, "open_entry", pytest.fail)
    assert store.entries() == [kept]


def test_what_was_parsed_under_another_key_counts_no_more(store: Store) -> None:
    kept = put(store, samples.entry())
    time.sleep(2 * shelf.SETTLED_NS / 1e9)
    assert store.entries() == [kept]
    (store.root / "machine.key").write_bytes(bytes(32))
    assert store.entries() == []


def test_a_lookup_starts_again_when_an_entry_is_superseded_under_it(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    first = put(store, samples.entry())
    newer = samples.entry(verdict=replace(first.verdict, verifier="2"))
    real = Shelf.damage

    def damage(self: Shelf, found: Record) -> Broken | None:
        if found.entry.verdict.verifier == "1" and self is reader._shelf:
            put(Store(store.root), newer)
        return real(self, found)

    reader = Store(store.root)
    monkeypatch.setattr(Shelf, "damage", damage)
    found = reader.lookup(first.key)
    assert found.entry and found.entry.verdict.verifier == "2" and found.reasons == ()


OF = samples.entry()
BAD: dict[str, dict[str, Any]] = {
    "not accepted": {"verdict": replace(OF.verdict, findings=(Finding("numerics", Status.FAIL, "off"),))},
    "verdict is about another": {"verdict": samples.entry(0, "other").verdict},
    "verdict is for": {"verdict": replace(OF.verdict, arch="sm_90")},
    "signature does not match": {"signature": samples.signature(5)},
    "candidate is for another signature": {"candidate": replace(OF.candidate, signature="0" * 64)},
    "artifact was made from another": {"artifact": replace(samples.entry(0, "other").artifact, sha256="0" * 64)},
    "digest does not match": {"artifact": replace(OF.artifact, sha256="0" * 64)},
    "range of its sizes is empty": {"ranges": {"s0": (9, 8)}},
    "cannot name a folder": {"key": replace(samples.key(), arch="../../etc")},
    "not a sha256": {"key": replace(samples.key(), signature="..")},
    "written as JSON": {"ranges": {"s0": (1, object())}},
}


@pytest.mark.parametrize("reason", BAD)
def test_an_entry_that_contradicts_itself_is_not_put(store: Store, reason: str) -> None:
    entry = replace(samples.entry(), **BAD[reason])
    with pytest.raises(StoreError, match=reason):
        store.put(entry, samples.files(samples.entry()))
    assert store.items() == [] and store.check() == []


def test_files_that_were_not_judged_are_not_put(store: Store, tmp_path: Path) -> None:
    entry = samples.entry()
    for change, reason in (
        ({"artifact": b"other"}, "digest does not match"),
        ({"source.cpp": b"other"}, "not the candidate's source"),
        ({"../x": b""}, "no entry has a file"),
        ({"artifact": tmp_path / "absent"}, "cannot be read"),
    ):
        with pytest.raises(StoreError, match=reason):
            store.put(entry, {**samples.files(entry), **change})
    with pytest.raises(StoreError, match="no source"):
        store.put(entry, {"artifact": samples.binary(entry.candidate.source.text)})


def test_keys_that_are_no_keys_are_misses(store: Store) -> None:
    for key in (samples.key(arch="../x"), samples.key(arch=".tmp"), replace(samples.key(), signature="../..")):
        assert store.lookup(key).entry is None and store.lookup(key).reasons
    assert store.entries("../x") == []


# --------------------------------------------------------------------------------------------- folders
def test_a_search_path_is_read_and_never_written(store: Store, tmp_path: Path) -> None:
    image = Store(tmp_path / "image")
    kept = put(image, samples.entry(speedup=1.2))
    before = {p: p.stat().st_mtime_ns for p in image.root.rglob("*")}
    both = Store(store.root, search_paths=[image.root, tmp_path / "absent"])
    assert both.lookup(kept.key).entry == kept and both.entries() == [kept]
    own = both.put(samples.entry(0, "own", speedup=1.4), samples.files(samples.entry(0, "own")))
    assert both.lookup(kept.key).entry == own
    assert both.remove(kept) == 0 and [i for i in both.gc(max_bytes=0) if "image" in i.path] == []
    assert before == {p: p.stat().st_mtime_ns for p in image.root.rglob("*")}


def test_readonly(store: Store) -> None:
    kept = put(store, samples.entry())
    os.utime(folder(kept), (0, 0))
    reader = Store(store.root, readonly=True)
    assert reader.problem == "it was opened read-only" and reader.lookup(kept.key).entry == kept
    assert folder(kept).stat().st_mtime == 0 and reader.check(repair=True) == []
    for call in (lambda: put(reader, kept), lambda: reader.refuse(samples.refusal()), lambda: reader.remove(kept), reader.gc):
        with pytest.raises(StoreError, match="read-only"):
            call()


def test_readonly_makes_no_folder(tmp_path: Path) -> None:
    reader = Store(tmp_path / "absent", readonly=True)
    assert reader.lookup(samples.key()).entry is None and reader.check() == [] and not (tmp_path / "absent").exists()


def unusable(store: Store, reason: str) -> None:
    """The store says why, and behaves as an empty, unwritable one."""
    assert store.problem and reason in store.problem
    assert store.lookup(samples.key()).entry is None and store.entries() == [] and store.refusals() == []
    assert isinstance(store.manifest_digest(samples.ARCH, samples.ABI), str) and store.items() == []
    with pytest.raises(StoreError, match="cannot be written"):
        put(store, samples.entry())


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    unusable(Store(tmp_path / "file"), "TORCH_AUTOKERNEL_CACHE_DIR")
    unusable(Store(tmp_path / "file" / "below"), "TORCH_AUTOKERNEL_CACHE_DIR")
    assert Store(tmp_path / "file").check()[0].kind == "unreadable"
    assert (tmp_path / "file").read_text() == "mine"


def test_a_file_where_a_folder_of_ours_should_be(store: Store) -> None:
    store.root.mkdir()
    (store.root / "v1").write_text("mine")
    unusable(store, "is not a folder")
    assert "is not a folder" in store.lookup(samples.key()).reasons[0]


ON_THE_WAY = ["", samples.ARCH, f"{samples.ARCH}/{OF.key.signature}", f"{samples.ARCH}/{OF.key.signature}/{OF.candidate.id}"]


@pytest.mark.parametrize("below", ON_THE_WAY)
def test_a_file_or_link_on_the_way_to_an_entry(store: Store, tmp_path: Path, below: str) -> None:
    kept = put(store, samples.entry())
    path = store.root / "v1" / below
    os.rename(path, tmp_path / "away")
    path.symlink_to(tmp_path / "away")
    found = store.lookup(kept.key)
    assert found.entry is None and "is a symbolic link" in found.reasons[0] and store.entries() == []
    assert any(p.kind in ("foreign", "unreadable") for p in store.check(repair=True)) and path.is_symlink()
    if not below.endswith(OF.candidate.id):
        with pytest.raises(StoreError, match="symbolic link"):
            put(store, kept)
    path.unlink()
    path.write_text("mine")
    found = store.lookup(kept.key)
    assert found.entry is None and found.reasons and store.entries() == []
    if not below.endswith(OF.candidate.id):
        with pytest.raises(StoreError, match="not a folder"):
            put(store, kept)
    else:
        assert store.lookup(put(store, kept).key).entry is not None


def test_a_folder_that_others_can_write(store: Store) -> None:
    kept = put(store, samples.entry())
    os.chmod(store.root, 0o770)
    unusable(store, f"chmod 700 {store.root}")
    assert "can be written by other users" in store.lookup(kept.key).reasons[0]
    assert [(p.kind, p.repaired) for p in store.check(repair=True)] == [("permissions", True)]
    assert store.lookup(kept.key).entry == kept


def test_what_belongs_to_somebody_else(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = put(store, samples.entry())
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    unusable(Store(store.root), "belongs to user")
    assert Store(store.root).lookup(kept.key).entry is None


def test_the_root_may_be_reached_through_a_link(store: Store, tmp_path: Path) -> None:
    kept = put(store, samples.entry())
    (tmp_path / "link").symlink_to(store.root)
    assert Store(tmp_path / "link").lookup(kept.key).entry == kept


def test_a_reader_does_not_wait_for_a_writer(store: Store) -> None:
    kept = put(store, samples.entry())
    found = []
    with store._writer.writing():
        reader = threading.Thread(target=lambda: found.append(Store(store.root).lookup(kept.key).entry))
        reader.start()
        reader.join(5)
    assert found == [kept]


def test_a_lock_held_for_ever_is_an_error(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch_autokernel.store.writer.LOCK_SECONDS", 0.05)
    other = Store(store.root)
    assert store.problem is None
    with other._writer.writing(), pytest.raises(StoreError, match="lock .* was not free"):
        put(store, samples.entry())


def test_a_hit_imports_no_lock_and_no_torch(store: Store) -> None:
    kept = put(store, samples.entry())
    code = (
        "import sys; from pathlib import Path; from torch_autokernel.store import Store; from tests.store import samples\n"
        "assert Store(Path(sys.argv[1])).lookup(samples.key()).entry.artifact.path == sys.argv[2]\n"
        "assert not {'torch', 'filelock', 'ctypes'} & set(sys.modules), set(sys.modules)"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code, str(store.root), kept.artifact.path], cwd=root, check=True)


def test_tools_are_kept_by_name(store: Store) -> None:
    assert store.tool("one.so") is None
    store.keep_tool("one.so", b"content")
    store.keep_tool("two.so", b"other")
    again = Store(store.root)
    assert again.tool("one.so") == b"content" and again.tool("two.so") == b"other"
    store.keep_tool("one.so", b"newer")
    assert again.tool("one.so") == b"newer" and store.check() == []


def test_a_tool_that_was_changed_is_not_there(store: Store) -> None:
    for name in ("a", "b", "c", "d"):
        store.keep_tool(name, name.encode())
    folder = store.root / "tools"
    (folder / "a").write_bytes(b"changed")
    (folder / "b").chmod(0o666)
    (folder / "c.json").write_bytes((folder / "d.json").read_bytes())
    assert [store.tool(name) for name in ("a", "b", "c", "d")] == [None, None, None, b"d"]
    folder.chmod(0o777)
    assert store.tool("d") is None


def test_the_oldest_tools_go(store: Store) -> None:
    for k in range(tools.MOST + 2):
        store.keep_tool(f"t{k}", bytes([k]))
        for name in (f"t{k}", f"t{k}.json"):
            os.utime(store.root / "tools" / name, (k, k))
    found = [store.tool(f"t{k}") for k in range(tools.MOST + 2)]
    assert [f is not None for f in found] == [False, False] + [True] * tools.MOST
