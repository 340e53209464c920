"""What language models have cost in this command, as a table."""

from __future__ import annotations

from collections.abc import Callable

from torch_autokernel.app.report import table
from torch_autokernel.core.bill import Bill, Row


def bill_table(bill: Bill) -> str:
    """The rows summed over regions, and the cost of an accepted speedup."""
    columns: tuple[tuple[str, Callable[[list[Row]], str]], ...] = (
        ("calls", lambda rows: str(sum(r.calls for r in rows))),
        ("failed", lambda rows: str(sum(r.failed for r in rows))),
        ("tokens", lambda rows: str(sum(r.tokens for r in rows))),
        ("seconds", lambda rows: f"{sum(r.seconds for r in rows):.1f}"),
        ("money", lambda rows: f"{sum(r.money for r in rows):.4g}"),
    )
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in bill.rows.values():
        groups.setdefault((row.role, row.model), []).append(row)
    lines = [[role, model, *(f(rows) for _, f in columns)] for (role, model), rows in sorted(groups.items())]
    each = bill.tokens_per_speedup
    told = f"{each:.0f} tokens for each accepted speedup" if each is not None else "no speedup was accepted"
    return "\n".join([table(["role", "model", *(n for n, _ in columns)], lines, right=range(2, 7)), told])
