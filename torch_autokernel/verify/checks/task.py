"""Check `task`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from torch_autokernel.core.types import Finding, Status
from torch_autokernel.verify.bank import Prepared
from torch_autokernel.verify.inputs import redrawn


class Task:
    """The task can tell a right kernel from a lazy one.

    What it checks: of the region, not of the candidate: on some case each output varies, over all its elements and along each
    axis, and redrawing an input alone changes some output. A task that is degenerate under one distribution is judged on
    those under which it is not; where it is so under all of them the finding is a SKIP that says how. Never required.
    Why it matters: a constant is a right answer to a question that has only one.
    What it misses: outputs that vary, but where nobody would look.
    Example: softmax over one element; `relu(-exp(x))`; a weight that is multiplied by zero.
    """

    name = "task"

    def run(self, trial: Any) -> Finding:
        ordinary = [p for p in trial.cases if not p.special]
        if reasons := list(_constant(ordinary)) + list(_without_influence(ordinary, len(trial.region.signature.inputs))):
            return Finding(self.name, Status.SKIP, f"unfit for judging: {'; '.join(reasons)}", {"degenerate": reasons})
        return Finding(self.name, Status.PASS)


def _constant(cases: list[Prepared]) -> Iterator[str]:
    for i in range(len(cases[0].expected.targets) if cases else 0):
        outputs = [p.expected.targets[i].exact.double() for p in cases]
        several = [o for o in outputs if o.numel() > 1]
        if several and not any(_varies(o.reshape(1, -1)) for o in several):
            yield f"output {i} is constant on every case"
            continue
        for axis in range(outputs[0].dim()):
            long = [o for o in several if o.shape[axis] > 1]
            if long and not any(_varies(o.movedim(axis, -1).reshape(-1, o.shape[axis])) for o in long):
                yield f"output {i} does not vary along dimension {axis}"


def _varies(rows: torch.Tensor) -> bool:
    finite = rows.nan_to_num(0, 0, 0)
    spread = finite.amax(1) - finite.amin(1)
    return bool((spread > 1e-9 * finite.abs().amax(1).clamp_min(1e-300)).any())


def _without_influence(cases: list[Prepared], inputs: int) -> Iterator[str]:
    for i in range(inputs):
        pairs = [(p, base) for p in cases if redrawn(p.case) == i for base in cases if _same_but(p, base, i)]
        if pairs and not any(
            not torch.equal(a.exact.nan_to_num(), b.exact.nan_to_num())
            for p, base in pairs
            for a, b in zip(p.expected.targets, base.expected.targets, strict=True)
        ):
            yield f"input {i} has no influence on any output"


def _same_but(p: Prepared, base: Prepared, i: int) -> bool:
    """Whether only input i differs, and does: a redraw may draw the same again."""
    same_case = base.case.seed == p.case.seed and base.case.sizes == p.case.sizes and redrawn(base.case) < 0
    alike = base.case.distribution == p.case.distribution  # one input may be far from zero, the others not
    return same_case and alike and not torch.equal(p.inputs[i].nan_to_num(), base.inputs[i].nan_to_num())
