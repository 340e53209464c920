"""Whole calls, timed in turns: a program with kernels against the call that it stands for; a call through torch.compile against
the plain one.

A kernel was timed against its printed reference; the call it belongs to may run through a library function that is faster than
either. So the whole call is timed, in turns, against the original and, where something around loops could be fused,
against torch.compile. What was found is kept as a rehearsal's outcome is.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from torch_autokernel.capture import ops, purity
from torch_autokernel.capture.ambient import ordinary_torch, traces_here
from torch_autokernel.capture.arguments import identity
from torch_autokernel.capture.holder import flat, held, nested, regrouped, without_self
from torch_autokernel.capture.record import Record, note
from torch_autokernel.capture.rehearsal import GRAPH, Outcome, kernels_of, key_of, recall, remember
from torch_autokernel.capture.staged import Staged, program
from torch_autokernel.capture.whole import trace
from torch_autokernel.core.config import Config
from torch_autokernel.core.errors import AutoKernelError, CaptureError
from torch_autokernel.core.types import CacheKey, Region, digest
from torch_autokernel.engine import Decision, Engine

if TYPE_CHECKING:
    from torch_autokernel.verify.statistics import Ratio

log = logging.getLogger(__name__)

ROUNDS = 60
SECONDS = 3.0
_NOT_COUNTED = 2  # the first compiles, the second may do so for sizes that turn out to vary
_FEWEST, _ENOUGH = 5, 16  # calls by each way
_PATIENCE = 4
_OUTLIER = 10  # times the median
_STALL = 0.2  # seconds of a call that compiles
PLAIN, COMPILED, KERNEL, AROUND, TRAINING = "plain", "compiled", "kernel", "compiled around a kernel", "training"
_one_at_a_time = threading.RLock()  # held while a module may not be as its users know it
_changing: list[int] = []  # the thread that holds it
_LONGEST_TRIAL = 60.0  # seconds
_SPACES = ("_parameters", "_buffers", "_modules")
Calls = Mapping[str, Callable[[], Any]]


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


def slower(staged: Staged, decisions: Sequence[Decision], contenders: Calls, config: Config) -> str:
    """Why the program must not be used, or nothing. `contenders` are the program under the name "" and what it has to beat."""
    engine = Engine.current(config)
    if not engine.timed:
        return ""
    kernels = kernels_of(decisions)
    may, measure = config.on_miss != "fallback", lambda: _measured(contenders, frozenset(kernels))
    outcome = _outcome(key_of(staged.graph, engine), kernels, engine, measure if may else None)
    return "" if outcome is None or outcome.kept else outcome.reason


def kernel_pays(
    whole: Region, decision: Decision, routed: Callable[[], Callable[[], Any]], plain: Callable[[], Any], config: Config
) -> bool:
    """Whether a kernel that stands for a whole call is no slower than the call as it is. The kernel beat the region's printed
    reference; the user may have called a library function that is faster. `routed` gives the call by way of the kernel;
    `whole` is what the call computes, of which the kernel's region may be a part."""
    name = [KERNEL, whole.signature.digest, sorted(whole.sizes.items())]
    return _no_slower(name, kernels_of([decision]), lambda: {KERNEL: routed(), PLAIN: plain}, config)


def kernels_pay(whole: Region, decisions: Sequence[Decision], contest: Calls, recorder: str, config: Config) -> bool:
    """Whether a training step by a call's two kernels, the first of `contest`, is surely faster than the step as it is; True
    where nothing is timed. `recorder` names what records the calls, which takes as long as small kernels."""
    kernels = kernels_of(decisions)
    name = [TRAINING, recorder, whole.signature.digest, sorted(whole.sizes.items()), sorted(kernels)]
    return not Engine.current(config).timed or _no_slower(name, kernels, lambda: contest, config, surely=True)


def compiling_around_pays(
    whole: Region, decision: Decision, compiled: Callable[[], Callable[[], Any]], eager: Callable[[], Any], config: Config
) -> bool:
    """Whether what stands around a loop's kernel is faster as one compiled graph with the kernel in it. `compiled` is asked for
    that call where it is to be timed. False where nothing is known and nothing may be timed."""
    name = [AROUND, whole.signature.digest, sorted(whole.sizes.items())]
    return _no_slower(name, kernels_of([decision]), lambda: {AROUND: compiled(), KERNEL: eager}, config, surely=True)


def compiling_pays(
    function: Callable[..., Any], args: tuple[Any, ...], module: torch.nn.Module | None, compiled: Callable[..., Any],
    config: Config,
) -> bool | None:  # fmt: skip
    """Whether a call that no kernel takes is no slower through torch.compile than as it is: for small ones the guards of a
    compiled call cost more than all the rest, and some library functions are faster than what is generated in their place.
    Where gradients are recorded, forward and backward are timed together, and the module is put back as it was. True also where
    nothing may be timed; None where the call must not be repeated: it has to read what can be watched and change nothing, or
    where gradients are recorded nothing that cannot be put back."""
    engine = Engine.current(config)
    if not engine.timed:
        return True
    given = [a for a in flat(args) if isinstance(a, torch.Tensor)]
    owner = module or held(function)
    read = [*given, *([] if owner is None else owner.parameters())]
    wanted = [t for t in read if t.requires_grad] if torch.is_grad_enabled() else []
    if (found := repeatable(function, args, module, bool(wanted))) is None:
        return None
    if any(map(hooked, wanted)):
        return True
    plain = function if module is None else functools.partial(function, module)
    steps = {COMPILED: step(compiled, args, wanted), PLAIN: step(plain, args, wanted)}
    told = [key_of(found.graph, engine).signature, [t.requires_grad for t in given], len(wanted)]

    def name() -> list[Any]:
        return [PLAIN, *told, engine.store.manifest_digest(engine.arch.key, engine.abi)]

    known = recall(_key(name(), engine), {COMPILED: ""}, engine)
    if known is not None:
        return bool(known.kept)
    unseen = contextlib.nullcontext() if found.changed is None else _unseen()
    with torch.random.fork_rng(devices=[]), unseen, put_back(found.changed, found.buffers):
        if config.on_miss == "generate":
            steps[COMPILED]()  # searches, which may change the set of kernels
        return _no_slower(name(), {COMPILED: ""}, lambda: steps, config)


class InUse:
    """Two ways to make a call of one kind, timed on the calls that the user makes: each call is made once, by one way or the
    other. So calls can be compared that must not be repeated: a module that keeps what it saw, say. Of `recorded` calls the
    backward pass is timed too, from where it comes to their results to its end: what else it passes, it passes either way.
    Which random numbers come must not depend on a clock: the second way has them if the call is `small`, else the first."""

    def __init__(self, ways: Mapping[str, Callable[..., Any]], recorded: bool = False, small: bool = False) -> None:
        self.ways = dict(ways)
        self.recorded, self.small = recorded, small
        self.seconds: dict[str, list[float]] = {name: [] for name in ways}
        self.back: dict[str, list[float]] = {name: [] for name in ways}
        self.turns = 0
        self.spent = 0.0
        self.draws = False  # random numbers
        self.stalls = 0  # of the first way
        self.twice = False  # whether gradients are recorded themselves, which compiled functions cannot do
        self.ended: Callable[[], None] = _nothing  # of the way back that is being timed

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        # the parity of a number's bits: calls that differ in a regular way, heavy and light by turns, meet both ways alike
        name = list(self.ways)[self.turns.bit_count() % 2 if self.turns > 1 else 1 - self.turns]
        self.turns += 1
        drawn = torch.get_rng_state() if self.turns == 1 else None  # by the second way, which compiles nothing
        begun = time.perf_counter()
        result = self.ways[name](*args, **kwargs)
        took = time.perf_counter() - begun
        self.draws = self.draws or drawn is not None and not torch.equal(drawn, torch.get_rng_state())
        self.stalls += took > _STALL and name == next(iter(self.ways))
        counts = self.turns > 2 * _NOT_COUNTED
        if counts:
            self.seconds[name].append(took)
            self.spent += took
        if self.recorded:
            with contextlib.suppress(RuntimeError):  # of a view whose base has changed torch says that there is no way back
                self._look_on_the_way_back(name, result, counts)
        return result

    def _look_on_the_way_back(self, name: str, result: Any, counts: bool) -> None:
        """Whether gradients of gradients will be asked for, and how long it takes: from the first gradient of a result to the
        end of the pass, or to where an earlier call's way back begins."""
        begun: list[float] = []

        def begin(_given: Any) -> None:
            if begun or torch.compiler.is_compiling():  # by compiled autograd
                return
            self.twice = self.twice or torch.is_grad_enabled()
            self.ended()
            if not counts:
                return
            begun.append(time.perf_counter())
            self.ended = end
            torch.autograd.Variable._execution_engine.queue_callback(end)

        def end() -> None:
            if self.ended is end:
                self.back[name].append(time.perf_counter() - begun[0])
                self.ended = _nothing

        leaves = [t for t in pytree.tree_leaves(result) if isinstance(t, torch.Tensor) and t.requires_grad]
        for node in {t.grad_fn for t in leaves if t.grad_fn is not None}:
            node.register_prehook(begin)

    @property
    def fastest(self) -> str | None:
        """The way that is faster on average, outliers aside; None while too little was seen. Where random numbers are drawn it
        is known at once, for both draw others; where the first is compiled anew time and again, or cannot do what is asked, it
        is the second."""
        first, second = self.ways
        if self.twice:
            return second
        if self.draws:
            return second if self.small else first
        if self.stalls > 2 and self.seconds[second] and max(self.seconds[second]) < _STALL:
            return second
        seen = min(map(len, self.seconds.values()))
        if seen < _FEWEST or (seen < _ENOUGH and self.spent < SECONDS):
            return None
        back = self.recorded and min(map(len, self.back.values())) >= _FEWEST
        if self.recorded and not back and seen < _PATIENCE * _ENOUGH:
            return None  # gradients are asked for later, or never
        means = {name: _usual(times) + (_usual(self.back[name]) if back else 0.0) for name, times in self.seconds.items()}
        log.info("trial: in use, %s", ", ".join(f"{name} takes {1e6 * s:.0f} us" for name, s in means.items()))
        return min(means, key=lambda name: means[name])


def _nothing() -> None: ...


def _usual(times: Sequence[float]) -> float:
    """The mean of all but outliers. Not the median: calls may be heavy and light."""
    most = _OUTLIER * statistics.median(times)
    return statistics.fmean([t for t in times if t <= most] or times)


@dataclass(frozen=True)
class Repeatable:
    """A call that may be made again: its graph, the module that it changes, and the buffers."""

    graph: fx.Graph
    changed: torch.nn.Module | None
    buffers: list[torch.Tensor]


def repeatable(
    function: Callable[..., Any], args: tuple[Any, ...], module: torch.nn.Module | None, changing: bool = False
) -> Repeatable | None:
    """The call, if to make it again would not be noticed. A `changing` one may set its module's attributes and change buffers
    (a batch norm's statistics): it is not noticed once these are put back."""
    owner = module or held(function)
    watched, telling = purity.watch(function, owner, changing), purity.TOLD_ALIKE if changing else purity.TELLS
    if watched.reason is not None or watched.names & telling or identity(args) is None or _has_history_itself(owner):
        return None
    text = without_self(function) if owner is not module else function
    if nested(args):
        text, args = regrouped(text, args, int(owner is not None)), flat(args)
    try:
        with put_back(owner if changing else None):
            graph = trace(text, args, owner)[0].graph
    except CaptureError as error:
        log.debug("no trial: %s", error.message)
        return None
    buffers = _changed_buffers(graph, owner)
    if buffers is None or (buffers and not changing):
        return None
    return Repeatable(graph, owner if buffers or watched.stores else None, buffers)


def settled_elsewhere() -> None:
    """Waits for another thread's trial during which a module is not as its users know it. Not while this thread traces: that
    trial may wait for the compiler."""
    here = threading.get_ident()
    if _changing and here not in _changing and not traces_here() and _one_at_a_time.acquire(timeout=_LONGEST_TRIAL):
        _one_at_a_time.release()


def _has_history_itself(owner: torch.nn.Module | None) -> bool:
    """Whether the module keeps tensors that hang on the user's graph: a trial's backward pass would go on into that."""
    modules = [] if owner is None else list(owner.modules())
    return any(_has_history(v) for m in modules for space in (m.__dict__, m._buffers) for v in space.values())


def _changed_buffers(graph: fx.Graph, owner: torch.nn.Module | None) -> list[torch.Tensor] | None:
    """The module's buffers that the graph changes; None where it changes something else, or buffers that cannot be put back."""
    held = [] if owner is None else list(owner.buffers())
    places = [n for n in graph.nodes if n.op == "placeholder"]
    by_place = dict(zip(places[len(places) - len(held) :], held, strict=True))
    effects = [n for n in graph.nodes if _changes(n)]
    if any(ops.name_of(n.target) != "aten.copy_.default" or n.args[0] not in by_place for n in effects):
        return None
    found = [by_place[n.args[0]] for n in effects]
    return None if any(b.is_inference() for b in found) else found


@contextlib.contextmanager
def alone() -> Iterator[bool]:
    """No other thread makes a trial meanwhile. False where one took too long: it may be waiting for this thread."""
    granted = _one_at_a_time.acquire(timeout=_LONGEST_TRIAL)
    try:
        yield granted
    finally:
        if granted:
            _one_at_a_time.release()


@contextlib.contextmanager
def _unseen() -> Iterator[None]:
    """No other thread begins a call that looks for a way."""
    with _one_at_a_time:
        _changing.append(threading.get_ident())
        try:
            yield
        finally:
            _changing.pop()


@contextlib.contextmanager
def put_back(owner: torch.nn.Module | None, buffers: Sequence[torch.Tensor] = ()) -> Iterator[None]:
    """A module that is afterwards as it was before: its attributes, and the values of these buffers of it."""
    modules = [] if owner is None else list(owner.modules())
    attributes = [(space, dict(space)) for m in modules for space in (m.__dict__, *(m.__dict__[s] for s in _SPACES))]
    values = [b.detach().clone() for b in buffers]
    # autograd is not to notice: who saved a buffer before may go back
    versions = torch.autograd._unsafe_preserve_version_counter(tuple(buffers))  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for space, before in attributes:
            for name in [n for n in space if n not in before]:
                del space[name]
            space.update({n: v for n, v in before.items() if n not in space or space[n] is not v})
        with torch.no_grad(), versions:
            for buffer, value in zip(buffers, values, strict=True):
                buffer.copy_(value)


def hooked(tensor: torch.Tensor) -> bool:
    """Whether gradients that a trial asks for would be noticed."""
    return bool(tensor._backward_hooks) or (tensor.grad_fn is not None and tensor.retains_grad)


def _changes(node: fx.Node) -> bool:
    """Whether the node may have an effect beside its result."""
    if node.op != "call_function" or ops.name_of(node.target) == ops.GETITEM:
        return False
    return not isinstance(node.target, torch._ops.OpOverload) or node.target._schema.is_mutable


def step(call: Callable[..., Any], args: tuple[Any, ...], wanted: Sequence[torch.Tensor]) -> Callable[[], Any]:
    """The call, and where gradients are wanted also those, which are not kept. Arguments that have a history are taken without
    it: the user's graph is for the user's own backward pass."""
    given: dict[int, torch.Tensor] = {}
    leaves = {id(t): t.detach().requires_grad_(t.requires_grad) for t in flat(args) if _has_history(t)}
    wanted = [leaves.get(id(t), t) for t in wanted]
    args = pytree.tree_map_only(torch.Tensor, lambda t: leaves[id(t)].view_as(t) if id(t) in leaves else t, args)

    def both() -> None:
        results = [r for r in pytree.tree_leaves(call(*args)) if isinstance(r, torch.Tensor) and r.requires_grad]
        weights = [given.setdefault(k, torch.randn(r.shape).to(r.dtype)) for k, r in enumerate(results)]
        if results:
            torch.autograd.grad(results, wanted, weights, allow_unused=True)

    return both if wanted else lambda: call(*args)


def _has_history(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.grad_fn is not None


def _no_slower(
    name: Sequence[Any], contest: Mapping[str, str], contenders: Callable[[], Calls], config: Config, surely: bool = False
) -> bool:
    """Whether the first contender is no slower than the second, by the median, or, with `surely`, is known to be faster; what
    was found is kept by name and threads."""
    engine = Engine.current(config)
    if not engine.timed:
        return not surely

    def measure() -> Outcome:
        calls = contenders()
        one, other = calls
        found = _samples(calls)(one, other)
        text = f"{one} runs the call at {found.median:.2f}x ({found.low:.2f} to {found.high:.2f}) of {other}"
        wins = found.low > 1 if surely else found.median >= 1
        return Outcome(frozenset(contest) if wins else frozenset(), text)

    outcome = _outcome(_key(name, engine), contest, engine, measure if config.on_miss == "generate" else None)
    return not surely if outcome is None else bool(outcome.kept)


def _key(name: Sequence[Any], engine: Engine) -> CacheKey:
    return CacheKey(digest([*name, torch.get_num_threads()]), engine.arch.key, engine.abi + GRAPH)


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


def _samples(contenders: Calls) -> Callable[[str, str], Ratio]:
    """All run in turns; gives how many times faster one is than another."""
    from torch_autokernel.verify.statistics import interleave, paired_ratio  # imported here: a warm cache loads no `verify`

    samples = interleave(contenders, SECONDS, ROUNDS)
    return lambda one, other: paired_ratio(samples[one], samples[other])


def _measured(contenders: Calls, kernels: frozenset[str]) -> Outcome:
    faster = _samples(contenders)
    told = {name: faster("", name) for name in contenders if name}
    worst = min(told, key=lambda name: told[name].low)
    found = told[worst]
    text = f"with kernels for its loops the call runs at {found.median:.2f}x ({found.low:.2f} to {found.high:.2f}) of {worst}"
    return Outcome(kernels if found.low >= 1 else frozenset(), text)
