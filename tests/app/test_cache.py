from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.app.conftest import Run
from tests.store import samples
from torch_autokernel.core.config import config
from torch_autokernel.core.types import CacheEntry
from torch_autokernel.store import Store

Go = Callable[..., Run]


@pytest.fixture
def kept(run: Go) -> tuple[Store, list[CacheEntry]]:
    """Three kernels and a refusal in the cache."""
    store = Store(config.resolve().cache_path)
    entries = [samples.entry(n, speedup=1.0 + n / 4) for n in (1, 2, 3)]
    entries = [store.put(e, samples.files(e)) for e in entries]
    store.refuse(samples.refusal(9))
    return store, entries


def test_an_empty_cache(run: Go) -> None:
    ran = run("cache", "ls")
    assert ran.code == 0 and "0 kernels, 0 refusals" in ran.out
    assert run("cache", "ls", "--json").json["entries"] == []
    assert run("cache", "check").code == 0


def test_ls(run: Go, kept: tuple[Store, list[CacheEntry]]) -> None:
    ran = run("cache", "ls", "--refusals")
    assert ran.code == 0
    for entry in kept[1]:
        assert entry.candidate.id[:12] in ran.out
    assert "1.75x" in ran.out and "add" in ran.out and "refused" in ran.out
    data = run("cache", "ls", "--json").json
    assert {e["id"] for e in data["entries"]} == {e.candidate.id for e in kept[1]}
    assert len(data["refusals"]) == 1 and data["bytes"] > 0


@pytest.mark.parametrize("by", ["id", "op_name", "signature"])
def test_show(run: Go, kept: tuple[Store, list[CacheEntry]], by: str) -> None:
    entry = kept[1][0]
    ident = {"id": entry.candidate.id, "op_name": entry.op_name, "signature": entry.key.signature}[by]
    ran = run("cache", "show", ident[:12])
    assert ran.code == 0
    for told in (
        entry.candidate.source.text,
        entry.reference,
        "bytes=600",
        "numerics",
        "1.25x of inductor",
        entry.key.signature,
    ):
        assert told in ran.out
    assert CacheEntry.from_json(run("cache", "show", ident, "--json").json["entry"]) == entry


def test_show_tells_what_is_damaged_and_what_is_not_there(run: Go, kept: tuple[Store, list[CacheEntry]]) -> None:
    entry = kept[1][0]
    path = Path(entry.artifact.path)
    path.write_bytes(b"x" * len(path.read_bytes()))
    assert "DAMAGED" in run("cache", "show", entry.candidate.id).out
    ran = run("cache", "show", "0000")
    assert ran.code == 1 and "no kernel whose id starts with 0000" in ran.out


def test_rm(run: Go, kept: tuple[Store, list[CacheEntry]]) -> None:
    store, entries = kept
    assert run("cache", "rm", entries[0].candidate.id, "ffff0000").code == 1
    assert len(store.entries()) == 3
    assert run("cache", "rm", entries[0].candidate.id[:10], "--json").json["removed"] == [entries[0].candidate.id]
    assert len(store.entries()) == 2
    assert run("cache", "rm", "--refusals").code == 0
    assert len(store.entries()) == 2 and store.refusals() == []
    assert "removed 2 kernels" in run("cache", "rm", "--all").out
    assert store.entries() == []


def test_gc(run: Go, kept: tuple[Store, list[CacheEntry]]) -> None:
    store, entries = kept
    old = os.path.dirname(entries[1].artifact.path)
    os.utime(old, (1e9, 1e9))
    data = run("cache", "gc", "--max-age", "30d", "--json").json
    assert data["removed"] == [old] and data["freed_bytes"] > 0
    assert len(store.entries()) == 2
    assert "removed 0" in run("cache", "gc", "--max-size", "1G").out
    assert run("cache", "gc", "--max-size", "0").code == 0
    assert store.items() == []


def test_check_and_repair(run: Go, kept: tuple[Store, list[CacheEntry]]) -> None:
    store, entries = kept
    path = Path(entries[0].artifact.path)
    path.write_bytes(path.read_bytes()[:-1])
    ran = run("cache", "check")
    assert ran.code == 1 and "corrupt" in ran.out and "--repair" in ran.out
    ran = run("cache", "check", "--repair", "--json")
    assert ran.code == 0 and ran.json["problems"][0]["repaired"]
    assert run("cache", "check").code == 0
    assert len(store.entries()) == 2


def test_a_cache_folder_that_cannot_be_made(run: Go, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ran = run("cache", "gc", "--max-size", "1G", "--cache-dir", tmp_path / "file" / "cache")
    assert ran.code == 2
    assert "cannot be" in ran.err and "Traceback" not in ran.err
