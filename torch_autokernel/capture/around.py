"""Inference calls of a forward with a loop over time and products around it: the loop is a kernel, the rest runs as it is.

A kernel holds no products around its loop. So the call is read as for training (`loop_plan.py`), the loop alone is a region,
and what stands before and behind it runs as eager runs it, or as one compiled graph with the kernel in its middle, where that
is faster.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import threading
import types
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.utils import _pytree as pytree

from torch_autokernel.capture import operators, purity
from torch_autokernel.capture.ambient import ordinary_torch
from torch_autokernel.capture.arguments import unusual
from torch_autokernel.capture.backend import autokernel as backend
from torch_autokernel.capture.direct import MISS, SLOWER, Plan, or_reason
from torch_autokernel.capture.loop_plan import loop_operands, structure
from torch_autokernel.capture.loop_region import Loop
from torch_autokernel.capture.loop_signature import T
from torch_autokernel.capture.loop_training import alone
from torch_autokernel.capture.record import Record, note
from torch_autokernel.capture.recurrence import LEAST, capture_recurrence, longest
from torch_autokernel.capture.trial import compiling_around_pays, kernel_pays
from torch_autokernel.capture.whole import named_state, plain_forward
from torch_autokernel.capture.witness import agree, witness
from torch_autokernel.core.config import Config
from torch_autokernel.core.errors import CaptureError, GuardMiss
from torch_autokernel.engine import Engine

log = logging.getLogger(__name__)

_GRAPHS: dict[tuple[Any, int], Callable[..., Any]] = {}  # loops' kernels with what stands around, by what the call computes
_LOCK = threading.Lock()
_MOST_GRAPHS = 64
_MOST_LENGTHS = 2  # of one call that get a graph, each compiled anew


def plan_around(
    function: Callable[..., Any], args: tuple[Any, ...], module: torch.nn.Module | None, config: Config,
    options: Mapping[str, Any],
) -> Plan | str:  # fmt: skip
    """A plan for calls like this one, which record no gradients, or the reason why there is none. `options` are the decorator's
    own, as torch.compile takes them."""
    tensors = [*(a for a in args if isinstance(a, torch.Tensor)), *named_state(module)]
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
        return "gradients are recorded"
    if unusual(tensors):
        return "a tensor is not a plain one on the CPU"
    if longest(args) < LEAST:
        return "a loop of a few steps"
    watched = purity.watch(function, module)
    if watched.reason is not None:
        return watched.reason
    planned = lambda: _planned(function, args, module, config, watched, options)
    return or_reason(planned, config, "a loop cannot be a kernel alone")


def _planned(
    function: Callable[..., Any], args: tuple[Any, ...], module: torch.nn.Module | None, config: Config,
    watched: purity.Watched, options: Mapping[str, Any],
) -> Plan | str:  # fmt: skip
    with torch.no_grad():
        whole = capture_recurrence(function, args, module, structure())
        loop = Loop.of(whole.captured.region.signature)
        call, length, state = loop.call(), whole.captured.region.sizes[T], named_state(module)
        region = alone(loop, loop_operands(whole, call, args, state, length), length)
        engine = Engine.current(config)
        with ordinary_torch():
            (decision,) = engine.resolve([region], config)
        note(Record("inference", (decision,), (), int(decision.entry is not None)))
        if decision.entry is None:
            return decision.reason
        kernel = engine.load(decision.entry)

        def planned(run: Callable[..., Any]) -> Plan:
            return Plan(run, args, watched, whole.order, state, whole.outputs, whole.out_spec)

        def run(*given: torch.Tensor) -> Any:
            return call(lambda operands, _length: kernel(*operands), *given, length)

        theirs = witness(whole, function, args, module)
        plan = planned(run)
        if not _agrees(plan, args, theirs):
            return "the loop's kernel and the original differ at this length"

        @functools.cache
        def compiled() -> Plan:
            """With the kernel as an operator in one graph; layers that are alike have the same."""
            assert decision.entry is not None
            kind = whole.captured.region.signature.digest, decision.entry.op_name, config, repr(sorted(options.items()))
            through = _through(call, operators.ensure(decision.entry, engine.load), length)
            make = functools.partial(torch.compile, through, backend=backend, dynamic=False, options=dict(options) or None)
            found = planned(_Graph(_graph(kind, length, make)))
            if not _agrees(found, args, theirs):
                raise CaptureError("what stands around a loop differs where it is compiled")
            return found

        def in_a_graph() -> Plan | str:
            if not operators.callable_as_operator(region.signature):
                return "the kernel is no operator"
            contest = whole.captured.region, decision, lambda: functools.partial(compiled(), args), lambda: plan(args)
            return compiled() if compiling_around_pays(*contest, config) else "no faster as one graph"

        original = function if module is None else functools.partial(function, module)
        with plain_forward(module, function):
            pays = kernel_pays(whole.captured.region, decision, lambda: lambda: plan(args), lambda: original(*args), config)
        if not pays:
            return SLOWER
        found = or_reason(in_a_graph, dataclasses.replace(config, strict=False), "what stands around a loop cannot be compiled")
        return found if isinstance(found, Plan) else plan


def _graph(kind: tuple[Any, ...], length: int, make: Callable[[], Callable[..., Any]]) -> Callable[..., Any]:
    """The graph for calls of this kind and length; the first to be made goes where there are too many."""
    with _LOCK:
        if (kind, length) not in _GRAPHS:
            if sum(k == kind for k, _length in _GRAPHS) >= _MOST_LENGTHS:
                raise CaptureError("there are graphs for other lengths")
            if len(_GRAPHS) >= _MOST_GRAPHS:
                del _GRAPHS[next(iter(_GRAPHS))]
            _GRAPHS[kind, length] = make()
        return _GRAPHS[kind, length]


class _Graph:
    """A compiled graph for tensors as they are in its first call. Others are a miss: dynamo would compile it anew for another
    dtype, around a kernel that does not take it."""

    def __init__(self, graph: Callable[..., Any]) -> None:
        self.graph = graph
        self.form: list[Any] | None = None

    def __call__(self, *given: torch.Tensor) -> Any:
        form = [(t.dtype, t.shape, t.stride()) for t in given]
        if self.form is None:
            self.form = form
        if form != self.form:
            raise GuardMiss("a tensor is not as it was when the graph was compiled")
        try:
            with torch.no_grad():
                return self.graph(*given)
        except Exception as error:  # a guard of dynamo's failed, and so did what it compiled then; the plain call may not
            self.form = []
            log.warning("a graph around a loop fails and is not used again: %s: %s", type(error).__name__, error)
            raise GuardMiss("the graph failed") from error


def _through(call: Callable[..., Any], operator: operators.Operator, length: int) -> types.FunctionType:
    """The call with the loop's kernel as an operator, for dynamo, which keeps what it compiled with the code object."""
    single = len(operator.entry.signature.output_specs) == 1

    def through(*given: torch.Tensor) -> Any:
        kernel = operator.overload
        return call(lambda operands, _length: (kernel(*operands),) if single else kernel(*operands), *given, length)

    through.__code__ = through.__code__.replace()
    assert isinstance(through, types.FunctionType)
    return through


def _agrees(plan: Plan, args: tuple[Any, ...], theirs: list[Any]) -> bool:
    mine = plan(args)
    return mine is not MISS and agree(pytree.tree_leaves(mine), theirs)
