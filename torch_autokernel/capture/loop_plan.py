"""Training calls of a forward with a loop over time: from the user's arguments to the loop's two kernels.

A plan is for calls of one kind (sizes, strides, which tensors want gradients). It is used where both kernels were found, and
where beside the original, at the length at hand, it gave the same results and gradients and was no slower forward and backward
together. Every other call is for torch.compile.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.utils import _pytree as pytree

from torch_autokernel.capture import purity
from torch_autokernel.capture.arguments import identity
from torch_autokernel.capture.beside import Beside, apart, refuted
from torch_autokernel.capture.direct import MISS, or_reason
from torch_autokernel.capture.loop_function import LoopFunction, LoopKernels, unread
from torch_autokernel.capture.loop_region import Loop
from torch_autokernel.capture.loop_signature import T
from torch_autokernel.capture.loop_training import differentiate
from torch_autokernel.capture.ops import LOOP
from torch_autokernel.capture.recurrence import LEAST, Where, capture_recurrence, longest, loops
from torch_autokernel.capture.reference import load_reference
from torch_autokernel.capture.signature import dtype_name
from torch_autokernel.capture.trainable import both_decided, watched_for_training
from torch_autokernel.capture.whole import Constant, Whole, named_state
from torch_autokernel.capture.witness import witness
from torch_autokernel.core import dims
from torch_autokernel.core.config import Config, config
from torch_autokernel.core.errors import GuardMiss
from torch_autokernel.core.types import Signature
from torch_autokernel.engine import Engine

log = logging.getLogger(__name__)
Tensor = torch.Tensor
Module = torch.nn.Module | None
Function = Callable[..., Any]

_MAX_PLANS = 256  # one for each length
_MAX_RENEWALS = 8


class _Other(Exception):
    """The operands want other gradients than the plan's."""


class Trainer:
    """The plans of one decorated callable."""

    def __init__(self, function: Function, module: Module, options: dict[str, Any]) -> None:
        self.function, self.module, self.options = function, module, options
        self.loops = loops(function, module)
        self.plans: dict[Any, TrainingPlan] = {}
        self.failed: dict[Any, str] = {}
        self.renewals = 0

    def __call__(self, args: tuple[Any, ...]) -> Any:
        """The result, recorded by autograd, or MISS. Only for calls in a plain world, with gradients enabled."""
        key = self._key(args)
        if key is None:
            return MISS
        plan = self.plans.get(key)
        if plan is not None and not plan.watched.holds() and self.renewals < _MAX_RENEWALS:
            self.renewals += 1
            self.plans.clear()
            plan = None
        if plan is None:
            if key in self.failed or len(self.plans) >= _MAX_PLANS:
                return MISS
            plan = self._plan(key, args)
        return MISS if plan is None else plan(args)

    def gave_up(self, args: tuple[Any, ...]) -> bool:
        """Whether a plan for calls like this one was looked for, and there is none."""
        return self._key(args) in self.failed

    def _key(self, args: tuple[Any, ...]) -> Any:
        key = identity(args)
        if key is None or self.module is None:
            return key
        return key, tuple([p.requires_grad for p in self.module.parameters()])

    def _plan(self, key: Any, args: tuple[Any, ...]) -> TrainingPlan | None:
        resolved = config.resolve(self.options)
        made: TrainingPlan | str = "disabled"
        if not resolved.disable:
            made = make_training_plan(self.function, args, self.module, resolved, list(self.plans.values()))
        if isinstance(made, TrainingPlan):
            self.plans[key] = made
            return made
        self.failed[key] = made
        log.info("%s is not trained by kernels: %s", getattr(self.function, "__qualname__", self.function), made)
        return None


class TrainingPlan:
    """Calls of one kind, which is what the trainer's key says."""

    def __init__(self, whole: Whole, call: Function, kernels: LoopKernels, args: tuple[Any, ...], watched: purity.Watched,
                 module: Module) -> None:  # fmt: skip
        self.whole, self.call, self.kernels, self.watched = whole, call, kernels, watched
        self.forms = forms(args)
        self.scalars = [a for a in args if not isinstance(a, Tensor)]
        self.tensors = [i for i, a in enumerate(args) if isinstance(a, Tensor)]
        self.signs = [(i, math.copysign(1.0, a)) for i, a in enumerate(args) if type(a) is float and a == 0]
        self.state = named_state(module)
        self.default_dtype = torch.get_default_dtype()

    def at_length(self, args: tuple[Any, ...], watched: purity.Watched, module: Module) -> TrainingPlan | None:
        """The same for arguments that differ in length alone, or None where they differ otherwise."""
        where, tensors = self.whole.where, [a for a in args if isinstance(a, Tensor)]
        if where is None or [a for a in args if not isinstance(a, Tensor)] != self.scalars or len(tensors) != len(self.forms):
            return None
        lengths = {t.shape[d] for k, t in enumerate(tensors) for d in range(t.dim()) if (k, d) in where}
        if len(lengths) != 1 or _but(where, forms(args)) != _but(where, self.forms):
            return None
        if any(a is not b for a, b in zip(self.state, named_state(module), strict=True)):
            return None
        (length,), kernels = lengths, self.kernels
        steps = dims.evaluate(kernels.training.steps, {T: length})
        if steps < 1:
            return None
        region = replace(self.whole.captured.region, sizes={T: length})
        whole = replace(self.whole, captured=replace(self.whole.captured, region=region))
        kernels = replace(kernels, length=length, steps=steps, reached=kernels.training.reached(steps))
        plan = TrainingPlan(whole, self.call, kernels, args, watched, module)
        return plan if plan.fits(args) else None

    def fits(self, args: tuple[Any, ...]) -> bool:
        """Whether the loop's operands for these arguments are those that the kernels take."""
        operands = loop_operands(self.whole, self.call, args, self.state, self.kernels.length)
        if tuple(t.requires_grad for t in operands) != self.kernels.wanted:
            return False
        signature = self.kernels.training.forward.signature
        if [dtype_name(t.dtype) for t in operands] != [s.dtype for s in signature.inputs]:
            return False
        try:
            signature.bind(tuple(tuple(t.shape) for t in operands), tuple(t.stride() for t in operands))
        except ValueError:
            return False
        return True

    def __call__(self, args: tuple[Any, ...]) -> Any:
        if torch.get_default_dtype() is not self.default_dtype or not self.watched.holds():
            return MISS
        if any(math.copysign(1.0, args[i]) != sign for i, sign in self.signs):
            return MISS
        try:
            return self.run([*(args[i] for i in self.tensors), *self.state])
        except (GuardMiss, _Other):
            return MISS

    def run(self, tensors: Sequence[Tensor]) -> Any:
        """The result for arguments and state in this order; raises GuardMiss or _Other where the kernels are not for them."""
        results = self.call(self._loop, *(tensors[i] for i in self.whole.order), self.kernels.length)
        leaves = [o.value if isinstance(o, Constant) else results[o] for o in self.whole.outputs]
        return pytree.tree_unflatten(leaves, self.whole.out_spec)

    def _loop(self, operands: list[Tensor], length: int) -> tuple[Tensor, ...]:
        if tuple([t.requires_grad for t in operands]) != self.kernels.wanted:
            raise _Other
        others = unread(operands, self.kernels.read)
        return LoopFunction.apply(self.kernels, others, *operands)  # type: ignore[no-any-return, no-untyped-call]


def forms(args: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    return [(tuple(a.shape), a.dtype, a.requires_grad) for a in args if isinstance(a, Tensor)]


def _but(where: Where, these: Sequence[tuple[Any, ...]]) -> list[Any]:
    """The forms without the sizes that are time."""
    return [([n for d, n in enumerate(shape) if (k, d) not in where], more) for k, (shape, *more) in enumerate(these)]


def make_training_plan(
    function: Function, args: tuple[Any, ...], module: Module, config: Config, known: Sequence[TrainingPlan] = ()
) -> TrainingPlan | str:
    """A plan for calls like this one, or the reason why there is none. Kernels of a `known` plan for another length serve this
    one too."""
    tensors = [*(a for a in args if isinstance(a, Tensor)), *named_state(module)]
    found = watched_for_training(function, module, tensors)
    if isinstance(found, str):
        return found
    watched = found

    def made() -> TrainingPlan | str:
        with apart():
            for other in known:
                if (plan := other.at_length(args, watched, module)) is not None:
                    shorter = plan.kernels.length < other.kernels.length  # a longer loop gains no less
                    return _refuted(plan, function, args, module, shorter and Engine.current(config).timed) or plan
            if longest(args) < LEAST:
                return "a loop of a few steps"
            return _planned(function, args, module, config, watched)

    return or_reason(made, config, "a loop cannot be trained by kernels")


def _planned(
    function: Function, args: tuple[Any, ...], module: Module, config: Config, watched: purity.Watched
) -> TrainingPlan | str:
    whole = capture_recurrence(function, args, module, structure())
    loop = Loop.of(whole.captured.region.signature)
    if any("detach" in name for name in targets(whole.captured.region.signature)):
        return "a gradient is stopped within the function"
    call, length = loop.call(), int(next(iter(whole.captured.region.sizes.values())))
    operands = loop_operands(whole, call, args, named_state(module), length)
    wanted = tuple(t.requires_grad for t in operands)
    if not any(wanted):
        return "no gradient flows through the loop"
    training = differentiate(loop, [t.detach() for t in operands], wanted, length)
    engine = Engine.current(config)
    decisions = both_decided([training.forward, training.backward], engine, config)
    if isinstance(decisions, str):
        return decisions
    forward, backward = (engine.load(d.entry) for d in decisions if d.entry is not None)
    steps = dims.evaluate(loop.steps, dict(whole.captured.region.sizes))
    plainly, reached = load_reference(training.plainly), training.reached(steps)
    kernels = LoopKernels(training, forward, backward, wanted, length, steps, reached, plainly)
    plan = TrainingPlan(whole, call, kernels, args, watched, module)
    return _refuted(plan, function, args, module, engine.timed) or plan


def targets(signature: Signature) -> list[str]:
    """The names of all operations, those of a loop's body among them."""
    inside = [target for op in signature.ops if op.target == LOOP for target, *_ in op.args[4]]
    return [*(op.target for op in signature.ops), *inside]


def structure() -> dict[Any, Any]:
    """What a trace for training takes apart: views and constants, of which the derivative stays the same."""
    from torch._inductor.decomposition import select_decomp_table

    aten = torch.ops.aten
    every = select_decomp_table()
    return {
        op: every[op]
        for op in (
            aten.stack.default, aten.t.default, aten.transpose.int, aten.new_zeros.default, aten.zeros.default,
            aten.zeros_like.default, aten.new_full.default, aten.full_like.default, aten.ones.default, aten.ones_like.default,
            aten.new_ones.default, aten.unsafe_split.Tensor,
        )
    }  # fmt: skip


class _Enough(Exception):
    pass


def loop_operands(whole: Whole, call: Function, args: tuple[Any, ...], state: Sequence[Tensor], length: int) -> list[Tensor]:
    """The loop's operands as what stands before it makes them of leaves like the arguments."""
    found: list[Tensor] = []

    def loop(operands: list[Tensor], _length: int) -> Any:
        found.extend(operands)
        raise _Enough

    flat = [t.detach().requires_grad_(t.requires_grad) for t in (*(a for a in args if isinstance(a, Tensor)), *state)]
    try:
        call(loop, *(flat[i] for i in whole.order), length)
    except _Enough:
        pass
    return found


def _refuted(plan: TrainingPlan, function: Function, args: tuple[Any, ...], module: Module, timed: bool) -> str:
    """Why the kernels must not stand for this call, or nothing: the original runs beside them."""
    witness(plan.whole, function, args, module)
    beside = Beside(plan.run, function, args, module)
    if reason := refuted(beside):
        return f"{reason} at this length"
    if timed and not beside.faster():
        return "forward and backward together are no faster than the original"
    return ""
