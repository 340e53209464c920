"""A program with kernels for its loops, and whether it is faster than the call that it stands for.

A loop's kernel was timed against its printed reference; the layer it belongs to may run through a library instead. So the
whole call is timed, in turns, against the original and, where something around the loops could be fused, against
torch.compile. What was found is kept as a rehearsal's outcome is.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from typing import Any

from torch_autokernel.capture.ambient import ordinary_torch
from torch_autokernel.capture.record import Record, note
from torch_autokernel.capture.rehearsal import Outcome, kernels_of, key_of, recall, remember
from torch_autokernel.capture.staged import Staged, program
from torch_autokernel.core.config import Config
from torch_autokernel.core.errors import AutoKernelError, CaptureError
from torch_autokernel.engine import Decision, Engine

log = logging.getLogger(__name__)

ROUNDS = 60
SECONDS = 3.0


def with_kernels(staged: Staged, config: Config) -> tuple[Callable[..., Any], list[Decision]]:
    """The program over the graph's placeholders, and what was decided for its loops; raises CaptureError where one has no
    kernel."""
    engine = Engine.current(config)
    regions = [dataclasses.replace(s.region, phase="direct") for s in staged.scans.values()]
    with ordinary_torch():
        decisions = engine.resolve(regions, config)
    found = all(d.entry is not None for d in decisions)
    note(Record("inference", tuple(decisions), (), len(decisions) if found else 0))
    kernels = {}
    for node, decision in zip(staged.scans, decisions, strict=True):
        if decision.entry is None:
            raise CaptureError(decision.reason)
        kernels[node] = engine.load(decision.entry)
    return program(staged, kernels), decisions


def slower(staged: Staged, decisions: Sequence[Decision], contenders: dict[str, Callable[[], Any]], config: Config) -> str:
    """Why the program must not be used, or nothing. `contenders` are the program under the name "" and what it has to beat."""
    engine = Engine.current(config)
    if not engine.timed:
        return ""
    key, kernels = key_of(staged.graph, engine), kernels_of(decisions)
    outcome = recall(key, kernels, engine)
    if outcome is None and config.on_miss == "fallback":
        return ""
    if outcome is None:
        outcome = _measured(contenders, frozenset(kernels))
        try:
            remember(key, kernels, outcome, engine)
        except (AutoKernelError, OSError) as error:
            log.info("a trial's outcome is not kept: %s", error)
    log.info("trial: %s", outcome.reason)
    return "" if outcome.kept else outcome.reason


def _measured(contenders: dict[str, Callable[[], Any]], kernels: frozenset[str]) -> Outcome:
    from torch_autokernel.verify.statistics import interleave, paired_ratio  # imported here: a warm cache loads no `verify`

    samples = interleave(contenders, SECONDS, ROUNDS)
    told = {name: paired_ratio(samples[""], samples[name]) for name in contenders if name}
    worst = min(told, key=lambda name: told[name].low)
    found = told[worst]
    text = f"with kernels for its loops the call runs at {found.median:.2f}x ({found.low:.2f} to {found.high:.2f}) of {worst}"
    return Outcome(kernels if found.low >= 1 else frozenset(), text)

