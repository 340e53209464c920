"""Whole calls, timed in turns: a program with kernels for its loops against the call that it stands for; a compiled function
without any kernel against the plain one.

A loop's kernel was timed against its printed reference; the layer it belongs to may run through a library instead. So the
whole call is timed, in turns, against the original and, where something around the loops could be fused, against
torch.compile. What was found is kept as a rehearsal's outcome is.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from torch_autokernel.capture.ambient import ordinary_torch
from torch_autokernel.capture.record import Record, note
from torch_autokernel.capture.rehearsal import GRAPH, Outcome, kernels_of, key_of, recall, remember
from torch_autokernel.capture.staged import Staged, program
from torch_autokernel.core.config import Config
from torch_autokernel.core.errors import AutoKernelError, CaptureError
from torch_autokernel.core.types import CacheKey, Region, digest
from torch_autokernel.engine import Decision, Engine

if TYPE_CHECKING:
    from torch_autokernel.verify.statistics import Ratio

log = logging.getLogger(__name__)

ROUNDS = 60
SECONDS = 3.0
PLAIN, COMPILED = "plain", "compiled"


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
    kernels = kernels_of(decisions)
    may, measure = config.on_miss != "fallback", lambda: _measured(contenders, frozenset(kernels))
    outcome = _outcome(key_of(staged.graph, engine), kernels, engine, measure if may else None)
    return "" if outcome is None or outcome.kept else outcome.reason


def compiling_pays(region: Region, compiled: Callable[[], Any], eager: Callable[[], Any], config: Config) -> bool:
    """Whether a function that is one region without a kernel is faster through torch.compile than as it is: for small ones the
    guards of a compiled call cost more than all the rest. Both are run on the arguments at hand."""
    engine = Engine.current(config)
    if not engine.timed:
        return True
    name = digest([PLAIN, region.signature.digest, sorted(region.sizes.items()), torch.get_num_threads()])
    key, contest = CacheKey(name, engine.arch.key, engine.abi + GRAPH), {COMPILED: ""}

    def measure() -> Outcome:
        found = _samples({COMPILED: compiled, PLAIN: eager})(COMPILED, PLAIN)
        text = f"torch.compile runs the call at {found.median:.2f}x ({found.low:.2f} to {found.high:.2f}) of the plain one"
        return Outcome(frozenset() if found.high < 1 else frozenset(contest), text)

    outcome = _outcome(key, contest, engine, measure if config.on_miss == "generate" else None)
    return outcome is None or bool(outcome.kept)


def _outcome(
    key: CacheKey, contest: Mapping[str, str], engine: Engine, measure: Callable[[], Outcome] | None
) -> Outcome | None:
    """What was found before, or is now, and is kept then; None where nothing is known and nothing may be measured."""
    outcome = recall(key, contest, engine)
    if outcome is None and measure is not None:
        outcome = measure()
        try:
            remember(key, contest, outcome, engine)
        except (AutoKernelError, OSError) as error:
            log.info("a trial's outcome is not kept: %s", error)
    if outcome is not None:
        log.info("trial: %s", outcome.reason)
    return outcome


def _samples(contenders: dict[str, Callable[[], Any]]) -> Callable[[str, str], Ratio]:
    """All run in turns; gives how many times faster one is than another."""
    from torch_autokernel.verify.statistics import interleave, paired_ratio  # imported here: a warm cache loads no `verify`

    samples = interleave(contenders, SECONDS, ROUNDS)
    return lambda one, other: paired_ratio(samples[one], samples[other])


def _measured(contenders: dict[str, Callable[[], Any]], kernels: frozenset[str]) -> Outcome:
    faster = _samples(contenders)
    told = {name: faster("", name) for name in contenders if name}
    worst = min(told, key=lambda name: told[name].low)
    found = told[worst]
    text = f"with kernels for its loops the call runs at {found.median:.2f}x ({found.low:.2f} to {found.high:.2f}) of {worst}"
    return Outcome(kernels if found.low >= 1 else frozenset(), text)

