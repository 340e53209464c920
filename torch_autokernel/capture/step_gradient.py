"""One step of a loop with its gradient, as a graph: what AOTAutograd does for a whole forward, for a loop's body.

The body is traced before its operations are taken apart, so that the derivative of each is torch's own. A tensor that is the
same in all steps gets no gradient here, for that would be as large as the tensor in every step: where it is a factor of a
product, the product's gradient is a result (one product of all steps' values follows after the loop), elsewhere the gradient
of its expanded form (one sum follows).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from torch_autokernel.capture import ops
from torch_autokernel.capture.ambient import tracing_alone
from torch_autokernel.capture.decompositions import inductor_table
from torch_autokernel.core import dims
from torch_autokernel.core.errors import CaptureError
from torch_autokernel.core.products import PRODUCTS
from torch_autokernel.core.types import Const, Op, Ref

Spec = tuple[tuple[int, ...], str]  # shape and dtype
_FACTORS = {name: (left, left + 1) for name, left in PRODUCTS.items()}
_LARGE = 1 << 14  # elements of an invariant whose gradient may stand once for each step


@dataclass(frozen=True)
class Body:
    """A loop's step: specs of carries, slices and invariants, the operations, and which values are the next states and the
    results."""

    carries: tuple[Spec, ...]
    indexed: tuple[Spec, ...]
    outside: tuple[Spec, ...]
    ops: tuple[Op, ...]
    nexts: tuple[int, ...]
    outs: tuple[int, ...]


@dataclass(frozen=True)
class Needs:
    """Which carries, slices and invariants want gradients."""

    carries: tuple[bool, ...]
    indexed: tuple[bool, ...]
    outside: tuple[bool, ...]

    @property
    def all(self) -> tuple[tuple[bool, ...], ...]:
        return self.carries, self.indexed, self.outside


@dataclass
class Use:
    """A place where an invariant is read. `left`: a factor of a product whose other factor is `other`, as the first factor
    (0) or the second (1); None for any other place. `gradient` is that of the product, or of the invariant expanded."""

    invariant: int
    side: int | None
    other: Any = None
    gradient: Any = None


@dataclass
class Joint:
    """A step forward and backward. Nodes of `graph`; None where nothing flows. `given_next[i]` and `given_out[k]` are the
    gradients of the next state i and of result k, where they have any."""

    graph: fx.Graph
    carries: list[fx.Node]
    indexed: list[fx.Node]
    outside: list[fx.Node]
    given_next: list[fx.Node | None]
    given_out: list[fx.Node | None]
    nexts: list[fx.Node]
    outs: list[fx.Node]
    of_carry: list[fx.Node | None]
    of_indexed: list[fx.Node | None]
    uses: list[Use]


def target_of(name: str) -> Any:
    """The overload of a printed name."""
    space, packet, overload = name.split(".")
    if space != "aten":
        raise CaptureError(f"{name} within a step has no derivative")
    return getattr(getattr(torch.ops.aten, packet), overload)


class _Run:
    """The body on tensors, with the uses of invariants on the way."""

    def __init__(self, body: Body, values: Sequence[Any], wanted: Sequence[bool] = ()) -> None:
        """`values` are carries, slices and invariants; `wanted` says which invariants want gradients."""
        self.body, self.uses = body, list[Use]()
        self.values = list(values)
        self.first = len(body.carries) + len(body.indexed)
        self.wanted = {self.first + k for k, w in enumerate(wanted) if w}
        self.splits: dict[tuple[int, int, int], Any] = {}
        self.base = len(self.values)
        for op in body.ops:
            self.values.append(self._one(op))

    def _one(self, op: Op) -> Any:
        if op.target == ops.GETITEM:
            return self._piece(op)
        if op.target == "aten.split.Tensor":
            return op  # its pieces are slices, see `_piece`
        reads = [r.index for r in _refs((*op.args, *op.kwargs.values())) if r.index in self.wanted]
        sides = _FACTORS.get(op.target, ())
        factors = [op.args[a].index for a in sides]
        if len(reads) != len(set(reads)) or len(set(reads) & set(factors)) > 1:
            raise CaptureError(f"{op.target} reads what is the same in all steps twice")
        local: dict[int, torch.Tensor] = {}
        made: list[tuple[Use, int]] = []
        for index in reads:
            side = next((k for k, a in enumerate(sides) if op.args[a] == Ref(index)), None)
            value = self.values[index]
            if side is None and ops.kind(op.target) == "pointwise" or op.target in _FACTORS and side is None:
                value = value.expand(op.shape)
            elif side is None and value.numel() > _LARGE:
                raise CaptureError(f"{op.target} reads {value.numel()} elements that are the same in all steps")
            local[index] = value.detach().requires_grad_()
            made.append((Use(index - self.first, side), index))
        out = target_of(op.target)(*self._args(op.args, local), **{k: self._args(v, local) for k, v in op.kwargs.items()})
        for use, index in made:
            if use.side is not None:
                other = op.args[sides[1 - use.side]]
                use.other, use.gradient = self.values[other.index], out
            else:
                use.gradient = local[index]
            self.uses.append(use)
        return out

    def _piece(self, op: Op) -> Any:
        """A result of an operation with several; of a split, what was written into that place last, if anything was."""
        made = self.values[op.args[0].index]
        if not isinstance(made, Op):
            return made[op.args[1]]
        size, dim = made.args[1], made.args[2] if len(made.args) > 2 else 0
        source, rank = made.args[0].index, len(op.shape)
        start = op.args[1] * size
        stop = start + op.shape[dim % rank]
        while source >= self.base:
            writer = self.body.ops[source - self.base]
            if writer.target != "aten.slice_scatter.default" or writer.kwargs or len(writer.args) != 5:
                break
            if writer.args[2] % rank != dim % rank:
                break
            low, high = writer.args[3], min(writer.args[4], writer.shape[dim % rank])
            if (low, high) == (start, stop):
                return self.values[writer.args[1].index]
            if low < stop and start < high:
                break
            source = writer.args[0].index
        if (source, size, dim) not in self.splits:
            self.splits[source, size, dim] = torch.ops.aten.split.Tensor(self.values[source], size, dim)
        return self.splits[source, size, dim][op.args[1]]

    def _args(self, value: Any, local: dict[int, torch.Tensor]) -> Any:
        if isinstance(value, Ref):
            return local.get(value.index, self.values[value.index])
        if isinstance(value, (tuple, list)):
            return [self._args(v, local) for v in value]
        if isinstance(value, Const):
            if value.kind == "dim":
                if dims.symbols([value.value]):
                    raise CaptureError("a step holds a value that is as long as the loop")
                return dims.evaluate(value.value, {})
            return getattr(torch, value.value) if value.kind == "dtype" else value.value
        return value


def _refs(value: Any) -> list[Ref]:
    if isinstance(value, Ref):
        return [value]
    return [r for v in value for r in _refs(v)] if isinstance(value, (tuple, list)) else []


@contextmanager
def step_tensors(body: Body, needs: Needs) -> Iterator[Callable[[], tuple[list[torch.Tensor], ...]]]:
    """Within the block, makes tensors without contents for the body's values, those that need gradients as leaves. Hooks of
    the user on what autograd saves do not see them."""
    from torch._subclasses import FakeTensorMode

    def make() -> tuple[list[torch.Tensor], ...]:
        parts = zip((body.carries, body.indexed, body.outside), needs.all, strict=True)
        return tuple([_empty(*spec).requires_grad_(w) for spec, w in zip(specs, want, strict=True)] for specs, want in parts)

    with FakeTensorMode(), torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(lambda x: x, lambda x: x):
        yield make


def _empty(shape: tuple[int, ...], dtype: str) -> torch.Tensor:
    return torch.empty(shape, dtype=getattr(torch, dtype))


def edges(body: Body, needs: Needs) -> dict[tuple[int, int], tuple[set[int], set[int]]]:
    """For each carry, slice and invariant (kind 0, 1, 2 and number) that may have a gradient: the next states and the results
    that have one because of it in one step."""
    found = {}
    for kind, specs in enumerate((body.carries, body.indexed, body.outside)):
        for k, (_shape, dtype) in enumerate(specs):
            if dtype in ops.FLOATS and (kind == 0 or needs.all[kind][k]):
                alone = Needs(*(tuple(kind == n and k == j for j in range(len(w))) for n, w in enumerate(needs.all)))
                with step_tensors(body, alone) as make:
                    values = _Run(body, [t for part in make() for t in part]).values
                found[kind, k] = (
                    {i for i, n in enumerate(body.nexts) if values[n].requires_grad},
                    {i for i, n in enumerate(body.outs) if values[n].requires_grad},
                )
    return found


def trace_step(body: Body, needs: Needs) -> Joint:
    """The step forward and backward as one graph, operations taken apart as Inductor does. `needs.carries` must hold every
    carry that a gradient flows through."""
    from torch._functorch.compile_utils import fx_graph_cse
    from torch.fx.experimental.proxy_tensor import make_fx

    sizes = [len(body.carries), len(body.indexed), len(body.outside)]
    shape: dict[str, Any] = {}

    def joint(*flat: torch.Tensor) -> list[torch.Tensor]:
        given = list(flat)
        parts = [[given.pop(0).detach().requires_grad_(w) for w in want] for want in needs.all[:2]]
        outside = [given.pop(0) for _ in range(sizes[2])]
        run = _Run(body, [*parts[0], *parts[1], *outside], needs.outside)
        values = run.values
        recorded = [values[n] for n in (*body.nexts, *body.outs)]
        told = [v.requires_grad and (i >= sizes[0] or needs.carries[i]) for i, v in enumerate(recorded)]
        cotangents = given
        targets = [t for t in (*parts[0], *parts[1]) if t.requires_grad] + [u.gradient for u in run.uses]
        grads: list[Any] = [None] * len(targets)
        ends = [(v, g) for v, g, t in zip(recorded, cotangents, told, strict=True) if t]
        if targets and ends:
            grads = list(torch.autograd.grad([v for v, _g in ends], targets, [g for _v, g in ends], allow_unused=True))
        shape.update(told=told, uses=run.uses, grads=[g is not None for g in grads])
        others = [u.other for u in run.uses if u.side is not None]
        return [*recorded, *others, *(g for g in grads if g is not None)]

    with step_tensors(body, Needs(*((False,) * n for n in sizes))) as make, tracing_alone():
        flat = [t for part in make() for t in part]
        run = _Run(body, flat)
        flat += [torch.empty_like(run.values[n]).contiguous() for n in (*body.nexts, *body.outs)]
        gm = make_fx(joint, decomposition_table=inductor_table())(*flat)
        gm = make_fx(torch.func.functionalize(gm))(*flat)
    graph = _plain(fx_graph_cse(gm.graph))
    return _read(graph, body, needs, shape)


_NOTHING = ("aten.detach.default", "aten.alias.default", "aten.lift_fresh_copy.default")


def _plain(graph: fx.Graph) -> fx.Graph:
    """Without operations that only pass a value on."""
    for n in list(graph.nodes):
        name = ops.name_of(n.target)
        if name in _NOTHING or name == "aten.permute.default" and list(n.args[1]) == sorted(n.args[1]):
            n.replace_all_uses_with(n.args[0])
            graph.erase_node(n)
        elif name == "aten.copy.default" and _same_form(*n.args[:2]):
            n.replace_all_uses_with(n.args[1])
            graph.erase_node(n)
    graph.eliminate_dead_code()
    return graph


def _same_form(a: fx.Node, b: fx.Node) -> bool:
    x, y = a.meta["val"], b.meta["val"]
    return bool(x.shape == y.shape and x.dtype == y.dtype)


def _read(graph: fx.Graph, body: Body, needs: Needs, shape: dict[str, Any]) -> Joint:
    places = [n for n in graph.nodes if n.op == "placeholder"]
    (output,) = [n for n in graph.nodes if n.op == "output"]
    results = iter(output.args[0])
    c, i, w, states = len(body.carries), len(body.indexed), len(body.outside), len(body.nexts)
    given = [p if told else None for p, told in zip(places[c + i + w :], shape["told"], strict=True)]
    nexts, outs = [next(results) for _ in body.nexts], [next(results) for _ in body.outs]
    uses = shape["uses"]
    for u in uses:
        u.other = next(results) if u.side is not None else None
    grads = [next(results) if there else None for there in shape["grads"]]
    wanted = iter(grads)
    of_carry, of_indexed = ([next(wanted) if want else None for want in part] for part in needs.all[:2])
    for u in uses:
        u.gradient = next(wanted)
    return Joint(graph, places[:c], places[c : c + i], places[c + i : c + i + w], given[:states], given[states:],
                 nexts, outs, of_carry, of_indexed, uses)  # fmt: skip
