"""An unrolled loop back to a loop: the graph of a forward at one length, cut into prologue, equal steps, epilogue.

A period p is looked for with matching (operation, dtypes, shapes, constants). Then every operand of every step must be one
of: the same value in all steps (*invariant*), a value of the same step, a value of the step before (*carry*), or a slice of
a tensor whose index moves by one a step (*indexed*). Whatever else there is raises CaptureError with the reason; nothing is
guessed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from torch_autokernel.capture import ops
from torch_autokernel.core.errors import CaptureError

_LATE = frozenset((
    "aten.select.int", "aten.slice.Tensor", "aten.unsqueeze.default", "aten.squeeze.dim", "aten.squeeze.dims",
    "aten.permute.default",
    "aten.view.default", "aten.reshape.default", "aten.expand.default", "aten.unbind.int", "aten.split.Tensor",
    "aten.split_with_sizes.default", "aten.full.default", "aten.scalar_tensor.default", "aten.clone.default", ops.GETITEM,
))  # fmt: skip


@dataclass(frozen=True)
class Indexed:
    """Step k reads element `start + step * k` of `source` along `dim`."""

    source: fx.Node
    dim: int
    start: int
    step: int


@dataclass(frozen=True)
class Carry:
    """A value from the step before: `body[value]`, at first `init`."""

    init: fx.Node
    value: int


@dataclass
class Rolled:
    """`body` are the nodes of the second step. `operands[i]` maps an argument's position in node i (`fx.Node` leaves in order)
    to an invariant node, a body number (int), a Carry, or an Indexed. `collected` and `last` say which nodes of the epilogue
    are all steps' values of a body node, concatenated along a dimension (reversed or not), or the last step's."""

    prologue: list[fx.Node]
    body: list[fx.Node]
    operands: list[list[Any]]
    steps: int
    epilogue: list[fx.Node]
    collected: dict[fx.Node, tuple[int, int, bool]] = field(default_factory=dict)
    last: dict[fx.Node, int] = field(default_factory=dict)


def leaves(node: fx.Node) -> list[fx.Node]:
    """The node's operands in order, repeats kept."""
    out: list[fx.Node] = []
    fx.node.map_arg((node.args, node.kwargs), out.append)
    return out


def roll(graph: fx.Graph, period: int, length: int) -> Rolled:
    """The loop of a graph that was traced at `length` and grows by `period` nodes a step."""
    nodes, more = in_order(graph, length), length - 2
    keys = [key_of(n) for n in nodes]
    reasons: list[str] = []
    for start, steps in runs(keys, period, more):
        try:
            return cut(nodes, start, period, steps, graph)
        except CaptureError as error:
            reasons.append(error.message)
    raise CaptureError(reasons[0] if reasons else "no steps repeat")


def runs(keys: Sequence[Any], p: int, more: int) -> Iterator[tuple[int, int]]:
    """Where equal steps of p keys begin and how many there are, the most first."""
    found = []
    start = 0
    while start + p < len(keys):
        end = start
        while end + p < len(keys) and keys[end] == keys[end + p]:
            end += 1
        steps = (end - start) // p + 1
        if steps >= more:
            found += [(start + shift, (end - start - shift) // p + 1) for shift in range(min(p, end - start + 1))]
        start = max(end, start) + 1
    yield from sorted((f for f in found if f[1] >= more), key=lambda f: (-f[1], f[0]))


def live(graph: fx.Graph) -> list[fx.Node]:
    return [n for n in graph.nodes if n.op == "call_function"]


def in_order(graph: fx.Graph, length: int) -> list[fx.Node]:
    """The graph's nodes with what all steps share moved to the beginning, and views moved to where they are first used, or,
    where only the end of the graph uses them, to right behind what they are views of: the nodes of one step stand together."""
    every = live(graph)
    at_end: set[fx.Node] = set()  # read by the end of the graph alone
    for n in reversed(every):
        if n.users and all(u.op == "output" or ops.name_of(u.target) == "aten.cat.default" or u in at_end for u in n.users):
            if ops.name_of(n.target) in _LATE:
                at_end.add(n)
    first = _before_all(every, length)
    out: list[fx.Node] = []
    done: set[fx.Node] = set()

    def late(n: fx.Node) -> bool:
        return ops.name_of(n.target) in _LATE and len(n.users) < length - 1  # what every step reads is no step's own

    def put(root: fx.Node) -> None:
        todo = [(root, False)]
        while todo:
            n, ready = todo.pop()
            if n in done or n.op != "call_function":
                continue
            if not ready:
                todo += [(n, True), *((a, False) for a in reversed(n.all_input_nodes))]
                continue
            done.add(n)
            out.append(n)
            todo += [(u, False) for u in reversed(list(n.users)) if u in at_end and len(u.all_input_nodes) == 1]

    for n in every:
        if n in first:
            put(n)
    for n in every:
        if not late(n):
            put(n)
    for n in every:
        put(n)
    return out


def _before_all(every: list[fx.Node], length: int) -> set[fx.Node]:
    """Constants, a tensor taken apart along time, and values of no particular step that about every step reads."""
    timeless: set[fx.Node] = set()
    for n in every:
        name = ops.name_of(n.target)
        if name == "aten.select.int" and isinstance(n.args[0], fx.Node):
            if n.args[0].meta["val"].shape[n.args[1]] == length:
                continue
        if all(a.op == "placeholder" or a in timeless for a in n.all_input_nodes):
            timeless.add(n)
    out: set[fx.Node] = set()
    for n in every:
        name = ops.name_of(n.target)
        apart = name == "aten.unbind.int" and len(n.meta["val"]) == length
        if not n.all_input_nodes or apart or n in timeless and len(n.users) >= length - 1:
            out.add(n)
    return out


def share(graph: fx.Graph, length: int) -> None:
    """Equal operations on equal operands become one where about every step has one. Fewer are left alone: in the first step
    two states that begin alike give equal operations, which later steps do not."""
    alike: dict[Any, list[fx.Node]] = {}
    for n in live(graph):
        key = (n.target, _hashable(n.args), _hashable(tuple(sorted(n.kwargs.items()))), _what(n.meta.get("val")))
        found = alike.setdefault(key, [])
        found.append(n)
        if len(found) == length - 1:  # what comes after the first `length - 1` is seen at once
            for other in found[1:]:
                other.replace_all_uses_with(found[0])
                graph.erase_node(other)
        elif len(found) >= length:
            n.replace_all_uses_with(found[0])
            graph.erase_node(n)


def _hashable(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return tuple(map(_hashable, value))
    return (type(value).__name__, value.hex() if isinstance(value, float) else value)


def key_of(node: fx.Node) -> Any:
    """What must be equal between steps: everything but operands and index positions."""

    def plain(value: Any) -> Any:
        if isinstance(value, fx.Node):
            return "node"
        if isinstance(value, (list, tuple)):
            return tuple(plain(v) for v in value)
        if isinstance(value, float):
            return value.hex()
        return (type(value).__name__, value)

    name = ops.name_of(node.target)
    args = node.args
    if name == "aten.select.int":
        args = args[:2]
    elif name == "aten.slice.Tensor":
        args = (*args[:2], *args[4:])
    elif name == ops.GETITEM:
        args = args[:1]
    return name, plain(args), tuple((k, str(v)) for k, v in sorted(node.kwargs.items())), _what(node.meta.get("val"))


def _what(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return tuple(int(s) for s in value.shape), value.dtype
    return tuple(_what(v) for v in value) if isinstance(value, (list, tuple)) else None


def cut(nodes: list[fx.Node], start: int, p: int, steps: int, graph: fx.Graph) -> Rolled:
    """The loop of `steps` times p of all the graph's nodes, in order; raises CaptureError where it is none."""
    end = start + steps * p
    place = {n: divmod(i - start, p) for i, n in enumerate(nodes[start:end], start)}
    body = nodes[start + p : start + 2 * p]
    rolled = Rolled(nodes[:start], body, [], steps, nodes[end:])
    for i in range(p):
        column = [nodes[start + k * p + i] for k in range(steps)]
        rolled.operands.append(_operands(column, place))
    _ends(rolled, place, graph)
    return rolled


def _operands(column: list[fx.Node], place: dict[fx.Node, tuple[int, int]]) -> list[Any]:
    """What the node of each step reads, the steps' nodes in a column."""
    name = ops.name_of(column[0].target)
    if name in ("aten.select.int", "aten.slice.Tensor", ops.GETITEM):
        moving = _positions(column, name)
        if moving is not None:
            return [_indexed(column, name, moving, place)]
    return [_operand([leaf[at] for leaf in map(leaves, column)], place) for at in range(len(leaves(column[0])))]


def _positions(column: list[fx.Node], name: str) -> list[int] | None:
    """The index that each step reads at, or None where it is the same in all."""
    at = {"aten.select.int": 2, "aten.slice.Tensor": 2, ops.GETITEM: 1}[name]
    values = [n.args[at] if at < len(n.args) else None for n in column]
    ends = [n.args[3:4] for n in column] if name == "aten.slice.Tensor" else []
    if all(v == values[0] for v in values) and all(e == ends[0] for e in ends):
        return None
    if not all(type(v) is int for v in values):
        raise CaptureError(f"{name} moves in a way that is not an index")
    if name == "aten.slice.Tensor" and any(len(n.args) < 4 or n.args[3] != n.args[2] + 1 for n in column):  # type: ignore[operator]
        raise CaptureError("a slice of more than one element moves with the steps")
    return values  # type: ignore[return-value]


def _indexed(column: list[fx.Node], name: str, at: list[int], place: dict[fx.Node, tuple[int, int]]) -> Indexed:
    step = at[1] - at[0]
    if step not in (1, -1) or any(b - a != step for a, b in zip(at, at[1:], strict=False)) or min(at) < 0:
        raise CaptureError(f"an index goes through {at[:4]}: only steps of one forwards or backwards are understood")
    sources = {n.args[0] for n in column}
    if len(sources) != 1:
        raise CaptureError("what is indexed changes with the steps")
    (source,) = sources
    assert isinstance(source, fx.Node)
    dim = column[0].args[1] if name != ops.GETITEM else 0
    if name == ops.GETITEM:
        if ops.name_of(source.target) != "aten.unbind.int":
            raise CaptureError("the pieces of a split are taken in turn")
        dim = source.args[1] if len(source.args) > 1 else source.kwargs.get("dim", 0)
        source = source.args[0]
    if source in place:
        raise CaptureError("what is indexed is made within the loop")
    rank = source.meta["val"].dim()  # type: ignore[union-attr]
    return Indexed(source, int(dim) % rank, at[0], step)  # type: ignore[arg-type]


def _operand(values: list[fx.Node], place: dict[fx.Node, tuple[int, int]]) -> Any:
    if all(v is values[0] for v in values):
        if values[0] in place:
            raise CaptureError("a step reads what the first step made")
        return values[0]
    if all(v in place and place[v][0] == k for k, v in enumerate(values)):
        if len({place[v][1] for v in values}) == 1:
            return place[values[0]][1]
    first, rest = values[0], values[1:]
    if first not in place and all(v in place and place[v][0] == k for k, v in enumerate(rest)):
        if len({place[v][1] for v in rest}) == 1:
            return Carry(first, place[rest[0]][1])
    raise CaptureError("a step reads something else than the steps before it did")


def _ends(rolled: Rolled, place: dict[fx.Node, tuple[int, int]], graph: fx.Graph) -> None:
    """What the epilogue and the results read of the loop."""
    (output,) = [n for n in graph.nodes if n.op == "output"]
    for node in [*rolled.epilogue, output]:
        read = [a for a in leaves(node) if a in place]
        if not read:
            continue
        if ops.name_of(node.target) == "aten.cat.default" and len(leaves(node)) > 1 and node is not output:
            rolled.collected[node] = _collected(node, rolled, place)
            continue
        for a in read:
            step, i = place[a]
            if step != rolled.steps - 1:
                raise CaptureError("a single step's value is read after the loop")
            rolled.last[a] = i


def _collected(node: fx.Node, rolled: Rolled, place: dict[fx.Node, tuple[int, int]]) -> tuple[int, int, bool]:
    parts = leaves(node)
    rank = parts[0].meta["val"].dim()
    dim = int(node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)) % rank  # type: ignore[arg-type]
    if any(a not in place for a in parts) or len(parts) != rolled.steps or len({place[a][1] for a in parts}) != 1:
        raise CaptureError("what is concatenated after the loop is not one value of each step")
    order = [place[a][0] for a in parts]
    if order == list(range(rolled.steps)):
        return place[parts[0]][1], dim, False
    if order == list(range(rolled.steps))[::-1]:
        return place[parts[0]][1], dim, True
    raise CaptureError("the steps' values are concatenated in another order")
