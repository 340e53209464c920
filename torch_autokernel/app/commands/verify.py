"""`autokernel verify`."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch_autokernel.app.problems import load_one
from torch_autokernel.app.progress import Progress
from torch_autokernel.app.report import Report, duration
from torch_autokernel.capture.api import verify
from torch_autokernel.core import points
from torch_autokernel.core.errors import UsageError
from torch_autokernel.core.types import Finding, Status, Verdict
from torch_autokernel.verify.cases import LEVELS

EXAMPLE = "autokernel verify benchmarks/problems/softmax.py my_softmax.cpp"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("problem", help="the problem: a file or package.module:callable")
    parser.add_argument("candidate", help="the kernel's source; its language by its ending (.cpp)")
    parser.add_argument("--level", choices=tuple(LEVELS), default="full", help="how much is checked (default: %(default)s)")
    parser.add_argument("--seed", type=int, metavar="N", help="replay a verdict from its recorded seed (and level)")
    parser.add_argument("--arch", metavar="ARCH", help="the architecture to judge for; this machine's by default")


def run(args: argparse.Namespace, progress: Progress) -> Report:
    path = Path(args.candidate)
    if not path.is_file():
        raise UsageError(f"no file {path}", hint="give the kernel's source file")
    language = _language(path)
    problem = load_one(args.problem)
    if problem.kwargs:
        raise UsageError(
            f"{problem.name} gives its inputs by name; verify needs their order", hint="return a list from the inputs function"
        )
    progress.status(f"judging {path.name} for {problem.name}")
    problem.call()
    start = time.perf_counter()
    named: dict[str, Any] = {"static_sizes": problem.static_sizes} | ({} if args.seed is None else {"seed": args.seed})
    verdict = verify(problem.model, path, problem.inputs, language, args.arch, args.level, **named)
    seconds = time.perf_counter() - start
    replay = f"autokernel verify {args.problem} {args.candidate} --level {args.level} --seed {verdict.seed}"
    data = {"problem": problem.name, "candidate": str(path), "accepted": verdict.accepted, "why": verdict.why,
            "seconds": seconds, "verdict": verdict.to_json(), "replay": replay}  # fmt: skip
    text = told(verdict, f"{path.name} for {problem.name}", seconds)
    return Report(verdict.accepted, data, f"{text}\n  again: {replay}")


def _language(path: Path) -> str:
    known = {points.languages.get(name).suffix: name for name in points.languages.names()}
    if path.suffix not in known:
        raise UsageError(f"{path.name} ends in {path.suffix or 'nothing'}; known endings: {', '.join(sorted(known))}",
                         hint="the ending tells the language")  # fmt: skip
    return known[path.suffix]


def told(verdict: Verdict, what: str, seconds: float | None = None) -> str:
    """A verdict as a person reads it: the outcome, each check, the evidence of what failed, the timing."""
    spent = f" in {duration(seconds)}" if seconds is not None else ""
    lines = [f"{what}: {'accepted' if verdict.accepted else 'REJECTED'}{spent}: {verdict.why}"]
    width = max((len(f.check) for f in verdict.findings), default=0)
    for finding in verdict.findings:
        lines += _finding(finding, width, finding.check in verdict.required)
    if verdict.timing is not None:
        t = verdict.timing
        lines.append(f"  time: {t.speedup:.2f}x of {t.baseline} (95% interval {t.low:.2f} to {t.high:.2f})")
    return "\n".join(lines)


def _finding(finding: Finding, width: int, required: bool) -> list[str]:
    name = finding.status.value.upper() if finding.status in (Status.FAIL, Status.ERROR) else finding.status.value
    kind = "" if required else " (not required)"
    reason = finding.reason or _looked_at(finding)
    line = f"  {name:5} {finding.check:{width}} {duration(finding.seconds):>8}  {reason}{kind}".rstrip()
    if finding.status is Status.PASS:
        return [line]
    evidence = dict(finding.evidence)
    told = [(_CASES[key], _case(evidence.pop(key))) for key in _CASES if isinstance(evidence.get(key), Mapping)]
    told += [(key, value) for key, value in evidence.items() if value not in ("", [], {}) and key not in _IN_REASON]
    return [line, *(f"          {key}: {value}" for key, value in told)]


_CASES = {"case": "smallest failing case", "first_case": "first failing case"}
_IN_REASON = ("want", "got", "allowed", "index", "bad", "total", "output")


def _case(case: Mapping[str, Any]) -> str:
    sizes = " ".join(f"{name}={value}" for name, value in case.get("sizes", {}).items())
    return f"{sizes or 'fixed sizes'}, {case.get('distribution')} inputs, seed {case.get('seed')}"


def _looked_at(finding: Finding) -> str:
    """What a check that passed has seen, from its evidence."""
    evidence = finding.evidence
    counts = [key for key in ("cases", "calls", "symbols", "code_bytes") if key in evidence]
    told = [f"{evidence[key]} {key.replace('_', ' ')}" for key in counts]
    if "worst" in evidence:
        told.append(f"worst element at {evidence['worst']:.2g} of the expected deviation, limit 4")
    if layers := evidence.get("sandbox"):
        on = [name for name, held in layers.items() if str(held).startswith("on")]
        told.append(f"sandbox: {', '.join(on) or 'none'}")
    return ", ".join(told)
