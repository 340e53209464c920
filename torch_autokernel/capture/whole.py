"""A whole function or module as one region: for the decorator's direct calls and for problem files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from torch_autokernel.capture import attention, ops, windows
from torch_autokernel.capture.ambient import tracing_alone
from torch_autokernel.capture.decompositions import inductor_table
from torch_autokernel.capture.pieces import take_apart
from torch_autokernel.capture.signature import Captured, capture_region
from torch_autokernel.core.errors import CaptureError
from torch_autokernel.core.types import Region


@dataclass(frozen=True)
class Whole:
    """A captured call. `order[i]` says which flat tensor (arguments first, then `parameters`) is input i of the region;
    `outputs[j]` which result of the region is leaf j of the returned structure, or a constant. `where` names the dimensions
    of tensor arguments that are time, for a forward with a loop."""

    captured: Captured
    order: tuple[int, ...]
    outputs: tuple[Any, ...]
    out_spec: pytree.TreeSpec
    parameters: tuple[str, ...]
    where: frozenset[tuple[int, int]] | None = None


@dataclass(frozen=True)
class Constant:
    value: Any


def trace(
    function: Callable[..., Any], args: Sequence[Any], module: torch.nn.Module | None = None,
    table: Mapping[Any, Callable[..., Any]] | None = None,
) -> tuple[fx.GraphModule, pytree.TreeSpec, list[str]]:  # fmt: skip
    """The ATen graph of one call on fake copies of `args`: tensors of `args` are the first placeholders, then the parameters
    and buffers of `module` by name. Operations are taken apart by `table`, by Inductor's where none is given. Raises
    CaptureError where the call cannot be traced."""
    from torch._subclasses import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx

    flat, spec = flattened(function, args, module)
    named = state_of(module)
    leaves = [a for a in args if isinstance(a, torch.Tensor)]
    mode = FakeTensorMode(allow_non_fake_inputs=False)
    try:
        fakes = [mode.from_tensor(t.detach(), static_shapes=True) for t in (*leaves, *named.values())]
        with torch.no_grad(), mode, tracing_alone():
            rules = inductor_table() if table is None else table
            graph = make_fx(torch.func.functionalize(flat), decomposition_table=rules)(*fakes)
    except CaptureError:
        raise
    except Exception as error:  # whatever a user's function does under tracing is a reason not to capture it
        first = str(error).partition("\n")[0]
        raise CaptureError(f"the function cannot be traced as a whole: {type(error).__name__}: {first}") from error
    graph.graph.eliminate_dead_code()
    return graph, spec[-1], list(named)


def state_of(module: torch.nn.Module | None) -> dict[str, torch.Tensor]:
    """A module's parameters and buffers by name."""
    return {} if module is None else {**dict(module.named_parameters()), **dict(module.named_buffers())}


def named_state(module: torch.nn.Module | None) -> list[torch.Tensor]:
    return list(state_of(module).values())


def flattened(
    function: Callable[..., Any], args: Sequence[Any], module: torch.nn.Module | None = None
) -> tuple[Callable[..., list[Any]], list[pytree.TreeSpec]]:
    """The call as a function of tensors, those of `args` first, then the parameters and buffers of `module` by name; it returns
    the leaves of the result. Each call of it puts the result's structure into the list."""
    names = list(state_of(module))
    count = sum(isinstance(a, torch.Tensor) for a in args)
    kinds = [None if isinstance(a, torch.Tensor) else (a,) for a in args]  # the tensors themselves are not kept
    spec: list[pytree.TreeSpec] = []

    def flat(*tensors: torch.Tensor) -> list[Any]:
        given = iter(tensors[:count])
        call_args = [next(given) if kind is None else kind[0] for kind in kinds]
        if module is None:
            result = function(*call_args)
        else:
            state = dict(zip(names, tensors[count:], strict=True))
            with plain_forward(module, function):
                result = torch.func.functional_call(module, state, tuple(call_args))
        out, tree = pytree.tree_flatten(result)
        spec[:] = [tree]
        return out

    return flat, spec


class plain_forward:
    """Within the block, the module's forward is the undecorated function; nothing happens without a module."""

    def __init__(self, module: torch.nn.Module | None, function: Callable[..., Any]) -> None:
        self.module, self.function = module, function

    def __enter__(self) -> None:
        if self.module is None:
            return
        self.had = self.module.__dict__.get("forward")
        self.module.__dict__["forward"] = self.function.__get__(self.module)

    def __exit__(self, *_: object) -> None:
        if self.module is None:
            return
        if self.had is None:
            del self.module.__dict__["forward"]
        else:
            self.module.__dict__["forward"] = self.had


def capture_whole(function: Callable[..., Any], args: Sequence[Any], module: torch.nn.Module | None = None, *,
                  in_order: bool = False, static_sizes: Sequence[int] = ()) -> Whole:  # fmt: skip
    """The call as one region; raises CaptureError with the reason where it is not one. With `in_order` the region's inputs
    are all tensors in the order given (the contract of problem files), else canonical."""
    gm, out_spec, names = trace(function, args, module)
    take_apart(gm.graph)
    placeholders = [n for n in gm.graph.nodes if n.op == "placeholder"]
    members = [n for n in gm.graph.nodes if n.op == "call_function"]
    if constants := [n.name for n in gm.graph.nodes if n.op == "get_attr"]:
        raise CaptureError(f"the function reads a tensor that is not an argument ({constants[0]})")
    held = {n for found in attention.find(gm.graph) for n in found.members}
    for node in members:
        if ops.kind(ops.name_of(node.target)) in (None, "attention") and node not in held:
            raise CaptureError(f"{ops.name_of(node.target)} is not among the operations that a region may hold")
        if not windows.fits(node) and not (in_order and ops.kind(ops.name_of(node.target)) == "convolution"):
            raise CaptureError(f"{ops.name_of(node.target)}: torch's own is better at one of this size")
    products = [n for n in members if ops.kind(ops.name_of(n.target)) == "product" and n not in held]
    if len(products) > (0 if held else 1) and not in_order:  # somebody may write a kernel for more; nobody generates it
        raise CaptureError(f"{len(products)} matrix products that are not attention")
    results = results_of(gm.graph)
    nodes = list(dict.fromkeys(r for r in results if isinstance(r, fx.Node)))
    if not nodes:
        raise CaptureError("nothing is computed")
    _refuse_aliases(nodes, set(placeholders))
    inputs = [p for p in placeholders if p.users or in_order] if in_order else None
    captured = capture_region(
        members, inputs=inputs, outputs=nodes if in_order else None, static=frozenset(static_sizes), extra_outputs=nodes
    )
    order = tuple(placeholders.index(n) for n in captured.inputs)
    outputs = tuple(captured.outputs.index(r) if isinstance(r, fx.Node) else Constant(r) for r in results)
    return Whole(captured, order, outputs, out_spec, tuple(names))


def results_of(graph: fx.Graph) -> list[Any]:
    """What the graph returns."""
    (output,) = [n for n in graph.nodes if n.op == "output"]
    results = output.args[0]
    return list(results) if isinstance(results, (list, tuple)) else [results]


def _refuse_aliases(results: Sequence[fx.Node], placeholders: set[fx.Node]) -> None:
    """An output that is an input, a view of one, or shares memory with another output cannot come from a kernel."""
    bases: dict[fx.Node, fx.Node] = {}
    for node in results:
        base = node
        while base not in placeholders and ops.kind(ops.name_of(base.target)) == "view":
            base = base.args[0]  # type: ignore[assignment]
        if base in placeholders:
            raise CaptureError("an output is an input or a view of one")
        if base in bases.values():
            raise CaptureError("two outputs share memory")
        bases[node] = base


def region_of(function: Any, example_inputs: Sequence[Any], static_sizes: Sequence[int] = ()) -> Region:
    """The forward of a function or module as one region, inputs in the order of CONTRACTS: tensor arguments, then the used
    parameters and buffers. Raises CaptureError where it is more than a region may hold."""
    if isinstance(function, torch.nn.Module):
        forward, module = type(function).forward, function
    else:
        forward, module = function, None
    return capture_whole(forward, example_inputs, module, in_order=True, static_sizes=static_sizes).captured.region
