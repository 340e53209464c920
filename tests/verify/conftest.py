"""One judge for all tests of the zoo; its seed is printed with every failure."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from torch_autokernel.core.types import Arch
from torch_autokernel.machine.worker import Limits
from torch_autokernel.verify.judge import Judge

ARCH = Arch("cpu-test")


@pytest.fixture(scope="session")
def objects(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where compiled kernels are kept, from one run to the next where pytest has a cache."""
    if shutil.which("g++") is None:
        pytest.skip("no g++")
    cache = getattr(request.config, "cache", None)
    return Path(cache.mkdir("zoo")) if cache is not None else tmp_path_factory.mktemp("zoo")


@pytest.fixture(scope="session")
def judge() -> Iterator[Judge]:
    judge = Judge(ARCH, limits=Limits(seconds=2.0, threads=max(2, len(os.sched_getaffinity(0)))))
    yield judge
    judge.close()
