"""Inference calls of a forward with a loop over time and products around it: the loop is a kernel, the rest runs as it is.

A kernel holds no products around its loop. So the call is read as for training (`loop_plan.py`), the loop alone is a region,
and what stands before and behind it is what eager runs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.utils import _pytree as pytree

from torch_autokernel.capture import purity
from torch_autokernel.capture.ambient import ordinary_torch
from torch_autokernel.capture.direct import MISS, SLOWER, Plan, or_reason
from torch_autokernel.capture.loop_plan import loop_operands, named_state, structure
from torch_autokernel.capture.loop_region import Loop
from torch_autokernel.capture.loop_signature import T
from torch_autokernel.capture.loop_training import alone
from torch_autokernel.capture.record import Record, note
from torch_autokernel.capture.recurrence import LEAST, capture_recurrence, longest
from torch_autokernel.capture.trial import kernel_pays
from torch_autokernel.capture.whole import plain_forward
from torch_autokernel.capture.witness import agree, witness
from torch_autokernel.core.config import Config
from torch_autokernel.engine import Engine


def plan_around(
    function: Callable[..., Any], args: tuple[Any, ...], module: torch.nn.Module | None, config: Config
) -> Plan | str:
    """A plan for calls like this one, which record no gradients, or the reason why there is none."""
    tensors = [*(a for a in args if isinstance(a, torch.Tensor)), *named_state(module)]
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
        return "gradients are recorded"
    if any(t.device.type != "cpu" or t.is_conj() or t.is_neg() or t.layout is not torch.strided for t in tensors):
        return "a tensor is not a plain one on the CPU"
    if longest(args) < LEAST:
        return "a loop of a few steps"
    watched = purity.watch(function, module)
    if watched.reason is not None:
        return watched.reason
    return or_reason(lambda: _planned(function, args, module, config, watched), config, "a loop cannot be a kernel alone")


def _planned(
    function: Callable[..., Any], args: tuple[Any, ...], module: torch.nn.Module | None, config: Config, watched: purity.Watched
) -> Plan | str:
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

        def run(*given: torch.Tensor) -> Any:
            return call(lambda operands, _length: kernel(*operands), *given, length)

        plan = Plan(run, args, watched, whole.order, state, whole.outputs, whole.out_spec)
        mine = plan(args)
        if mine is MISS or not agree(pytree.tree_leaves(mine), witness(whole, function, args, module)):
            return "the loop's kernel and the original differ at this length"
        original = function if module is None else functools.partial(function, module)
        with plain_forward(module, function):
            pays = kernel_pays(whole.captured.region, decision, lambda: lambda: plan(args), lambda: original(*args), config)
        return plan if pays else SLOWER
