"""The tasks as MCP tools over stdio, with the official SDK (extra `mcp`)."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from torch_autokernel import __version__
from torch_autokernel.app import tasks
from torch_autokernel.app.fresh import fresh_compilation
from torch_autokernel.app.problems import load_one
from torch_autokernel.app.report import Report
from torch_autokernel.core.errors import AutoKernelError, ConfigError
from torch_autokernel.core.types import Source

log = logging.getLogger(__name__)

INSTRUCTIONS = """Write faster kernels for pieces of PyTorch models. `task_new` gives a task: a reference, the exact prototype
and the rules. `task_check` says whether a kernel is right, with the reason if not. `task_submit` also times it against eager
and Inductor and keeps it where it is faster. Kernels run in a sandbox; only the verdict decides."""


def build() -> Any:
    """The server; raises ConfigError where the SDK is not installed."""
    try:
        from mcp.server import MCPServer
    except ImportError as error:
        raise ConfigError("serve-mcp needs the MCP SDK", hint="pip install 'torch-autokernel[mcp]'") from error
    server = MCPServer("autokernel", instructions=INSTRUCTIONS, version=__version__)
    for tool in (task_new, task_check, task_submit, kernels):
        server.add_tool(tool)
    return server


_ONE_AT_A_TIME = threading.Lock()


def _answer(work: Callable[[], Report]) -> dict[str, Any]:
    """A report as a tool's result. What went wrong on the caller's side is an answer, too."""
    with _ONE_AT_A_TIME:
        try:
            report = work()
        except AutoKernelError as error:
            return {"ok": False, "error": error.message, "hint": error.hint}
    return {"ok": report.ok, **report.data, "text": report.text}


def task_new(target: str, folder: str, region: int = 0, backward: bool = False) -> dict[str, Any]:
    """Make a task from a problem file or `package.module:callable`, in a folder to work in. `region` 0 is the greatest."""

    def work() -> Report:
        problem = load_one(target)
        with torch.set_grad_enabled(backward), fresh_compilation():
            found = tasks.regions(problem.training() if backward else problem, backward)
        if not 0 <= region < len(found):
            return Report(False, {"error": f"{problem.name} has {len(found)} regions, none of number {region}"}, "")
        return tasks.new(found[region], problem.name, Path(folder))

    return _answer(work)


def task_check(folder: str, kernel: str = "") -> dict[str, Any]:
    """Judge the kernel in the folder, or the text given. Nothing is timed or kept."""
    return _answer(lambda: tasks.check(tasks.read(Path(folder)), _source(folder, kernel)))


def task_submit(folder: str, kernel: str = "") -> dict[str, Any]:
    """Judge the kernel in the folder, or the text given, time it, and keep it in the cache where it is faster."""
    return _answer(lambda: tasks.submit(tasks.read(Path(folder)), _source(folder, kernel)))


def kernels() -> dict[str, Any]:
    """The kernels in the cache."""
    found = [
        {
            "id": e.candidate.id,
            "signature": e.signature.digest,
            "ops": [o.target for o in e.signature.ops],
            "by": e.candidate.proposer,
            "speedup": e.verdict.timing.speedup if e.verdict.timing else None,
        }
        for e in tasks.engine().entries()
    ]
    return {"ok": True, "kernels": found}


def _source(folder: str, text: str) -> Source:
    if not text:
        return tasks.source(Path(folder))
    language = tasks.engine().language.name
    return Source(language, text, "reference" if language == "null" else "kernel")
