"""`autokernel task`: new, submit."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from torch_autokernel.app import tasks
from torch_autokernel.app.problems import load_one
from torch_autokernel.app.progress import Progress
from torch_autokernel.app.report import Report, size, table
from torch_autokernel.core.errors import UsageError
from torch_autokernel.verify.floor import compulsory_bytes

EXAMPLE = "autokernel task new benchmarks/problems/softmax.py --out softmax_task"


def arguments(parser: argparse.ArgumentParser) -> None:
    actions = "new: write a folder to work in; submit: judge and keep its kernel"
    parser.add_argument("action", choices=("new", "submit"), help=actions)
    parser.add_argument("target", help="new: a problem file or package.module:callable; submit: the folder")
    parser.add_argument("--out", metavar="FOLDER", help="new: the folder to write")
    parser.add_argument("--region", type=int, metavar="N", help="new: which region, 0 is the greatest (default)")
    parser.add_argument("--backward", action="store_true", help="new: the graphs of training, forward and backward")
    parser.add_argument("--check", action="store_true", help="submit: the verdict only, nothing timed or kept")


def run(args: argparse.Namespace, progress: Progress) -> Report:
    if args.action == "submit":
        _misplaced("submit", out=args.out, region=args.region is not None, backward=args.backward)
        folder = Path(args.target)
        task, kernel = tasks.read(folder), tasks.source(folder)
        progress.status(f"judging the kernel for {task.name}")
        return tasks.check(task, kernel) if args.check else tasks.submit(task, kernel)
    _misplaced("new", check=args.check)
    return _new(args, progress)


def _misplaced(action: str, **given: object) -> None:
    for name, value in given.items():
        if value:
            raise UsageError(f"task {action} does not take --{name}", hint="`autokernel task --help` tells what it takes")


def _new(args: argparse.Namespace, progress: Progress) -> Report:
    problem = load_one(args.target)
    progress.status(f"looking for regions in {problem.name}")
    with torch.set_grad_enabled(args.backward):
        found = tasks.regions(problem.training() if args.backward else problem, args.backward)
    number = args.region or 0
    rows = [[str(i), size(compulsory_bytes(d.region)), d.region.phase, d.reason] for i, d in enumerate(found)]
    if not 0 <= number < len(found):
        listed = table(["region", "moves", "phase", "state"], rows) if rows else "it has none"
        raise UsageError(f"{problem.name} has no region {number}", hint=f"its regions:\n{listed}")
    folder = Path(args.out or f"{problem.name.replace('/', '_')}_task")
    return tasks.new(found[number], problem.name, folder)
