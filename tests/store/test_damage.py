"""Whatever byte of whatever file is changed, cut off or taken away: a miss with a reason, never an exception and never a
wrong entry; and the undamaged rest still serves."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.store import samples
from torch_autokernel.core.types import CacheEntry
from torch_autokernel.store import Lookup, Store, record, trust

SEED = random.SystemRandom().randrange(1 << 32)
FILES = ["entry.json", "artifact", "source.cpp", "vectors.safetensors"]


class Home:
    """A store with one entry, one refusal and, under another signature, an entry that nobody touches."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.entry = store.put(samples.entry(), samples.files(samples.entry()))
        self.bystander = store.put(samples.entry(1), samples.files(samples.entry(1)))
        store.refuse(samples.refusal())
        self.folder = Path(self.entry.artifact.path).parent
        (self.refusal,) = self.folder.parent.glob("refusal-*.json")
        self.key_file = store.root / "machine.key"

    def look(self) -> Lookup:
        return self.store.lookup(self.entry.key, {"s0": 8})

    def expect_miss(self, note: object, bystander: bool = True) -> None:
        found = self.look()
        assert found.entry is None, note
        assert found.reasons and all(found.reasons), note
        assert (self.store.lookup(self.bystander.key).entry is not None) == bystander, note

    def expect_no_refusal(self, note: object) -> None:
        found = self.look()
        assert found.entry == self.entry and found.refusals == () and found.reasons, note

    def expect_whole(self) -> None:
        found = self.look()
        assert found == Lookup(self.entry, (samples.refusal(),), ()) and self.store.check() == []


@pytest.fixture
def home(store: Store) -> Home:
    home = Home(store)
    home.expect_whole()
    return home


@contextmanager
def changed(path: Path, data: bytes) -> Iterator[None]:
    """The file overwritten in place for a with-block."""
    before = path.read_bytes()
    path.write_bytes(data)
    yield
    path.write_bytes(before)


def flips(data: bytes, every: int = 1) -> Iterator[tuple[int, bytes]]:
    """The data with one byte changed, at every k-th place: its lowest bit, its highest, and one by lot."""
    lot = random.Random(SEED)
    for i in range(0, len(data), every):
        for mask in (0x01, 0x80, lot.randrange(1, 256)):
            yield i, data[:i] + bytes([data[i] ^ mask]) + data[i + 1 :]


@pytest.mark.parametrize("name", FILES)
def test_a_changed_byte_of_an_entry(home: Home, name: str) -> None:
    print("seed", SEED)
    path = home.folder / name
    for i, data in flips(path.read_bytes(), every=1 if name == "entry.json" else 7):
        with changed(path, data):
            home.expect_miss((name, i, data[i]))
            if name == "entry.json":
                assert home.store.entries() == [home.bystander], (name, i, data[i])
    home.expect_whole()


@pytest.mark.parametrize("name", FILES)
def test_a_shortened_or_lengthened_file_of_an_entry(home: Home, name: str) -> None:
    path = home.folder / name
    whole = path.read_bytes()
    for length in [*range(0, len(whole), 5), len(whole) - 1]:
        with changed(path, whole[:length]):
            home.expect_miss((name, length))
            assert home.store.entries() == [home.bystander], (name, length)
    for more in (b"\n", b" ", b"\0", whole):
        with changed(path, whole + more):
            home.expect_miss((name, more))
    home.expect_whole()


@pytest.mark.parametrize("name", FILES)
def test_a_deleted_file_of_an_entry(home: Home, name: str) -> None:
    (home.folder / name).unlink()
    home.expect_miss(name)
    assert [p.path for p in home.store.check()] == [str(home.folder)] and home.store.entries() == [home.bystander]


def test_a_deleted_entry(home: Home) -> None:
    shutil.rmtree(home.folder)
    found = home.look()
    assert found.entry is None and found.refusal == samples.refusal()


def test_a_damaged_refusal(home: Home) -> None:
    whole = home.refusal.read_bytes()
    for i, data in flips(whole):
        with changed(home.refusal, data):
            home.expect_no_refusal((i, data[i]))
    for length in range(len(whole)):
        with changed(home.refusal, whole[:length]):
            home.expect_no_refusal(length)
    home.expect_whole()
    home.refusal.rename(home.refusal.with_name("refusal-0123456789abcdef.json"))
    home.expect_no_refusal("renamed")
    assert home.store.check(repair=True)[0].repaired
    assert home.look().refusals == () and home.store.check() == []


def test_a_refusal_in_the_wrong_place(home: Home) -> None:
    copy = Path(home.bystander.artifact.path).parents[1] / home.refusal.name
    shutil.copyfile(home.refusal, copy)
    copy.chmod(0o600)
    found = home.store.lookup(home.bystander.key)
    assert found.refusals == () and "belongs to another file" in found.reasons[0]
    assert home.store.refusals() == [samples.refusal()]


def test_a_damaged_key(home: Home) -> None:
    whole = home.key_file.read_bytes()
    assert len(whole) == trust.KEY_BYTES
    for i, data in flips(whole):
        with changed(home.key_file, data):
            home.expect_miss(i, bystander=False)
            assert home.look().refusals == () and "another machine.key" in home.look().reasons[0]
            assert home.store.entries() == []
    for data in [*(whole[:n] for n in range(len(whole))), whole + b"x"]:
        with changed(home.key_file, data):
            home.expect_miss(len(data), bystander=False)
    home.expect_whole()


def test_a_deleted_key_is_made_anew_and_voids_what_it_signed(home: Home) -> None:
    home.key_file.unlink()
    home.expect_miss("deleted", bystander=False)
    assert {p.kind for p in home.store.check(repair=True)} == {"untrusted"} and home.folder.exists()
    kept = home.store.put(samples.entry(), samples.files(samples.entry()))
    assert home.look().entry == kept and home.store.lookup(home.bystander.key).entry is None
    assert home.key_file.stat().st_mode & 0o777 == 0o600


def test_a_key_that_is_cut_short_is_made_anew(home: Home) -> None:
    home.key_file.write_bytes(b"short")
    kept = home.store.put(samples.entry(), samples.files(samples.entry()))
    assert home.look().entry == kept and home.key_file.stat().st_size == trust.KEY_BYTES


def test_a_key_that_others_can_read(home: Home) -> None:
    home.key_file.chmod(0o640)
    home.expect_miss("readable", bystander=False)
    assert f"chmod 600 {home.key_file}" in (home.store.problem or "")
    assert [p.repaired for p in home.store.check(repair=True)] == [True]
    home.expect_whole()


def test_the_lock_may_hold_anything_or_be_gone(home: Home) -> None:
    lock = home.store.root / "v1" / ".lock"
    for data in (b"junk", b"\0" * 4096, b""):
        lock.write_bytes(data)
        home.expect_whole()
        home.store.refuse(samples.refusal())
    lock.unlink()
    home.expect_whole()
    home.store.refuse(samples.refusal())
    home.expect_whole()


@pytest.mark.parametrize("name", [*FILES, "machine.key"])
def test_a_link_pipe_or_folder_in_place_of_a_file(home: Home, tmp_path: Path, name: str) -> None:
    path = home.key_file if name == "machine.key" else home.folder / name
    path.rename(tmp_path / "away")
    bystander = name != "machine.key"
    for make, undo in (
        (lambda: path.symlink_to(tmp_path / "away"), path.unlink),
        (lambda: os.mkfifo(path, 0o600), path.unlink),
        (lambda: path.mkdir(0o700), path.rmdir),
        (lambda: path.symlink_to(tmp_path / "nowhere"), path.unlink),
    ):
        make()  # type: ignore[no-untyped-call]
        home.expect_miss(name, bystander)
        assert home.store.check()
        undo()


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_others_can_write(home: Home, name: str) -> None:
    (home.folder / name).chmod(0o620)
    home.expect_miss(name)
    assert [p.kind for p in home.store.check(repair=True)] == ["permissions"]
    home.expect_whole()


def test_an_entry_in_the_wrong_place(home: Home) -> None:
    other = Path(home.bystander.artifact.path).parent
    for where in (
        home.folder.with_name("0" * 32),
        other.parent / home.folder.name,
        home.store.root / "v1" / "sm_90" / home.folder.parent.name / home.folder.name,
    ):
        shutil.copytree(home.folder, where)
        for above in (where.parent, where.parent.parent):
            above.chmod(0o700)
        key = home.entry.key
        found = home.store.lookup(type(key)(where.parent.name, where.parent.parent.name, key.abi))
        assert any("belongs to another folder" in reason for reason in found.reasons), where
        assert found.entry in (home.entry, home.bystander, None)
        assert len(home.store.entries()) == 2
        shutil.rmtree(where)
    shutil.copyfile(other / "artifact", home.folder / "artifact")
    home.expect_miss("somebody else's artifact")


def test_an_entry_that_was_changed_and_signed_with_nothing(home: Home) -> None:
    path = home.folder / "entry.json"
    document = json.loads(path.read_text())
    unsigned = {k: v for k, v in document.items() if k != "mac"}
    for text, reason in (
        (json.dumps(unsigned), "is unsigned"),
        (json.dumps(document), "was changed after it was signed"),  # other white space
        (json.dumps({**document, "format": 2}), "has format 2; this version reads format 1"),
        (json.dumps({**document, "host": "0" * 16}), "was signed on another machine"),
        (json.dumps({**document, "mac": "0" * 64}), "was changed after it was signed"),
        ("[" * 100_000, "truncated or damaged"),
        ("[]", "not a document"),
        ("null", "not a document"),
        ("", "truncated or damaged"),
        ('{"format": NaN}', "has format nan"),
    ):
        with changed(path, text.encode()):
            home.expect_miss(reason)
            assert any(reason in r for r in home.look().reasons), home.look().reasons
    home.expect_whole()


def test_a_document_of_another_time(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Properly sealed, but by a version with another format, other fields or another signature schema."""
    path = home.folder / "entry.json"
    seal = home.store._shelf.seal()
    assert isinstance(seal, trust.Seal)
    document = record.entry_document(home.entry, {n: (home.folder / n).read_bytes() for n in FILES if n != "entry.json"})
    schema = json.loads(json.dumps(document))
    schema["entry"]["signature"]["schema"] = 99
    elsewhere = json.loads(json.dumps(document))
    elsewhere["entry"]["artifact"]["path"] = "/etc/artifact"
    for made, reason in (
        ({**document, "entry": {**document["entry"], "novel": 1}}, "has no field 'novel'"),
        ({**document, "entry": {k: v for k, v in document["entry"].items() if k != "verdict"}}, "does not read as an entry"),
        ({**document, "entry": []}, "does not read as an entry"),
        ({"refusal": {}}, "does not read as an entry"),
        (schema, "signature schema 99"),
        (elsewhere, "its artifact is called '/etc/artifact'"),
        (
            {**document, "files": {**document["files"], "../other": document["files"]["artifact"]}},
            "lists a file that no entry has",
        ),
    ):
        with changed(path, seal.close(made)):
            home.expect_miss(reason)
            assert any(reason in r for r in home.look().reasons), home.look().reasons
    with changed(path, seal.close(document)):
        home.expect_whole()
    monkeypatch.setattr(trust, "FORMAT", 2)
    data = seal.close(document)
    monkeypatch.undo()
    with changed(path, data):
        home.expect_miss("format")
        assert "has format 2" in home.look().reasons[0]


def test_a_cache_copied_to_another_machine(home: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shutil.copytree(home.store.root, tmp_path / "copy")
    assert Store(tmp_path / "copy").lookup(home.entry.key).entry is not None
    monkeypatch.setattr(trust, "machine", lambda: "f" * 16)
    copy = Store(tmp_path / "copy")
    found = copy.lookup(home.entry.key)
    assert found.entry is None and found.refusals == () and copy.entries() == []
    assert all("was signed on another machine" in reason for reason in found.reasons)
    assert not any(p.repaired for p in copy.check(repair=True))
    kept = copy.put(samples.entry(), samples.files(samples.entry()))
    assert copy.lookup(home.entry.key).entry == kept
    monkeypatch.undo()
    assert Store(tmp_path / "copy").lookup(home.entry.key).entry is not None  # what the first machine put is still its own


def test_the_next_best_serves_where_the_best_is_damaged(store: Store) -> None:
    def put(body: str, speedup: float) -> CacheEntry:
        entry = samples.entry(0, body, speedup=speedup)
        return store.put(entry, samples.files(entry))

    best, second = put("best", 3.0), put("second", 2.0)
    assert store.lookup(best.key).entry == best
    Path(best.artifact.path).write_bytes(bytes(600))
    found = store.lookup(best.key)
    assert found.entry == second and "digest differs" in found.reasons[0]
