"""What language models have cost while something was going on, from the events."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch_autokernel.core.events import Event


@dataclass
class Row:
    """One role of one model. `region` is a signature's digest."""

    role: str
    model: str
    region: str
    calls: int = 0
    failed: int = 0
    replayed: int = 0
    tokens: int = 0
    seconds: float = 0.0
    money: float = 0.0


class Bill:
    """A subscriber to events: rows by role, model and region, the best speedup of each region, and how many were accepted."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str, str], Row] = {}
        self.best: dict[str, float] = {}
        self.accepted: set[str] = set()

    def __call__(self, event: Event) -> None:
        facts, region = event.facts, str(event.facts.get("signature", ""))
        if event.name == "llm.call":
            key = (str(facts["role"]), str(facts["model"]), region)
            row = self.rows.setdefault(key, Row(*key))
            row.calls += 1
            row.failed += bool(facts["problem"])
            row.replayed += bool(facts["replayed"])
            row.tokens += facts["tokens"]
            row.seconds += facts["seconds"]
            row.money += facts["money"]
        elif event.name == "search.best":
            self.best[region] = max(self.best.get(region, 0.0), facts["speedup"])
        elif event.name == "search.accepted":
            self.accepted.add(region)

    def _sum(self, name: str) -> Any:
        return sum(getattr(r, name) for r in self.rows.values())

    @property
    def tokens_per_speedup(self) -> float | None:
        """Tokens for each region in which a faster kernel was found; None where none was."""
        found = len(self.accepted)
        return self._sum("tokens") / found if found else None

    def short(self) -> str:
        """The beginning of a progress line; empty where no model was asked."""
        if not self.rows:
            return ""
        money = f", {self._sum('money'):.4g} in money" if self._sum("money") else ""
        best = f", best {max(self.best.values()):.2f}x" if self.best else ""
        return f"[LLM: {self._sum('calls')} calls, {self._sum('tokens')} tokens{money}{best}] "

    def to_json(self) -> dict[str, Any]:
        names = ("calls", "failed", "replayed", "tokens", "seconds", "money")
        rows = [vars(r) for r in self.rows.values()]
        found = len(self.accepted)
        return {"rows": rows, "total": {n: self._sum(n) for n in names}, "accepted_speedups": found,
                "tokens_per_accepted_speedup": self.tokens_per_speedup,
                "money_per_accepted_speedup": self._sum("money") / found if found else None}  # fmt: skip
