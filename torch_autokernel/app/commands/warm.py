"""`autokernel warm`."""

from __future__ import annotations

import argparse

from torch_autokernel.app.bill import bill_table
from torch_autokernel.app.problems import Problem
from torch_autokernel.app.progress import Progress
from torch_autokernel.app.report import Report
from torch_autokernel.app.visit import visit
from torch_autokernel.capture.api import WarmReport, warm
from torch_autokernel.core.config import config

EXAMPLE = "autokernel warm benchmarks/problems/softmax.py --backward --max-seconds 300"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", nargs="+", help="package.module:callable, a problem file, or a folder of them")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="limit for an LLM's tokens in the search of one graph")
    parser.add_argument("--max-money", type=float, metavar="M", help="limit for an LLM's price; needs a price table")
    parser.add_argument("--arch", metavar="ARCH", help="the architecture to warm for; this machine's by default")
    parser.add_argument(
        "--backward", action="store_true", help="the graphs of training, forward and backward, not of inference"
    )


def run(args: argparse.Namespace, progress: Progress) -> Report:
    given = {"max_tokens": args.max_tokens, "max_money": args.max_money}
    with config.patch(**{k: v for k, v in given.items() if v is not None}):
        return _run(args, progress)


def _run(args: argparse.Namespace, progress: Progress) -> Report:
    def act(problem: Problem) -> WarmReport:
        budget, kwargs = args.max_seconds, problem.kwargs
        return warm(problem.model, problem.inputs, arch=args.arch, budget=budget, backward=args.backward, kwargs=kwargs)

    report = visit(args.target, args.backward, progress.status, act, not_ok=("miss", "error"))
    if not progress.bill.rows:
        return report
    return Report(report.ok, {**report.data, "llm": progress.bill.to_json()}, f"{report.text}\n{bill_table(progress.bill)}")
