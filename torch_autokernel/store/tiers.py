"""Further places to keep entries, behind the folder on disk.

A tier carries bytes and is believed in nothing: what it gives is judged here, or its signature is checked, before it is
put into the store.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from torch_autokernel.core.types import CacheKey

Bundle = Mapping[str, bytes]  # the files of one entry's folder by name, `entry.json` among them


class Tier(Protocol):
    """Keeps bundles by key. Neither method raises for a tier that is out of reach: it is then empty and keeps nothing."""

    name: str

    def get(self, key: CacheKey) -> Sequence[Bundle]:
        """All bundles for the key, none where there are none."""

    def put(self, key: CacheKey, bundle: Bundle) -> str | None:
        """Why the bundle was not kept, or None."""


class MemoryTier:
    """A tier in this process's memory: the fake to test with."""

    name = "memory"

    def __init__(self) -> None:
        self._bundles: dict[CacheKey, list[Bundle]] = {}

    def get(self, key: CacheKey) -> Sequence[Bundle]:
        return tuple(self._bundles.get(key, ()))

    def put(self, key: CacheKey, bundle: Bundle) -> str | None:
        kept = self._bundles.setdefault(key, [])
        if bundle not in kept:
            kept.append(dict(bundle))
        return None
