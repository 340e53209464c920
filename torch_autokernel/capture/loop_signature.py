"""The signature of a forward with a loop, written from two traces that differ in length.

Outside the loop it is as any other; the loop is one `Op("loop")` whose arguments are steps, first states, indexed tensors,
invariants, body, next states and results (`reference.py` prints them). Sizes that differ between the traces are polynomials of
the length.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import fx

from torch_autokernel.capture import ops
from torch_autokernel.capture.loop_ops import kept, name_in_loop, op_of, said, told
from torch_autokernel.capture.reroll import Carry, Indexed, Rolled, leaves
from torch_autokernel.capture.signature import dtype_name
from torch_autokernel.capture.whole import Constant
from torch_autokernel.core import dims
from torch_autokernel.core.dims import Dim
from torch_autokernel.core.errors import CaptureError
from torch_autokernel.core.types import DTYPE_BYTES, Op, Ref, Signature, TensorSpec

T = "s0"  # the length's symbol


class Trace(Protocol):
    """The call at one length."""

    graph: fx.Graph
    length: int
    placeholders: list[fx.Node]


class LoopWriter:
    """One signature from two traces that differ in length."""

    def __init__(self, tensors: list[torch.Tensor], length: int, a: Trace, b: Trace, first: Rolled, second: Rolled,
                 anything: bool = False) -> None:  # fmt: skip
        """With `anything`, any operation may stand in and around the loop: the signature is for reading, not for a kernel."""
        self.tensors, self.length, self.a, self.b, self.one, self.two = tensors, length, a, b, first, second
        self.anything = anything
        self.ops: list[Op] = []
        self.number: dict[fx.Node, int] = {}
        self.inputs: list[fx.Node] = []
        self.results: tuple[Any, ...] = ()
        if len(first.prologue) != len(second.prologue) or len(first.epilogue) != len(second.epilogue):
            raise CaptureError("what stands around the loop grows with the length")
        if len(first.body) != len(second.body):
            raise CaptureError("the loop has another period at another length")
        outside = (a.placeholders + first.prologue + first.epilogue, b.placeholders + second.prologue + second.epilogue)
        self.twin = dict(zip(*outside, strict=True)) | dict(zip(first.body, second.body, strict=True))

    # ---- sizes ----
    def size(self, x: int, y: int) -> Dim:
        """The size that is x at one length and y at the other."""
        slope, rest = divmod(y - x, self.b.length - self.a.length)
        if rest:
            raise CaptureError(f"a size is {x} at length {self.a.length} and {y} at length {self.b.length}")
        return dims.add(dims.mul(slope, T), x - slope * self.a.length)

    def sizes(self, node: fx.Node) -> tuple[Dim, ...]:
        value, other = node.meta["val"], self.twin[node].meta["val"]
        if value.dim() != other.dim() or value.dtype != other.dtype:
            raise CaptureError(f"{node.name} has another form at another length")
        return tuple(self.size(int(x), int(y)) for x, y in zip(value.shape, other.shape, strict=True))

    def start(self, x: Indexed, y: Indexed) -> Dim:
        """Where the first step reads."""
        return self.size(x.start, y.start)

    def argument(self, x: Any, y: Any, number: dict[fx.Node, int]) -> Any:
        if isinstance(x, fx.Node):
            if self.twin.get(x) is not y:
                raise CaptureError("the loop is wired differently at another length")
            return Ref(number[x])
        if isinstance(x, (list, tuple)):
            if len(x) != len(y):
                raise CaptureError("an argument has another length")
            return tuple(self.argument(p, q, number) for p, q in zip(x, y, strict=True))
        if type(x) is int and type(y) is int:
            if abs(x) >= 2**62 and x == y:
                return x
            return said(self.size(x, y))
        if type(x) is not type(y) or x != y and x == x:
            raise CaptureError(f"a constant is {x} at one length and {y} at another")
        return told(x)

    # ---- operations ----
    def op(self, node: fx.Node, number: dict[fx.Node, int], inside: bool) -> Op:
        name = name_in_loop(node)
        if ops.kind(name) is None and not self.anything and not (inside and name in ops.IN_LOOPS):
            raise CaptureError(f"{name} is not among the operations that a {'loop' if inside else 'region'} may hold")
        if not self.anything and name in ops.UNLIKE_LOOPS:
            raise CaptureError(f"{name} beside a loop is not understood")
        shape = () if isinstance(node.meta["val"], (tuple, list)) else self.sizes(node)
        args = tuple(self.argument(x, y, number) for x, y in zip(node.args, self.twin[node].args, strict=True))
        kwargs = {k: self.argument(v, self.twin[node].kwargs[k], number) for k, v in kept(node.kwargs)}
        return op_of(node, shape, args, kwargs)

    def outer(self, node: fx.Node) -> int:
        """The number of a value outside the loop, which is written where it is not yet."""
        if node not in self.number:
            if node.op == "placeholder":
                raise CaptureError("an input that was not foreseen")
            for a in leaves(node):
                self.outer(a)
            self.ops.append(self.op(node, self.number, False))
            self.number[node] = len(self.inputs) + len(self.ops) - 1
        return self.number[node]

    # ---- the whole ----
    def signature(self) -> Signature:
        (output,) = [n for n in self.a.graph.nodes if n.op == "output"]
        results = list(output.args[0]) if isinstance(output.args[0], (list, tuple)) else [output.args[0]]
        self._declare_inputs(results)
        return self.written(results)

    def written(self, results: list[Any]) -> Signature:
        """The signature, where the inputs are declared."""
        loop, values = _Cell(self).write()
        self.ops.append(loop)
        at = len(self.inputs) + len(self.ops) - 1
        for k, (node, shape) in enumerate(values):
            self.ops.append(Op(ops.GETITEM, (Ref(at), k), {}, shape, dtype_name(node.meta["val"].dtype)))
            self.number[node] = len(self.inputs) + len(self.ops) - 1
            if node in self.one.collected:
                full = self.sizes(node)
                if full != shape:
                    arguments = (Ref(self.number[node]), tuple(map(said, full)))
                    self.ops.append(Op("aten.reshape.default", arguments, {}, full, dtype_name(node.meta["val"].dtype)))
                    self.number[node] = len(self.inputs) + len(self.ops) - 1
        nodes = list(dict.fromkeys(r for r in results if isinstance(r, fx.Node)))
        if any(n.op == "placeholder" for n in nodes):
            raise CaptureError("an output is an input")
        numbers = [self.outer(n) for n in nodes]
        self.results = tuple(nodes.index(r) if isinstance(r, fx.Node) else Constant(r) for r in results)
        specs = tuple(self._out_spec(n) for n in nodes)
        inputs = tuple(self._in_spec(n) for n in self.inputs)
        guards = {T: 1 - low} if (low := self._fewest()) < 0 else {}
        if not any(T in dims.symbols(s.shape) for s in inputs):
            raise CaptureError("no input is as long as the loop")
        return Signature(tuple(self.ops), inputs, tuple(numbers), specs, (T,), guards)

    def _fewest(self) -> int:
        """Steps less length, so that the length at which there is one step is known."""
        return self.one.steps - self.a.length

    def _declare_inputs(self, results: list[Any]) -> None:
        used: dict[fx.Node, None] = {}
        todo = [r for r in results if isinstance(r, fx.Node)]
        seen: set[fx.Node] = set()
        while todo:
            n = todo.pop()
            if n in seen:
                continue
            seen.add(n)
            if n.op == "placeholder":
                used[n] = None
            todo += n.all_input_nodes
        self.inputs = [p for p in self.a.placeholders if p in used]
        self.number = {p: i for i, p in enumerate(self.inputs)}

    def _in_spec(self, node: fx.Node) -> TensorSpec:
        tensor = self.tensors[self.a.placeholders.index(node)]
        name = dtype_name(tensor.dtype)
        if name not in ops.FLOATS and not self.anything or tensor.layout is not torch.strided:
            raise CaptureError(f"an input is {name}: only floats are understood beside a loop")
        return input_spec(tensor, self.sizes(node), self.length)

    def _out_spec(self, node: fx.Node) -> TensorSpec:
        """As eager lays it out, read off the strides at two lengths."""
        shape, value, other = self.sizes(node), node.meta["val"], self.twin_value(node)
        stride = tuple(
            0 if n == 1 else self.size(int(x), int(y)) for n, x, y in zip(shape, value.stride(), other.stride(), strict=True)
        )
        if any(s == 0 and n != 1 for s, n in zip(stride, shape, strict=True)):
            raise CaptureError(f"{node.name}: a result whose elements share memory cannot be allocated")
        name = dtype_name(value.dtype)
        return TensorSpec(shape, name, stride, "cpu", DTYPE_BYTES[name])

    def twin_value(self, node: fx.Node) -> torch.Tensor:
        return self.twin[node].meta["val"]  # type: ignore[no-any-return]


def float_input(tensor: Any, shape: tuple[Dim, ...], length: int, what: str) -> TensorSpec:
    """`input_spec` of what a kernel for a loop can read; raises CaptureError for anything else."""
    if not isinstance(tensor, torch.Tensor):
        raise CaptureError(f"{what} reads something else than tensors")
    name = dtype_name(tensor.dtype)
    if name not in ops.FLOATS or tensor.layout is not torch.strided or tensor.device.type != "cpu":
        raise CaptureError(f"{what} over {name} on {tensor.device.type}: only floats on the CPU are understood")
    return input_spec(tensor, shape, length)


def input_spec(tensor: torch.Tensor, shape: tuple[Dim, ...], length: int) -> TensorSpec:
    """Shape with the length as a symbol, strides as they are at hand."""
    stride: list[Dim] = [0] * len(shape)
    expected: Dim = 1
    known = {T: length}
    for d in sorted(range(len(shape)), key=lambda d: (tensor.stride(d), -d)):
        if tensor.shape[d] == 1 or tensor.stride(d) == 0:
            continue
        stride[d] = expected if dims.evaluate(expected, known) == tensor.stride(d) else tensor.stride(d)
        expected = dims.mul(stride[d], shape[d])
    name = dtype_name(tensor.dtype)
    return TensorSpec(shape, name, tuple(stride), "cpu", DTYPE_BYTES[name])


class _Cell:
    """The loop as one Op. Its local values are numbered: carries, indexed slices, invariants, then the body's operations."""

    def __init__(self, writer: LoopWriter) -> None:
        self.w = writer
        self.carries: dict[tuple[fx.Node, int], None] = {}
        self.indexed: dict[tuple[int, int, Any, int], fx.Node] = {}
        self.invariants: dict[fx.Node, None] = {}
        self.body: list[tuple[int, Op]] = []

    def write(self) -> tuple[Op, list[tuple[fx.Node, tuple[Dim, ...]]]]:
        w, one, two = self.w, self.w.one, self.w.two
        needed = self._needed()
        hoisted = self._hoisted(needed)
        for i in needed:
            if i in hoisted:
                continue
            for x, y in zip(one.operands[i], two.operands[i], strict=True):
                self._declare(x, y, hoisted)
        carries, indexed, invariants = list(self.carries), list(self.indexed), list(self.invariants)
        base = len(carries) + len(indexed) + len(invariants)
        number: dict[Any, int] = {("carry", c): k for k, c in enumerate(carries)}
        number |= {("indexed", x): len(carries) + k for k, x in enumerate(indexed)}
        number |= {("outer", n): len(carries) + len(indexed) + k for k, n in enumerate(invariants)}
        local: dict[int, int] = {}
        body: list[Any] = []
        for i in needed:
            if i in hoisted:
                continue
            made = self._operation(i, number, local, hoisted)
            if isinstance(made, int):
                local[i] = made
                continue
            for op in made:
                body.append((op.target, op.args, tuple(sorted(op.kwargs.items())), op.shape, op.dtype))
                local[i] = base + len(body) - 1
        results, outs = self._results(local, hoisted)
        nexts = tuple(self._local(c[1], local, hoisted) for c in carries)
        sources = tuple((Ref(s), d, said(start), step) for s, d, start, step in indexed)
        args = (
            said(dims.add(T, w._fewest())), tuple(Ref(w.number[c[0]]) for c in carries), sources,
            tuple(Ref(w.number[n]) for n in invariants), tuple(body), nexts, outs,
        )  # fmt: skip
        return Op(ops.LOOP, args), results

    def _needed(self) -> list[int]:
        """The body's nodes that something reads, in order."""
        one = self.w.one
        seen: set[int] = set()
        todo = [i for i, _d, _r in one.collected.values()] + list(one.last.values())
        while todo:
            i = todo.pop()
            if i in seen:
                continue
            seen.add(i)
            for x in one.operands[i]:
                if isinstance(x, int):
                    todo.append(x)
                elif isinstance(x, Carry):
                    todo.append(x.value)
        return sorted(seen)

    def _hoisted(self, needed: list[int]) -> dict[int, fx.Node]:
        """Body nodes that are the same in every step, as values from before the loop."""
        one, out = self.w.one, dict[int, fx.Node]()
        for i in needed:
            if all(isinstance(x, fx.Node) or isinstance(x, int) and x in out for x in one.operands[i]):
                name = ops.name_of(one.body[i].target)
                if name in ops.IN_LOOPS:  # products stay in the loop
                    continue
                out[i] = one.body[i]
                self._before(i, out)
        return out

    def _before(self, i: int, hoisted: dict[int, fx.Node]) -> None:
        """Write node i before the loop."""
        w, node = self.w, self.w.one.body[i]
        number = dict(w.number)
        for leaf, x in zip(leaves(node), w.one.operands[i], strict=True):
            number[leaf] = w.outer(x) if isinstance(x, fx.Node) else w.number[hoisted[x]]
            number[x if isinstance(x, fx.Node) else hoisted[x]] = number[leaf]
        w.twin |= dict(zip(leaves(node), leaves(w.twin[node]), strict=True))
        w.ops.append(w.op(node, number, False))
        w.number[node] = len(w.inputs) + len(w.ops) - 1

    def _declare(self, x: Any, y: Any, hoisted: dict[int, fx.Node]) -> None:
        w = self.w
        if type(x) is not type(y):
            raise CaptureError("the loop is wired differently at another length")
        if isinstance(x, fx.Node):
            if w.twin.get(x) is not y:
                raise CaptureError("the loop reads something else at another length")
            w.outer(x)
            self.invariants[x] = None
        elif isinstance(x, int):
            if x != y:
                raise CaptureError("the loop is wired differently at another length")
            if x in hoisted:
                self.invariants[hoisted[x]] = None
        elif isinstance(x, Carry):
            if x.value != y.value or w.twin.get(x.init) is not y.init:
                raise CaptureError("the loop carries something else at another length")
            w.outer(x.init)
            self._same_form(x)
            self.carries[x.init, x.value] = None
        else:
            self._declare_indexed(x, y)

    def _same_form(self, x: Carry) -> None:
        first, later = x.init.meta["val"], self.w.one.body[x.value].meta["val"]
        if first.shape != later.shape or first.dtype != later.dtype:
            raise CaptureError(
                f"a carried value is {tuple(first.shape)} {first.dtype} at first, then {tuple(later.shape)} {later.dtype}"
            )
        if any(isinstance(n, str) for n in self.w.sizes(x.init)):
            raise CaptureError("a carried value is as long as the loop")

    def _declare_indexed(self, x: Indexed, y: Indexed) -> None:
        w = self.w
        if w.twin.get(x.source) is not y.source or (x.dim, x.step) != (y.dim, y.step):
            raise CaptureError("the loop indexes something else at another length")
        start = w.start(x, y)
        self.indexed[w.outer(x.source), x.dim, start, x.step] = x.source

    def _key(self, x: Indexed, i: int) -> Any:
        y = self.w.two.operands[i][0]
        return "indexed", (self.w.number[x.source], x.dim, self.w.start(x, y), x.step)

    def _operation(self, i: int, number: dict[Any, int], local: dict[int, int], hoisted: dict[int, fx.Node]) -> int | list[Op]:
        """Node i as operations over local values, or the local value that it is."""
        w, node = self.w, self.w.one.body[i]
        operands = w.one.operands[i]
        if operands and isinstance(operands[0], Indexed):
            at = number[self._key(operands[0], i)]
            if ops.name_of(node.target) != "aten.slice.Tensor":
                return at
            return [
                Op("aten.unsqueeze.default", (Ref(at), operands[0].dim), {}, w.sizes(node), dtype_name(node.meta["val"].dtype))
            ]
        here: dict[fx.Node, int] = {}
        for leaf, x in zip(leaves(node), operands, strict=True):
            if isinstance(x, fx.Node):
                value = number["outer", x]
            elif isinstance(x, Carry):
                value = number["carry", (x.init, x.value)]
            else:
                value = number["outer", hoisted[x]] if x in hoisted else local[x]
            if here.setdefault(leaf, value) != value:
                raise CaptureError("one value stands for two")
        w.twin |= dict(zip(leaves(node), leaves(w.twin[node]), strict=True))
        return [w.op(node, here, True)]

    def _local(self, i: int, local: dict[int, int], hoisted: dict[int, fx.Node]) -> int:
        if i in hoisted:
            raise CaptureError("a carried value does not change")
        return local[i]

    def _results(self, local: dict[int, int], hoisted: dict[int, fx.Node]) -> tuple[list[Any], tuple[Any, ...]]:
        """The nodes that the loop gives, with their shapes, and how: all steps' values along a new dimension, or the last."""
        w, one, two = self.w, self.w.one, self.w.two
        values: list[Any] = []
        outs: list[Any] = []
        steps = dims.add(T, w._fewest())
        for node, (i, dim, back) in one.collected.items():
            if two.collected.get(w.twin[node]) != (i, dim, back):
                raise CaptureError("what is collected differs at another length")
            shape = w.sizes(one.body[i])
            values.append((node, (*shape[:dim], steps, *shape[dim:])))
            outs.append(("all", self._local(i, local, hoisted), dim, back))
        for node, i in one.last.items():
            other = next((n for n, j in two.last.items() if j == i), None)
            if other is None:
                raise CaptureError("what the last step leaves differs at another length")
            w.twin[node] = other
            values.append((node, w.sizes(one.body[i])))
            outs.append(("last", self._local(i, local, hoisted), 0, False))
        if not outs:
            raise CaptureError("the loop gives nothing")
        return values, tuple(outs)
