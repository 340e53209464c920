"""The extension points: tables of `"name": "module:Class"`, imported on first use.

Plugins add rows through entry points (group `torch_autokernel.<point>`) or `register()`.
"""

from __future__ import annotations

import importlib
from importlib.metadata import entry_points
from typing import Any

from torch_autokernel.core.errors import UnknownName


class Point:
    """One table. `get(name)` gives the object itself, imported once."""

    def __init__(self, kind: str, rows: dict[str, str]) -> None:
        self.kind = kind
        self._rows = dict(rows)
        self._loaded: dict[str, Any] = {}
        self._scanned = False

    def names(self) -> list[str]:
        self._scan()
        return sorted(self._rows)

    def register(self, name: str, target: str) -> None:
        """Add a row `module:Class`; raises ValueError for a name that stands already."""
        self._scan()
        if name in self._rows:
            raise ValueError(f"{self.kind} {name!r} is registered already, as {self._rows[name]}; choose another name")
        self._rows[name] = target

    def unregister(self, name: str) -> None:
        self._rows.pop(name)
        self._loaded.pop(name, None)

    def get(self, name: str) -> Any:
        """The object behind a name; raises UnknownName with the known ones."""
        if name not in self._rows:
            self._scan()
        if name not in self._rows:
            raise UnknownName(f"no {self.kind} named {name!r}; known: {', '.join(sorted(self._rows))}")
        if name not in self._loaded:
            module, _, attribute = self._rows[name].partition(":")
            self._loaded[name] = getattr(importlib.import_module(module), attribute)
        return self._loaded[name]

    def _scan(self) -> None:
        if self._scanned:
            return
        self._scanned = True
        for ep in entry_points(group=f"torch_autokernel.{self.kind}"):
            self._rows.setdefault(ep.name, ep.value)


proposers = Point("proposer", {
    "schedule": "torch_autokernel.propose.schedule:ScheduleProposer",
    "null": "torch_autokernel.propose.null:NullProposer",
    "llm": "torch_autokernel.propose.llm.author:LlmProposer",
})  # fmt: skip
languages = Point("language", {
    "cpp": "torch_autokernel.lang.cpp:Cpp",
    "null": "torch_autokernel.lang.null:Null",
})  # fmt: skip
archs = Point("arch", {
    "cpu": "torch_autokernel.machine.cpu:Cpu",
    "null": "torch_autokernel.machine.null:NullArch",
})  # fmt: skip
strategies = Point("strategy", {
    "best_of_n": "torch_autokernel.search.best_of_n:BestOfN",
    "evolution": "torch_autokernel.search.evolution:Evolution",
})  # fmt: skip
llms = Point("llm", {
    "http": "torch_autokernel.propose.llm.client:Client",
    "scripted": "torch_autokernel.propose.llm.scripted:Scripted",
})  # fmt: skip
checks = Point("check", {
    "compiles": "torch_autokernel.verify.checks.compiles:Compiles",
    "imports": "torch_autokernel.verify.checks.imports:Imports",
    "loading": "torch_autokernel.verify.checks.loading:Loading",
    "instructions": "torch_autokernel.verify.checks.instructions:Instructions",
    "runs": "torch_autokernel.verify.checks.runs:Runs",
    "bounds": "torch_autokernel.verify.checks.bounds:Bounds",
    "inputs_unchanged": "torch_autokernel.verify.checks.inputs_unchanged:InputsUnchanged",
    "writes_all": "torch_autokernel.verify.checks.writes_all:WritesAll",
    "uninitialised": "torch_autokernel.verify.checks.uninitialised:Uninitialised",
    "numerics": "torch_autokernel.verify.checks.numerics:Numerics",
    "special_values": "torch_autokernel.verify.checks.special_values:SpecialValues",
    "control_state": "torch_autokernel.verify.checks.control_state:ControlState",
    "stale": "torch_autokernel.verify.checks.stale:Stale",
    "addresses": "torch_autokernel.verify.checks.addresses:Addresses",
    "state": "torch_autokernel.verify.checks.state:State",
    "task": "torch_autokernel.verify.checks.task:Task",
    "sanitizers": "torch_autokernel.verify.checks.sanitizers:Sanitizers",
    "races": "torch_autokernel.verify.checks.races:Races",
    "repeatable": "torch_autokernel.verify.checks.repeatable:Repeatable",
})  # fmt: skip

ALL: dict[str, Point] = {
    "proposer": proposers, "language": languages, "arch": archs, "strategy": strategies, "llm": llms,
    "check": checks,
}  # fmt: skip
