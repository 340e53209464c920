"""A seal opens what it closed, here, and nothing else."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from torch_autokernel.store import trust
from torch_autokernel.store.files import Broken
from torch_autokernel.store.trust import Seal

JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
OURS = Seal(bytes(32), "here")


@given(JSON)
def test_round_trip(value: Any) -> None:
    opened = OURS.open(OURS.close({"value": value}))
    assert isinstance(opened, dict) and opened["value"] == value
    assert json.loads(OURS.close({"value": value}))["value"] == value  # plain JSON for other readers


@given(JSON, st.data())
def test_any_change_shuts(value: Any, data: st.DataObject) -> None:
    closed = OURS.close({"value": value})
    at = data.draw(st.integers(0, len(closed) - 1))
    mask = data.draw(st.integers(1, 255))
    for changed in (closed[:at], closed[at + 1 :], closed[:at] + bytes([closed[at] ^ mask]) + closed[at + 1 :], closed + b" "):
        assert isinstance(OURS.open(changed), Broken)


@given(st.binary(max_size=300))
def test_junk_is_shut(data: bytes) -> None:
    assert isinstance(OURS.open(data), Broken)


def test_other_secrets_and_machines_are_shut() -> None:
    closed = OURS.close({"value": 1})
    assert OURS.open(closed) == {"value": 1, "format": 1, "host": "here", "key": OURS.id}
    for other, reason in ((Seal(b"x" * 32, "here"), "another machine.key"), (Seal(bytes(32), "there"), "another machine")):
        found = other.open(closed)
        assert isinstance(found, Broken) and found.kind == "untrusted" and reason in found.reason


def test_the_host_cannot_be_rewritten_by_who_has_the_secret_of_another_machine() -> None:
    closed = OURS.close({"value": 1})
    found = Seal(bytes(32), "there").open(closed.replace(b'"host":"here"', b'"host":"there"'))
    assert isinstance(found, Broken) and found.kind == "corrupt"


def test_a_secret_is_never_shown() -> None:
    seal = Seal(b"secret" * 5 + b"!!", "here")
    assert "secret" not in repr(seal) and b"secret" not in seal.close({})


def test_this_machine_has_a_name_that_stays() -> None:
    first = trust.machine()
    trust.machine.cache_clear()
    assert len(first) == 16 and trust.machine() == first
