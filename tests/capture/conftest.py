from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.capture.engines import ReferenceEngine
from torch_autokernel.engine import Engine


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> Iterator[ReferenceEngine]:
    """Every region is replaced by its own printed reference."""
    found = ReferenceEngine(salt=str(tmp_path))
    monkeypatch.setattr(Engine, "current", classmethod(lambda cls, config: found))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", f"{tmp_path}/inductor")
    torch._dynamo.reset()
    yield found
    torch._dynamo.reset()
