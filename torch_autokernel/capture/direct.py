"""Direct calls: from the user's arguments to the kernel without dynamo, AOTAutograd or Inductor in between."""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch.utils import _pytree as pytree

from torch_autokernel.capture import purity
from torch_autokernel.capture.ambient import ordinary_torch
from torch_autokernel.capture.holder import flat, held, nested, regrouped, without_self
from torch_autokernel.capture.index_guard import guarded
from torch_autokernel.capture.record import Record, note
from torch_autokernel.capture.recurrence import LEAST, UNROLLED, Unrolls, capture_recurrence, longest, loops
from torch_autokernel.capture.staged import capture_staged, concerns
from torch_autokernel.capture.trial import kernel_pays, slower, with_kernels
from torch_autokernel.capture.whole import Constant, Whole, capture_whole, named_state, plain_forward
from torch_autokernel.capture.witness import agree, witness
from torch_autokernel.core.config import Config
from torch_autokernel.core.errors import AutoKernelError, CaptureError, GuardMiss
from torch_autokernel.engine import Engine
from torch_autokernel.lang.call_cache import MOST_ARGUMENTS, Route, form

log = logging.getLogger(__name__)

MISS = object()
SLOWER = "the kernel is slower than the call as it is"
P = TypeVar("P")

_tracing = torch._C._get_tracing_state
_dual = torch.autograd.forward_ad
# What must be false, and what must be that very object, where nothing changes what operations mean: no autocast, vmap, modes,
# tracing, compilation or forward derivatives.
_WORLD = (
    (torch._C._len_torch_dispatch_stack, (), None),
    (torch._C._len_torch_function_stack, (), None),
    (torch.is_autocast_enabled, ("cpu",), None),
    (torch._C._functorch.peek_interpreter_stack, (), None),
    (_tracing, (), None),
)
_WORLD_VALUES = ((vars(torch.compiler), "_is_compiling_flag", False), (vars(_dual), "_current_level", -1))


def plain_world() -> bool:
    """Whether nothing around the call changes what operations mean."""
    return not any(asked(*args) for asked, args, _ in _WORLD) and all(d[key] is value for d, key, value in _WORLD_VALUES)


def goes_through_nothing_compiled() -> bool:
    """Whether something is under way that compiled functions do not take part in: forward derivatives, torch.jit's tracing."""
    return _tracing() is not None or _dual._current_level >= 0


def watched_world(default_dtype: torch.dtype) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """A plain world with this default dtype, as a route's `world` and `values`."""
    return (*_WORLD, (torch.get_default_dtype, (), default_dtype)), _WORLD_VALUES


def _sign(value: Any) -> float:
    """The sign of a float zero, which equality does not tell; 0 for anything else."""
    return math.copysign(1.0, value) if type(value) is float and value == 0 else 0.0


class Plan:
    """One kernel for calls of one kind; found by `shapes(args)`, which it does not check again."""

    __slots__ = (
        "args",
        "default_dtype",
        "expected",
        "form",
        "indices",
        "kernel",
        "nested",
        "outputs",
        "parameters",
        "scalars",
        "simple",
        "unflatten",
        "watched",
    )

    def __init__(self, kernel: Callable[..., Any], args: tuple[Any, ...], watched: purity.Watched, order: tuple[int, ...],
                 parameters: list[torch.Tensor], outputs: tuple[Any, ...], out_spec: pytree.TreeSpec) -> None:  # fmt: skip
        self.kernel = kernel
        self.nested = nested(args)
        args = flat(args)
        self.expected = len(args)
        self.form = form(args)
        self.scalars = [(i, type(a), a, _sign(a)) for i, a in enumerate(args) if not isinstance(a, torch.Tensor)]
        tensors = [i for i, a in enumerate(args) if isinstance(a, torch.Tensor)]
        self.args = tensors
        self.indices = [(True, tensors[k]) if k < len(tensors) else (False, k - len(tensors)) for k in order]
        self.parameters = parameters
        self.watched = watched
        self.outputs = outputs
        self.simple = out_spec.is_leaf() and outputs == (0,)
        self.unflatten = out_spec
        self.default_dtype = torch.get_default_dtype()

    def __call__(self, args: tuple[Any, ...]) -> Any:
        """The result, or MISS where this plan is not for these arguments."""
        if self.nested:
            args = flat(args)
        if len(args) != self.expected or torch.get_default_dtype() is not self.default_dtype:
            return MISS
        for i, kind, value, sign in self.scalars:
            if type(args[i]) is not kind or args[i] != value or (sign and math.copysign(1.0, args[i]) != sign):
                return MISS
        if not self.watched.holds():
            return MISS
        tensors = [args[i] if given else self.parameters[i] for given, i in self.indices]
        if torch.is_grad_enabled():
            for i in self.args:
                if args[i].requires_grad:
                    return MISS
            for p in self.parameters:
                if p.requires_grad:
                    return MISS
        try:
            results = self.kernel(*tensors)
        except GuardMiss:
            return MISS
        return results[0] if self.simple else self._finished(results)

    def _finished(self, results: Sequence[Any]) -> Any:
        """The call's result, with the constants that the kernel does not make."""
        leaves = [o.value if isinstance(o, Constant) else results[o] for o in self.outputs]
        return pytree.tree_unflatten(leaves, self.unflatten)

    def route(self) -> Route | None:
        """The plan as the call cache takes it; None for what only Python can look into."""
        if self.nested or self.expected > MOST_ARGUMENTS:
            return None
        order = tuple(i if given else self.expected + i for given, i in self.indices)
        world, values = watched_world(self.default_dtype)
        finish = None if self.simple else self._finished
        return Route(self.form, self.kernel, order=order, parameters=self.parameters, finish=finish, world=world,
                     values=(*values, *self.watched.entries), cells=self.watched.cells, empty=self.watched.empty)  # fmt: skip


def make_plan(
    function: Callable[..., Any], args: tuple[Any, ...], module: torch.nn.Module | None, config: Config,
    compiled: Callable[..., Any] | None = None, route: Callable[[Plan], Callable[[], Any]] | None = None,
) -> Plan | str:  # fmt: skip
    """A plan for calls like this one, or the reason why there is none. `compiled` is what would run instead; `route` gives the
    user's call as it is once the plan is there, which is what the trial times."""
    watched_function, given = function, args
    plain = function if module is None else functools.partial(function, module)
    if module is None and (module := held(function)) is not None:
        function = without_self(function)
    if nested(args):
        function, args = regrouped(function, args, int(module is not None)), flat(args)
    tensors = [a for a in args if isinstance(a, torch.Tensor)]
    state = [] if module is None else [*module.parameters(), *module.buffers()]
    if torch.is_grad_enabled() and any(t.requires_grad for t in (*tensors, *state)):
        return "gradients are recorded"
    if any(t.device.type != "cpu" or t.is_conj() or t.is_neg() for t in (*tensors, *state)):
        return "a tensor is not on the CPU"
    watched = purity.watch(watched_function, module)
    if watched.reason is not None:
        return watched.reason
    named = named_state(module)

    def made() -> Plan | str:
        if concerns(watched_function, module):
            staged = capture_staged(function, args, module)
            call, decisions = with_kernels(staged, config)
            plan = Plan(call, given, watched, tuple(range(staged.count)), named, staged.outputs, staged.out_spec)
            with plain_forward(module, function):
                eager = function if module is None else functools.partial(function, module)
                contenders = {"": lambda: plan(given), "eager": lambda: eager(*args)}
                if staged.fusible and compiled is not None:
                    contenders["torch.compile"] = lambda: compiled(*given)
                with torch.no_grad():
                    theirs = pytree.tree_leaves(eager(*args))
                return _differs(plan, given, theirs) or slower(staged, decisions, contenders, config) or plan
        whole = _captured(watched_function, function, args, module)
        engine = Engine.current(config)
        region = dataclasses.replace(whole.captured.region, phase="direct")
        with ordinary_torch():
            (decision,) = engine.resolve([region], config)
        note(Record("inference", (decision,), (), int(decision.entry is not None)))
        if decision.entry is None:
            return decision.reason
        kernel = guarded(decision.entry.signature, engine.load(decision.entry))
        plan = Plan(kernel, given, watched, whole.order, named, whole.outputs, whole.out_spec)
        if whole.where is not None and (reason := _differs(plan, given, witness(whole, function, args, module))):
            return reason
        with torch.no_grad():
            routed = lambda: route(plan) if route else lambda: plan(given)
            pays = kernel_pays(region, decision, routed, lambda: plain(*given), config)
        return plan if pays else SLOWER

    return or_reason(made, config, "a direct call is not possible")


def or_reason(make: Callable[[], P | str], config: Config, failed: str) -> P | str:
    """What `make` gives, or why it failed. Raises only under `strict`, and no CaptureError: these are reasons."""
    try:
        return make()
    except CaptureError as error:
        return error.message
    except (AutoKernelError, OSError) as error:
        if config.strict:
            raise
        log.warning("%s: %s", failed, error)
        return str(error)
    except Exception as error:  # the capture boundary: a failure of ours must not break the user's program
        if config.strict:
            raise
        log.warning("%s: %s: %s", failed, type(error).__name__, error, exc_info=True)
        return f"{type(error).__name__}: {error}"


def _captured(text: Callable[..., Any], function: Callable[..., Any], args: tuple[Any, ...], module: Any) -> Whole:
    """The call as one region: a forward with a loop over time first, for unrolled it would be a region for one length. `text`
    is the user's function, which may loop."""
    long = longest(args)
    if long >= LEAST and loops(text, module):
        try:
            return capture_recurrence(function, args, module)
        except Unrolls as no_kernel:
            log.info("%s", no_kernel.message)
            if long > UNROLLED:  # step by step it would take minutes
                raise
        except CaptureError as no_loop:
            log.debug("%s", no_loop.message)
    return capture_whole(function, args, module)


def _differs(plan: Plan, args: tuple[Any, ...], theirs: list[Any]) -> str:
    """Why a kernel must not stand for this call, or nothing: the original was run once, and this is run beside it."""
    with torch.no_grad():
        mine = plan(args)
    if mine is MISS or not agree(pytree.tree_leaves(mine), theirs):
        return "the loop's kernel and the original differ at this length"
    return ""
