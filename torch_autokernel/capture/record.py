"""What was decided for the graphs of this process: for `explain`, reports and torch's own counters."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch_autokernel.core.types import Region

if TYPE_CHECKING:
    from torch_autokernel.capture.partition import Left
    from torch_autokernel.engine import Decision


@dataclass(frozen=True)
class Record:
    """One graph: its phase, a decision for each region, what was left out and why, how many kernels were swapped in."""

    phase: str
    decisions: tuple[Decision, ...]
    left: tuple[Left, ...]
    swapped: int

    @property
    def regions(self) -> list[Region]:
        return [d.region for d in self.decisions]


_RECORDS: list[Record] = []
_KEEP = 1000


def note(record: Record) -> None:
    """Keep the record, count its outcomes in torch's counters, and put it into the structured trace."""
    from torch import _logging
    from torch._dynamo.utils import counters

    _RECORDS.append(record)
    del _RECORDS[:-_KEEP]
    for decision in record.decisions:
        counters["autokernel"][decision.outcome] += 1
    counters["autokernel"]["swapped"] += record.swapped
    _logging.trace_structured(  # type: ignore[attr-defined]
        "artifact",
        metadata_fn=lambda: {"name": "autokernel_regions", "encoding": "json"},
        payload_fn=lambda: json.dumps([
            {"phase": record.phase, "outcome": d.outcome, "reason": d.reason, "nodes": d.region.nodes} for d in record.decisions
        ]),
    )  # fmt: skip


def clear() -> None:
    _RECORDS.clear()


@contextmanager
def recording() -> Iterator[list[Record]]:
    """The records made within a with-block (this list grows as graphs are compiled)."""
    start = len(_RECORDS)
    out: list[Record] = []
    try:
        yield out
    finally:
        out += _RECORDS[min(start, len(_RECORDS)) :]
