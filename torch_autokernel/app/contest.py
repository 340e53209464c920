"""One problem, several contenders: run, compared with eager, timed interleaved."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from torch_autokernel.app.compare import difference, exact_results
from torch_autokernel.app.fresh import fresh_compilation
from torch_autokernel.app.problems import Problem, user_code
from torch_autokernel.capture.backend import autokernel as backend
from torch_autokernel.capture.decorator import autokernel
from torch_autokernel.capture.record import Record, recording
from torch_autokernel.core.errors import AutoKernelError
from torch_autokernel.core.types import Json
from torch_autokernel.verify.statistics import interleave, ratio

OURS = "autokernel"
BASELINES = ("eager", "inductor")
KNOWN = (*BASELINES, "max-autotune")
ROUNDS = 200
LEAST_ROUNDS = 12


@dataclass(frozen=True)
class Settings(Json):
    """What makes two runs comparable. `via`: `compile` (the backend) or `decorator`."""

    against: tuple[str, ...] = BASELINES
    backward: bool = False
    threads: int = 0
    via: str = "compile"
    seconds: float = 5.0


@dataclass(frozen=True)
class Row(Json):
    """The result of one problem. `outputs`: ok, wrong, random (eager differs from itself) or error. Times are medians in
    nanoseconds a call; `ratios` holds for each baseline how many times faster we are: median and 95% interval."""

    problem: str
    outputs: str
    reason: str = ""
    path: str = ""
    digest: str = ""
    regions: int = 0
    replaced: int = 0
    first_call_s: float = 0.0
    error_parts: float = 0.0
    times_ns: Mapping[str, float] = field(default_factory=dict)
    ratios: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return self.outputs in ("ok", "random")

    @property
    def key(self) -> tuple[str, ...]:
        return self.problem, self.path


def compete(problem: Problem, settings: Settings, status: Callable[[str], None]) -> Row:
    """Run, check and time one problem; what goes wrong with it is told in its row."""
    if settings.backward:
        problem = problem.training()
    try:
        with torch.set_grad_enabled(settings.backward):
            return _compete(problem, settings, status)
    except AutoKernelError as error:
        return Row(problem.name, "error", str(error))


def _compete(problem: Problem, settings: Settings, status: Callable[[str], None]) -> Row:
    def run(p: Problem) -> list[Any]:
        return flat(step(p.model, p, settings.backward)())

    status(f"{problem.name}: eager")
    with user_code(f"running {problem.name} in eager mode", problem.path):
        expected, again = run(problem), run(problem)
    exact = exact_results(problem, run)
    status(f"{problem.name}: autokernel")
    start = time.perf_counter()
    with fresh_compilation(), recording() as records:
        steps = {OURS: contender(OURS, problem, settings)}
        with user_code(f"running {problem.name} under autokernel", problem.path):
            got = flat(steps[OURS]())
    first_call_s = time.perf_counter() - start
    parts, where = difference(got, expected, exact)
    random = difference(again, expected)[0] > 1
    outputs = "random" if random else "ok" if parts <= 1 else "wrong"
    regions, replaced = count(records)
    reason = {"wrong": where, "random": "eager's results differ from run to run, so they were not compared"}.get(outputs, "")
    row = Row(problem.name, outputs, reason, regions=regions, replaced=replaced, first_call_s=first_call_s)
    row = replace(row, error_parts=0.0 if random else finite(parts))
    return row if outputs == "wrong" else replace(row, **_timed(problem, settings, status, steps))


def _timed(problem: Problem, settings: Settings, status: Callable[[str], None], steps: dict[str, Any]) -> dict[str, Any]:
    """Median times of all contenders, and the ratios to the baselines."""
    for name in settings.against:
        status(f"{problem.name}: {name}")
        steps[name] = contender(name, problem, settings)
        with user_code(f"running {problem.name} under {name}", problem.path):
            steps[name]()
    status(f"{problem.name}: timing")
    samples = sampled(steps, settings.seconds)
    ratios = {name: tuple(finite(v) for v in ratio(samples, OURS, name)) for name in settings.against}
    return {"times_ns": {name: statistics.median(s) for name, s in samples.items()}, "ratios": ratios}


def sampled(steps: Mapping[str, Callable[[], Any]], seconds: float) -> dict[str, list[float]]:
    """Interleaved samples of all contenders, enough of them for a 95% interval even on a busy machine."""
    samples = interleave(steps, seconds=seconds, rounds=ROUNDS)
    while (short := LEAST_ROUNDS - min(map(len, samples.values()))) > 0:
        for name, more in interleave(steps, seconds=seconds, rounds=short).items():
            samples[name] += more
    return samples


def finite(value: float) -> float:
    """JSON has no infinity."""
    return min(value, 1e300)


def count(records: Sequence[Record]) -> tuple[int, int]:
    """Regions found, and how many of them were replaced."""
    return sum(len(r.decisions) for r in records), sum(r.swapped for r in records)


def contender(name: str, problem: Problem, settings: Settings) -> Callable[[], Any]:
    """A call of the problem under one contender: ours, or one of `KNOWN`."""
    model: Any = problem.model
    if name == "eager":
        return step(model, problem, settings.backward)
    if name == "inductor":
        return step(torch.compile(model), problem, settings.backward)
    if name == "max-autotune":
        return step(torch.compile(model, options=max_autotune(settings.backward)), problem, settings.backward)
    if settings.via == "decorator":
        own = copy.deepcopy(model) if isinstance(model, nn.Module) else model  # the decorator changes a module in place
        return step(autokernel(own), problem, settings.backward)
    return step(torch.compile(model, backend=backend), problem, settings.backward)


def max_autotune(backward: bool) -> dict[str, Any]:
    """Inductor's options for `mode="max-autotune"`; for inference the weights are frozen and packed too."""
    from torch._inductor import list_mode_options

    return {**list_mode_options("max-autotune"), "freezing": not backward}


def step(call: Callable[..., Any], problem: Problem, backward: bool) -> Callable[[], Any]:
    """Forward, or forward and the gradients of all inputs and parameters that record them, under fixed random weights of
    the outputs (the plain sum of a softmax or a norm has no gradient but rounding)."""
    inputs, kwargs = problem.inputs, problem.kwargs
    if not backward:
        return lambda: call(*inputs, **kwargs)
    owner = call if isinstance(call, nn.Module) else problem.model
    parameters = list(owner.parameters()) if isinstance(owner, nn.Module) else []
    leaves = [t for t in (*inputs, *kwargs.values(), *parameters) if isinstance(t, torch.Tensor) and t.requires_grad]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        weights = [_weights(t) for t in _recording(call_once(problem))]

    def both() -> list[Any]:
        result = call(*inputs, **kwargs)
        return [result, torch.autograd.grad(_recording(result), leaves, weights, allow_unused=True)]

    return both


def _weights(result: torch.Tensor) -> torch.Tensor:
    """Random, and the same numbers in every dtype: torch draws others in float64, and the truth must be that of one problem."""
    if not result.dim():
        return torch.ones_like(result)
    return torch.randn(result.shape).to(torch.bfloat16).to(result.dtype)


def call_once(problem: Problem) -> Any:
    """The plain result; raises UsageError where nothing in it records gradients."""
    result = problem.call()
    with user_code(f"the backward pass of {problem.name}", problem.path):
        if not _recording(result):
            raise ValueError("no output depends on an input or parameter that records gradients")
    return result


def _recording(result: Any) -> list[torch.Tensor]:
    if isinstance(result, torch.Tensor):
        return [result] if result.requires_grad else []
    return [t for t in pytree.tree_leaves(result) if isinstance(t, torch.Tensor) and t.requires_grad]


def flat(result: Any) -> list[Any]:
    """The leaves, detached and copied: a contender may reuse its memory."""
    return [t.detach().clone() if isinstance(t, torch.Tensor) else t for t in pytree.tree_leaves(result)]
