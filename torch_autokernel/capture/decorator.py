"""`@autokernel` for functions, methods, module classes and module instances.

A call whose whole forward is one region goes straight to its kernel: the inputs are checked, what the Python would have read
is checked by identity, and nothing else runs. Every other call goes through torch.compile with the autokernel backend, which
is also where training, mutation, aliasing and whatever is not understood end up.
"""

from __future__ import annotations

import copy
import functools
import itertools
import logging
import operator
import types
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.compiler import is_dynamo_compiling
from torch.utils import _pytree as pytree

from torch_autokernel.capture import direct
from torch_autokernel.capture.ambient import hooks_on_saved, load_compiler, traces_here
from torch_autokernel.capture.arguments import identity, positions, records, shapes, without_numbers
from torch_autokernel.capture.around import plan_around
from torch_autokernel.capture.backend import UNCOMPILED, warn_once
from torch_autokernel.capture.backend import autokernel as backend
from torch_autokernel.capture.direct_training import TrainingPlan, make_training_plan
from torch_autokernel.capture.holder import nested
from torch_autokernel.capture.inner import Parts, Undo, goes_over_time, may_be_cut, outside
from torch_autokernel.capture.loop_plan import Trainer
from torch_autokernel.capture.trial import COMPILED, PLAIN, InUse, alone, compiling_pays, settled_elsewhere
from torch_autokernel.capture.whole import named_state
from torch_autokernel.core import deadline
from torch_autokernel.core.config import check_keys, config
from torch_autokernel.core.errors import CaptureError, ToolchainError, UsageError
from torch_autokernel.lang.call_cache import DTYPES, MOST_ARGUMENTS, CallCache, Route, call_cache, form

log = logging.getLogger(__name__)

_MAX_PLANS = 16
_LAYERS = (torch.nn.LSTM, torch.nn.GRU, torch.nn.RNN)
_MAX_TRIALS = 4
_MAX_TRAINED = 16
_MOST_WATCHED = 16
_BEING_MADE = "it is being looked at"
_NOWHERE = object()
_MOST_KINDS = 32  # of calls for which it is found out what is faster
_MOST_FAILED = 128
_MOST_VALUES = 3  # of numbers that calls are given, otherwise alike, for which plans are looked for
_SMALL = 2**20  # elements
_MOST_WITHIN = 16  # items of lists and dictionaries that are looked at
_ALIKE = 4  # factor of elements up to which what is faster for one call is so for another
_PATIENCE = 63  # calls that go to torch.compile unasked after one that can have no plan: to ask costs up to 20 us


class Accelerated:
    """A callable in the place of a function (or of one module's forward)."""

    def __init__(self, function: Callable[..., Any], module: torch.nn.Module | None, options: Mapping[str, Any]) -> None:
        functools.update_wrapper(self, function, updated=())
        self.original = function
        self.module = module
        self.options = dict(options)
        self.plans: dict[Any, direct.Plan] = {}
        self.settled: dict[Any, bool] = {}  # kinds of calls that no plan takes: whether the plain call is the faster one
        self.in_use: dict[Any, InUse] = {}  # kinds of calls that are being timed as the user makes them
        self.failed: set[Any] = set()
        self.values: dict[Any, int] = {}  # for how many numbers a plan was looked for, by what else decides
        self.patience = 0
        self.initialized = False
        self.reason = ""
        self.cuts = goes_over_time(function, module)  # a graph around it
        self.part = False  # of a decorated module, decorated with it
        self.tries = False  # whether a call without a kernel is to run as it is, while parts look for kernels
        self.known: CallCache | None = None  # the plans, and calls for which there is none, asked before anything else
        self._compiled: Callable[..., Any] | None = None
        self._places: dict[Any, Any] = {}  # of keyword arguments among the others
        self._settled_routes: list[Route] = []
        self._training: list[TrainingPlan] = []
        self.tried = 0  # how often a plan for training was looked for
        self.untrained: dict[Any, str] = {}  # kinds of calls that autograd records and no two kernels take, with the reason

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if is_dynamo_compiling():
            if self.cuts and may_be_cut():
                return outside(self, args, kwargs)
            return self.original(*args, **kwargs) if self.module is None else self.original(self.module, *args, **kwargs)
        if kwargs:
            args, kwargs = self._in_place(args, kwargs)
        if self.known is not None and not kwargs and (result := self.known(args)) is not direct.MISS:
            return result
        if not self.initialized and not self._is_initialized():
            return self._plain(*args, **kwargs)
        settled_elsewhere()
        if self.patience and not self.plans and not (self.trainer.loops and (self.cuts or self.trainer.plans)):
            self.patience -= 1
            return self._plain(*args, **kwargs) if traces_here() else self._without_plan(args, kwargs)
        with deadline.one_purse(fresh=True):  # what a plan's search takes is not left for the graph's
            return self._looked_for(args, kwargs)

    def _looked_for(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The call by a plan, made now if need be, or otherwise."""
        if not kwargs and direct.plain_world():
            if self.trainer.loops and self._records(args) and (result := self.trainer(args)) is not direct.MISS:
                return result
            if self._records(args):
                if (result := self._trained(args)) is not direct.MISS:
                    return result
                self.patience = _PATIENCE
                return self._without_plan(args, kwargs)
            key = shapes(args)
            plan = self.plans.get(key)
            if plan is not None and (result := plan(args)) is not direct.MISS:
                return result
            plan = self._plan(key, args)
            if plan is not None and (result := plan(args)) is not direct.MISS:
                return result
        elif traces_here():  # a decorated function within another one that is being traced is just its text
            return self._plain(*args, **kwargs)
        return self._without_plan(args, kwargs)

    def _without_plan(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The call through torch.compile, or as it is where that was found to be faster for calls of this kind."""
        if self.tries or hooks_on_saved():
            return self._plain(*args, **kwargs)
        if self.parts.found and direct.plain_world() and not config.resolve(self.options).disable:
            kind = self._records(args), *(a.shape for a in args if isinstance(a, torch.Tensor))
            if self.module is not None and self.parts.unsettled(kind):
                undo = Undo(self.original, self.module, args)
                result = self.parts.settling(kind, lambda: self._plain(*args, **kwargs))
                if kwargs or not undo():
                    return result
        kind = _kind(args, kwargs)
        plain = self.settled.get(kind)
        if plain is None and (like := self._like(kind)) is not None:
            call = self._plain if like else self._otherwise
            if not kwargs and direct.plain_world():
                self._know_settled(args, call)
            return call(*args, **kwargs)
        if plain is None and len(self.settled) < _MOST_KINDS and direct.plain_world():
            with alone() as granted:  # up to the call's end: another thread's trial would undo it
                if granted:
                    self.settled[kind] = self._plain_is_faster(kind, args, kwargs)
                return self._settled_way(kind, args, kwargs)
        return self._settled_way(kind, args, kwargs)

    def _settled_way(self, kind: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The call in the way that was found for calls of this kind, or through torch.compile."""
        plain = self.settled.get(kind)
        contest = self.in_use.get(kind)
        if contest is not None and direct.plain_world():
            return self._in_turns(contest, kind, args, kwargs)
        call = self._plain if plain else self._otherwise
        if plain is not None and not kwargs and contest is None:
            self._know_settled(args, call)
        return call(*args, **kwargs)

    def _like(self, kind: Any) -> bool | None:
        """What was found of the call that is most like one of this kind; None where there are few trials yet, or none of a call
        about as large."""
        if len(self.settled) < _MAX_TRIALS:
            return None
        form = _form(kind)
        alike = [k for k in self.settled if k not in self.in_use and _form(k) == form]
        size = _elements(kind)
        ratios = {k: max(size, n) / max(1, min(size, n)) for k in alike for n in (_elements(k),)}
        nearest = min(alike, key=lambda k: ratios[k], default=None)
        return None if nearest is None or ratios[nearest] > _ALIKE else self.settled[nearest]

    def _in_turns(self, contest: InUse, kind: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A call of a kind that is timed in use; where enough was seen, what is faster is settled."""
        known = contest.fastest  # the way back of the call before may have told
        result = contest(*args, **kwargs) if known is None else contest.ways[known](*args, **kwargs)
        if (fastest := known or contest.fastest) is not None:
            self.settled[kind] = fastest == PLAIN
            self.in_use.pop(kind, None)
        return result

    def _in_place(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The call with its keyword arguments in their places among the others, where each has one."""
        defaults = getattr(self.original, "__defaults__", None) or ()
        how = len(args), *kwargs, len(defaults)
        places = self._places.get(how, _NOWHERE)
        if places is _NOWHERE:
            bound = self.module is not None or isinstance(self.original, types.MethodType)  # to something
            places = self._places[how] = positions(self.original, len(args) + bound, list(kwargs))
        if places is None:
            return args, kwargs
        return (*args, *[kwargs[name] if name in kwargs else defaults[number] for name, number in places]), {}

    def _trained(self, args: tuple[Any, ...]) -> Any:
        """The recorded result of a call that gets two kernels, forward and backward, or MISS. Tried once for each kind of call;
        from then on the call cache has it."""
        kind = identity(args), self._trained_parameters()
        resolved = config.resolve(self.options)
        if self.untrained.get(kind) is _BEING_MADE:  # by another thread, or by this one
            return self._plain(*args)
        if kind[0] is None or kind in self.untrained or resolved.disable or self._never_trained:
            return direct.MISS
        if self.parts.found or self.tries:
            return direct.MISS
        self.tried += 1
        self.untrained[kind] = _BEING_MADE
        load_compiler()
        self._training = [plan for plan in self._training if plan.watched.holds()]
        before = list(self._training)

        def route(plan: TrainingPlan) -> Callable[..., Any]:
            self._training = [*before, plan]
            self._know()
            return self

        make = lambda: make_training_plan(self.original, args, self.module, resolved, route)
        made = direct.or_reason(make, resolved, "a direct training call is not possible")
        self._training = [*before, made] if isinstance(made, TrainingPlan) else before
        self._know()
        if isinstance(made, TrainingPlan) and self.known is not None:
            self.untrained.pop(kind, None)
            return self.known(args)
        self.untrained[kind] = str(made)
        log.info("%s is not trained directly: %s", getattr(self.original, "__qualname__", self.original), made)
        return direct.MISS

    def _know_settled(self, args: tuple[Any, ...], call: Callable[..., Any]) -> None:
        """Calls like this one, for which there is no plan, are made by `call`."""
        if len(args) > MOST_ARGUMENTS or nested(args):
            return
        kind, tensors = identity(args), [a for a in args if isinstance(a, torch.Tensor)]
        if kind is None or any(t.dtype not in DTYPES for t in tensors):
            return
        exact, recording = form(args, exact=True), torch.is_grad_enabled()
        others = [r for r in self._settled_routes if (r.args, r.gradients) != (exact, recording)]
        if self.parts.found or len(others) >= _MAX_PLANS or config.resolve(self.options).disable or not self._asked(kind, args):
            return
        if self.trainer.loops and self._records(args) and not self.trainer.gave_up(args):
            self.patience = 0  # it is asked the next time
            return
        rows = self._watched()
        route = Route(exact, call, plain=True, gradients=recording, values=rows, parameters=[p for _, _, p in rows],
                      needs=tuple(p.requires_grad for _, _, p in rows))  # fmt: skip
        alike = [r for r in self._settled_routes if (r.args, r.gradients, r.needs) == (exact, recording, route.needs)]
        if any(all(map(operator.is_, r.parameters, route.parameters)) for r in alike):
            return
        self._settled_routes = [*others, route]
        self._know()

    def _asked(self, kind: Any, args: tuple[Any, ...]) -> bool:
        """Whether a plan for calls of this kind was looked for, and there is none."""
        if not self._records(args):
            return kind in self.failed
        made = self.untrained.get((kind, self._trained_parameters()), _BEING_MADE)
        return self._never_trained or made is not _BEING_MADE

    @property
    def _never_trained(self) -> bool:
        """Whether no plan for training is looked for, whatever the call."""
        return self.cuts or self.tried >= _MAX_TRAINED or type(self.module) in _LAYERS

    def _trained_parameters(self) -> tuple[bool, ...] | None:
        return None if self.module is None else tuple([p.requires_grad for p in self.module.parameters()])

    def _watched(self) -> list[tuple[dict[str, Any], str, torch.Tensor]]:
        """Where parameters stand whose gradients decide who takes a recorded call: all, or of many one that is trained."""
        if self.module is None or not torch.is_grad_enabled():
            return []
        within: list[tuple[dict[str, Any], str, torch.Tensor]] = [
            (m._parameters, name, p) for m in self.module.modules() for name, p in m._parameters.items() if p is not None
        ]
        if len(within) <= _MOST_WATCHED:
            return within
        return [next((row for row in within if row[2].requires_grad), within[0])]

    def _know(self) -> None:
        """What is known of calls goes to the call cache: plans first."""
        plans = [route for plan in self.plans.values() if (route := plan.route()) is not None]
        routes = [*plans, *(plan.route() for plan in self._training), *self._settled_routes]
        try:
            self.known = call_cache(routes, direct.MISS) if routes else None
        except ToolchainError as error:
            self.known = None
            log.debug("%s", error.message)

    def _plain_is_faster(self, kind: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether the call as it is was found to be faster. Where that cannot be asked now, it is from now on by the calls."""
        resolved = config.resolve(self.options)
        if resolved.disable or type(self.module) in _LAYERS:
            return False
        pays = lambda: None if kwargs else compiling_pays(self.original, args, self.module, self._otherwise, resolved)
        found = direct.or_reason(pays, resolved, "a call cannot be timed")
        if found is None and resolved.on_miss == "generate":
            recorded, small = self._records((*args, *kwargs.values())), self._is_small((args, kwargs))
            self.in_use[kind] = InUse({COMPILED: self._otherwise, PLAIN: self._plain}, recorded, small)
        return found is False

    def _is_small(self, given: Any) -> bool:
        """Whether so little goes into a call that what torch.compile costs may be what it gains."""
        try:
            leaves = [t for t in (*pytree.tree_leaves(given), *named_state(self.module)) if isinstance(t, torch.Tensor)]
        except RecursionError:  # a container that holds itself
            return True
        return sum(t.numel() for t in leaves) <= _SMALL

    def _is_initialized(self) -> bool:
        """Whether all parameters and buffers are there: those of lazy modules come with the first call."""
        self.initialized = not any(map(torch.nn.parameter.is_lazy, named_state(self.module)))
        return self.initialized

    @functools.cached_property
    def trainer(self) -> Trainer:
        made = Trainer(self.original, self.module, self.options)
        made.loops = made.loops and len(self.parts.found) < 2
        return made

    @functools.cached_property
    def parts(self) -> Parts:
        def decorate(part: torch.nn.Module) -> Accelerated:
            made = Accelerated(type(part).forward, part, self.options)
            made.part = made.tries = True
            return made

        return Parts(self.module, decorate)

    @property
    def has_kernels(self) -> bool:
        return bool(self.plans or self.trainer.plans)

    def _records(self, args: tuple[Any, ...]) -> bool:
        """Whether autograd records what is done to the arguments or to the module's parameters."""
        if records(args):
            return True
        return self.module is not None and torch.is_grad_enabled() and any(p.requires_grad for p in self.module.parameters())

    @property
    def _plain(self) -> Callable[..., Any]:
        return self.original if self.module is None else self.original.__get__(self.module)

    def _plan(self, key: Any, args: tuple[Any, ...]) -> direct.Plan | None:
        """A new plan for calls like this one; None where there can be none (the reason is kept and logged once)."""
        ident = identity(args)
        if ident in self.failed:
            self.patience = _PATIENCE
            return None
        if ident is None or (len(self.plans) >= _MAX_PLANS and key not in self.plans):
            return None
        if len(self.parts.found) > 1:
            self.failed.add(ident)
            self.reason = "several parts loop over time, and each is taken alone"
            return None
        resolved = config.resolve(self.options)
        alike = without_numbers(ident)
        if self.values.setdefault(alike, 0) >= _MOST_VALUES:  # a number that varies: torch.compile takes it as an argument
            self.patience = _PATIENCE
            if len(self.failed) < _MOST_FAILED:
                self.failed.add(ident)
            return None
        if alike != ident:
            self.values[alike] += 1

        before = self.plans.get(key)

        def route(plan: direct.Plan) -> Callable[[], Any]:
            if plan(args) is direct.MISS:  # an argument that the kernel does not take: the call would look for a plan again
                return lambda: plan(args)
            self.plans[key] = plan
            self._know()
            return lambda: self(*args)

        plan = None if resolved.disable else direct.make_plan(
            self.original, args, self.module, resolved, lambda *given: self.compiled(*given), route
        )
        if before is None:
            self.plans.pop(key, None)
        else:
            self.plans[key] = before
        self._know()
        if isinstance(plan, str) and plan != direct.SLOWER and self.cuts:
            found = plan_around(self.original, args, self.module, resolved, self.options)
            plan = found if isinstance(found, direct.Plan) else f"{plan}; {found}"
        if isinstance(plan, direct.Plan):
            self.plans[key] = plan
            self._know()
            return plan
        self.failed.add(ident)
        self.reason = plan or "disabled"
        if plan == direct.SLOWER:
            self.settled[_kind(args)] = True
        log.info("%s is not called directly: %s", getattr(self.original, "__qualname__", self.original), self.reason)
        return None

    @property
    def compiled(self) -> Callable[..., Any]:
        """The call through torch.compile; the plain one where the plugin is disabled, or for torch's recurrent layers, which
        torch.compile leaves as they are."""
        if self._compiled is None:
            target = self._plain
            if config.resolve(self.options).disable or type(self.module) in _LAYERS:
                return target
            load_compiler()
            self._compiled = torch.compile(target, backend=backend, options=self.options or None)
        return self._compiled

    def _otherwise(self, *args: Any, **kwargs: Any) -> Any:
        """The call where no kernel takes it. What the compiler behind us cannot do, the plain function can; it can also record
        what is done to tensors of inference mode, which compiled functions try to save."""
        if torch.is_grad_enabled() and any(isinstance(a, torch.Tensor) and a.is_inference() for a in args):
            return self._plain(*args, **kwargs)
        if hooks_on_saved():  # a checkpoint saves again what was saved, by the same operations
            return self._plain(*args, **kwargs)
        if direct.goes_through_nothing_compiled():
            return self._plain(*args, **kwargs)
        token = UNCOMPILED.set([])
        try:
            result = self.compiled(*args, **kwargs)
            if reasons := UNCOMPILED.get():
                self._runs_as_it_is(reasons[0])
            return result
        except torch._dynamo.exc.BackendCompilerFailed as error:
            if config.resolve(self.options).strict:
                raise
            self._runs_as_it_is(str(error).partition("\n")[0])
            return self._plain(*args, **kwargs)
        finally:
            UNCOMPILED.reset(token)

    def _runs_as_it_is(self, reason: str) -> None:
        name = getattr(self.original, "__qualname__", self.original)
        warn_once(CaptureError(f"{name} runs as it is, for torch cannot compile it: {reason}"))
        self._compiled = self._plain

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self
        if not self.cuts and is_dynamo_compiling():
            return functools.partial(self.original, instance)
        return _bound(self, instance)

    def __deepcopy__(self, memo: dict[int, Any]) -> Accelerated:
        return Accelerated(self.original, copy.deepcopy(self.module, memo), self.options)

    def __getstate__(self) -> dict[str, Any]:
        return {"original": self.original, "module": self.module, "options": self.options}

    def __setstate__(self, state: dict[str, Any]) -> None:
        Accelerated.__init__(self, state["original"], state["module"], state["options"])

    def __repr__(self) -> str:
        return f"<autokernel {getattr(self.original, '__qualname__', self.original)!s}: {len(self.plans)} direct kernels>"


def _kind(args: tuple[Any, ...], kwargs: Mapping[str, Any] = types.MappingProxyType({})) -> Any:
    """What decides whether torch.compile pays: of numbers only that there are some."""
    if kwargs:
        args = (*args, tuple(kwargs), tuple(kwargs.values()))
    if list in (kinds := {type(a) for a in args}) or dict in kinds:
        return torch.is_grad_enabled(), records(args), _shapes_within(args)
    return torch.is_grad_enabled(), records(args), tuple([_number(part) for part in shapes(args)])


def _shapes_within(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """As `shapes` has it, of the first items of lists and dictionaries too."""
    left = _MOST_WITHIN

    def shape(argument: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            return None
        if type(argument) is list:
            return list, len(argument), *[shape(value) for value in argument[:left]]
        if type(argument) is dict:
            within = itertools.islice(argument.items(), left)
            return dict, len(argument), *[(key if type(key) is str else type(key), shape(value)) for key, value in within]
        return _number(shapes((argument,))[0])

    try:
        return tuple([shape(a) for a in args])
    except RuntimeError:  # of a tensor that has no sizes, or that another thread changes a dictionary
        return (None,) * len(args)


def _number(part: Any) -> Any:
    return type(part) if type(part) in (int, float) else part


def _form(kind: Any) -> Any:
    """The kind with ranks in the place of sizes."""
    return tuple([len(part) if isinstance(part, torch.Size) else _form(part) if type(part) is tuple else part for part in kind])


def _elements(kind: Any) -> int:
    """Of the tensors of calls of this kind."""
    sizes = [part.numel() for part in kind if isinstance(part, torch.Size)]
    return sum(sizes) + sum(_elements(part) for part in kind if type(part) is tuple)


def _bound(method: Accelerated, instance: Any) -> Callable[..., Any]:
    """The method on one instance, with state of its own kept on the instance."""
    if not isinstance(instance, torch.nn.Module):
        return types.MethodType(_Method(method), instance)
    key = f"_autokernel_{method.__name__}_{id(method)}"  # type: ignore[attr-defined]  # a base class may have one of that name
    found = instance.__dict__.get(key)
    if found is None or found.module is not instance or found.original is not method.original:
        found = instance.__dict__[key] = _OfAnInstance(method.original, instance, method.options)
    return found


class _OfAnInstance(Accelerated):
    """What stands on an instance for a decorated method of its class: made anew where it is missing, so it is not saved."""

    def __reduce__(self) -> tuple[Any, ...]:
        return type(None), ()

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return None


class _Method:
    """A method of an ordinary object: its state cannot be watched, so it goes through torch.compile."""

    def __init__(self, method: Accelerated) -> None:
        self.method = method

    def __call__(self, instance: Any, *args: Any, **kwargs: Any) -> Any:
        return self.method._otherwise(instance, *args, **kwargs)


def autokernel(target: Any = None, /, **options: Any) -> Any:
    """The target with its calls accelerated: a function or method is wrapped, an nn.Module class or instance is returned
    itself with its `forward` wrapped.

    Options are the fields of `Config`. Raises ConfigError for an unknown option and UsageError for a target that cannot be
    called. A failure inside the plugin never reaches the caller unless `strict=True`.
    """
    check_keys(options)
    config.resolve(options)
    if target is None:
        return functools.partial(autokernel, **options)
    if isinstance(target, (staticmethod, classmethod)):
        return type(target)(autokernel(target.__func__, **options))
    if isinstance(target, type) and issubclass(target, torch.nn.Module):
        target.forward = Accelerated(target.forward, None, options)
        return target
    if isinstance(target, torch.nn.Module):
        if "forward" not in target.__dict__:
            target.__dict__["forward"] = Accelerated(type(target).forward, target, options)
        return target
    if isinstance(target, types.MethodType) and isinstance(target.__self__, torch.nn.Module):
        return Accelerated(target.__func__, target.__self__, options)
    if not callable(target):
        raise UsageError(f"autokernel cannot decorate a {type(target).__name__}",
                         hint="give a function, a method, an nn.Module class or an nn.Module instance")  # fmt: skip
    return Accelerated(target, None, options)


def restore(target: Any) -> Any:
    """Undo `autokernel`: the plain function, or the module (class or instance) with its own forward."""
    if isinstance(target, Accelerated):
        return target.original
    if isinstance(target, type) and isinstance(vars(target).get("forward"), Accelerated):
        target.forward = vars(target)["forward"].original  # type: ignore[attr-defined]
    elif isinstance(target, torch.nn.Module):
        for module in target.modules():
            if module is target or getattr(module.__dict__.get("forward"), "part", False):
                module.__dict__.pop("forward", None)
    return target
