"""Results that are kept in a file after each row, so that an interruption loses nothing."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch

from torch_autokernel import __version__
from torch_autokernel.core.errors import UsageError
from torch_autokernel.core.types import Json
from torch_autokernel.engine import find_arch


class Kept(Protocol):
    """A row: `key` names it, `digest` is that of the file it came from, one that is not `ok` is run again."""

    @property
    def key(self) -> tuple[str, ...]: ...
    @property
    def ok(self) -> bool: ...
    @property
    def digest(self) -> str: ...
    def to_json(self) -> dict[str, Any]: ...


S = TypeVar("S", bound=Json)
R = TypeVar("R", bound=Kept)


class Book(Generic[S, R]):
    """The rows so far, in a file where one was named. `summary` gives what else is told of all rows."""

    def __init__(
        self, path: str | None, settings: S, row: type[R], summary: Callable[[Sequence[R]], dict[str, Any]], resume: bool
    ) -> None:
        if resume and not path:
            raise UsageError("--resume needs --out", hint="name the file of the run to go on with: --out FILE.json --resume")
        self.path = Path(path) if path else None
        self.settings = settings
        self.summary = summary
        self.rows: list[R] = []
        self.machine = machine()
        if self.path:
            if resume and self.path.exists():
                found, rows = read(self.path, type(settings), row)
                if found != settings:
                    raise UsageError(f"{path} was made with other settings: {found.to_json()}",
                                     hint="give the same options, or another --out")  # fmt: skip
                self.rows = [r for r in rows if r.ok]
            self._write()

    def holds(self, key: tuple[str, ...], digest: str) -> bool:
        return any((r.key, r.digest) == (key, digest) for r in self.rows)

    def add(self, row: R) -> R:
        self.rows = [r for r in self.rows if r.key != row.key] + [row]
        self._write()
        return row

    def data(self) -> dict[str, Any]:
        return {"version": __version__, "machine": self.machine, "settings": self.settings.to_json(),
                **self.summary(self.rows), "rows": [r.to_json() for r in self.rows]}  # fmt: skip

    def _write(self) -> None:
        if self.path is None:
            return
        part = self.path.with_name(self.path.name + ".part")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            part.write_text(json.dumps(self.data(), indent=2, allow_nan=False) + "\n")
            os.replace(part, self.path)
        except OSError as error:
            hint = "give --out in a folder you may write to"
            raise UsageError(f"{self.path} cannot be written: {error.strerror}", hint) from error


def read(path: Path, settings: type[S], row: type[R]) -> tuple[S, list[R]]:
    """Settings and rows of a file; raises UsageError where it is none of ours."""
    try:
        data = json.loads(path.read_text())
        return settings.from_json(data["settings"]), [row.from_json(r) for r in data["rows"]]  # type: ignore[attr-defined]
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", hint="name a file that a run has written") from None
    except (ValueError, KeyError, TypeError) as error:
        hint = "name another file, or leave out --resume"
        raise UsageError(f"{path} is no result of this command: {error}", hint) from None


def machine() -> dict[str, Any]:
    arch = find_arch("")
    return {"arch": arch.key, "name": arch.name, "cpus": os.cpu_count(), "torch": torch.__version__,
            "load": round(os.getloadavg()[0], 2), "date": time.strftime("%Y-%m-%dT%H:%M:%S")}  # fmt: skip
