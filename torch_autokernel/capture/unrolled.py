"""Loops over time that dynamo unrolled: found again in the graph of `torch.compile`, each as one region.

Steps that repeat are looked for in the graph's operations; `reroll.py` says whether they are a loop. The region is the loop
alone: first states, tensors that are read step by step and whatever is the same in all steps go in, all steps' values and
last states come out. Its length is a symbol, all other sizes are constants.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from torch_autokernel.capture import ops
from torch_autokernel.capture.gathering import gather, rejoin, split
from torch_autokernel.capture.loop_signature import LoopWriter, T, float_input
from torch_autokernel.capture.nodes import writes
from torch_autokernel.capture.partition import Left
from torch_autokernel.capture.recurrence import LEAST
from torch_autokernel.capture.reference import print_reference
from torch_autokernel.capture.reroll import Carry, Indexed, Rolled, cut, in_order, key_of, live, runs
from torch_autokernel.capture.signature import Captured, dtype_name
from torch_autokernel.core import dims
from torch_autokernel.core.dims import Dim
from torch_autokernel.core.errors import CaptureError
from torch_autokernel.core.types import DTYPE_BYTES, Region, Signature, TensorSpec

TIMED = 32  # steps at which a longer loop is timed: more are not unrolled for the baseline (verify/baselines.py)
_SECONDS = 0.5  # for beginnings of steps that turn out to be none
_MOST_KEYS = 24


def may_hold_loops(graph: fx.Graph) -> bool:
    """Whether it is worth a look. Nothing is asked of sizes that are symbols: an answer would be a guard."""
    return not _symbolic(graph) and bool(_lengths(graph))


def unrolled_loops(graph: fx.Graph, phase: str) -> tuple[list[Captured], list[Left]]:
    """The loops of a graph, which do not overlap; and those that repeat but are no region, with the reason. The graph is
    changed: what puts steps' values together stands there as one `cat`."""
    lengths = _lengths(graph)
    gather(graph, LEAST)
    found: list[Captured] = []
    left: list[Left] = []
    taken: set[fx.Node] = set()
    for length in lengths:
        before, reasons = len(taken), list[str]()
        for rolled, inside in _rolled(graph, taken, length, reasons):
            try:
                found.append(_captured(rolled, inside, phase))
            except CaptureError as error:
                left.append(Left(tuple(n.name for n in inside), error.message))
        if len(taken) == before and reasons:
            left.append(Left((), f"about {length} times the same operations, but no loop: {reasons[0]}"))
    return found, left


def _symbolic(graph: fx.Graph) -> bool:
    values = [v for n in graph.nodes for v in _flat(n.meta.get("val"))]
    sizes = [s for v in values if isinstance(v, torch.Tensor) for s in v.shape]
    return any(isinstance(v, (torch.SymInt, torch.SymFloat, torch.SymBool)) for v in (*values, *sizes))


def _flat(value: Any) -> Iterable[Any]:
    return value if isinstance(value, (tuple, list)) else (value,)


def _lengths(graph: fx.Graph) -> list[int]:
    """How long loops may be, the longest first: dimensions of which about every element is taken by itself."""
    read: dict[tuple[fx.Node, int], set[Any]] = defaultdict(set)
    sizes: dict[tuple[fx.Node, int], int] = {}
    for n in live(graph):
        name, source = ops.name_of(n.target), n.args[0] if n.args else None
        if not isinstance(source, fx.Node) or not isinstance(source.meta.get("val"), torch.Tensor):
            continue
        if name == "aten.select.int" or name == "aten.slice.Tensor" and len(n.args) > 3:
            if not all(type(v) is int for v in n.args[1:]):
                continue
            if name == "aten.select.int" or n.args[3] == n.args[2] + 1:  # type: ignore[operator]
                where = source, int(n.args[1])  # type: ignore[arg-type]
                read[where].add(n.args[2])
                sizes[where] = int(source.meta["val"].shape[where[1]])
        elif name == "aten.unbind.int":
            dim = int(n.args[1] if len(n.args) > 1 else n.kwargs.get("dim", 0))  # type: ignore[arg-type]
            read[source, dim] = set(range(len(n.meta["val"])))
            sizes[source, dim] = len(n.meta["val"])
    found = {n for where, n in sizes.items() if n >= LEAST and len(read[where]) >= max(LEAST, n - 2)}
    return sorted(found, reverse=True)


def _rolled(
    graph: fx.Graph, taken: set[fx.Node], length: int, reasons: list[str]
) -> Iterator[tuple[Rolled, list[fx.Node]]]:
    """Loops of about so many steps, with the nodes of all their steps, which are taken then. `reasons` are why what repeats is
    none."""
    nodes, least = in_order(graph, length), max(LEAST, length - 2)
    numbers: dict[Any, int] = {}
    keys = [numbers.setdefault(key_of(n), len(numbers)) for n in nodes]
    spent = 0.0
    for p in _periods(keys, least):
        for start, steps in runs(keys, p, least):
            inside = nodes[start : start + steps * p]
            if not taken.isdisjoint(inside):
                continue
            if spent > _SECONDS:
                return
            began = time.thread_time()
            try:
                rolled = _cut(nodes, start, p, steps, graph, length)
            except CaptureError as error:
                reasons.append(error.message)
                spent += time.thread_time() - began
                continue
            taken.update(inside)
            yield rolled, inside


def _cut(nodes: list[fx.Node], start: int, p: int, steps: int, graph: fx.Graph, length: int) -> Rolled:
    """`cut`, and where it fails, once more with the steps' results apart from what stands beside them."""
    inside = nodes[start : start + steps * p]
    try:
        return cut(nodes, start, p, steps, graph)
    except CaptureError:
        made = split(graph, set(inside), LEAST)
        if not made:
            raise
    nodes = in_order(graph, length)
    start = nodes.index(inside[0])
    try:
        if nodes[start : start + steps * p] != inside:
            raise CaptureError("the steps do not stand together")
        return cut(nodes, start, p, steps, graph)
    except CaptureError:
        rejoin(graph, made)
        raise


def _periods(keys: Sequence[int], steps: int) -> list[int]:
    """How many operations a step may have, the fewest first: distances between operations that come about once a step."""
    places: dict[int, list[int]] = defaultdict(list)
    for i, key in enumerate(keys):
        places[key].append(i)
    rare = sorted((at for at in places.values() if len(at) >= steps), key=len)[:_MOST_KEYS]
    found: set[int] = set()
    for at, apart in itertools.product(rare, (1, 2, 3, 4)):
        distances = Counter(b - a for a, b in zip(at, at[apart:], strict=False))
        found.update(p for p, times in distances.most_common(2) if times >= (steps - 1) // 2)
    return sorted(p for p in found if 2 <= p <= len(keys) // steps)


def _captured(rolled: Rolled, inside: list[fx.Node], phase: str) -> Captured:
    writer = _Writer(rolled)
    signature = writer.signature()
    members = {*inside, *rolled.collected}
    for n in inside:
        if writes(n) or n.is_impure() or torch.Tag.nondeterministic_seeded in getattr(n.target, "tags", ()):
            raise CaptureError(f"{ops.name_of(n.target)} within a loop does more than give a value")
    if any(u not in members for n in inside if n not in rolled.last for u in n.users):
        raise CaptureError("a single step's value is read outside of the loop")
    sizes = {T: min(rolled.steps, TIMED) + writer.length - rolled.steps}
    region = Region(signature, print_reference(signature), sizes, (writer.outputs[0].name,), phase)
    ordered = [n for n in inside[0].graph.nodes if n in members]
    return Captured(region, tuple(writer.inputs), tuple(writer.outputs), tuple(ordered))


@dataclass
class _Once:
    """The graph as a trace at the one length there is; none of its inputs need be the loop's."""

    graph: fx.Graph
    length: int
    placeholders: list[fx.Node] = field(default_factory=list)


class _Same(dict[fx.Node, fx.Node]):
    """Each node's own twin: there is one length."""

    def __missing__(self, node: fx.Node) -> fx.Node:
        return node

    def get(self, node: Any, default: Any = None) -> Any:
        return node


class _Writer(LoopWriter):
    """A signature from one length. Only what is read or made step by step is as long as the loop."""

    def __init__(self, rolled: Rolled) -> None:
        sources = [(x.source, x.dim) for x in itertools.chain.from_iterable(rolled.operands) if isinstance(x, Indexed)]
        if not sources:
            raise CaptureError("a loop that reads nothing of this step")
        sizes = [int(n.meta["val"].shape[dim]) for n, dim in sources]
        length = min(sizes, key=lambda n: abs(n - rolled.steps))  # there may be fewer steps
        once = _Once(rolled.body[0].graph, length)
        super().__init__([], length, once, once, rolled, rolled)
        self.twin = _Same()
        self.outputs = [*rolled.collected, *rolled.last]
        self.timed: dict[fx.Node, int] = {}  # the dimension along which the steps are
        constant: dict[fx.Node, None] = {}  # in order: the signature is the same in every process
        for x in itertools.chain.from_iterable(rolled.operands):
            if isinstance(x, Indexed):
                if self.timed.setdefault(x.source, x.dim) != x.dim:
                    raise CaptureError("a tensor is read step by step along two dimensions")
            elif isinstance(x, Carry):
                constant[x.init] = None
            elif isinstance(x, fx.Node):
                constant[x] = None
        if constant.keys() & self.timed.keys():
            raise CaptureError("a tensor is read step by step and as a whole")
        self.timed |= {n: dim for n, (_i, dim, _back) in rolled.collected.items()}
        self.read = [*(n for n in self.timed if n not in rolled.collected), *constant]

    def size(self, x: int, y: int) -> Dim:
        return x

    def sizes(self, node: fx.Node) -> tuple[Dim, ...]:
        if not isinstance(node.meta.get("val"), torch.Tensor):
            raise CaptureError(f"{node.name} is not a tensor")
        shape: list[Dim] = list(map(int, node.meta["val"].shape))
        if (dim := self.timed.get(node)) is not None:
            n = int(node.meta["val"].shape[dim])
            every = dims.add(T, self._fewest())
            shape[dim] = dims.mul(every, n // self.one.steps) if node in self.one.collected else dims.add(T, n - self.length)
        return tuple(shape)

    def start(self, x: Indexed, y: Indexed) -> Dim:
        return x.start if x.step == 1 else dims.add(T, x.start - self.length)

    def outer(self, node: fx.Node) -> int:
        if node not in self.number and node.op == "call_function" and not node.all_input_nodes:
            return super().outer(node)  # constants are written down
        return self.number[node]

    def signature(self) -> Signature:
        self.inputs = [n for n in self.read if n.all_input_nodes or n.op != "call_function"]
        self.number = {n: i for i, n in enumerate(self.inputs)}
        return self.written(self.outputs)

    def _in_spec(self, node: fx.Node) -> TensorSpec:
        return float_input(node.meta.get("val"), self.sizes(node), self.length, "a loop")

    def _out_spec(self, node: fx.Node) -> TensorSpec:
        if node not in self.one.collected:
            return super()._out_spec(node)
        value = node.meta["val"]
        if not value.is_contiguous():
            raise CaptureError(f"{node.name}: all steps' values lie in another order than torch's cat gives")
        name = dtype_name(value.dtype)
        dense = TensorSpec.contiguous(self.sizes(node), name).stride
        return TensorSpec(self.sizes(node), name, dense, "cpu", DTYPE_BYTES[name])
