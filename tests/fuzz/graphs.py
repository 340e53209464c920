"""Random programs through the backend, every region replaced by its printed reference, against the same graph without
replacements (bit for bit) and against eager (shapes, dtypes, strides, aliasing; values up to rounding)."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from functorch.compile import aot_function, make_boxed_func, min_cut_rematerialization_partition
from torch._dynamo.backends.common import aot_autograd
from torch._inductor.decomposition import select_decomp_table

from tests.capture.engines import ReferenceEngine
from tests.fuzz.programs import Program, function, make, shrink
from tests.fuzz.steps import STEPS, random_program, values_of
from torch_autokernel.capture import partition
from torch_autokernel.capture.backend import Session
from torch_autokernel.core.config import config
from torch_autokernel.core.types import Region
from torch_autokernel.engine import Engine


@contextmanager
def engine(found: ReferenceEngine) -> Iterator[ReferenceEngine]:
    """`found` in the place of the engine."""
    before = Engine.__dict__["current"]
    Engine.current = classmethod(lambda cls, config: found)  # type: ignore[assignment]
    try:
        yield found
    finally:
        Engine.current = before  # type: ignore[method-assign]


def inputs_of(program: Program, seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [make(g, generator) for g in program.inputs]


def run_with_gradients(fn: Callable[..., Any], inputs: list[torch.Tensor], seed: int) -> tuple[list[Any], list[Any]]:
    """Outputs, and the gradients of the inputs that ask for one, of all outputs with a history. An input that eager returns as it
    is has none, of which a compiled graph gives a copy: the program gives a view of it."""
    outputs = list(fn(*inputs))
    wanted = [t for t in inputs if t.requires_grad]
    losses = [o for o in outputs if o.requires_grad and o.grad_fn is not None]
    if not wanted or not losses:
        return outputs, []
    generator = torch.Generator().manual_seed(seed)
    seeds = [torch.randn(o.shape, generator=generator, dtype=torch.float64).to(o.dtype) for o in losses]
    return outputs, list(torch.autograd.grad(losses, wanted, seeds, allow_unused=True))


class Checking:
    """A backend whose graphs run twice, as they are and with regions replaced, and must agree bit for bit."""

    def __init__(self) -> None:
        self.engine = ReferenceEngine()

    def __call__(self, gm: Any, inputs: Any) -> Any:
        return aot_autograd(fw_compiler=self.compile, bw_compiler=self.compile, decompositions=select_decomp_table())(gm, inputs)

    def compile(self, gm: torch.fx.GraphModule, _inputs: Any) -> Any:
        plain = copy.deepcopy(gm)
        results = list(plain.graph.output_node().args[0])
        moved = any(n.kwargs.get("memory_format") for n in plain.graph.nodes)  # a reference need not sum in the same order then
        with engine(self.engine):
            session = Session(config.resolve({"rest": "eager", "strict": True}))
            session.prepare_safely(gm.graph)
            session.replace(gm.graph)
        gm.recompile()

        def both(args: list[Any]) -> Any:
            expected, got = plain(*args), gm(*args)
            for i, (a, b) in enumerate(zip(got, expected, strict=True)):
                if isinstance(b, torch.Tensor):
                    same(a, b, f"result {i} of a graph", not moved)
                    assert strides(a, b) == strides(b, b) or told(a, results[i]), f"result {i} of a graph: strides {a.stride()}, expected {b.stride()}"
                    assert aliases(a, args, got) == aliases(b, args, expected), f"result {i} of a graph aliases others"
            return got

        return make_boxed_func(lambda *args: both(list(args)))


def compiled(program: Program, backend: Any, inputs: list[torch.Tensor], seed: int, dynamic: bool | None) -> Any:
    """Outputs and gradients through a backend; dynamo is used for dynamic sizes only."""
    torch._dynamo.reset()
    if dynamic or isinstance(backend, str):
        fn = torch.compile(function(program, STEPS), backend=backend, dynamic=dynamic, fullgraph=True)
    else:
        fn = aot_function(function(program, STEPS), backend.compile, backend.compile, min_cut_rematerialization_partition, select_decomp_table())
    return run_with_gradients(fn, inputs, seed)


def torch_itself_fails(program: Program, inputs: list[torch.Tensor], seed: int, dynamic: bool | None) -> bool:
    try:
        compiled(program, "aot_eager_decomp_partition", inputs, seed, dynamic)
    except Exception:  # the question is whether it works
        return True
    return False


def same(a: Any, b: Any, what: str, exact: bool) -> None:
    if a is None or b is None:
        assert a is b, f"{what}: {a} and {b}"
        return
    assert a.shape == b.shape and a.dtype == b.dtype, f"{what}: {a.shape} {a.dtype}, expected {b.shape} {b.dtype}"
    if exact:
        assert torch.equal(torch.nan_to_num(a), torch.nan_to_num(b)), f"{what} differs"
    elif a.is_floating_point():
        tolerance = {torch.float32: 1e-4, torch.float64: 1e-9, torch.bfloat16: 5e-2, torch.float16: 1e-2}[a.dtype]
        scale = float(b.detach().double().abs().nan_to_num(0, 0, 0).max()) if b.numel() else 0.0
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * max(1.0, scale), equal_nan=True, msg=lambda m: f"{what}: {m}")


def check(program: Program, seed: int, dynamic: bool | None, regions: list[Region] | None = None) -> None:
    """Raises AssertionError (or whatever the compilation raises) where the backend changes anything."""
    inputs = inputs_of(program, seed)
    expected, gradients = run_with_gradients(function(program, STEPS), inputs, seed)
    backend = Checking()
    try:
        ours = compiled(program, backend, inputs, seed, dynamic)
    except Exception:
        if torch_itself_fails(program, inputs, seed, dynamic):
            return
        raise
    if regions is not None:
        regions += backend.engine.regions
    low = any(g.dtype in (torch.bfloat16, torch.float16) for g in program.inputs) or any(s.name == "convert" for s in program.steps)
    for kind, got, eager in (("output", ours[0], expected), ("gradient", ours[1], gradients)):
        assert len(got) == len(eager)
        for i, (a, e) in enumerate(zip(got, eager, strict=True)):
            same(a, e, f"{kind} {i} against eager", False) if not low else None
            assert a is None or a.requires_grad == e.requires_grad, f"{kind} {i} requires_grad {a.requires_grad}"


def strides(t: torch.Tensor, other: torch.Tensor) -> tuple[int, ...]:
    """Those that matter: all of them where the other one is contiguous, else those of dimensions longer than 1; none of an
    empty tensor, whose strides differ between eager's own operations."""
    if not t.numel():
        return ()
    return t.stride() if other.is_contiguous() and other.stride() == torch.empty(other.shape, device="meta").stride() else tuple(s for s, n in zip(t.stride(), t.shape, strict=True) if n > 1)


def told(t: torch.Tensor, node: Any) -> bool:
    """Whether torch itself foretold these strides, which some operations do not keep to: compiled graphs have those that were
    foretold. Sizes that vary leave them open."""
    foretold = node.meta["val"].stride()
    return any(isinstance(s, torch.SymInt) for s in foretold) or foretold == t.stride()


def aliases(t: torch.Tensor, inputs: list[Any], outputs: Any) -> list[bool]:
    others = [o for o in (*inputs, *outputs) if isinstance(o, torch.Tensor)]
    return [o.numel() > 0 and o.untyped_storage().data_ptr() == t.untyped_storage().data_ptr() for o in others]


def drawn(seed: int, smooth: bool = False) -> tuple[Program, bool | None]:
    """The program of a seed and whether its sizes are dynamic."""
    rng = random.Random(seed)
    program = random_program(seed, rng.choice((3, 6, 12, 25)), smooth=smooth, training=rng.random() < 0.5)
    return program, rng.choices((None, True), (3, 1))[0]


def outcome(program: Program, seed: int, dynamic: bool | None) -> str:
    """The complaint about this program; empty where there is none (or eager cannot run it)."""
    try:
        values_of(program, inputs_of(program, seed))
    except (RuntimeError, IndexError, ValueError):
        return ""
    shared = 8 if seed % 2 else 4096  # the tensors are small: with 8 bytes, all regions of one depth that share one are joined
    try:
        with mock.patch.object(partition, "SHARED_BYTES", shared):
            check(program, seed, dynamic)
    except Exception as error:  # whatever it is, it is the finding
        return f"{type(error).__name__}: {str(error).strip()[:600]}"
    return ""


def smallest(program: Program, seed: int, dynamic: bool | None) -> tuple[Program, str]:
    """The program shrunk, and its complaint."""
    kind = outcome(program, seed, dynamic).partition(":")[0]
    fails = lambda p: outcome(p, seed, dynamic).partition(":")[0] == kind
    small = shrink(program, fails, lambda p: values_of(p, inputs_of(p, seed)))
    return small, outcome(small, seed, dynamic)

