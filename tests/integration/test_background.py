"""`on_miss="background"` for real: the fallback serves, another process searches, and what it found is in the cache."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
import torch

from torch_autokernel.capture import background
from torch_autokernel.capture.whole import region_of
from torch_autokernel.core.config import config
from torch_autokernel.engine import Engine


def norm(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * w


def test_options_pass_on_and_the_key_only_through_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[dict[str, Any]] = []

    class Popen:
        pid = 1

        def __init__(self, command: list[str], **kwargs: Any) -> None:
            started.append({"command": command, **kwargs})

    monkeypatch.setattr(background.subprocess, "Popen", Popen)
    options = config.resolve({"llm_model": "m", "llm_api_key": "sk-secret", "llm_base_url": "http://127.0.0.1:1/v1", "max_tokens": 77,
                              "cache_dir": str(tmp_path), "on_miss": "background"})  # fmt: skip
    background.Search([(region_of(norm, (torch.randn(5, 8), torch.randn(8))), ())], options, tmp_path)
    path = Path(started[0]["command"][-1])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and "sk-secret" not in path.read_text()
    assert json.loads(path.read_text())["options"]["max_tokens"] == 77
    assert started[0]["env"]["TORCH_AUTOKERNEL_LLM_API_KEY"] == "sk-secret"


def test_another_process_searches_and_stores(tmp_path: Path) -> None:
    """On the null device, where nothing is compiled; its regions are too small to pay, so the refusal is what is stored."""
    with config.patch(arch="null", proposers=("null",), cache_dir=str(tmp_path), on_miss="background"):
        options = config.resolve()
        engine = Engine.current(options)
        search = background.Search([(region_of(norm, (torch.randn(5, 8), torch.randn(8))), ())], options, engine.work_folder())
        assert search.process.wait(120) == 0
        (refusal,) = engine.store.refusals()
    assert "too small" in refusal.reason
    assert not [n for n in os.listdir(engine.work_folder()) if n.startswith("background-")]
