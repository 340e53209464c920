"""Doing one thing to every problem of the targets given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from torch_autokernel.app.fresh import fresh_compilation
from torch_autokernel.app.problems import Problem, expand, load
from torch_autokernel.app.report import Report
from torch_autokernel.capture.api import Explanation, WarmReport
from torch_autokernel.core.config import config
from torch_autokernel.core.errors import UsageError

Act = Callable[[Problem], Explanation | WarmReport]


def visit(
    targets: Sequence[str], backward: bool, status: Callable[[str], None], act: Act, not_ok: Sequence[str] = ()
) -> Report:
    """`act` on each problem, its results and texts collected; not ok where a region's outcome is one of `not_ok`. With
    several problems one that cannot be run is reported and makes the whole not ok; a single one raises."""
    data: list[dict[str, Any]] = []
    texts: list[str] = []
    ok = True
    files = expand(targets)
    for number, target in enumerate(files, 1):
        status(f"[{number}/{len(files)}] {target}")
        try:
            for problem in load(target):
                result = _one(problem, backward, act)
                explanation = result.explanation if isinstance(result, WarmReport) else result
                ok &= not any(r.outcome in not_ok for r in explanation.regions)
                data.append({"problem": problem.name, "replaced": explanation.replaced, **result.to_json()})
                texts.append(f"{problem.name}: {result}")
        except UsageError as error:
            if len(files) == 1:
                raise
            ok = False
            data.append({"problem": target, "error": error.message, "hint": error.hint})
            texts.append(f"{target}: error: {error}")
    return Report(ok, {"targets": data}, "\n".join(texts))


def _one(problem: Problem, backward: bool, act: Act) -> Explanation | WarmReport:
    """The problem is called in eager mode first, so that its own errors are told as such; ours are raised, not fallen
    back from."""
    with torch.set_grad_enabled(backward), config.patch(strict=True):
        problem.call()
        with fresh_compilation():
            return act(problem.training() if backward else problem)
