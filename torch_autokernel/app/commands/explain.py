"""`autokernel explain`."""

from __future__ import annotations

import argparse

from torch_autokernel.app.problems import Problem
from torch_autokernel.app.progress import Progress
from torch_autokernel.app.report import Report
from torch_autokernel.app.visit import visit
from torch_autokernel.capture.api import Explanation, explain

EXAMPLE = "autokernel explain benchmarks/problems/softmax.py"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", nargs="+", help="package.module:callable, a problem file, or a folder of them")
    parser.add_argument(
        "--backward", action="store_true", help="the graphs of training, forward and backward, not of inference"
    )


def run(args: argparse.Namespace, progress: Progress) -> Report:
    def act(problem: Problem) -> Explanation:
        return explain(problem.model, *problem.inputs, backward=args.backward, **problem.kwargs)

    return visit(args.target, args.backward, progress.status, act)
