"""Decisions for regions that have parts: the parts are asked for only where the whole is not replaced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch_autokernel.core import deadline
from torch_autokernel.core.config import Config
from torch_autokernel.core.types import Region
from torch_autokernel.engine import Decision, identity

Joined = tuple[Region, tuple[Region, ...]]  # a region and those that it joins


def settle(engine: Any, joined: Sequence[Joined], config: Config) -> list[list[Decision]]:
    """For each region: its decision alone, or, where it has no kernel but has parts, the decisions for these. The time that
    `config` allows is for all of it."""
    with deadline.one_purse():
        return _settled(engine, joined, config)


def _settled(engine: Any, joined: Sequence[Joined], config: Config) -> list[list[Decision]]:
    wholes: list[Decision] = engine.resolve([region for region, _ in joined], config)
    open_parts = {
        identity(part): part
        for (_, parts), whole in zip(joined, wholes, strict=True)
        if whole.entry is None and _is_final(whole, config)
        for part in parts
    }
    decided = {identity(d.region): d for d in engine.resolve(list(open_parts.values()), config)} if open_parts else {}
    out = []
    for (_, parts), whole in zip(joined, wholes, strict=True):
        found = [replace(decided[identity(p)], region=p) for p in parts if identity(p) in decided]
        out.append([replace(d, reason=_told(d, whole)) for d in found] or [whole])
    return out


def _is_final(whole: Decision, config: Config) -> bool:
    """Whether the parts may be asked for: not while a search for the whole is still to come."""
    return whole.outcome != "miss" or config.on_miss != "background"


def _told(part: Decision, whole: Decision) -> str:
    return part.reason if part.entry is not None else f"{part.reason}; together with its neighbours: {whole.reason}"
