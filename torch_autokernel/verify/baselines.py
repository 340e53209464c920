"""What a kernel has to beat: the reference run eagerly, and compiled by Inductor as it would be inside a larger graph.

Everything here runs in a peer process (`verify/peer.py`), never in the user's. The Inductor callable is the one that a
compiled graph runs: no guard, no AOTAutograd wrapper, only the check of its inputs' layout (about 0.1 us an input).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch

from torch_autokernel.core.types import Case, Region
from torch_autokernel.verify import inputs
from torch_autokernel.verify.cases import steps
from torch_autokernel.verify.reference import functions

log = logging.getLogger(__name__)

MOST_UNROLLED = 32  # steps of a loop: unrolled, 64 take minutes to compile

Tensors = list[torch.Tensor]
Contender = Callable[[Tensors], Any]


def build(region: Region, sets: Sequence[Tensors]) -> tuple[dict[str, tuple[Contender, list[Tensors]]], dict[str, str]]:
    """Baselines by name, each with the inputs it takes; and for those that could not be built, why.

    `eager` and `inductor` run the region; for direct calls, Inductor's through torch.compile with its guards.
    `edge` copies as many bytes as Inductor would save by fusing across the region's edge: one write and one read of each
    tensor there."""
    sizes = [region.sizes[s] for s in region.signature.symbols]
    reference = functions(region.reference)["reference"]

    def call(xs: Tensors) -> Any:
        return reference(*xs, *sizes)

    built: dict[str, tuple[Contender, list[Tensors]]] = {"eager": (call, list(sets))}
    problems: dict[str, str] = {}
    if region.edge_bytes:
        buffers = [[torch.empty(region.edge_bytes, dtype=torch.uint8) for _ in range(2)] for _ in range(2)]
        built["edge"] = (lambda xs: xs[0].copy_(xs[1]), buffers)
    if (count := steps(region.signature, region.sizes)) > MOST_UNROLLED:
        problems["inductor"] = f"a loop of {count} steps, which it would unroll"
        return built, problems
    try:
        compiled = guarded if region.direct else inductor
        built["inductor"] = (compiled(lambda *xs: call(list(xs)), sets[0]), list(sets))
    except Exception as error:  # whatever Inductor raises for a graph it cannot do; told to the parent, never hidden
        log.warning("Inductor cannot compile the region", exc_info=True)
        problems["inductor"] = f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"
    return built, problems


def guarded(function: Callable[..., Any], tensors: Tensors) -> Contender:
    """`function` behind torch.compile, guards and all, compiled for these inputs."""
    compiled = torch.compile(function, dynamic=False)
    compiled(*tensors)
    return lambda xs: compiled(*xs)


def inductor(function: Callable[..., Any], tensors: Tensors) -> Contender:
    """`function` compiled by Inductor for these inputs' shapes and strides, with default options.

    Instruction sets are taken from the CPU's flags instead of three test builds (same code, 6 s less); should the compiler
    refuse it, the test builds decide."""
    import torch._inductor.config as config

    with config.patch({"cpp.vec_isa_ok": True}):
        try:
            return _compile(function, tensors)
        except Exception:  # an older compiler may not know the newest instructions
            log.info("Inductor is asked again, with its own tests of the compiler")
    return _compile(function, tensors)


def _compile(function: Callable[..., Any], tensors: Tensors) -> Contender:
    from torch._guards import TracingContext, tracing
    from torch._inductor.compile_fx import compile_fx_inner
    from torch._inductor.decomposition import select_decomp_table
    from torch._subclasses import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx

    mode = FakeTensorMode(allow_non_fake_inputs=True)
    fakes = [mode.from_tensor(x) for x in tensors]
    with mode, torch.no_grad():
        graph = make_fx(lambda *xs: tuple(function(*xs)), decomposition_table=select_decomp_table())(*fakes)
    with tracing(TracingContext(mode)), torch.no_grad():
        compiled: Any = compile_fx_inner(graph, fakes)
    call = getattr(compiled, "current_callable", None) or compiled
    return lambda xs: call(list(xs))


def warm() -> None:
    """Import what Inductor imports on its first use and choose the instruction set, so that forked peers have it."""
    import torch._inductor.config as config

    with config.patch({"fx_graph_cache": False}):
        inductor(lambda x: (x + 1,), [torch.empty(64)])


def draw(region: Region, seed: int, sets: int, distribution: str) -> list[Tensors]:
    """Sets of inputs as the region wants them; equal in every process that is given the same seed."""
    cases = [Case(seed + k, dict(region.sizes), distribution, "timing") for k in range(sets)]
    return [inputs.make(region, case) for case in cases]


def distribution(region: Region, seed: int) -> str:
    """`normal`, or its positive form where the region is mostly undefined on the former (denormals and NaN take other
    paths through some instructions), or `small` for a loop that amplifies rounding errors until nothing else is left."""
    (tensors,) = draw(region, seed, 1, "normal")
    reference, sizes = functions(region.reference)["reference"], [region.sizes[s] for s in region.signature.symbols]
    outputs = reference(*tensors, *sizes)
    if steps(region.signature, region.sizes) and _chaotic(outputs, reference(*_off_by_rounding(tensors), *sizes)):
        return "small"
    floats = [o for o in outputs if o.is_floating_point() and o.numel()]
    finite = min((float(o.isfinite().float().mean()) for o in floats), default=1.0)
    return "normal" if finite > 0.99 else "normal+"


def _off_by_rounding(tensors: Tensors) -> Tensors:
    return [torch.where(x != 0, x * (1 + torch.finfo(x.dtype).eps), x) if x.is_floating_point() else x for x in tensors]


def _chaotic(outputs: Sequence[torch.Tensor], others: Sequence[torch.Tensor]) -> bool:
    """Whether outputs from inputs that differ by a rounding error differ by more than a hundredth, or than some roundings."""
    for x, y in zip(outputs, others, strict=True):
        both = x.isfinite() & y.isfinite()
        a, b = x.double()[both], y.double()[both]
        most = max(1e-2, 8 * torch.finfo(x.dtype).eps) if x.is_floating_point() else 1e-2
        if a.numel() and not float((a - b).square().sum()) <= most**2 * float(a.square().sum()):
            return True
    return False
