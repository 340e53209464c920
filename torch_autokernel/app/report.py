"""What a command hands back, and the plain tables it writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

DONE, NOT_SO, COULD_NOT_RUN, INTERRUPTED = 0, 1, 2, 130


@dataclass(frozen=True)
class Report:
    """`ok` decides the exit code: done, or the thing checked is not so. `data` is JSON, `text` the same for a person."""

    ok: bool
    data: Any
    text: str


def table(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Columns padded to their widest cell; those numbered in `right` are aligned to the right."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    lines = []
    for row in (header, *rows):
        cells = [cell.rjust(w) if i in right else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """Seconds as a person reads them: 340 us, 12.3 ms, 4.1 s, 3 min 20 s, 5 h, 3 days."""
    if seconds < 120:
        for size, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")):
            if seconds >= size:
                return f"{seconds / size:.3g} {unit}"
        return f"{seconds * 1e9:.3g} ns"
    if seconds < 7200:
        return f"{int(seconds // 60)} min {int(seconds % 60)} s"
    return f"{seconds / 3600:.0f} h" if seconds < 172800 else f"{seconds / 86400:.0f} days"


def size(n_bytes: float) -> str:
    """Bytes as a person reads them."""
    units = ["B", "KiB", "MiB", "GiB"]
    while n_bytes >= 1024 and len(units) > 1:
        n_bytes /= 1024
        del units[0]
    return f"{n_bytes:.0f} B" if units[0] == "B" else f"{n_bytes:.1f} {units[0]}"
