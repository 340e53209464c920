"""`autokernel warm`."""

from __future__ import annotations

import argparse

from torch_autokernel.app.problems import Problem
from torch_autokernel.app.progress import Progress
from torch_autokernel.app.report import Report
from torch_autokernel.app.visit import visit
from torch_autokernel.capture.api import WarmReport, warm

EXAMPLE = "autokernel warm benchmarks/problems/softmax.py --backward --max-seconds 300"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", nargs="+", help="package.module:callable, a problem file, or a folder of them")
    parser.add_argument("--arch", metavar="ARCH", help="the architecture to warm for; this machine's by default")
    parser.add_argument(
        "--backward", action="store_true", help="the graphs of training, forward and backward, not of inference"
    )


def run(args: argparse.Namespace, progress: Progress) -> Report:
    def act(problem: Problem) -> WarmReport:
        budget, kwargs = args.max_seconds, problem.kwargs
        return warm(problem.model, problem.inputs, arch=args.arch, budget=budget, backward=args.backward, kwargs=kwargs)

    return visit(args.target, args.backward, progress.status, act, not_ok=("miss", "error"))
