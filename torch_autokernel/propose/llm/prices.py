"""Money, only from a table that the user gives: JSON, `{"model": {"prompt": 2.5, "completion": 10, "cached": 1.25}}`, in
the user's currency for a million tokens. Where there is no table, no money is counted."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

from torch_autokernel.core.errors import ConfigError
from torch_autokernel.propose.llm.talk import Usage

NAMES = ("prompt", "completion", "cached")


class Prices:
    """Prices by model."""

    def __init__(self, rows: Mapping[str, Mapping[str, float]] | None = None) -> None:
        self.rows = {model: dict(row) for model, row in (rows or {}).items()}

    @staticmethod
    def read(path: Path) -> Prices:
        """Raises ConfigError for a file that is not such a table."""
        try:
            rows = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise ConfigError(f"the price table {path} cannot be read: {error}",
                              hint='like {"model": {"prompt": 2.5, "completion": 10}}') from error  # fmt: skip
        if not isinstance(rows, dict):
            raise ConfigError(f"the price table {path} is not a JSON object")
        for model, row in rows.items():
            bad = not isinstance(row, dict) or not set(row) <= set(NAMES) or not {"prompt", "completion"} <= set(row)
            if bad or any(
                isinstance(v, bool) or not isinstance(v, (int, float)) or not 0 <= v < math.inf for v in row.values()
            ):
                raise ConfigError(f"the price table {path} has a row for {model!r} that is not of its form",
                                  hint="prompt and completion, perhaps cached, each 0 or more")  # fmt: skip
        return Prices(rows)

    def __contains__(self, model: str) -> bool:
        return model in self.rows

    def money(self, model: str, usage: Usage) -> float:
        row = self.rows.get(model)
        if row is None:
            return 0.0
        fresh = max(0, usage.prompt - usage.cached)
        cached = row.get("cached", row["prompt"])
        return (fresh * row["prompt"] + usage.cached * cached + usage.completion * row["completion"]) / 1e6
