"""A signature's ATen and prims operations as nodes. `LOWERED` is the set of targets that can be."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from torch_autokernel.core import dims
from torch_autokernel.core.dims import Dim
from torch_autokernel.core.indexing import INDEXED
from torch_autokernel.core.products import ATTENTION
from torch_autokernel.core.types import Const, Op, Ref, Signature
from torch_autokernel.core.windows import Window
from torch_autokernel.propose import ir, one_hot, tables, windows, written_out
from torch_autokernel.propose.functions import PLACES
from torch_autokernel.propose.index import Refused, at_most, mul, product, sub
from torch_autokernel.propose.ir import Node, const, convert, peel, point
from torch_autokernel.propose.pull import unrolls

Lowering = Callable[["Call"], Any]
_TABLE: dict[str, Lowering] = {}


class Call:
    """One op with its operands as nodes; arguments are found by position or name."""

    def __init__(self, op: Op, values: Sequence[Any]) -> None:
        self.op, self.values = op, values
        self.shape, self.dtype = op.shape, op.dtype

    def raw(self, at: int, name: str = "", default: Any = None) -> Any:
        if at < len(self.op.args):
            return self.op.args[at]
        return self.op.kwargs.get(name, default)

    def has(self, at: int, name: str = "") -> bool:
        return self.raw(at, name) is not None

    def resolve(self, a: Any) -> Any:
        if isinstance(a, Ref):
            return self.values[a.index]
        if isinstance(a, Const):
            if a.kind == "dim":
                return ir.size_value(size(a), "int64")
            raise Refused(f"{self.op.target}: argument {a.value} is no value")
        if isinstance(a, (bool, int, float)):
            return const(a)
        raise Refused(f"{self.op.target}: argument {a!r} is no value")

    def node(self, at: int, name: str = "", default: Any = None) -> Node:
        value = self.resolve(self.raw(at, name, default))
        if not isinstance(value, Node):
            raise Refused(f"{self.op.target}: operand {at} is no tensor")
        return value

    def nodes(self) -> list[Node]:
        return [self.node(i) for i in range(len(self.op.args))]


def size(a: Any) -> Dim:
    """A size argument: a number or a Const of kind `dim`."""
    if isinstance(a, Const) and a.kind == "dim":
        return int(a.value) if a.value.lstrip("-").isdigit() else dims.add(a.value)
    if isinstance(a, int):
        return a
    raise Refused(f"{a!r} is not a size")


def lowers(*targets: str) -> Callable[[Lowering], Lowering]:
    def add(fn: Lowering) -> Lowering:
        _TABLE.update(dict.fromkeys(targets, fn))
        return fn

    return add


def build(
    signature: Signature, sums: bool = False, long: Callable[[Dim], bool] | None = None, slices: bool = False,
    one_fold: bool = True,
) -> tuple[list[Node], list[Node]]:
    """Input nodes and output nodes; raises Refused naming the op that has no lowering. A result is rounded where it is made, so
    that what reads it again reads the same, be it from memory or not. With `sums`, products of a vector are sums; rows that are
    `long` and differ in one place are not summed element by element. With `slices`, what follows from sizes is no index. With
    `one_fold`, where an extreme stands is found by one, else by two."""
    inputs = [
        Node("input", s.shape, s.dtype, value=i, label=f"x{i}") for i, s in enumerate(signature.inputs)
    ]  # fmt: skip
    values: list[Any] = list(inputs)
    results, passing = set(signature.outputs), _passing(signature)
    table: dict[str, Lowering] = (_SUMS if sums else _AT_ONCE) | {"aten.sum.dim_IntList": partial(_sum, long=long)}
    known = tables.Values()
    if not one_fold:
        table |= _BY_TWO_FOLDS
    if slices:
        table |= dict.fromkeys(INDEXED, partial(_by_slices, known=known))
    for op in signature.ops:
        at = len(values)
        value = lowered(op, values, {op.target: _unrounded} if at in passing else table)
        if slices and isinstance(value, Node):
            value = tables.folded(value, known)
        values.append(ir.held(value) if isinstance(value, Node) and at in results else value)
    return inputs, [values[i] for i in signature.outputs]


_CONVERT = "prims.convert_element_type.default"
_ARITHMETIC = {f"aten.{name}.{kind}" for name in ("add", "sub", "rsub", "mul", "div") for kind in ("Tensor", "Scalar")}


def _passing(signature: Signature) -> set[int]:
    """Conversions to low precision between a function, which torch computes in float, and arithmetic in low precision. They are
    left out as Inductor leaves them out: the sum is rounded, not its terms too. One whose result is converted back stays:
    x - x.bfloat16().float() is no zero."""
    first = len(signature.inputs)
    users: dict[int, list[Op]] = {}
    for op in signature.ops:
        for ref in _refs((*op.args, *op.kwargs.values())):
            users.setdefault(ref.index, []).append(op)
    found = set()
    for k, op in enumerate(signature.ops):
        if op.target == _CONVERT and op.dtype in ir.ROUNDING and op.args[0].index >= first:
            own = users.get(first + k, [])
            if own and all(u.target in _ARITHMETIC and u.dtype == op.dtype for u in own):
                found.add(first + k)
    return found


def _refs(argument: Any) -> Iterator[Ref]:
    """All values that an argument names, however deep."""
    if isinstance(argument, Ref):
        yield argument
    elif isinstance(argument, (tuple, list)):
        for a in argument:
            yield from _refs(a)


def _unrounded(c: Call) -> Node:
    return ir.named(convert(c.node(0), c.dtype), c.dtype)


def lowered(op: Op, values: Sequence[Any], more: Mapping[str, Lowering] | None = None) -> Any:
    """The operation as a node over these values, by the table or by `more`; raises Refused where there is no lowering."""
    lowering = (more or {}).get(op.target) or _TABLE.get(op.target)
    if lowering is None:
        raise Refused(f"no lowering for {op.target}")
    value = lowering(Call(op, values))
    if isinstance(value, Node):
        if op.dtype and op.dtype not in ir.ELEMENT:
            raise Refused(f"{op.target}: no arithmetic for {op.dtype}")
        if op.dtype:
            value = ir.wrapped(value) if value.dtype == op.dtype else ir.rounded(value, op.dtype)
        if value.shape != op.shape:
            value = ir.expand(value, op.shape) if value.kind != "reduce" else value
    return value


# ---- element by element ----
def _unary(fn: str) -> Lowering:
    def lower(c: Call) -> Node:
        if ir.category(c.dtype) != 2 and fn not in ("neg", "sign"):
            raise Refused(f"{c.op.target} with an integer result")
        return point(fn, [c.node(0)], c.dtype)

    return lower


def _binary(fn: str) -> Lowering:
    return lambda c: point(fn, [c.node(0), c.node(1)], c.dtype)


def _compare(fn: str) -> Lowering:
    return lambda c: point(fn, [c.node(0), c.node(1)], "bool", ir.promote([c.node(0), c.node(1)]))


def _logical(fn: str) -> Lowering:
    return lambda c: point(fn, [_truth(x) for x in c.nodes()], "bool")


def _truth(x: Node) -> Node:
    return x if x.ctype == "bool" else Node("point", x.shape, "bool", (x,), "truth")


for _name in (
    "exp exp2 expm1 log log2 log10 log1p tanh erf erfc sqrt rsqrt reciprocal sin cos tan asin acos atan sinh cosh "
    "asinh acosh atanh floor ceil round trunc neg sign sigmoid silu"
).split():
    _TABLE[f"aten.{_name}.default"] = _unary(_name)
_TABLE["aten.abs.default"] = lambda c: c.node(0) if c.dtype in ("bool", "uint8") else point("abs", [c.node(0)], c.dtype)
for _name in "mul div".split():
    _TABLE[f"aten.{_name}.Tensor"] = _TABLE[f"aten.{_name}.Scalar"] = _binary(_name)
for _name in "maximum minimum fmod remainder atan2".split():
    for _kind in ("default", "Tensor", "Scalar"):
        _TABLE[f"aten.{_name}.{_kind}"] = _binary(_name)
for _name in "eq ne lt le gt ge".split():
    _TABLE[f"aten.{_name}.Tensor"] = _TABLE[f"aten.{_name}.Scalar"] = _compare(_name)
for _name in "and or xor".split():
    _TABLE[f"aten.logical_{_name}.default"] = _logical(_name)
    for _kind in ("Tensor", "Scalar"):
        _TABLE[f"aten.bitwise_{_name}.{_kind}"] = _binary(_name)
_TABLE["aten.logical_not.default"] = _logical("not")
_TABLE["aten.isnan.default"] = lambda c: point("isnan", [c.node(0)], "bool", c.node(0).dtype)
_TABLE["aten.isinf.default"] = lambda c: point("isinf", [c.node(0)], "bool", c.node(0).dtype)


@lowers("aten.mul.Tensor", "aten.mul.Scalar")
def _mul(c: Call) -> Node:
    return point("and" if c.dtype == "bool" else "mul", [c.node(0), c.node(1)], c.dtype)


@lowers("aten.bitwise_not.default")
def _bitwise_not(c: Call) -> Node:
    return point("not" if c.dtype == "bool" else "bit_not", [c.node(0)], c.dtype)


@lowers("aten.add.Tensor", "aten.add.Scalar", "aten.sub.Tensor", "aten.sub.Scalar", "aten.rsub.Scalar", "aten.rsub.Tensor")
def _add(c: Call) -> Node:
    a, b = c.node(0), c.node(1)
    alpha = c.raw(2, "alpha", 1)
    if c.dtype == "bool":
        if ".add." in c.op.target:
            return point("or", [a, b], "bool")
        raise Refused(f"{c.op.target} on bool")
    if "rsub" in c.op.target:
        a, b = b, a
        if alpha != 1:
            a, b = a, point("mul", [b, c.resolve(alpha)], c.dtype)
    elif alpha != 1:
        b = point("mul", [b, c.resolve(alpha)], c.dtype)
    return point("add" if ".add." in c.op.target else "sub", [a, b], c.dtype)


@lowers("aten.div.Tensor", "aten.div.Scalar", "aten.true_divide.Tensor")
def _div(c: Call) -> Node:
    if ir.category(c.dtype) != 2:
        raise Refused(f"{c.op.target} with an integer result")
    return point("div", [c.node(0), c.node(1)], c.dtype)


@lowers("prims.fma.default")
def _fma(c: Call) -> Node:
    return point("add", [point("mul", [c.node(0), c.node(1)], c.dtype), c.node(2)], c.dtype)


@lowers("aten.square.default")
def _square(c: Call) -> Node:
    return point("square", [c.node(0)], c.dtype)


@lowers("aten.relu.default")
def _relu(c: Call) -> Node:
    return point("maximum", [c.node(0), const(0)], c.dtype)


@lowers("aten.clamp.default", "aten.clamp_min.default", "aten.clamp_max.default", "aten.clamp.Tensor", "aten.hardtanh.default")
def _clamp(c: Call) -> Node:
    x = c.node(0)
    at_min, at_max = (None, 1) if "clamp_max" in c.op.target else (1, None) if "clamp_min" in c.op.target else (1, 2)
    if at_min is not None and c.has(at_min, "min"):
        x = point("maximum", [x, c.node(at_min, "min")], c.dtype)
    if at_max is not None and c.has(at_max, "max"):
        x = point("minimum", [x, c.node(at_max, "max")], c.dtype)
    return x


@lowers("aten.where.self", "aten.where.ScalarSelf", "aten.where.ScalarOther", "aten.where.Scalar")
def _where(c: Call) -> Node:
    cond, a, b = c.nodes()
    return ir.chosen(_truth(cond), a, b, c.dtype)


@lowers("aten.masked_fill.Scalar", "aten.masked_fill.Tensor")
def _masked_fill(c: Call) -> Node:
    return ir.chosen(_truth(c.node(1)), c.node(2), c.node(0), c.dtype)


@lowers("aten.pow.Tensor_Scalar", "aten.pow.Tensor_Tensor", "aten.pow.Scalar")
def _pow(c: Call) -> Node:
    x, e = c.node(0), c.node(1)
    if e.kind == "const" and not e.shape:
        return _power(x, e.value, c.dtype)
    if ir.category(c.dtype) != 2:
        raise Refused("an integer power with a variable exponent")
    return point("pow", [x, e], c.dtype)


def _power(x: Node, e: float, dtype: str) -> Node:
    if e == 0:
        return ir.chosen(const(True), const(1.0, dtype), x, dtype)
    if e == 1:
        return convert(x, dtype)
    if float(e).is_integer() and 2 <= e <= 16:
        return point(f"power{int(e)}", [x], dtype)
    if ir.category(dtype) != 2:
        raise Refused(f"an integer to the power {e}")
    special = {0.5: "sqrt", -0.5: "rsqrt", -1.0: "reciprocal"}.get(float(e))
    if special:
        return point(special, [x], dtype)
    if float(e) == -2.0:
        return point("reciprocal", [point("power2", [x], dtype)], dtype)
    return point("pow", [x, const(float(e))], dtype)


@lowers("aten.sigmoid_backward.default")
def _sigmoid_backward(c: Call) -> Node:
    g, y = c.node(0), c.node(1)
    return point("mul", [g, point("mul", [point("sub", [const(1.0), y], c.dtype), y], c.dtype)], c.dtype)


@lowers("aten.tanh_backward.default")
def _tanh_backward(c: Call) -> Node:
    g, y = c.node(0), c.node(1)
    return point("mul", [g, point("sub", [const(1.0), point("square", [y], c.dtype)], c.dtype)], c.dtype)


@lowers("aten.threshold_backward.default")
def _threshold_backward(c: Call) -> Node:
    g, x, limit = c.nodes()
    return ir.chosen(point("le", [x, limit], "bool", x.dtype), const(0.0), g, c.dtype)


@lowers("aten.gelu.default")
def _gelu(c: Call) -> Node:
    x, d = c.node(0), c.dtype
    if c.raw(1, "approximate", "none") == "tanh":
        cube = point("mul", [point("power3", [x], d), const(0.044715)], d)
        inner = point("tanh", [point("mul", [point("add", [x, cube], d), const(0.7978845608028654)], d)], d)
    else:
        inner = point("erf", [point("mul", [x, const(0.7071067811865476)], d)], d)
    half = point("mul", [x, const(0.5)], d)
    return point("mul", [half, point("add", [inner, const(1.0)], d)], d)


@lowers("prims.convert_element_type.default", "aten._to_copy.default", "aten.to.dtype")
def _convert(c: Call) -> Node:
    x = c.node(0)
    if c.dtype == "bool":
        return _truth(x)
    return ir.rounded(x, c.dtype)


@lowers(
    "aten.clone.default", "aten.alias.default", "aten.contiguous.default", "aten.detach.default", "aten.lift_fresh_copy.default"
)
def _same(c: Call) -> Node:
    return c.node(0)


# ---- made from nothing ----
@lowers("aten.full.default", "aten.full_like.default", "aten.scalar_tensor.default", "aten.new_full.default")
def _full(c: Call) -> Node:
    at = {"aten.scalar_tensor.default": 0, "aten.new_full.default": 2}.get(c.op.target, 1)
    value = convert(Node(**{**_fields(c.node(at)), "weak": False}), c.dtype)
    if value.dtype != c.dtype:
        value = Node("const", (), c.dtype, value=value.value) if value.kind == "const" else value
    return ir.expand(value, c.shape) if c.shape else value


def _fields(n: Node) -> dict[str, Any]:
    return {"kind": n.kind, "shape": n.shape, "dtype": n.dtype, "args": n.args, "fn": n.fn, "value": n.value}


@lowers("aten.zeros_like.default", "aten.ones_like.default", "aten.zeros.default", "aten.ones.default",
        "aten.new_zeros.default", "aten.new_ones.default")  # fmt: skip
def _zeros(c: Call) -> Node:
    one = "ones" in c.op.target
    value = const(one if c.dtype == "bool" else float(one) if ir.category(c.dtype) == 2 else int(one), c.dtype, weak=False)
    return ir.expand(value, c.shape) if c.shape else value


@lowers("prims.iota.default")
def _iota(c: Call) -> Node:
    start, step = size(c.raw(1, "start", 0)), size(c.raw(2, "step", 1))
    return Node("iota", c.shape, c.dtype, value=(start, step))


@lowers("aten.arange.start_step", "aten.arange.default", "aten.arange.start")
def _arange(c: Call) -> Node:
    start = 0 if c.op.target.endswith("default") else size(c.raw(0))
    step = size(c.raw(2, "step", 1)) if c.op.target.endswith("start_step") else 1
    if ir.category(c.dtype) != 1:
        return convert(Node("iota", c.shape, "int64", value=(start, step)), c.dtype)
    return Node("iota", c.shape, c.dtype, value=(start, step))


# ---- views ----
@lowers(
    "aten.reshape.default",
    "aten.view.default",
    "aten._unsafe_view.default",
    "prims.view_of.default",
    "aten._reshape_alias.default",
)
def _reshape(c: Call) -> Node:
    return ir.reshape(c.node(0), c.shape)


@lowers("aten.expand.default")
def _expand(c: Call) -> Node:
    return ir.expand(c.node(0), c.shape)


@lowers("aten.permute.default")
def _permute(c: Call) -> Node:
    return ir.permute(c.node(0), [int(d) for d in c.raw(1, "dims")])


@lowers("aten.t.default")
def _t(c: Call) -> Node:
    x = c.node(0)
    return ir.permute(x, [1, 0]) if len(x.shape) == 2 else x


@lowers("aten.transpose.int")
def _transpose(c: Call) -> Node:
    x = c.node(0)
    order = list(range(len(x.shape)))
    a, b = int(c.raw(1)) % len(order), int(c.raw(2)) % len(order)
    order[a], order[b] = order[b], order[a]
    return ir.permute(x, order)


@lowers("aten.unsqueeze.default")
def _unsqueeze(c: Call) -> Node:
    return ir.unsqueeze(c.node(0), int(c.raw(1, "dim")))


@lowers("aten.squeeze.dim", "aten.squeeze.dims", "aten.squeeze.default")
def _squeeze(c: Call) -> Node:
    which = c.raw(1, "dim", tuple(range(len(c.node(0).shape))))
    return ir.squeeze(c.node(0), [int(d) for d in (which if isinstance(which, tuple) else (which,))])


def _position(a: Any, length: Dim, default: Dim) -> Dim:
    """A slice's end point within [0, length]."""
    if a is None:
        return default
    at = size(a)
    if isinstance(at, int) and at >= 2**62:
        return length
    if isinstance(at, int) and at < 0:
        at = dims.add(length, at)
    if at_most(length, at):
        return length
    if at_most(0, at) and at_most(at, length):
        return at
    raise Refused(f"a slice ends at {at} of {length}")


@lowers("aten.slice.Tensor")
def _slice(c: Call) -> Node:
    x, dim, step = c.node(0), int(c.raw(1, "dim", 0)), int(c.raw(4, "step", 1))
    start = _position(c.raw(2, "start"), x.shape[dim], 0)
    return ir.sliced(x, dim, start, step, c.shape)


@lowers("aten.select.int")
def _select_int(c: Call) -> Node:
    x, dim, at = c.node(0), int(c.raw(1, "dim")), size(c.raw(2, "index"))
    if isinstance(at, int) and at < 0:
        at = dims.add(x.shape[dim], at)
    return ir.select(x, dim, at)


@lowers("aten.split.Tensor", "aten.split_with_sizes.default", "aten.chunk.default", "aten.unbind.int")
def _split(c: Call) -> Any:
    return c  # the getitem that follows carries the shape


def _split_piece(c: Call, at: int, shape: ir.Shape) -> Node:
    x = c.node(0)
    if c.op.target == "aten.unbind.int":
        return ir.select(x, int(c.raw(1, "dim", 0)), at)
    dim, how = int(c.raw(2, "dim", 0)) % len(x.shape), c.raw(1)
    if isinstance(how, tuple):
        start: Dim = dims.add(0, *(size(s) for s in how[:at]))
    elif c.op.target == "aten.chunk.default":
        start = mul(at, -(-_fixed(x.shape[dim]) // int(how)))
    else:
        start = mul(at, size(how))
    return ir.sliced(x, dim, start, 1, shape)


def _fixed(d: Dim) -> int:
    if not isinstance(d, int):
        raise Refused(f"a split of the symbolic size {d}")
    return d


@lowers("getitem")
def _getitem(c: Call) -> Node:
    value, at = c.values[c.raw(0).index], int(c.raw(1))
    if isinstance(value, Call):
        return _split_piece(value, at, c.shape)
    if isinstance(value, tuple) and at < len(value) and isinstance(value[at], Node):
        return value[at]  # type: ignore[no-any-return]
    raise Refused("a getitem on what is no tuple of tensors")


@lowers("aten.as_strided.default")
def _as_strided(c: Call) -> Node:
    """Only where it is a reshape: dense in, dense out, same number of elements, no offset."""
    x = c.node(0)
    step: Dim = 1
    for n, s in zip(reversed(c.shape), reversed([size(v) for v in c.raw(2, "stride")]), strict=True):
        if n != 1 and s != step:
            raise Refused("as_strided that is no reshape")
        step = mul(step, n)
    if c.raw(3, "storage_offset") not in (None, 0) or product(x.shape) != product(c.shape):
        raise Refused("as_strided that is no reshape")
    if x.kind == "input":
        raise Refused("as_strided of an input looks behind its strides")
    return ir.reshape(x, c.shape)


# ---- pieces ----
@lowers("aten.cat.default")
def _cat(c: Call) -> Node:
    tensors = [c.resolve(a) for a in c.raw(0)]
    tensors = [t for t in tensors if t.shape != (0,)]
    dim, parts, at = int(c.raw(1, "dim", 0)) % len(c.shape), [], 0
    for t in tensors:
        end = dims.add(at, t.shape[dim])
        parts.append((t, at, end, at))
        at = end  # type: ignore[assignment]
    return ir.pieces(parts, dim, c.shape, c.dtype)


@lowers("aten.slice_scatter.default")
def _slice_scatter(c: Call) -> Node:
    x, src, dim = c.node(0), c.node(1), int(c.raw(2, "dim", 0))
    if c.raw(5, "step", 1) != 1:
        raise Refused("slice_scatter with a step")
    n = x.shape[dim]
    start, stop = _position(c.raw(3, "start"), n, 0), _position(c.raw(4, "end"), n, n)
    return _inserted(x, src, dim, start, stop, c)


@lowers("aten.select_scatter.default")
def _select_scatter(c: Call) -> Node:
    x, src, dim, at = c.node(0), c.node(1), int(c.raw(2, "dim")), size(c.raw(3, "index"))
    if isinstance(at, int) and at < 0:
        at = dims.add(x.shape[dim], at)
    return _inserted(x, ir.unsqueeze(src, dim % len(x.shape)), dim, at, dims.add(at, 1), c)


def _inserted(x: Node, src: Node, dim: int, start: Dim, stop: Dim, c: Call) -> Node:
    n = x.shape[dim]
    parts = [(x, 0, start, 0), (src, start, stop, start), (x, stop, n, 0)]
    return ir.pieces([p for p in parts if p[1] != p[2]], dim, c.shape, c.dtype)


@lowers("aten.constant_pad_nd.default")
def _pad(c: Call) -> Node:
    pads = [size(p) for p in c.raw(1, "pad")]
    pairs = list(zip(pads[::2], pads[1::2], strict=True))
    return windows.padded(c.node(0), pairs, convert(c.node(2, "value", 0), c.dtype))


# ---- windows ----
def _window(c: Call, at: int) -> Window:
    """A pool's window, whose kernel is argument `at`; average pools have no dilation."""
    kernel, stride, padding = c.raw(at, "kernel_size"), c.raw(at + 1, "stride"), c.raw(at + 2, "padding")
    if len(kernel) == 1:
        raise Refused("a pool whose kernel is one number for all dimensions")
    return Window.of(kernel, stride, padding, None if "avg" in c.op.target else c.raw(at + 3, "dilation"))


def _slides(c: Call) -> list[int]:
    """The sizes of a pool's result along its window, by its own arguments: a tuple has no shape."""
    x, window, ceil = c.node(0), _window(c, 1), bool(c.raw(5 if "max" in c.op.target else 4, "ceil_mode", False))
    sizes = [_fixed(n) for n in x.shape[-len(window.kernel) :]]
    return [window.count(i, n, ceil) for i, n in enumerate(sizes)]


@lowers(
    "aten.max_pool2d_with_indices.default",
    "aten.max_pool3d_with_indices.default",
    "prims._low_memory_max_pool_with_offsets.default",
)
def _max_pool(c: Call) -> Any:
    greatest, offsets = windows.max_pool(c.node(0), _window(c, 1), _slides(c))
    return greatest, offsets if c.op.target.startswith("prims") else None


@lowers("aten.avg_pool2d.default", "aten.avg_pool3d.default")
def _avg_pool(c: Call) -> Node:
    count, divisor = bool(c.raw(5, "count_include_pad", True)), c.raw(6, "divisor_override")
    return windows.avg_pool(c.node(0), _window(c, 1), _slides(c), count, divisor)


@lowers("aten.avg_pool2d_backward.default")
def _avg_pool_backward(c: Call) -> Node:
    window, x = _window(c, 2), c.node(1)
    sizes = [_fixed(n) for n in x.shape[-len(window.kernel) :]]
    count, divisor = bool(c.raw(6, "count_include_pad", True)), c.raw(7, "divisor_override")
    return windows.avg_pool_gradient(c.node(0), x, window, sizes, count, divisor)


@lowers("prims._low_memory_max_pool_offsets_to_indices.default")
def _offsets_to_indices(c: Call) -> Node:
    """What the indices follow from stays beside them, for a scattered sum."""
    window, sizes = Window.of(c.raw(1), c.raw(3), c.raw(4), c.raw(5)), tuple(_fixed(size(n)) for n in c.raw(2))
    values = windows.indices(c.node(0), window, sizes)
    return Node("indices", c.shape, c.dtype, (c.node(0), values), value=(window, sizes))


@lowers("aten.scatter_add.default")
def _scatter_add(c: Call) -> Node:
    """The gradient of a max pool: a sum onto zeros, at the maxima of windows."""
    zeros, index, gradient = peel(c.node(0)), peel(c.node(2, "index")), c.node(3, "src")
    if zeros.kind == "view":
        zeros = zeros.args[0]
    if index.kind != "indices" or zeros.kind != "const" or zeros.value != 0:
        raise Refused("a scattered sum that is no pool's gradient")
    (offsets, _values), (window, sizes) = index.args, index.value
    found = windows.max_pool_gradient(offsets, ir.reshape(gradient, offsets.shape), window, sizes)
    return ir.reshape(found, c.shape)


@lowers("aten.convolution.default")
def _convolution(c: Call) -> Node:
    stride, padding, dilation, transposed = (c.raw(k) for k in (3, 4, 5, 6))
    x, weight, groups = c.node(0), c.node(1), int(c.raw(8))
    if transposed or any(c.raw(7)):
        raise Refused("a transposed convolution")
    window = Window.of([_fixed(n) for n in weight.shape[2:]], stride, padding, dilation)
    return windows.convolution(x, weight, c.node(2) if c.has(2) else None, window, groups, c.shape, c.dtype)


# ---- values as indices ----
@lowers("aten.gather.default")
def _gather(c: Call) -> Node:
    x, dim, index = c.node(0), int(c.raw(1, "dim")), c.node(2, "index")
    dim = dim % len(x.shape)
    return Node("gather", c.shape, c.dtype, (x, convert(index, "int64")), value=x.shape[dim], dims=(dim,))


@lowers("aten.embedding.default")
def _embedding(c: Call) -> Node:
    table, index = c.node(0), c.node(1)
    if not index.shape:
        raise Refused("an embedding of one index")
    return _indexed(table, convert(index, "int64"), 0, True)


@lowers(*INDEXED)
def _index(c: Call) -> Node:
    """x[:, i, j]: a gather for each index. Negative ones count from the end."""
    x, given = c.node(0), c.raw(1, "indices")
    at = [d for d, i in enumerate(given) if i is not None]
    first, behind = at[0], len(x.shape) - at[-1] - 1
    spots = c.shape[first : len(c.shape) - behind]  # the dimensions that the indices have together
    if not spots:
        raise Refused("one index")
    for d in at:
        index, length = convert(c.values[given[d].index], "int64"), ir.size_value(c.node(0).shape[d], "int64")
        wrapped = (point("lt", [index, const(0)], "bool", "int64"), point("add", [index, length], "int64"), index)
        index = ir.expand(Node("point", index.shape, "int64", wrapped, "select"), spots)
        x = _indexed(x, index, first, d == first)
    return x


def _by_slices(c: Call, known: tables.Values) -> Node:
    """x[:, i, j]: slices side by side where the indices follow from sizes."""
    given = c.raw(1, "indices")
    at = [d for d, i in enumerate(given) if i is not None]
    found = tables.indexed(c.node(0), [convert(c.values[given[d].index], "int64") for d in at], at, known)
    return _index(c) if found is None else found


def _indexed(x: Node, index: Node, first: int, opens: bool) -> Node:
    """The index' dimensions take the place of dimension `first` where it `opens` them; else they are there already, and it
    leads into the dimension behind them."""
    spots, place = index.shape, first + len(index.shape) - opens
    rest = x.shape[first + 1 :] if opens else x.shape[place + 1 :]
    shape = (*x.shape[:first], *spots, *(() if opens else (1,)), *rest)
    where = ir.expand(ir.reshape(index, (*spots, *(1,) * (len(shape) - first - len(spots)))), shape)
    length = x.shape[first if opens else place]
    if opens:
        x = ir.view(x, shape, lambda s, i: (*i[:first], *i[place:]))  # the gather replaces the last of the index' dimensions
    found = Node("gather", shape, x.dtype, (x, where), value=length, dims=(place,))
    return found if opens else ir.squeeze_all(found, [place])


# ---- reductions ----
def _dims(c: Call, at: int, name: str = "dim") -> list[int]:
    which = c.raw(at, name)
    rank = len(c.node(0).shape)
    if which is None or which == ():
        return list(range(rank))
    return [int(d) % rank for d in (which if isinstance(which, tuple) else (which,))] if rank else []


def _count(x: Node, axes: Sequence[int]) -> Dim:
    return product(x.shape[d] for d in axes)


def _sum(c: Call, long: Callable[[Dim], bool] | None = None) -> Node:
    if ir.category(c.dtype) == 0:
        raise Refused("a sum with a bool result")
    if c.op.target == "aten.sum.default":
        x = c.node(0)
        return ir.reduce("sum", x, range(len(x.shape)), False, c.dtype)
    axes, keepdim = _dims(c, 1), bool(c.raw(2, "keepdim", False))
    if long is not None and len(axes) == 1 and long(c.node(0).shape[axes[0]]):
        found = one_hot.total(c.node(0), axes[0], c.dtype)
        if found is not None:
            return found if keepdim else ir.squeeze_all(found, axes)
    return ir.reduce("sum", c.node(0), axes, keepdim, c.dtype)


_TABLE |= dict.fromkeys(("aten.sum.dim_IntList", "aten.sum.default"), _sum)


@lowers("aten.mean.dim", "aten.mean.default")
def _mean(c: Call) -> Node:
    x = c.node(0)
    axes = list(range(len(x.shape))) if c.op.target.endswith("default") else _dims(c, 1)
    total = ir.reduce("sum", x, axes, c.op.target.endswith("dim") and bool(c.raw(2, "keepdim", False)), c.dtype)
    return point("div", [total, ir.size_value(_count(x, axes), c.dtype)], c.dtype)


def _fold(fn: str) -> Lowering:
    return lambda c: ir.reduce(fn, c.node(0), _dims(c, 1), bool(c.raw(2, "keepdim", False)), c.dtype)


_TABLE["aten.amax.default"] = _fold("max")
_TABLE["aten.amin.default"] = _fold("min")
_TABLE["aten.prod.dim_int"] = _fold("prod")
_TABLE["aten.prod.default"] = lambda c: ir.reduce("prod", c.node(0), range(len(c.node(0).shape)), False, c.dtype)


def _place(c: Call, one_fold: bool = True) -> Node:
    """Where extremes stand. By one fold, or by two: the extreme, and the least place that holds it."""
    x, dim, keepdim = c.node(0), c.raw(1, "dim", None), bool(c.raw(2, "keepdim", False))
    if ir.category(x.dtype) == 0:
        raise Refused(f"{c.op.target} of bools")
    if dim is None or not x.shape:  # places are counted in the order of the elements
        x, dim, keepdim = ir.reshape(x, (product(x.shape),)), 0, False
    d = dim % len(x.shape)
    if x.shape[d] == 1:
        return ir.expand(ir.const(0, "int64", weak=False), c.shape)
    fn = c.op.target.split(".")[1]
    if one_fold:
        found = ir.place(fn, x, d, keepdim)
    else:
        hit = point("eq", [x, ir.reduce(fn.removeprefix("arg"), x, [d], True, x.dtype)], "bool", x.dtype)
        if ir.category(x.dtype) == 2:
            hit = point("or", [hit, point("isnan", [x], "bool", x.dtype)], "bool")
        places = ir.reshape(Node("iota", (x.shape[d],), "int64", value=(0, 1)), (x.shape[d], *(1,) * (len(x.shape) - 1 - d)))
        found = ir.reduce("min", ir.chosen(hit, places, ir.const(2**63 - 1, "int64"), "int64"), [d], keepdim, "int64")
    return ir.expand(found, c.shape) if found.shape != c.shape else found


PLACED = tuple(f"aten.{fn}.default" for fn in PLACES)
_TABLE |= dict.fromkeys(PLACED, _place)
_BY_TWO_FOLDS = dict.fromkeys(PLACED, partial(_place, one_fold=False))
for _name in ("any", "all"):
    for _kind in ("dim", "dims"):
        _TABLE[f"aten.{_name}.{_kind}"] = lambda c, f=_name: ir.reduce(  # type: ignore[misc]
            f, _truth(c.node(0)), _dims(c, 1), bool(c.raw(2, "keepdim", False)), "bool")  # fmt: skip
    _TABLE[f"aten.{_name}.default"] = lambda c, f=_name: ir.reduce(  # type: ignore[misc]
        f, _truth(c.node(0)), range(len(c.node(0).shape)), False, "bool")  # fmt: skip


# ---- scans ----
def _scan(fn: str) -> Lowering:
    def lower(c: Call) -> Node:
        if ir.category(c.dtype) == 0 or fn == "logsumexp" and ir.category(c.dtype) != 2:
            raise Refused(f"{c.op.target} with the result {c.dtype}")
        return ir.scan(fn, c.node(0), int(c.raw(1, "dim")), c.dtype)

    return lower


for _name, _fn in (("cumsum", "sum"), ("cumprod", "prod"), ("logcumsumexp", "logsumexp")):
    _TABLE[f"aten.{_name}.default"] = _scan(_fn)


@lowers("aten.flip.default", "prims.rev.default")
def _flip(c: Call) -> Node:
    return ir.flip(c.node(0), [int(d) for d in c.raw(1, "dims")])


def _moments(
    x: Node, axes: Sequence[int], correction: float, keepdim: bool, dtype: str, at_once: bool
) -> tuple[Node, Node]:
    """Variance from squared deviations, which follow the mean or, `at_once`, may be gathered with it; and the mean."""
    count = _count(x, axes)
    mean = point("div", [ir.reduce("sum", x, axes, True, dtype), ir.size_value(count, dtype)], dtype)
    total = ir.squares(x, mean, axes, dtype)
    if not at_once or unrolls(total):
        total = ir.after_mean(total)
    if float(correction) == 0:
        free = ir.size_value(count, dtype)
    elif float(correction).is_integer():
        free = point("maximum", [ir.size_value(sub(count, int(correction)), dtype), const(0.0)], dtype)
    else:
        free = point(
            "maximum", [point("sub", [ir.size_value(count, dtype), const(float(correction))], dtype), const(0.0)], dtype
        )
    var = point("div", [total, free], dtype)
    return (var, mean) if keepdim else (ir.squeeze_all(var, axes), ir.squeeze_all(mean, axes))


def _correction(c: Call) -> float:
    value = c.raw(2, "correction", None)
    return 1.0 if value is None else float(value)


def _var_mean(c: Call, at_once: bool = False) -> Any:
    x = c.node(0)
    if not x.shape:
        raise Refused("the variance of a scalar")
    dtype = x.dtype if c.op.target.startswith("aten.var_mean") else c.dtype
    keepdim = bool(c.raw(3, "keepdim", c.op.kwargs.get("keepdim", False)))
    var, mean = _moments(x, _dims(c, 1), _correction(c), keepdim, dtype, at_once)
    return (var, mean) if c.op.target.startswith("aten.var_mean") else var


_VARIANCES = ("aten.var_mean.correction", "aten.var.correction")
_TABLE |= dict.fromkeys(_VARIANCES, _var_mean)
_AT_ONCE: dict[str, Lowering] = dict.fromkeys(_VARIANCES, partial(_var_mean, at_once=True))


# ---- products: leaves that only the generators of attention and of products know how to print ----
@lowers("aten.bmm.default", "aten.mm.default")
def _product(c: Call) -> Node:
    return Node("product", c.shape, c.dtype, (c.node(0), c.node(1)))


@lowers("aten.addmm.default", "aten.baddbmm.default")
def _product_plus(c: Call) -> Node:
    """What is added is added before the sum is rounded."""
    if c.raw(3, "beta", 1) != 1 or c.raw(4, "alpha", 1) != 1:
        raise Refused(f"{c.op.target} with factors")
    total = Node("product", c.shape, c.dtype, (c.node(1), c.node(2)))
    return point("add", [total, c.node(0)], c.dtype)


def of_a_vector(shape: Sequence[Dim]) -> bool:
    """Whether a product of this shape has one row or one column: no element of its operands is used twice but the vector's."""
    return 1 in shape[-2:]


def _sum_of_products(c: Call) -> Node:
    """A product of a vector, summed in single precision and rounded once."""
    if not of_a_vector(c.shape):
        raise Refused("a matrix product among sums")
    left, right = c.node(0), c.node(1)
    rank, compute = len(c.shape), "float32" if c.dtype in ir.ROUNDING else c.dtype
    order = (*range(rank - 2), rank - 1, rank - 2)
    factors = [ir.unsqueeze(left, -2), ir.unsqueeze(ir.permute(right, order), -3)]  # [rows, 1, depth] and [1, columns, depth]
    total = ir.reduce("sum", point("mul", factors, compute), [-1], False, compute)
    return ir.rounded(ir.expand(total, c.shape), c.dtype)


def _sum_of_products_plus(c: Call) -> Node:
    if c.raw(3, "beta", 1) != 1 or c.raw(4, "alpha", 1) != 1:
        raise Refused(f"{c.op.target} with factors")
    compute = "float32" if c.dtype in ir.ROUNDING else c.dtype
    unrounded = Op(c.op.target, c.op.args[1:3], {}, c.shape, compute)
    return ir.rounded(point("add", [_sum_of_products(Call(unrounded, c.values)), c.node(0)], compute), c.dtype)


_SUMS = _AT_ONCE | {
    "aten.mm.default": _sum_of_products, "aten.bmm.default": _sum_of_products,
    "aten.addmm.default": _sum_of_products_plus, "aten.baddbmm.default": _sum_of_products_plus,
}  # fmt: skip


@lowers(ATTENTION)
def _attention(c: Call) -> tuple[Node]:
    """Its first result; the second is for gradients, where torch's own runs."""
    if c.raw(3, "dropout_p", 0.0):
        raise Refused("attention with dropout")
    query, key, value = (c.node(k) for k in range(3))
    mask = None if c.op.kwargs.get("attn_mask") is None else c.resolve(c.op.kwargs["attn_mask"])
    return (written_out.attention(query, key, value, mask, c.op.kwargs.get("scale"), bool(c.raw(4, "is_causal"))),)


LOWERED: frozenset[str] = frozenset(_TABLE)
