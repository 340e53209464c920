"""torch's `scan` operator as a region with a loop: its body graph is the cell, its length a symbol, all other sizes constants.

What is constant before the loop (zeros as first states) is made by the kernel; sequences and results that are reversed around
the scan are read and written from the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from torch_autokernel.capture import ops
from torch_autokernel.capture.ambient import tracing_alone
from torch_autokernel.capture.decompositions import inductor_table
from torch_autokernel.capture.loop_ops import name_in_loop, said, static_op
from torch_autokernel.capture.loop_signature import T, float_input
from torch_autokernel.capture.reference import print_reference
from torch_autokernel.capture.signature import dtype_name, tensor_of
from torch_autokernel.core import dims
from torch_autokernel.core.dims import Dim
from torch_autokernel.core.errors import CaptureError
from torch_autokernel.core.types import DTYPE_BYTES, Const, Op, Ref, Region, Signature, TensorSpec

_FILLS = {
    "aten.zeros.default": 0, "aten.ones.default": 1, "aten.zeros_like.default": 0, "aten.ones_like.default": 1,
    "aten.new_zeros.default": 0, "aten.new_ones.default": 1,
}  # fmt: skip
_FLIPS = ("aten.flip.default", "prims.rev.default")


@dataclass(frozen=True)
class Scan:
    """The region of one scan, the nodes that are its inputs, and the result that each node around the scan stands for."""

    region: Region
    inputs: tuple[fx.Node, ...]
    results: dict[fx.Node, int]


def is_scan(node: fx.Node) -> bool:
    return node.op == "call_function" and ops.name_of(node.target) == "scan"


def capture_scan(node: fx.Node, body: fx.GraphModule) -> Scan:
    """The scan as a region; raises CaptureError where its body holds what no loop may hold."""
    return _Writer(node, body).scan()


def decomposed(body: fx.GraphModule, values: Sequence[Any]) -> fx.GraphModule:
    """The body over tensors like these, in the operations that regions are made of; numbers become constants."""
    from torch._subclasses import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx

    for node in body.graph.nodes:  # functionalisation leaves copies where the cell has views
        if torch.Tag.view_copy in getattr(node.target, "tags", ()):
            packet, overload = str(node.target).removeprefix("aten.").rsplit(".", 1)
            node.target = getattr(getattr(torch.ops.aten, packet.removesuffix("_copy")), overload)
    body.recompile()
    mode = FakeTensorMode(allow_non_fake_inputs=False)
    with torch.no_grad(), mode, tracing_alone():
        fakes = [torch.empty_strided(v.shape, v.stride(), dtype=v.dtype) for v in values if isinstance(v, torch.Tensor)]

        def on_tensors(*tensors: torch.Tensor) -> Any:
            rest = iter(tensors)
            return body(*(next(rest) if isinstance(v, torch.Tensor) else v for v in values))

        made = make_fx(torch.func.functionalize(on_tensors), decomposition_table=inductor_table())(*fakes)
    made.graph.eliminate_dead_code()
    return made


class _Writer:
    def __init__(self, node: fx.Node, body: fx.GraphModule) -> None:
        _graph, inits, xs, rest = node.args
        self.node, self.inits, self.xs = node, list(inits), list(xs)  # type: ignore[arg-type]
        self.rest: list[fx.Node] = [n for n in rest if isinstance(n, fx.Node)]  # type: ignore[union-attr]
        if not self.xs or not all(isinstance(n, fx.Node) for n in (*self.inits, *self.xs)):
            raise CaptureError("a scan over something else than tensors")
        self.length = int(tensor_of(self.xs[0]).shape[0])
        slices = [tensor_of(n)[0] for n in self.xs]
        more: list[Any] = [tensor_of(n) if isinstance(n, fx.Node) else n for n in rest]  # type: ignore[union-attr]
        values = [*map(tensor_of, self.inits), *slices, *more]
        self.body = decomposed(body, values)
        self.places = [n for n in self.body.graph.nodes if n.op == "placeholder"]
        (output,) = [n for n in self.body.graph.nodes if n.op == "output"]
        self.made: list[Any] = list(output.args[0])
        self.ops: list[Op] = []
        self.inputs: dict[fx.Node, int] = {}
        self.outer: dict[fx.Node, int] = {}

    # ---- what is read and what is wanted ----
    def _results(self) -> list[tuple[list[fx.Node], int, bool]]:
        """For each result that is read: the nodes that stand for it, its number among the body's, whether it is reversed."""
        out = []
        for get in self.node.users:
            k = get.args[1]
            assert ops.name_of(get.target) == ops.GETITEM and isinstance(k, int)
            if k >= len(self.inits) and get.users and all(_flipped(u) is get for u in get.users):
                out.append((list(get.users), k, True))
            elif get.users:
                out.append(([get], k, False))
        if not out:
            raise CaptureError("nothing of a scan is read")
        return sorted(out, key=lambda r: r[1])

    def _live(self, wanted: Sequence[int]) -> tuple[set[fx.Node], list[int]]:
        """The body's nodes that something reads, and the states that must be carried for it."""
        seen: set[fx.Node] = set()
        todo = [self.made[k] for k in wanted]
        while todo:
            n = todo.pop()
            if not isinstance(n, fx.Node):
                raise CaptureError("a scan gives something else than tensors")
            if n in seen:
                continue
            seen.add(n)
            todo += n.all_input_nodes
            if n in self.places and (i := self.places.index(n)) < len(self.inits):
                todo.append(self.made[i])
        kept = [i for i in range(len(self.inits)) if self.places[i] in seen or i in wanted]
        return seen, kept

    # ---- the signature ----
    def scan(self) -> Scan:
        results = self._results()
        wanted = [k for _n, k, _b in results]
        live, carried = self._live(wanted)
        a, b = len(self.inits), len(self.inits) + len(self.xs)
        sequences = [k for k in range(a, b) if self.places[k] in live]
        invariant = [k for k in range(b, len(self.places)) if self.places[k] in live]
        sources = [(_flipped(self.xs[k - a]) or self.xs[k - a], _flipped(self.xs[k - a]) is not None) for k in sequences]
        if not sources:  # the length is told by a sequence, read or not
            raise CaptureError("a scan that reads nothing of this step")
        edge = [*(self.inits[i] for i in carried), *(s for s, _b in sources), *(self.rest[k - b] for k in invariant)]
        timed = {s for s, _b in sources}
        if timed & {*(self.inits[i] for i in carried), *(self.rest[k - b] for k in invariant)}:
            raise CaptureError("a scan reads a sequence step by step and as a whole")
        for n in dict.fromkeys(n for n in edge if n in timed or _fill(n) is None):
            self.inputs[n] = len(self.inputs)
        specs = tuple(self._in_spec(n, n in timed) for n in self.inputs)
        self.outer = dict(self.inputs)
        first = tuple(Ref(self._outside(self.inits[i])) for i in carried)
        indexed = tuple(
            (Ref(self.outer[s]), 0, said(dims.add(T, -1)) if back else 0, -1 if back else 1) for s, back in sources
        )
        known = {self.places[k]: self._outside(self.rest[k - b]) for k in invariant}
        outside, local, body = self._write_body(live, carried, sequences, known)
        nexts = tuple(local[self.made[i]] for i in carried)
        outs = tuple(("last" if k < a else "all", local[self.made[k]], 0, back) for _n, k, back in results)
        self.ops.append(Op(ops.LOOP, (said(T), first, indexed, outside, body, nexts, outs)))
        return self._region(specs, results)

    def _region(self, specs: tuple[TensorSpec, ...], results: list[tuple[list[fx.Node], int, bool]]) -> Scan:
        at = len(specs) + len(self.ops) - 1
        out_specs, stands = [], dict[fx.Node, int]()
        for j, (nodes, k, _back) in enumerate(results):
            spec = self._out_spec(nodes[0], k >= len(self.inits))
            self.ops.append(Op(ops.GETITEM, (Ref(at), j), {}, spec.shape, spec.dtype))
            out_specs.append(spec)
            stands |= dict.fromkeys(nodes, j)
        numbers = tuple(range(at + 1, at + 1 + len(results)))
        signature = Signature(tuple(self.ops), specs, numbers, tuple(out_specs), (T,))
        region = Region(signature, print_reference(signature), {T: self.length}, ())
        return Scan(region, tuple(self.inputs), stands)

    def _outside(self, node: fx.Node) -> int:
        """The number of a value before the loop: an input, or a constant that is written down."""
        if node not in self.outer:
            value, shape = tensor_of(node), tuple(map(int, tensor_of(node).shape))
            name = dtype_name(value.dtype)
            self._put(Op("aten.full.default", (shape, _fill(node)), {"dtype": Const("dtype", name)}, shape, name))
            self.outer[node] = len(self.inputs) + len(self.ops) - 1
        return self.outer[node]

    def _put(self, op: Op) -> int:
        self.ops.append(op)
        return len(self.inputs) + len(self.ops) - 1

    def _write_body(
        self, live: set[fx.Node], carried: list[int], sequences: list[int], known: dict[fx.Node, int]
    ) -> tuple[tuple[Ref, ...], dict[fx.Node, int], tuple[Any, ...]]:
        """The values from before the loop, the body's local numbers, and its operations. What is the same in every step is
        written before the loop, but for products."""
        nodes = [n for n in self.body.graph.nodes if n in live and n.op != "placeholder"]
        for n in nodes:
            if n.op != "call_function":
                raise CaptureError("a scan's body reads a tensor that is not an argument")
            name = ops.name_of(n.target)
            same = n.all_input_nodes and all(m in known for m in n.all_input_nodes)
            if same and name not in ops.IN_LOOPS and name != ops.GETITEM:
                known[n] = known[n.args[0]] if name == "aten.clone.default" else self._put(_op(n, known, False))
        read = [n for n in known if any(u in live and u not in known for u in n.users) or n in self.made]
        local = {self.places[k]: i for i, k in enumerate((*carried, *sequences))}
        local |= {n: len(local) + i for i, n in enumerate(read)}
        base, body = len(local), list[Any]()
        for n in nodes:
            if n in known:
                continue
            if ops.name_of(n.target) == "aten.clone.default":
                local[n] = local[n.args[0]]
                continue
            op = _op(n, local, True)
            body.append((op.target, op.args, tuple(sorted(op.kwargs.items())), op.shape, op.dtype))
            local[n] = base + len(body) - 1
        return tuple(Ref(known[n]) for n in read), local, tuple(body)

    # ---- the edge ----
    def _in_spec(self, node: fx.Node, timed: bool) -> TensorSpec:
        """Strides as they are at hand; those that the length makes are told by it."""
        tensor = tensor_of(node)
        shape: tuple[Dim, ...] = tuple(map(int, tensor.shape))
        if timed:
            shape = (T, *shape[1:])
        return float_input(tensor, shape, self.length, "a scan")

    def _out_spec(self, node: fx.Node, every: bool) -> TensorSpec:
        """All steps' results are contiguous, as eager stacks them; the last states lie as the body makes them."""
        tensor = tensor_of(node)
        name, shape, stride = dtype_name(tensor.dtype), tuple(map(int, tensor.shape)), tuple(map(int, tensor.stride()))
        if every:
            dense = torch.empty((2, *shape[1:]), device="meta").stride()
            return TensorSpec((T, *shape[1:]), name, tuple(map(int, dense)), "cpu", DTYPE_BYTES[name])
        if any(s == 0 and n != 1 for n, s in zip(shape, stride, strict=True)):
            raise CaptureError("a scan's state whose elements share memory")
        stride = tuple(0 if n == 1 else s for n, s in zip(shape, stride, strict=True))
        return TensorSpec(shape, name, stride, "cpu", DTYPE_BYTES[name])


def _flipped(node: fx.Node) -> fx.Node | None:
    """What the node is the reverse of along its first dimension, if it is that."""
    if node.op != "call_function" or ops.name_of(node.target) not in _FLIPS or list(node.args[1]) != [0]:  # type: ignore[arg-type]
        return None
    return node.args[0]  # type: ignore[return-value]


def _fill(node: fx.Node) -> Any:
    """The number that all elements of a value are, or None."""
    while node.op == "call_function":
        name = ops.name_of(node.target)
        if name in _FILLS:
            return _FILLS[name]
        if name == "aten.full.default":
            return node.args[1] if isinstance(node.args[1], (int, float, bool)) else None
        if name != "aten.clone.default" and ops.kind(name) != "view":
            return None
        node = node.args[0]  # type: ignore[assignment]
    return None


def _op(node: fx.Node, number: dict[fx.Node, int], inside: bool) -> Op:
    name = name_in_loop(node)
    if name in ops.UNLIKE_LOOPS or ops.kind(name) is None and not (inside and name in ops.IN_LOOPS):
        raise CaptureError(f"{name} is not among the operations that a scan's body may hold")
    return static_op(node, number)
