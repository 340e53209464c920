"""Recorders: two kernels, forward and backward, as one node of torch's autograd that is written in C++ (`recorded.cpp`).

It needs torch's headers, so it is compiled on the user's machine, once for each torch, and kept in the cache. Where it cannot
be, the caller has `torch.autograd.Function`, which costs more (`Recorder` is None).
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import logging
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch

from torch_autokernel.core.config import Config
from torch_autokernel.core.errors import AutoKernelError
from torch_autokernel.core.types import digest
from torch_autokernel.lang.compiler import Compiler, environment, find_compiler

log = logging.getLogger(__name__)

TEXT = Path(__file__).with_name("recorded.cpp")
MODULE = "autokernel_recorded"
FLAGS = ("-O2", "-std=c++20", "-fPIC", "-fvisibility=hidden", "-shared")
LIBRARIES = ("-lc10", "-ltorch_cpu", "-ltorch", "-ltorch_python")
SECONDS = 30.0  # a build takes 20 where nothing else runs; it is not begun where a search may take less
MOST_SECONDS = 300.0

T = TypeVar("T")
Recorder = Callable[..., Any]  # the type `Recorder` of recorded.cpp: made from two kernels, called with tensors


class Tools(Protocol):
    """Where it is kept: the store."""

    def tool(self, name: str) -> bytes | None: ...

    def keep_tool(self, name: str, content: bytes) -> None: ...


_loaded: dict[str, Recorder | None] = {}


def recorder(tools: Tools, config: Config) -> Recorder | None:
    """The type, from the cache or, where misses are searched, built; None where there is none, with the reason in the log.
    Built once on a machine: that may take as long as a search, and is not taken from one's budget. What could not be built is
    not tried again by this process."""
    compiler = find_compiler()
    if isinstance(compiler, str):
        return None
    name = f"recorded-{_identity(compiler)[:32]}.so"
    if name not in _loaded:
        content = tools.tool(name)
        if content is None:
            if config.on_miss != "generate" or config.max_seconds < SECONDS:
                return None
            content = _safely(lambda: _built(compiler, min(config.max_seconds, MOST_SECONDS)))
            if content is not None:
                _keep(tools, name, content)
        _loaded[name] = None if content is None else _safely(lambda: _load(content))
    return _loaded[name]


@functools.lru_cache(maxsize=8)
def _identity(compiler: Compiler) -> str:
    """What the object depends on."""
    made_for = [torch.__version__, torch.version.git_version, sys.implementation.cache_tag, torch.compiled_with_cxx11_abi()]
    return digest([hashlib.sha256(TEXT.read_bytes()).hexdigest(), compiler.identity, FLAGS, LIBRARIES, made_for])


def _safely(make: Callable[[], T | None]) -> T | None:
    """What is made, or None, with the reason in the log."""
    try:
        return make()
    except (OSError, ImportError, subprocess.TimeoutExpired) as error:
        log.info("small training calls are recorded in Python: %s", str(error)[-200:])
        return None


def _built(compiler: Compiler, seconds: float) -> bytes | None:
    from torch.utils.cpp_extension import include_paths, library_paths  # imported here: it looks for CUDA

    headers = [*include_paths(), sysconfig.get_paths()["include"]]
    given = [f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}", *(f for h in headers for f in ("-isystem", h))]
    with tempfile.TemporaryDirectory(prefix="autokernel-recorded-") as folder:
        target = Path(folder) / f"{MODULE}.so"
        linked = [*(f"-L{p}" for p in library_paths()), *LIBRARIES]
        command = [*compiler.command, *FLAGS, *given, str(TEXT), *linked, "-o", str(target)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=seconds)
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if "error" in line]
            log.info("small training calls are recorded in Python: %s", said[0][:300] if said else f"code {done.returncode}")
            return None
        return target.read_bytes()


def _keep(tools: Tools, name: str, content: bytes) -> None:
    try:
        tools.keep_tool(name, content)
    except (AutoKernelError, OSError) as error:
        log.info("what records small training calls is not kept, and built again by the next process: %s", error)


def _load(content: bytes) -> Recorder | None:
    """The type in the object, mapped from a private copy of the checked bytes."""
    with tempfile.TemporaryDirectory(prefix="autokernel-") as folder:
        path = Path(folder) / f"{MODULE}.so"
        path.write_bytes(content)
        spec = importlib.util.spec_from_file_location(MODULE, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module.Recorder  # type: ignore[no-any-return]
