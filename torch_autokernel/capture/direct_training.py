"""Training calls of a small forward: from the user's arguments to two kernels, forward and backward, without torch.compile,
whose training path alone costs 190 us a step.

AOTAutograd traces forward and gradients together and cuts them in two; a plan is made where each half is one region with a
kernel, and both together, timed as the user's call, are surely faster than the call as it is. Large calls are for
torch.compile, which fuses more than two regions and whose own cost they do not feel.
"""

from __future__ import annotations

import dataclasses
import functools
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from torch_autokernel.capture import purity
from torch_autokernel.capture.ambient import hooks_on_saved, tracing_alone
from torch_autokernel.capture.beside import Beside, refuted
from torch_autokernel.capture.decompositions import inductor_table
from torch_autokernel.capture.direct import SLOWER, watched_world
from torch_autokernel.capture.index_guard import guarded
from torch_autokernel.capture.loop_function import Others, changed, done, ordinary, unread
from torch_autokernel.capture.operators import bind_sizes
from torch_autokernel.capture.reference import load_reference
from torch_autokernel.capture.trainable import both_decided, watched_for_training
from torch_autokernel.capture.trial import KERNEL, PLAIN, hooked, kernels_pay, repeatable, step
from torch_autokernel.capture.whole import Constant, Whole, capture_whole, flattened, named_state, results_of
from torch_autokernel.core.config import Config
from torch_autokernel.core.errors import CaptureError, GuardMiss
from torch_autokernel.engine import Engine
from torch_autokernel.lang.call_cache import MOST_ARGUMENTS, Route, form
from torch_autokernel.lang.recorded import Recorder, recorder

Tensor = torch.Tensor
Function = Callable[..., Any]
Kernel = Callable[..., tuple[Tensor, ...]]

SMALL = 1e-3  # seconds, forward and backward: what torch.compile asks for itself is a fifth of it
PASSED = -1
_NO_GRADIENT, _PASSED_ON = -1, -2  # in recorded.cpp
_TRIES = 10
_MOST_TENSORS = 64
_MOST_ELEMENTS = 2**21  # to read and write them takes that long


@dataclass(frozen=True)
class Halves:
    """Forward and backward as regions. Tensors are the arguments, then the module's state. `result` says which of the first
    region's outputs is the result, `kept` which of its outputs and `read` which tensors the second region reads: its inputs
    are the tensors read, what is kept, and the gradient of the result, in this order before `backward.order`. Only tensors
    that eager saves are read, and the result itself is kept only where it saves that; of others there are copies: the user may
    change them. `strides` are those of the result's gradient. `gradients`: for each tensor which output of the second region is
    its gradient; PASSED where the result's is; None where there is none."""

    forward: Whole
    backward: Whole
    result: int
    kept: tuple[int, ...]
    read: tuple[int, ...]
    strides: tuple[int, ...]
    gradients: tuple[int | None, ...]


def halves(function: Function, args: tuple[Any, ...], module: torch.nn.Module | None) -> tuple[Halves, pytree.TreeSpec]:
    """The call and its gradients, each as one region; raises CaptureError with the reason where they are not. The original is
    run once, for what it saves."""
    from torch._functorch.aot_autograd import aot_export_joint_simple
    from torch._functorch.partitioners import min_cut_rematerialization_partition
    from torch._guards import detect_fake_mode
    from torch._inductor.fx_passes.joint_graph import joint_graph_passes
    from torch._inductor.virtualized import V

    flat, spec = flattened(function, args, module)
    leaves = [t.detach().requires_grad_(t.requires_grad) for t in (*_tensors(args), *named_state(module))]

    def results(*tensors: Tensor) -> tuple[Any, ...]:
        out = tuple(flat(*tensors))
        if len(out) != 1:  # of several, each may get its backward pass, and be the only one that is used
            raise CaptureError("not one result")
        if not isinstance(out[0], Tensor) or not out[0].requires_grad:
            raise CaptureError("the result has no gradient")
        return out

    try:
        with torch.enable_grad(), tracing_alone():
            joint = aot_export_joint_simple(results, tuple(leaves), trace_joint=True, decompositions=inductor_table())
            out = spec[-1]
            assert isinstance(joint, fx.GraphModule)
            with V.set_fake_mode(detect_fake_mode([n.meta["val"] for n in joint.graph.nodes if n.op == "placeholder"])):
                joint_graph_passes(joint)
            forward, backward = min_cut_rematerialization_partition(joint, leaves, num_fwd_outputs=1)
    except CaptureError:
        raise
    except Exception as error:  # whatever torch finds in a user's function that it cannot differentiate ahead of time
        first = str(error).partition("\n")[0]
        raise CaptureError(f"the gradient cannot be traced as a whole: {type(error).__name__}: {first}") from error
    return _regions(forward, backward, leaves, _saved(results, leaves)), out


def _saved(call: Function, leaves: Sequence[Tensor]) -> tuple[list[bool], bool]:
    """Which tensors eager saves for the gradient, and whether it saves the result."""
    memory: set[int] = set()

    def pack(tensor: Tensor) -> Tensor:
        memory.add(tensor.untyped_storage().data_ptr())
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        (result,) = call(*leaves)
    *held, end = (t.untyped_storage().data_ptr() in memory for t in (*leaves, result))
    return held, end


def _regions(
    forward: fx.GraphModule, backward: fx.GraphModule, leaves: list[Tensor], eager_saves: tuple[list[bool], bool]
) -> Halves:
    """What stands behind the result in the forward graph is for the backward one."""
    given = [n for n in forward.graph.nodes if n.op == "placeholder"]
    result, *saved = results_of(forward.graph)
    if not all(isinstance(n, fx.Node) and isinstance(n.meta.get("val"), Tensor) for n in (result, *saved)):
        raise CaptureError("a value that is no tensor goes to the gradient")
    wanted = [n for n in backward.graph.nodes if n.op == "placeholder"]
    tangent, by_name = wanted[-1], {n.name: n for n in wanted}
    lies = [n for n in saved if n in given and eager_saves[0][given.index(n)]]
    made = [n for n in saved if n not in lies]
    order = [*(by_name[n.name] for n in (*lies, *made)), tangent]
    if len(order) != len(wanted) or set(order) != set(wanted):
        raise CaptureError("the gradient reads something else than is kept")
    copies = [_copied(forward, n) if n in given or n is result and not eager_saves[1] else n for n in made]
    one = capture_whole(_returning(forward, [result, *copies]), [t.detach() for t in leaves])
    found = results_of(backward.graph)
    computed = _returning(backward, [None if n is tangent else n for n in found])
    at = [order.index(n) for n in wanted]
    two = capture_whole(lambda *tensors: computed(*(tensors[i] for i in at)), [_like(n) for n in order])
    if len(found) != len(leaves) or any(isinstance(o, Constant) and o.value is not None for o in two.outputs):
        raise CaptureError("a gradient is no tensor that is computed")
    if any(isinstance(o, Constant) for o in one.outputs):
        raise CaptureError("a result is a constant")
    outputs = [o if isinstance(o, int) else None for o in two.outputs]
    gradients = tuple(PASSED if n is tangent else o for n, o in zip(found, outputs, strict=True))
    read, strides = tuple(given.index(n) for n in lies), tuple(_like(tangent).stride())
    return Halves(one, two, one.outputs[0], tuple(one.outputs[1:]), read, strides, gradients)


def _copied(graph: fx.GraphModule, node: fx.Node) -> fx.Node:
    """A copy of the node's value, made at the graph's end."""
    (output,) = [n for n in graph.graph.nodes if n.op == "output"]
    with graph.graph.inserting_before(output):
        return graph.graph.call_function(torch.ops.aten.clone.default, (node,))


def _returning(graph: fx.GraphModule, results: Sequence[Any]) -> Function:
    """The graph with other results."""
    (output,) = [n for n in graph.graph.nodes if n.op == "output"]
    output.args = (tuple(results),)
    graph.recompile()
    return graph.forward


def _like(node: fx.Node) -> Tensor:
    """An ordinary tensor like the node's value."""
    value = node.meta["val"]
    return torch.empty_strided(tuple(map(int, value.shape)), tuple(map(int, value.stride())), dtype=value.dtype)


def _tensors(args: Sequence[Any]) -> list[Tensor]:
    return [a for a in args if isinstance(a, Tensor)]


class _Kernels:
    """What `_Differentiable` runs."""

    def __init__(self, of: Halves, spec: pytree.TreeSpec, forward: Kernel, backward: Kernel, plainly: Function) -> None:
        self.of, self.spec, self.forward, self.backward = of, spec, forward, backward
        self.plainly = plainly  # all tensors -> the result in a list, as torch computes it
        self.saves = bool(of.read or of.kept)

    @functools.cached_property
    def reference(self) -> Kernel:
        return load_reference(self.of.backward.captured.region.reference)

    def gradients(self, saved: Sequence[Tensor], given: Tensor) -> list[Tensor | None]:
        """Of all tensors, from what was kept and the result's gradient; by torch where the kernel does not take the tensors or
        where they are being looked at (vmap, compiled autograd, modes)."""
        made = self._made(saved, given)
        return [None if k is None else given if k == PASSED else made[k] for k in self.of.gradients]

    def _made(self, saved: Sequence[Tensor], given: Tensor) -> tuple[Tensor, ...]:
        if ordinary([given]):
            laid_out = given if given.stride() == self.of.strides else _laid_out(given, self.of.strides)
            try:
                return self.backward(*self._in_order(saved, laid_out))
            except GuardMiss:
                pass
        tensors = self._in_order(saved, given)
        signature = self.of.backward.captured.region.signature
        sizes = bind_sizes(signature, tensors)
        return self.reference(*tensors, *(sizes[s] for s in signature.symbols))

    def _in_order(self, saved: Sequence[Tensor], given: Tensor) -> list[Tensor]:
        inputs = (*saved, given)
        return [inputs[i] for i in self.of.backward.order]


def _laid_out(tensor: Tensor, strides: tuple[int, ...]) -> Tensor:
    """The same values with other strides: the gradient of a sum is one number, expanded."""
    return torch.empty_strided(tensor.shape, strides, dtype=tensor.dtype).copy_(tensor)


def recorded(kernels: _Kernels, *tensors: Tensor) -> tuple[Tensor]:
    """The result, recorded by autograd; raises GuardMiss for tensors that it cannot save."""
    if True in [t.is_inference() for t in tensors]:
        raise GuardMiss("a tensor was made in inference mode")
    return (_Differentiable.apply(kernels, unread(tensors, kernels.of.read), *tensors),)  # type: ignore[no-untyped-call]


def recording(kernels: _Kernels, recorder: Recorder | None) -> Kernel:
    """What makes the calls: a node of autograd in C++ where there is one, else in Python."""
    if recorder is None:
        return functools.partial(recorded, kernels)
    of = kernels.of
    found: Kernel = recorder(
        forward=kernels.forward, backward=kernels.backward, gradients=kernels.gradients,
        recorded=functools.partial(_recorded, kernels), miss=GuardMiss, count=len(of.gradients), order=tuple(of.forward.order),
        result=of.result, kept=of.kept, read=of.read, back=tuple(of.backward.order), strides=of.strides,
        gradient=tuple(_NO_GRADIENT if k is None else _PASSED_ON if k == PASSED else k for k in of.gradients),
    )  # fmt: skip
    return found


class _Differentiable(torch.autograd.Function):
    """`apply(kernels, others, *tensors)`: the result. `others` are what `unread` makes of the tensors."""

    @staticmethod
    def forward(ctx: Any, kernels: _Kernels, others: Others, *tensors: Tensor) -> Tensor:
        of = kernels.of
        made = kernels.forward(*(tensors[i] for i in of.forward.order))
        ctx.kernels, ctx.others = kernels, others
        ctx.save_for_backward(*(tensors[i] for i in of.read), *(made[k] for k in of.kept))
        return made[of.result]

    @staticmethod
    def backward(ctx: Any, given: Tensor) -> Any:
        kernels: _Kernels = ctx.kernels
        saved = ctx.saved_tensors if kernels.saves else ()  # where nothing is saved, one may go back as often as one likes
        if torch.is_grad_enabled():
            return None, None, *_recorded(kernels, saved, ctx.others, given)
        gradients = kernels.gradients(saved, given)
        if kernels.saves:
            ctx.others = done(ctx.others)
        return None, None, *gradients


class _Undifferentiable(torch.autograd.Function):
    """A gradient that depends on the tensors, though nobody can say how any more: its own derivative is an error."""

    @staticmethod
    def forward(ctx: Any, reason: str, gradient: Tensor, *history: Tensor) -> Tensor:
        ctx.reason = reason
        return gradient.detach()

    @staticmethod
    def backward(ctx: Any, given: Tensor) -> Any:
        raise RuntimeError(ctx.reason)


def _recorded(
    kernels: _Kernels, saved: Sequence[Tensor], others: Others, given: Tensor
) -> list[Tensor | None]:
    """The gradients as functions that autograd records (create_graph=True): by torch from the tensors as they were; where one
    of them has changed since, the gradients alone, whose own derivative is an error."""
    of = kernels.of
    if reason := changed(others):
        with torch.no_grad():
            gradients = kernels.gradients(saved, given)
        history = [t for t in (*saved, *(o[0] for o in others if o is not None)) if t.requires_grad]
        return [None if g is None else _Undifferentiable.apply(reason, g, *history) for g in gradients]  # type: ignore[no-untyped-call]
    tensors: list[Any] = [None if o is None else o[0] for o in others]
    for i, tensor in zip(of.read, saved, strict=False):
        tensors[i] = tensor
    wants = [k is not None for k in of.gradients]
    fresh = [t.view_as(t) if w else t for t, w in zip(tensors, wants, strict=True)]
    (result,) = kernels.plainly(*fresh)
    asked = [t for t, w in zip(fresh, wants, strict=True) if w]
    found = iter(torch.autograd.grad(result, asked, given, create_graph=True, allow_unused=True))
    return [next(found) if w else None for w in wants]


class TrainingPlan:
    """Calls of one kind, recorded by autograd, by two kernels."""

    def __init__(self, kernels: _Kernels, args: tuple[Any, ...], watched: purity.Watched, module: torch.nn.Module | None,
                 recorder: Recorder | None = None) -> None:  # fmt: skip
        self.spec, self.watched, self.call = kernels.spec, watched, recording(kernels, recorder)
        self.state = named_state(module)
        self.needs = tuple(t.requires_grad for t in self.state)
        self.form = form(args, exact=True)
        self.at = tuple(i for i, a in enumerate(args) if isinstance(a, Tensor))
        self.count = len(args)
        self.world, self.values = watched_world(torch.get_default_dtype())

    def route(self) -> Route:
        """As the call cache takes it."""
        order = (*self.at, *range(self.count, self.count + len(self.state)))
        values = (*self.values, *self.watched.entries)
        finish = None if self.spec.is_leaf() else self._finished
        return Route(self.form, self.call, order=order, parameters=self.state, needs=self.needs, finish=finish,
                     world=self.world, values=values, cells=self.watched.cells, empty=self.watched.empty)  # fmt: skip

    def run(self, tensors: Sequence[Tensor]) -> Any:
        """The result for arguments and state in this order; raises GuardMiss where the kernels are not for them."""
        return self._finished(self.call(*tensors))

    def _finished(self, results: tuple[Tensor, ...]) -> Any:
        return pytree.tree_unflatten(results, self.spec)


def make_training_plan(
    function: Function, args: tuple[Any, ...], module: torch.nn.Module | None, config: Config,
    route: Callable[[TrainingPlan], Callable[..., Any]],
) -> TrainingPlan | str:  # fmt: skip
    """A plan for calls like this one, which autograd records, or the reason why there is none. `route` gives the user's call as
    it is with the plan, which is what the trial times. Raises CaptureError."""
    tensors = [*_tensors(args), *named_state(module)]
    if len(args) > MOST_ARGUMENTS or len(tensors) > _MOST_TENSORS or any(isinstance(a, tuple) for a in args):
        return "more arguments than a direct call takes"
    if sum(t.numel() for t in tensors) > _MOST_ELEMENTS:
        return "it is large"
    if any(map(hooked, tensors)):
        return "a tensor has hooks"
    if any(t.is_inference() for t in tensors):
        return "a tensor was made in inference mode"
    watched = watched_for_training(function, module, tensors)
    if isinstance(watched, str):
        return watched
    if hooks_on_saved():
        return "there are hooks on what autograd saves"
    with torch.random.fork_rng(devices=[]):
        return _planned(function, args, module, config, watched, route)


def _planned(
    function: Function, args: tuple[Any, ...], module: torch.nn.Module | None, config: Config, watched: purity.Watched,
    route: Callable[[TrainingPlan], Callable[..., Any]],
) -> TrainingPlan | str:  # fmt: skip
    engine, original = Engine.current(config), function if module is None else functools.partial(function, module)
    wanted = [t for t in (*_tensors(args), *named_state(module)) if t.requires_grad]
    plain = step(original, args, wanted)
    if config.on_miss == "fallback" and not engine.entries():
        return "no kernel is stored"
    if engine.timed and (repeatable(function, args, module) is None or not _is_small(plain)):
        return f"the step takes longer than {SMALL * 1e3:g} ms, or cannot be repeated"
    of, spec = halves(function, args, module)
    regions = [dataclasses.replace(w.captured.region, phase="direct") for w in (of.forward, of.backward)]
    decisions = both_decided(regions, engine, config)
    if isinstance(decisions, str):
        return decisions
    forward, backward = (guarded(d.entry.signature, engine.load(d.entry)) for d in decisions if d.entry is not None)
    kernels, by = _Kernels(of, spec, forward, backward, _plainly(function, args, module)), _recorder(engine, config)
    plan = TrainingPlan(kernels, args, watched, module, by)
    if reason := refuted(Beside(plan.run, function, args, module)):
        return reason
    contest = {KERNEL: step(route(plan), args, wanted), PLAIN: plain}
    pays = kernels_pay(of.forward.captured.region, decisions, contest, "Python" if by is None else "C++", config)
    return plan if pays else SLOWER


def _plainly(function: Function, args: tuple[Any, ...], module: torch.nn.Module | None) -> Function:
    """The call as a function of its tensors. It does not keep the module: a result that the module keeps would keep that."""
    given = tuple([torch.empty(0) if isinstance(a, Tensor) else a for a in args])
    if module is None:
        return flattened(function, given)[0]
    owner = weakref.ref(module)

    def plainly(*tensors: Tensor) -> Any:
        if (here := owner()) is None:
            raise RuntimeError("gradients of gradients go through a module that is gone; keep it until they are computed")
        return flattened(function, given, here)[0](*tensors)

    return plainly


def _recorder(engine: Engine, config: Config) -> Recorder | None:
    return recorder(engine.store, config) if engine.timed else None


def _is_small(call: Callable[[], Any]) -> bool:
    """Whether the call takes no longer than SMALL; others make one call or another wait."""
    call()
    for _ in range(_TRIES):
        begin = time.perf_counter()
        call()
        took = time.perf_counter() - begin
        if took <= SMALL or took > _TRIES * SMALL:
            break
    return took <= SMALL
