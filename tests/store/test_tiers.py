"""The fake tier keeps what it is given."""

from __future__ import annotations

from tests.store import samples
from torch_autokernel.store.tiers import MemoryTier, Tier


def test_the_fake_is_a_tier() -> None:
    tier: Tier = MemoryTier()
    assert tier.get(samples.key()) == ()
    assert tier.put(samples.key(), {"entry.json": b"{}"}) is None and tier.put(samples.key(), {"entry.json": b"{}"}) is None
    assert tier.get(samples.key()) == ({"entry.json": b"{}"},) and tier.get(samples.key(1)) == ()
