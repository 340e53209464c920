"""`autokernel serve-mcp`."""

from __future__ import annotations

import argparse
import contextlib
import sys

from torch_autokernel.app.progress import Progress
from torch_autokernel.app.report import Report

EXAMPLE = "autokernel serve-mcp --cache-dir /tmp/kernels"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Nothing beside the common options: the transport is stdin and stdout."""


def run(args: argparse.Namespace, progress: Progress) -> Report:
    from torch_autokernel.app.mcp_server import build  # imported here: `--help` needs neither torch nor the SDK

    server = build()
    with contextlib.redirect_stdout(sys.__stdout__):  # the protocol's stream; the SDK keeps others from writing to it
        server.run("stdio")
    return Report(True, {"served": "stdio"}, "")
