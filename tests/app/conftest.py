from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from torch_autokernel.app.cli import main
from torch_autokernel.core.config import config

SOFTMAX = """
import torch
from torch import nn

class Model(nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.scale = scale
        self.weight = nn.Parameter(torch.ones(6))

    def forward(self, x):
        return torch.softmax(x * self.scale * self.weight, -1)

def get_inputs():
    return [torch.randn(4, 6)]

def get_init_inputs():
    return [2.0]
"""


@dataclass(frozen=True)
class Run:
    """One command: exit code and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Run]]:
    """Runs the command in this process, with a cache folder of its own, in an empty folder."""
    for name in ("CACHE_DIR", "ON_MISS", "ARCH", "MAX_SECONDS", "DISABLE", "LLM_MODEL"):
        monkeypatch.delenv(f"TORCH_AUTOKERNEL_{name}", raising=False)
    monkeypatch.setenv("TORCH_AUTOKERNEL_CACHE_DIR", str(tmp_path / "cache"))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    config.reload()

    def call(*words: object) -> Run:
        capfd.readouterr()
        code = main([str(w) for w in words])
        captured = capfd.readouterr()
        return Run(code, captured.out, captured.err)

    yield call
    monkeypatch.undo()
    config.reload()


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], Path]:
    """A file in the work folder."""

    def make(name: str, text: str) -> Path:
        path = tmp_path / "work" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return make
