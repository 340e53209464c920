"""A forward that holds a Python loop over time, as one region whose length is a symbol.

The call is traced at small lengths (`reroll.py` makes a loop of each trace). The signature is written from two of them side by
side: a size that differs between them is a polynomial of the length. A third length must give the same signature. All other sizes are
constants. Python that looks at the length itself would not be seen at small ones: `witness` runs the original once at the real
length, counts its operations and compares its results.
"""

from __future__ import annotations

import dis
import itertools
import logging
import types
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from torch_autokernel.capture import ops
from torch_autokernel.capture.ambient import ordinary_torch
from torch_autokernel.capture.reference import print_reference
from torch_autokernel.capture.reroll import Carry, Indexed, Rolled, leaves, live, roll, share
from torch_autokernel.capture.signature import Captured, dtype_name
from torch_autokernel.capture.whole import Constant, Whole, plain_forward, trace
from torch_autokernel.core import dims
from torch_autokernel.core.dims import Dim
from torch_autokernel.core.errors import CaptureError
from torch_autokernel.core.types import DTYPE_BYTES, Const, Op, Ref, Region, Signature, TensorSpec

log = logging.getLogger(__name__)

T = "s0"  # the length's symbol
_LENGTHS = (7, 9, 11, 13, 15, 17)
LEAST = 8  # a shorter loop is not worth it
_MOST_CALLS = 2000
UNROLLED = 64  # a longer one is not traced step by step
_IGNORED = ("layout", "device", "pin_memory", "requires_grad", "memory_format")
Where = frozenset[tuple[int, int]]  # (tensor argument, dimension) pairs that are as long as the loop


def capture_recurrence(function: Callable[..., Any], args: Sequence[Any], module: torch.nn.Module | None = None) -> Whole:
    """The call as one region with a loop; raises CaptureError with the reason where it is none."""
    reasons = []
    for where in _hypotheses(args):
        try:
            with _quietly():
                return _Capture(function, args, module, where).whole()
        except _NotTime as error:
            log.debug("not time, %s: %s", sorted(where), error.message)
        except CaptureError as error:
            reasons.append(error.message)
            log.debug("no loop over %s: %s", sorted(where), error.message)
    if reasons:
        raise Unrolls(f"the loop cannot be rolled up: {reasons[0]}")
    raise CaptureError("no loop over a dimension of an argument")


class Unrolls(CaptureError):
    """There is a loop, but no kernel can be made of it."""


class _NotTime(CaptureError):
    """The forward does not grow with these dimensions."""


def longest(args: Sequence[Any]) -> int:
    return max((n for a in args if isinstance(a, torch.Tensor) for n in a.shape), default=0)


def loops(function: Callable[..., Any], module: torch.nn.Module | None) -> bool:
    """Whether the Python text of the function, of a user's submodule, or of what they call, loops at all."""
    todo: list[Any] = [function]
    if module is not None:
        for m in module.modules():
            if type(m).__module__.split(".")[0] != "torch":
                todo += [f for f in vars(type(m)).values() if isinstance(f, types.FunctionType)]
    seen: set[Any] = set()
    while todo:
        f = todo.pop()
        f = getattr(f, "__func__", f)
        if f in seen or not isinstance(f, types.FunctionType):
            continue
        seen.add(f)
        if _jumps_back(f.__code__):
            return True
        called = [f.__globals__.get(n) for n in f.__code__.co_names] + [c.cell_contents for c in f.__closure__ or ()]
        todo += [g for g in called if isinstance(g, (types.FunctionType, types.MethodType)) and g.__module__.split(".")[0] != "torch"]
    return False


def _jumps_back(code: types.CodeType) -> bool:
    if any(i.opname == "FOR_ITER" or "JUMP_BACKWARD" in i.opname for i in dis.get_instructions(code)):
        return True
    return any(_jumps_back(c) for c in code.co_consts if isinstance(c, types.CodeType))


@contextmanager
def _quietly() -> Iterator[None]:
    """Without torch's own words on traces that fail: a wrong guess at what is time is no error."""
    loud = logging.getLogger("torch._subclasses.fake_tensor")
    before, loud.disabled = loud.disabled, True
    try:
        yield
    finally:
        loud.disabled = before


def _hypotheses(args: Sequence[Any]) -> Iterator[Where]:
    """Which dimensions may be time: all of one size; those of one size at one position; each alone."""
    tensors = [a for a in args if isinstance(a, torch.Tensor)]
    pairs = [(i, d, int(n)) for i, t in enumerate(tensors) for d, n in enumerate(t.shape) if n >= LEAST]
    pairs.sort(key=lambda p: -p[2])
    groups = [frozenset((i, d) for i, d, n in pairs if n == size) for size in sorted({n for *_, n in pairs}, reverse=True)]
    groups += [frozenset((i, e) for i, e, n in pairs if n == size and e == d) for _i, d, size in pairs]
    groups += [frozenset(((i, d),)) for i, d, _n in pairs]
    yield from list(dict.fromkeys(groups))[:12]


def _resized(args: Sequence[Any], where: Where, length: int) -> list[Any]:
    """The arguments with another length, contents meaningless; the order of dimensions in memory stays."""
    out: list[Any] = []
    numbers = itertools.count()
    for a in args:
        if not isinstance(a, torch.Tensor):
            out.append(a)
            continue
        i = next(numbers)
        shape = [length if (i, d) in where else n for d, n in enumerate(a.shape)]
        if shape == list(a.shape):
            out.append(a)
            continue
        order = sorted(range(a.dim()), key=lambda d: (-a.stride(d), d))
        made = torch.empty([shape[d] for d in order], dtype=a.dtype)
        out.append(made.permute([order.index(d) for d in range(a.dim())]))
    return out


class _Traced:
    """The call at one length."""

    def __init__(self, function: Callable[..., Any], args: Sequence[Any], module: Any, where: Where, length: int) -> None:
        with _Few():
            gm, self.spec, self.names = trace(function, _resized(args, where, length), module)
        self.graph = _functional(gm).graph
        share(self.graph, length)
        self.length = length
        self.placeholders = [n for n in self.graph.nodes if n.op == "placeholder"]
        if found := [n.name for n in self.graph.nodes if n.op == "get_attr"]:
            raise CaptureError(f"the function reads a tensor that is not an argument ({found[0]})")

    @property
    def size(self) -> int:
        return len(live(self.graph))


class _Few(TorchFunctionMode):
    """Ends a trace that does not end soon: what was made short is not what the loop goes over."""

    def __init__(self) -> None:
        self.left = _MOST_CALLS

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.left -= 1
        if self.left < 0:
            raise _NotTime(f"more than {_MOST_CALLS} calls of torch at a length of a few steps")
        return func(*args, **(kwargs or {}))


def _functional(gm: fx.GraphModule) -> fx.GraphModule:
    """The graph without operations in place, which some decompositions bring along."""
    from torch._subclasses import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx

    if not any(getattr(n.target, "_schema", None) is not None and n.target._schema.is_mutable for n in live(gm.graph)):
        return gm
    values = [n.meta["val"] for n in gm.graph.nodes if n.op == "placeholder"]
    mode = next((v.fake_mode for v in values if hasattr(v, "fake_mode")), None) or FakeTensorMode()
    with torch.no_grad(), mode:
        out = make_fx(torch.func.functionalize(gm))(*values)
    out.graph.eliminate_dead_code()
    return out


class _Capture:
    def __init__(self, function: Callable[..., Any], args: Sequence[Any], module: torch.nn.Module | None, where: Where) -> None:
        self.args, self.module, self.where = args, module, where
        self.tensors = [a for a in args if isinstance(a, torch.Tensor)]
        named = {} if module is None else {**dict(module.named_parameters()), **dict(module.named_buffers())}
        self.tensors += list(named.values())
        taken = {int(n) for t in self.tensors for n in t.shape}
        lengths = [n for n in _LENGTHS if n not in taken][:3]
        self.make = lambda length: _Traced(function, args, module, where, length)
        self.lengths = lengths
        (i, d), *_ = sorted(where)
        self.length = int(self.tensors[i].shape[d])

    def whole(self) -> Whole:
        try:
            short, longer = self.make(self.lengths[0]), self.make(self.lengths[1])
        except CaptureError as error:
            raise _NotTime(error.message) from error
        grown = longer.size - short.size
        if grown <= 0:
            raise _NotTime("the graph does not grow with the length")
        for node in live(longer.graph):
            if getattr(node.target, "_schema", None) is not None and node.target._schema.is_mutable:  # type: ignore[union-attr]
                raise CaptureError(f"an argument is changed by {ops.name_of(node.target)}")
            if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
                raise CaptureError(f"{ops.name_of(node.target)} draws random numbers")
        if grown % (longer.length - short.length):
            raise CaptureError("the graph does not grow by the same number of operations a step")
        period = grown // (longer.length - short.length)
        first = roll(short.graph, period, short.length)
        second = roll(longer.graph, period, longer.length)
        writer = _Writer(self, short, longer, first, second)
        signature = writer.signature()
        third = self.make(self.lengths[2])
        again = _Writer(self, short, third, first, roll(third.graph, period, third.length)).signature()
        if again.to_json() != signature.to_json():
            raise CaptureError("the loop is another one at other lengths")
        region = Region(signature, print_reference(signature), {T: self.length}, ())
        order = tuple(short.placeholders.index(n) for n in writer.inputs)
        captured = Captured(region, tuple(writer.inputs), (), ())
        return Whole(captured, order, writer.results, short.spec, tuple(short.names), self.where)


class _Writer:
    """One signature from two traces that differ in length."""

    def __init__(self, capture: _Capture, a: _Traced, b: _Traced, first: Rolled, second: Rolled) -> None:
        self.capture, self.a, self.b, self.one, self.two = capture, a, b, first, second
        if len(first.prologue) != len(second.prologue) or len(first.epilogue) != len(second.epilogue):
            raise CaptureError("what stands around the loop grows with the length")
        if len(first.body) != len(second.body):
            raise CaptureError("the loop has another period at another length")
        outside = (a.placeholders + first.prologue + first.epilogue, b.placeholders + second.prologue + second.epilogue)
        self.twin = dict(zip(*outside, strict=True)) | dict(zip(first.body, second.body, strict=True))
        self.ops: list[Op] = []
        self.number: dict[fx.Node, int] = {}
        self.inputs: list[fx.Node] = []
        self.results: tuple[Any, ...] = ()

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
            return _said(self.size(x, y))
        if type(x) is not type(y) or x != y and x == x:
            raise CaptureError(f"a constant is {x} at one length and {y} at another")
        if isinstance(x, torch.dtype):
            return Const("dtype", dtype_name(x))
        if x is None or isinstance(x, (bool, float, str)):
            return x
        raise CaptureError(f"an argument of type {type(x).__name__} cannot be told: {x!r}")

    # ---- operations ----
    def op(self, node: fx.Node, number: dict[fx.Node, int], inside: bool) -> Op:
        name = ops.name_of(node.target)
        name = "aten.reshape.default" if name in ("aten.view.default", "aten._unsafe_view.default") else name
        if ops.kind(name) is None and not (inside and name in ops.IN_LOOPS):
            raise CaptureError(f"{name} is not among the operations that a {'loop' if inside else 'region'} may hold")
        if name in ("aten.as_strided.default", "aten.gather.default", "aten.embedding.default", "prims.iota.default"):
            raise CaptureError(f"{name} beside a loop is not understood")
        value = node.meta["val"]
        several = isinstance(value, (tuple, list))
        shape = () if several else self.sizes(node)
        dtype = "" if several else dtype_name(value.dtype)
        args = tuple(self.argument(x, y, number) for x, y in zip(node.args, self.twin[node].args, strict=True))
        kwargs = {k: self.argument(v, self.twin[node].kwargs[k], number) for k, v in sorted(node.kwargs.items()) if k not in _IGNORED}
        if name in ("aten.reshape.default", "aten.expand.default"):
            return Op(name, (args[0], tuple(map(_said, shape))), {}, shape, dtype)
        if name in ("aten.full.default", "aten.scalar_tensor.default"):
            fill = args[1] if name == "aten.full.default" else args[0]
            return Op("aten.full.default", (tuple(map(_said, shape)), fill), {"dtype": Const("dtype", dtype)}, shape, dtype)
        return Op(name, args[:1] if name == "aten.clone.default" else args, kwargs, shape, dtype)

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
        loop, values = _Cell(self).write()
        self.ops.append(loop)
        at = len(self.inputs) + len(self.ops) - 1
        for k, (node, shape) in enumerate(values):
            self.ops.append(Op(ops.GETITEM, (Ref(at), k), {}, shape, dtype_name(leaves_value(node).dtype)))
            self.number[node] = len(self.inputs) + len(self.ops) - 1
            if node in self.one.collected:
                full = self.sizes(node)
                if full != shape:
                    arguments = (Ref(self.number[node]), tuple(map(_said, full)))
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
        """Shape with the length as a symbol, strides as they are at hand."""
        tensor = self.capture.tensors[self.a.placeholders.index(node)]
        name = dtype_name(tensor.dtype)
        if name not in ops.FLOATS or tensor.layout is not torch.strided:
            raise CaptureError(f"an input is {name}: only floats are understood beside a loop")
        shape = self.sizes(node)
        stride: list[Dim] = [0] * len(shape)
        expected: Dim = 1
        known = {T: self.capture.length}
        for d in sorted(range(len(shape)), key=lambda d: (tensor.stride(d), -d)):
            if tensor.shape[d] == 1 or tensor.stride(d) == 0:
                continue
            stride[d] = expected if dims.evaluate(expected, known) == tensor.stride(d) else tensor.stride(d)
            expected = dims.mul(stride[d], shape[d])
        return TensorSpec(shape, name, tuple(stride), "cpu", DTYPE_BYTES[name])

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


def leaves_value(node: fx.Node) -> torch.Tensor:
    return node.meta["val"]  # type: ignore[no-any-return]


def _said(d: Dim) -> Any:
    return d if isinstance(d, int) else Const("dim", d)


class _Cell:
    """The loop as one Op. Its local values are numbered: carries, indexed slices, invariants, then the body's operations."""

    def __init__(self, writer: _Writer) -> None:
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
        sources = tuple((Ref(s), d, _said(start), step) for s, d, start, step in indexed)
        args = (
            _said(dims.add(T, w._fewest())), tuple(Ref(w.number[c[0]]) for c in carries), sources,
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
            raise CaptureError(f"a carried value is {tuple(first.shape)} {first.dtype} at first, then {tuple(later.shape)} {later.dtype}")
        if any(isinstance(n, str) for n in self.w.sizes(x.init)):
            raise CaptureError("a carried value is as long as the loop")

    def _declare_indexed(self, x: Indexed, y: Indexed) -> None:
        w = self.w
        if w.twin.get(x.source) is not y.source or (x.dim, x.step) != (y.dim, y.step):
            raise CaptureError("the loop indexes something else at another length")
        start = w.size(x.start, y.start)
        self.indexed[w.outer(x.source), x.dim, start, x.step] = x.source

    def _key(self, x: Indexed, i: int) -> Any:
        y = self.w.two.operands[i][0]
        return "indexed", (self.w.number[x.source], x.dim, self.w.size(x.start, y.start), x.step)

    def _operation(self, i: int, number: dict[Any, int], local: dict[int, int], hoisted: dict[int, fx.Node]) -> int | list[Op]:
        """Node i as operations over local values, or the local value that it is."""
        w, node = self.w, self.w.one.body[i]
        operands = w.one.operands[i]
        if operands and isinstance(operands[0], Indexed):
            at = number[self._key(operands[0], i)]
            if ops.name_of(node.target) != "aten.slice.Tensor":
                return at
            return [Op("aten.unsqueeze.default", (Ref(at), operands[0].dim), {}, w.sizes(node), dtype_name(node.meta["val"].dtype))]
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


# ---- the witness ----
class _Count(TorchDispatchMode):
    """Counts operations with their constants."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: Counter[Any] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        flat = [a for a in pytree.tree_leaves((args, kwargs or {})) if isinstance(a, (float, bool, torch.dtype))]
        self.seen[(str(func), *map(str, flat))] += 1
        return func(*args, **(kwargs or {}))


def _counted(function: Callable[..., Any], args: Sequence[Any], module: torch.nn.Module | None) -> tuple[Counter[Any], Any]:
    counter = _Count()
    with torch.no_grad(), ordinary_torch(), plain_forward(module, function), counter:
        out = function(*args) if module is None else function(module, *args)
    return counter.seen, out


def witness(whole: Whole, function: Callable[..., Any], args: Sequence[Any], module: torch.nn.Module | None) -> list[Any]:
    """The original's results (leaves) at the real length. Raises CaptureError where its operations are not those of the short
    lengths, extended: Python that looks at the length would show there."""
    length = whole.captured.region.sizes[T]
    assert whole.where is not None
    counts = {n: _counted(function, _resized(args, whole.where, n), module)[0] for n in _LENGTHS[:2]}
    (a, short), (b, longer) = counts.items()
    real, out = _counted(function, args, module)
    for key in short.keys() | longer.keys() | real.keys():
        if (real[key] - short[key]) * (b - a) != (longer[key] - short[key]) * (length - a):
            raise CaptureError(f"at length {length} the function runs {key[0]} {real[key]} times, which is not as at short lengths")
    return pytree.tree_leaves(out)


def agree(mine: Sequence[Any], theirs: Sequence[Any]) -> bool:
    """Whether the kernel's results are the original's but for rounding: by the ratio of root mean squares, as recurrences are
    compared."""
    if len(mine) != len(theirs):
        return False
    for x, y in zip(mine, theirs, strict=True):
        if not isinstance(y, torch.Tensor):
            if x != y:
                return False
            continue
        if x.shape != y.shape or x.dtype != y.dtype or x.stride() != y.stride() and y.numel() > 1:
            return False
        usual = y.isfinite()
        if not torch.equal(usual, x.isfinite()):
            return False
        error, size = (x - y).double()[usual].square().mean().sqrt(), y.double()[usual].square().mean().sqrt()
        if usual.any() and not error <= _RATIO[y.dtype] * size:
            return False
    return True


_RATIO = {torch.float32: 2e-3, torch.float64: 1e-6, torch.bfloat16: 5e-2, torch.float16: 1e-2}
