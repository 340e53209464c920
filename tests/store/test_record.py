"""Names of files and folders, ranges of sizes, documents there and back."""

from __future__ import annotations

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from tests.store import samples
from torch_autokernel.core.types import Cost, Finding, Status, Trust
from torch_autokernel.store import record
from torch_autokernel.store.record import Place, Record
from torch_autokernel.store.trust import Seal

SEAL = Seal(bytes(32), "here")
EVIDENCE = st.dictionaries(st.text(max_size=5), st.floats() | st.integers() | st.text() | st.none() | st.booleans(), max_size=4)
BOUND = st.integers(1, 1 << 62)


@given(EVIDENCE, st.text(), st.dictionaries(st.sampled_from(["s0", "s1"]), st.tuples(BOUND, BOUND)), st.floats(0, 1e9))
def test_entries_go_there_and_back(
    evidence: dict[str, object], reason: str, bounds: dict[str, tuple[int, int]], cost: float
) -> None:
    given_entry = samples.entry(ranges={s: (min(b), max(b)) for s, b in bounds.items()})
    finding = Finding("numerics", Status.PASS, reason, evidence)
    entry = dataclasses.replace(
        given_entry,
        verdict=dataclasses.replace(given_entry.verdict, findings=(finding,)),
        candidate=dataclasses.replace(given_entry.candidate, cost=Cost(cost)),
        trust=Trust.SIGNED,
    )
    contents = {name: bytes(data) for name, data in samples.files(entry).items() if isinstance(data, bytes)}
    place = Place(entry.key.arch, entry.key.signature, entry.candidate.id, "/somewhere")
    found = record.open_entry(SEAL.close(record.entry_document(entry, contents)), SEAL, place)
    assert isinstance(found, Record)
    assert found.entry.artifact.path == "/somewhere/artifact" and found.op_name == entry.op_name
    same = dataclasses.replace(found.entry, artifact=dataclasses.replace(found.entry.artifact, path=entry.artifact.path))
    assert same.to_json() == entry.to_json() and record.covers(same.ranges, {s: b[0] for s, b in same.ranges.items()})


@given(st.dictionaries(st.sampled_from("abc"), st.tuples(BOUND, BOUND)), st.dictionaries(st.sampled_from("abc"), BOUND))
def test_covers(ranges: dict[str, tuple[int, int]], sizes: dict[str, int]) -> None:
    expected = all(name in sizes and sizes[name] in range(low, high + 1) for name, (low, high) in ranges.items())
    assert record.covers(ranges, sizes) == expected and record.covers(ranges, None)


def test_one_refusal_file_for_each_key_conditions_and_ranges() -> None:
    first = samples.refusal()
    assert record.REFUSAL_NAME.fullmatch(record.refusal_name(first))
    assert record.refusal_name(first) == record.refusal_name(samples.refusal(reason="other", created=5.0))
    others = [samples.refusal(1), samples.refusal(conditions="2"), samples.refusal(ranges={"s0": (1, 1)})]
    assert len({record.refusal_name(r) for r in [first, *others]}) == 4


def test_names() -> None:
    for name, good in (
        ("cpu-x86_64-avx2", 1),
        ("sm_90", 1),
        ("null", 1),
        ("", 0),
        (".", 0),
        ("..", 0),
        (".tmp", 0),
        ("a/b", 0),
        ("a\n", 0),
    ):
        assert bool(record.ARCH_NAME.fullmatch(name)) == bool(good), name
    for name, good in (
        ("0" * 32, 1),
        ("0" * 32 + ".2", 1),
        ("0" * 32 + ".17", 1),
        ("0" * 32 + ".1", 0),
        ("0" * 31, 0),
        ("G" * 32, 0),
    ):
        assert bool(record.ENTRY_NAME.fullmatch(name)) == bool(good), name
    for name, good in (
        ("artifact", 1),
        ("source.cpp", 1),
        ("source.py", 1),
        ("source.", 0),
        ("entry.json", 0),
        ("../artifact", 0),
    ):
        assert bool(record.FILE_NAME.fullmatch(name)) == bool(good), name
