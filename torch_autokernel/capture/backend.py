"""`torch.compile(model, backend="autokernel")`.

AOTAutograd makes forward, backward and inference graphs; for each of them regions are resolved before Inductor computes its
cache key, and swapped in by a post-grad pass, so that what Inductor caches under a set of kernels refers to that set only.
Any failure of ours warns once, names the reason, and leaves the graph to Inductor as it was.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import logging
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from torch_autokernel.capture import made_up, operators, rehearsal
from torch_autokernel.capture.ambient import ordinary_torch
from torch_autokernel.capture.background import Search, Swapping
from torch_autokernel.capture.eager_rest import compile_eager
from torch_autokernel.capture.layouts import as_inductor_has_them
from torch_autokernel.capture.partition import Left, Partition, partition
from torch_autokernel.capture.pieces import take_apart
from torch_autokernel.capture.record import Record, note
from torch_autokernel.capture.scan_swap import swap_loops
from torch_autokernel.capture.settle import settle
from torch_autokernel.capture.signature import Captured
from torch_autokernel.capture.swap import swap
from torch_autokernel.core import deadline, events
from torch_autokernel.core.config import FIELDS, Config, config
from torch_autokernel.core.errors import AutoKernelError, CaptureError, ConfigError, ToolchainError
from torch_autokernel.core.types import digest
from torch_autokernel.engine import Decision, Engine, identity
from torch_autokernel.store.refusals import conditions

log = logging.getLogger(__name__)

Compiled = Callable[[], Callable[[list[Any]], Any]]  # compiles a graph

_PLAIN = (torch.Tensor, torch.nn.Parameter, FakeTensor)
_POST_GRAD = "post_grad_custom_pre_pass"


class AutoKernelPass:
    """The post-grad pass: swaps in the kernels that are already resolved. Made a CustomGraphPass on first use, so that
    importing this module does not import Inductor."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def __call__(self, graph: fx.Graph) -> None:
        self.session.replace(graph)

    def uuid(self) -> str:
        return self.session.uuid()

    def __deepcopy__(self, memo: dict[int, Any]) -> AutoKernelPass:
        """Itself: torch copies Inductor's configuration where it compiles within a compilation, as for a scan's gradient."""
        return self


@functools.cache
def _pass_class() -> type:
    from torch._inductor.custom_graph_pass import CustomGraphPass

    return type("AutoKernelGraphPass", (AutoKernelPass, CustomGraphPass), {})


class Session:
    """One compilation: an engine, a configuration and what was decided."""

    def __init__(self, options: Config, rehearses: bool = False) -> None:
        self.config = options
        self.rehearses = rehearses or options.on_miss == "generate"
        self.inputs: Sequence[Any] = ()  # of the graph at hand
        self.left_out: rehearsal.Kernels = frozenset()  # of the graph at hand: kernels that lose within it
        self.engine = Engine.current(options)
        self.fresh = False  # whether AOTAutograd must not save: its key is older than new kernels, or a search is still due
        self.searches: list[Search] = []
        self.prepared: dict[str, Decision] = {}
        self.look_up = dataclasses.replace(options, on_miss="fallback")  # the pass only swaps in what prepare found

    def uuid(self) -> str:
        """Digest of the set of kernels, the architecture and the policy; enters torch's cache keys."""
        engine = self.engine
        kernels = engine.store.manifest_digest(engine.arch.key, engine.abi)
        policy = [self.config.on_miss, self.config.rest, conditions(self.config), sorted(self.left_out)]
        return digest([kernels, engine.arch.key, engine.abi, policy])

    def register_all(self) -> None:
        """Register every kernel of the manifest: on a warm Inductor cache the pass never runs, but the operators must be
        there."""
        for entry in self.engine.entries():
            if operators.callable_as_operator(entry.signature):
                operators.ensure(entry, self.engine.load)

    def chosen(self, found: Partition) -> Iterator[tuple[Captured, Decision]]:
        """The regions of a graph, or their parts, with what `prepare` decided for them; a region that it did not see is only
        looked up."""
        seen = [c for c in found.regions if identity(c.region) not in self.prepared]
        unseen = [r for c in seen for r in (c.region, *(p.region for p in c.parts)) if identity(r) not in self.prepared]
        late = {identity(d.region): d for d in self.engine.resolve(unseen, self.look_up)} if unseen else {}
        decided = late | self.prepared
        for captured in found.regions:
            whole = decided[identity(captured.region)]
            if whole.entry is not None or not captured.parts:
                yield captured, whole
            elif captured.region.signature.digest not in self.left_out:
                known = [(p, decided.get(identity(p.region))) for p in captured.parts]
                yield from ((p, d) for p, d in known if d is not None)

    def prepare(self, graph: fx.Graph, compiled: Compiled | None = None, inputs: Sequence[Any] = ()) -> None:
        """Resolve the graph's regions, searching for what is missing, before anything is keyed by the set of kernels. What is
        decided is noted here: on a warm Inductor cache the pass never runs. `compiled` gives the graph as Inductor compiles it
        now; with it, the graph is rehearsed. `inputs` are fake tensors as the graph will get them."""
        self.left_out, self.inputs = frozenset(), inputs
        phase = phase_of(graph)
        with as_inductor_has_them(graph, self.config.rest, inputs):
            found = partition(graph, phase)
        with ordinary_torch():
            joined = [(c.region, tuple(p.region for p in c.parts)) for c in found.regions]
            settled = settle(self.engine, joined, self.config)
        decisions = [d for group in settled for d in group]
        if any(d.outcome == "miss" for d in decisions) and self.config.on_miss != "fallback":
            if obstacle := self.engine.obstacle:
                warn_once(ToolchainError(f"nothing new can be searched: {obstacle}"))
        for (region, parts), group in zip(joined, settled, strict=True):
            if parts and group[0].region is not region:
                self.prepared[identity(region)] = Decision(region, "refused", "its parts are looked at")
        self.prepared.update((identity(d.region), d) for d in decisions)
        unsettled = ("generated", "miss") if self.config.on_miss != "fallback" else ("generated",)
        self.fresh = self.fresh or any(d.outcome in unsettled for d in decisions)
        missing = [j for j, group in zip(joined, settled, strict=True) if any(d.outcome == "miss" for d in group)]
        if missing and self.config.on_miss == "background":
            self.searches.append(Search(missing, self.config, self.engine.work_folder()))
        self.register_all()
        if compiled is not None:
            decisions = self._rehearsed(graph, decisions, compiled)
            self.prepared.update((identity(d.region), d) for d in decisions)
        entries = [d.entry for d in decisions if d.entry is not None]
        loaded = [operators.ensure(e, self.engine.load).load() is None for e in entries]
        note(Record(phase, tuple(decisions), tuple(found.left), sum(loaded)))

    def _rehearsed(self, graph: fx.Graph, decisions: list[Decision], compiled: Compiled) -> list[Decision]:
        """The decisions, without the kernels under which this graph is slower."""
        kernels = rehearsal.kernels_of(decisions)
        taken = {name for d in decisions for name in d.region.nodes}
        regions = sum(d.entry is not None for d in decisions)
        if not kernels or not self.engine.timed or (regions == 1 and rehearsal.stands_alone(graph, taken)):
            return decisions
        key = rehearsal.key_of(graph, self.engine)
        outcome = rehearsal.recall(key, kernels, self.engine)
        if outcome is None and self.rehearses and made_up.may_run(graph):
            outcome = self._rehearse(decisions, compiled)
            if outcome is not None:
                self.fresh = True
                try:
                    rehearsal.remember(key, kernels, outcome, self.engine)
                except AutoKernelError as error:
                    log.warning("what a rehearsal found is not kept: %s", error)
        if outcome is None:
            return decisions
        self.left_out = frozenset(kernels) - outcome.kept
        lost = f"its kernel is left out of this graph: {outcome.reason}"
        return [
            dataclasses.replace(d, outcome="refused", reason=lost, entry=None)
            if d.entry is not None and d.region.signature.digest in self.left_out else d
            for d in decisions
        ]  # fmt: skip

    def _rehearse(self, decisions: list[Decision], compiled: Compiled) -> rehearsal.Outcome | None:
        """None where it cannot be done; the regions' own timings then decide."""
        groups = sorted(rehearsal.kernels_of(decisions), key=lambda s: -_gain(s, decisions))
        everything = frozenset(groups)

        def with_kernels(kernels: rehearsal.Kernels) -> Callable[[list[Any]], Any]:
            self.left_out = everything - kernels
            return compiled()

        try:
            with ordinary_torch():
                inputs = made_up.inputs_like(self.inputs)
            if inputs is None:
                log.info("the graph is not rehearsed: its inputs cannot be made here, or are too large")
                return None
            start = time.monotonic()
            outcome = rehearsal.choose(groups, rehearsal.measurer(with_kernels, inputs))
            events.emit("graph.rehearsed", reason=outcome.reason, seconds=time.monotonic() - start)
            return outcome
        except Exception:  # the capture boundary: whatever Inductor raises here it raises again where it counts
            log.warning("the graph could not be rehearsed", exc_info=True)
            return None
        finally:
            self.left_out = frozenset()

    def prepare_safely(self, graph: fx.Graph, compiled: Compiled | None = None, inputs: Sequence[Any] = ()) -> None:
        """`prepare`, which never raises unless `strict`."""
        try:
            self.prepare(graph, compiled, inputs)
        except Exception as error:  # the capture boundary, as in `replace`
            self.fresh = True
            if self.config.strict:
                raise
            self._failed(error)

    def replace_loops(self, gm: fx.GraphModule) -> None:
        """Kernels for the graph's scans and unrolled loops; never raises unless `strict`."""
        try:
            decisions = swap_loops(gm, phase_of(gm.graph), self.engine, self.config)
            self.fresh = any(d.outcome in ("generated", "miss") for d in decisions)
            missing = [(d.region, ()) for d in decisions if d.outcome == "miss"]
            if missing and self.config.on_miss == "background":
                self.searches.append(Search(missing, self.config, self.engine.work_folder()))
        except Exception as error:  # the capture boundary, as in `replace`
            self.fresh = True
            if self.config.strict:
                raise
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        warn_once(error)
        note(Record("unknown", (), (Left((), f"{type(error).__name__}: {error}"),), 0))

    def _replace(self, graph: fx.Graph) -> None:
        found = partition(graph, phase_of(graph))
        chosen = []
        for captured, decision in self.chosen(found):
            if decision.entry is not None and captured.region.signature.digest not in self.left_out:
                operator = operators.ensure(decision.entry, self.engine.load)
                if (problem := operator.load()) is None:
                    chosen.append((captured, operator.overload))
                else:
                    log.warning("%s", problem)
        swap(graph, chosen)

    def replace(self, graph: fx.Graph) -> None:
        """Swap kernels into the graph; never raises unless `strict`."""
        try:
            with as_inductor_has_them(graph, self.config.rest, self.inputs):
                self._replace(graph)
        except Exception as error:  # the capture boundary: a failure of ours must not break the user's program
            if self.config.strict:
                raise
            self._failed(error)


def _gain(signature: str, decisions: Sequence[Decision]) -> float:
    """Nanoseconds a run that the kernel of a signature saves, by its regions' own timings."""
    timings = [d.entry.verdict.timing for d in decisions if d.entry is not None and d.region.signature.digest == signature]
    return sum(statistics.median(t.baseline_ns) - statistics.median(t.samples_ns) for t in timings if t is not None)


def phase_of(graph: fx.Graph) -> str:
    """`backward`, `forward` (of a training pair) or `inference`, by how AOTAutograd names the inputs."""
    names = [n.name for n in graph.nodes if n.op == "placeholder"]
    if any(n.startswith("tangents") for n in names):
        return "backward"
    return "forward" if any(n.startswith("primals") for n in names) else "inference"


_WARNED: set[str] = set()
# Why graphs of a decorated call run as they are. The call may not be repeated then: what stands before a graph has run.
UNCOMPILED: ContextVar[list[str] | None] = ContextVar("uncompiled", default=None)


def warn_once(error: BaseException) -> None:
    text = f"{type(error).__name__}: {error}"
    log.warning("falling back to the reference: %s", text, exc_info=log.isEnabledFor(logging.DEBUG))
    if text not in _WARNED:
        _WARNED.add(text)
        warnings.warn(f"torch_autokernel fell back: {text}", RuntimeWarning, stacklevel=3)


def split_options(options: Mapping[str, Any] | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Ours and Inductor's options; raises ConfigError (a RuntimeError) for a key that neither knows."""
    ours, theirs = {}, {}
    for key, value in (options or {}).items():
        if key in FIELDS:
            ours[key] = value
            continue
        from torch._inductor import config as inductor_config

        name = key.replace("-", "_")
        if name not in inductor_config.get_config_copy():
            raise ConfigError(
                f"unknown option {key!r}; known: {', '.join(FIELDS)}, and Inductor's own options",
                hint="torch._inductor.list_options() lists Inductor's",
            )
        theirs[name] = value
    return ours, theirs


def autokernel(gm: fx.GraphModule, example_inputs: Sequence[Any], *, mode: str | None = None,
               options: Mapping[str, Any] | None = None) -> Callable[..., Any]:  # fmt: skip
    """The backend. `options` are fields of `Config` or of Inductor's configuration; `mode` is Inductor's."""
    ours, theirs = split_options(options)
    resolved = config.resolve(ours)
    if mode:
        from torch._inductor import list_mode_options

        theirs = {**list_mode_options(mode), **theirs}
    session = None if resolved.disable or not _plain(example_inputs) else _open(resolved)
    if resolved.rest == "eager":
        return compile_eager(gm, example_inputs, session)
    later = session is not None and resolved.on_miss == "background"
    try:
        if session is not None and later:
            return _compile_and_swap_later(gm, example_inputs, session, theirs)
        return _compile_inductor(gm, example_inputs, session, theirs)
    except Exception as error:  # the capture boundary: without a compiler Inductor cannot run, but the model can
        if resolved.strict or not _lacks_compiler(error):
            raise
        warn_once(ToolchainError(f"Inductor has no C++ compiler, so the graph runs as plain ATen: {_first_line(error)}"))
        return compile_eager(gm, example_inputs, session)


def _plain(inputs: Sequence[Any]) -> bool:
    """Whether no input is of a subclass that AOTAutograd does not take apart. On the first call AOTAutograd watches custom
    operators in a mode that refuses such tensors, so a graph with kernels would raise where one without them runs."""
    return all(type(t) in _PLAIN or is_traceable_wrapper_subclass(t) for t in inputs if isinstance(t, torch.Tensor))


def _lacks_compiler(error: BaseException) -> bool:
    from torch._inductor.exc import InvalidCxxCompiler

    causes = (error, error.__cause__, error.__context__, getattr(error, "inner_exception", None))
    return any(isinstance(e, InvalidCxxCompiler) for e in causes)


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]


def _compile_and_swap_later(gm: fx.GraphModule, example_inputs: Sequence[Any], session: Session,
                            patches: dict[str, Any]) -> Callable[..., Any]:  # fmt: skip
    """Inductor now; the search beside it; the kernels when they are there (see `background`)."""
    static = not any(
        isinstance(s, torch.SymInt) for t in example_inputs for s in (t.shape if isinstance(t, torch.Tensor) else [t])
    )
    spare = copy.deepcopy(gm) if static else None
    compiled = _compile_inductor(gm, example_inputs, session, patches)
    if not session.searches or spare is None:
        return compiled
    later = Session(dataclasses.replace(session.config, on_miss="fallback"), rehearses=True)
    return Swapping(compiled, lambda: _compile_inductor(spare, example_inputs, later, patches), session.searches)


def _open(resolved: Config) -> Session | None:
    """A session, or None with a warning where the plugin cannot work here at all."""
    try:
        session = Session(resolved)
        session.register_all()
        return session
    except (AutoKernelError, OSError) as error:
        if resolved.strict or isinstance(error, ConfigError):
            raise
        warn_once(error)
        return None


def _compile_inductor(gm: fx.GraphModule, example_inputs: Sequence[Any], session: Session | None,
                      patches: dict[str, Any]) -> Callable[..., Any]:  # fmt: skip
    from torch._functorch._aot_autograd.utils import make_boxed_func
    from torch._inductor.compile_fx import compile_fx, compile_fx_inner
    from torch._inductor.exc import InductorError

    if session is None:
        plain: Callable[..., Any] = compile_fx(gm, example_inputs, config_patches=patches or None)  # type: ignore[assignment]
        return plain
    from torch._inductor import config as inductor_config

    earlier = patches.get(_POST_GRAD, getattr(inductor_config, _POST_GRAD))
    ours = _pass_class()(session)
    chain = [*(earlier if isinstance(earlier, (list, tuple)) else [earlier] if earlier else []), ours]

    def inner(graph_module: fx.GraphModule, inputs: Sequence[Any], **kwargs: Any) -> Any:
        def compiled_now() -> Callable[[list[Any]], Any]:
            with _spare_strides():
                made: Any = compile_fx_inner(_twin(graph_module), inputs, **kwargs)
            call: Callable[[list[Any]], Any] = getattr(made, "current_callable", None) or made
            return call

        take_apart(graph_module.graph)
        graph_module.recompile()
        with deadline.one_purse():  # `max_seconds` is for the graph, its loops among it
            session.replace_loops(graph_module)
            session.prepare_safely(graph_module.graph, compiled_now, inputs)
        backward, uncompiled = kwargs.get("is_backward"), UNCOMPILED.get()
        as_it_is = _twin(graph_module) if backward or uncompiled is not None else None
        try:
            compiled = compile_fx_inner(graph_module, inputs, **kwargs)
        except InductorError as error:
            if as_it_is is None or session.config.strict or (uncompiled is None and _lacks_compiler(error)):
                raise
            if backward:  # the forward has run: nobody could catch this between the user's backward() and here
                warn_once(CaptureError(f"a gradient runs as it is, for Inductor cannot compile it: {_first_line(error)}"))
            elif uncompiled is not None:
                uncompiled.append(_first_line(error))
            return make_boxed_func(as_it_is.forward)
        if session.fresh and getattr(compiled, "_fx_graph_cache_key", None):
            compiled._fx_graph_cache_key = None
        return compiled

    passes: Any = chain[0] if len(chain) == 1 else chain
    result: Callable[..., Any] = compile_fx(
        gm, example_inputs, inner_compile=inner, config_patches={**patches, _POST_GRAD: passes}
    )  # type: ignore[assignment]
    return result


def _twin(gm: fx.GraphModule) -> fx.GraphModule:
    """The same graph again, over the same constants: real ones cannot be copied where tensors are fake."""
    twin = fx.GraphModule(gm, copy.deepcopy(gm.graph))
    twin.meta = dict(gm.meta)
    return twin


@contextmanager
def _spare_strides() -> Iterator[None]:
    """A compilation that is not the last one: Inductor reports its outputs' strides to the surrounding trace once only."""
    context = torch._guards.TracingContext.try_get()
    kept = context.output_strides if context is not None else None
    if context is None or kept is None:
        yield
        return
    context.output_strides = []
    try:
        yield
    finally:
        context.output_strides = kept


def reset() -> None:
    """Called by torch.compiler.reset(): forget what was noted and warned."""
    from torch_autokernel.capture import record

    _WARNED.clear()
    record.clear()


autokernel.reset = reset  # type: ignore[attr-defined]
