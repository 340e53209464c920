"""Regions built by hand, for tests: each function gives one `Region` with its printed reference."""

from __future__ import annotations

from typing import Any

from tests.verify.problems import captured as captured
from torch_autokernel.capture.reference import print_reference
from torch_autokernel.core import dims
from torch_autokernel.core.dims import Dim
from torch_autokernel.core.types import Const, Op, Ref, Region, Signature, TensorSpec

Shape = tuple[Dim, ...]


class Graph:
    """Collects inputs, then operations; `region` closes it."""

    def __init__(self) -> None:
        self.inputs: list[TensorSpec] = []
        self.ops: list[Op] = []
        self.specs: list[TensorSpec] = []

    def input(self, *shape: Dim, dtype: str = "float32", stride: Shape | None = None, alignment: int | None = None) -> Ref:
        spec = TensorSpec.contiguous(shape, dtype)
        if stride is not None or alignment is not None:
            spec = TensorSpec(shape, dtype, stride or spec.stride, "cpu", alignment or spec.alignment)
        self.inputs.append(spec)
        self.specs.append(spec)
        return Ref(len(self.inputs) - 1)

    def made(self, target: str, *args: Any, shape: Shape, dtype: str, **kwargs: Any) -> Ref:
        """A value made from numbers alone."""
        self.ops.append(Op(target, args, {**kwargs, "dtype": Const("dtype", dtype)}, shape, dtype))
        self.specs.append(TensorSpec.contiguous(shape, dtype))
        return Ref(len(self.inputs) + len(self.ops) - 1)

    def iota(self, size: str) -> Ref:
        return self.made("prims.iota.default", Const("dim", size), shape=(size,), dtype="int64", start=0, step=1)

    def op(self, target: str, *args: Any, shape: Shape | None = None, dtype: str | None = None, **kwargs: Any) -> Ref:
        """An operation; shape and dtype are those of its first tensor where nothing else is said."""
        first = next(a for a in args if isinstance(a, Ref))
        spec = self.specs[first.index]
        shape, dtype = spec.shape if shape is None else shape, dtype or spec.dtype
        self.ops.append(Op(target, args, kwargs, shape, dtype))
        self.specs.append(TensorSpec.contiguous(shape, dtype))
        return Ref(len(self.inputs) + len(self.ops) - 1)

    def loop(self, arguments: tuple[Any, ...]) -> Ref:
        """A loop over time; `capture/reference.py` says what its arguments are."""
        self.ops.append(Op("loop", arguments))
        self.specs.append(TensorSpec.contiguous((), "float32"))
        return Ref(len(self.inputs) + len(self.ops) - 1)

    def cast(self, value: Ref, dtype: str) -> Ref:
        return self.op("prims.convert_element_type.default", value, Const("dtype", dtype), dtype=dtype)

    def region(self, *outputs: Ref, **sizes: int) -> Region:
        symbols = dims.symbols([d for s in self.inputs for d in s.shape] + [d for s in self.inputs for d in s.stride])
        specs = tuple(self.specs[o.index] for o in outputs)
        signature = Signature(tuple(self.ops), tuple(self.inputs), tuple(o.index for o in outputs), specs, tuple(symbols))
        return Region(signature, print_reference(signature), sizes)


def add_relu(dtype: str = "float32", m: int = 64, n: int = 256) -> Region:
    """relu(a + b), all [M, N]."""
    g = Graph()
    a, b = g.input("s0", "s1", dtype=dtype), g.input("s0", "s1", dtype=dtype)
    return g.region(g.op("aten.relu.default", g.op("aten.add.Tensor", a, b)), s0=m, s1=n)


def softmax(dtype: str = "float32", m: int = 64, n: int = 256) -> Region:
    """Softmax over the last dimension, [M, N]."""
    g = Graph()
    x = g.input("s0", "s1", dtype=dtype)
    wide = g.cast(x, "float32") if dtype != "float32" else x
    top = g.op("aten.amax.default", wide, (1,), True, shape=("s0", 1))
    e = g.op("aten.exp.default", g.op("aten.sub.Tensor", wide, top))
    y = g.op("aten.div.Tensor", e, g.op("aten.sum.dim_IntList", e, (1,), True, shape=("s0", 1)))
    return g.region(g.cast(y, dtype) if dtype != "float32" else y, s0=m, s1=n)


def layer_norm(dtype: str = "float32", m: int = 64, n: int = 256, eps: float = 1e-5) -> Region:
    """Layer norm over the last dimension with weight and bias; also gives mean and 1/std, as a training forward does."""
    g = Graph()
    x, w, b = g.input("s0", "s1", dtype=dtype), g.input("s1", dtype=dtype), g.input("s1", dtype=dtype)
    wide = g.cast(x, "float32") if dtype != "float32" else x
    pair = g.op("aten.var_mean.correction", wide, (1,), shape=(), dtype="", correction=0, keepdim=True)
    var = g.op("getitem", pair, 0, shape=("s0", 1), dtype="float32")
    mean = g.op("getitem", pair, 1, shape=("s0", 1), dtype="float32")
    rstd = g.op("aten.rsqrt.default", g.op("aten.add.Scalar", var, eps))
    scaled = g.op("aten.mul.Tensor", g.op("aten.sub.Tensor", wide, mean, shape=("s0", "s1")), rstd)
    y = g.op("aten.add.Tensor", g.op("aten.mul.Tensor", scaled, w), b)
    y = g.cast(y, dtype) if dtype != "float32" else y
    return g.region(y, mean, rstd, s0=m, s1=n)


def rms_norm(dtype: str = "float32", m: int = 64, n: int = 256, eps: float = 1e-6) -> Region:
    """x * rsqrt(mean(x^2) + eps) * w over the last dimension."""
    g = Graph()
    x, w = g.input("s0", "s1", dtype=dtype), g.input("s1", dtype=dtype)
    wide = g.cast(x, "float32") if dtype != "float32" else x
    mean = g.op("aten.mean.dim", g.op("aten.mul.Tensor", wide, wide), (1,), True, shape=("s0", 1))
    rstd = g.op("aten.rsqrt.default", g.op("aten.add.Scalar", mean, eps))
    y = g.op("aten.mul.Tensor", wide, rstd)
    y = g.cast(y, dtype) if dtype != "float32" else y
    return g.region(g.op("aten.mul.Tensor", y, w), s0=m, s1=n)


def gelu(dtype: str = "float32", n: int = 5000) -> Region:
    """x/2 (1 + erf(x/sqrt 2)), [N]."""
    g = Graph()
    x = g.input("s0", dtype=dtype)
    wide = g.cast(x, "float32") if dtype != "float32" else x
    inner = g.op("aten.erf.default", g.op("aten.mul.Tensor", wide, 0.7071067811865476))
    y = g.op("aten.mul.Tensor", g.op("aten.mul.Tensor", wide, 0.5), g.op("aten.add.Tensor", inner, 1))
    return g.region(g.cast(y, dtype) if dtype != "float32" else y, s0=n)


def bias_gelu(dtype: str = "bfloat16", m: int = 64, n: int = 256) -> Region:
    """tanh-gelu(x + b) with x [M, N], b [N], every operation rounded to the dtype as eager does."""
    g = Graph()
    x, b = g.input("s0", "s1", dtype=dtype), g.input("s1", dtype=dtype)
    v = g.op("aten.add.Tensor", x, b)
    cubed = g.op("aten.mul.Tensor", g.op("aten.mul.Tensor", v, v), v)
    inner = g.op("aten.mul.Tensor", g.op("aten.add.Tensor", v, g.op("aten.mul.Tensor", cubed, 0.044715)), 0.7978845608028654)
    half = g.op("aten.mul.Tensor", v, 0.5)
    return g.region(g.op("aten.mul.Tensor", half, g.op("aten.add.Tensor", g.op("aten.tanh.default", inner), 1)), s0=m, s1=n)


def row_sum(dtype: str = "float32", m: int = 128, n: int = 1024) -> Region:
    """Sum over the last dimension, [M, N] to [M]."""
    g = Graph()
    x = g.input("s0", "s1", dtype=dtype)
    return g.region(g.op("aten.sum.dim_IntList", x, (1,), shape=("s0",)), s0=m, s1=n)


def row_max(m: int = 64, n: int = 256) -> Region:
    """Maximum over the last dimension, [M, N] to [M]."""
    g = Graph()
    return g.region(g.op("aten.amax.default", g.input("s0", "s1"), (1,), shape=("s0",)), s0=m, s1=n)


def aligned_scale(m: int = 64, n: int = 256) -> Region:
    """2x where input and output promise an alignment of 64 bytes, [M, N]."""
    g = Graph()
    x = g.input("s0", "s1", alignment=64)
    y = g.op("aten.mul.Tensor", x, 2)
    g.specs[y.index] = g.specs[x.index]
    return g.region(y, s0=m, s1=n)


def column_sum(dtype: str = "float32", m: int = 512, n: int = 256) -> Region:
    """Bias gradient: sum over the first dimension, [M, N] to [N]."""
    g = Graph()
    x = g.input("s0", "s1", dtype=dtype)
    return g.region(g.op("aten.sum.dim_IntList", x, (0,), shape=("s1",)), s0=m, s1=n)


def cross_entropy(m: int = 64, n: int = 1000) -> Region:
    """Mean cross-entropy of logits [M, N] with labels [M]; labels of -100 are ignored."""
    g = Graph()
    x, t = g.input("s0", "s1"), g.input("s0", dtype="int64")
    shifted = g.op("aten.sub.Tensor", x, g.op("aten.amax.default", x, (1,), True, shape=("s0", 1)))
    total = g.op("aten.sum.dim_IntList", g.op("aten.exp.default", shifted), (1,), True, shape=("s0", 1))
    logp = g.op("aten.sub.Tensor", shifted, g.op("aten.log.default", total))
    kept = g.op("aten.ne.Scalar", t, -100, dtype="bool")
    zero = g.op("aten.mul.Tensor", t, 0)
    safe = g.op("aten.unsqueeze.default", g.op("aten.where.self", kept, t, zero, dtype="int64"), 1, shape=("s0", 1))
    picked = g.op("aten.squeeze.dim", g.op("aten.gather.default", logp, 1, safe, shape=("s0", 1)), 1, shape=("s0",))
    loss = g.op("aten.where.ScalarOther", kept, g.op("aten.neg.default", picked), 0.0, dtype="float32")
    count = g.op("aten.sum.default", g.cast(kept, "float32"), shape=())
    floor = g.op("aten.clamp_min.default", count, 1.0)
    return g.region(g.op("aten.div.Tensor", g.op("aten.sum.default", loss, shape=()), floor), s0=m, s1=n)


def swiglu(dtype: str = "bfloat16", m: int = 64, n: int = 256) -> Region:
    """silu(a) * b, with a and b the halves of one projection: rows 2N apart."""
    g = Graph()
    row: Dim = "2*s1"
    a = g.input("s0", "s1", dtype=dtype, stride=(row, 1))
    b = g.input("s0", "s1", dtype=dtype, stride=(row, 1))
    wide = g.cast(a, "float32")
    y = g.cast(g.op("aten.mul.Tensor", wide, g.op("aten.sigmoid.default", wide)), dtype)
    return g.region(g.op("aten.mul.Tensor", y, b), s0=m, s1=n)


def transposed_scale(m: int = 33, n: int = 65) -> Region:
    """x * 2 + c where x is [M, N] lying column by column, c is one value expanded (stride 0)."""
    g = Graph()
    x = g.input("s0", "s1", stride=(1, "s0"))
    c = g.input("s0", "s1", stride=(0, 0))
    return g.region(g.op("aten.add.Tensor", g.op("aten.mul.Tensor", x, 2), c), s0=m, s1=n)


def embedding(m: int = 40, n: int = 64, vocabulary: int = 100) -> Region:
    """Rows of a table [V, N] at indices [M]."""
    g = Graph()
    table, index = g.input("s0", "s1"), g.input("s2", dtype="int64")
    return g.region(g.op("aten.embedding.default", table, index, shape=("s2", "s1")), s0=vocabulary, s1=n, s2=m)


def greater(m: int = 40, n: int = 64) -> Region:
    """a > b as bool, [M, N]."""
    g = Graph()
    a, b = g.input("s0", "s1"), g.input("s0", "s1")
    return g.region(g.op("aten.gt.Tensor", a, b, dtype="bool"), s0=m, s1=n)


def double_sum(m: int = 40, n: int = 500) -> Region:
    """Sum over the last dimension in float64."""
    return row_sum("float64", m, n)


def attention(dtype: str = "float32", b: int = 3, m: int = 40, n: int = 48, d: int = 16) -> Region:
    """softmax(mask(q k^T / 4)) v with q [B, M, D], k and v [B, N, D]; a query sees the keys up to its own number."""
    g = Graph()
    q, k, v = (g.input("s0", rows, "s2", dtype=dtype) for rows in ("s1", "s3", "s3"))
    turned = g.op("aten.permute.default", k, (0, 2, 1), shape=("s0", "s2", "s3"))
    scores = g.op("aten.mul.Tensor", g.op("aten.bmm.default", q, turned, shape=("s0", "s1", "s3")), 0.25)
    wide = g.cast(scores, "float32") if dtype != "float32" else scores
    keys, queries = (g.iota(s) for s in ("s3", "s1"))
    column = g.op("aten.unsqueeze.default", queries, 1, shape=("s1", 1))
    hidden = g.op("aten.gt.Tensor", keys, column, shape=("s1", "s3"), dtype="bool")
    low = g.made("aten.full.default", (), float("-inf"), shape=(), dtype="float32")
    x = g.op("aten.where.self", hidden, low, wide, shape=("s0", "s1", "s3"), dtype="float32")
    top = g.op("aten.amax.default", x, (-1,), True, shape=("s0", "s1", 1))
    e = g.op("aten.exp.default", g.op("aten.sub.Tensor", x, top))
    w = g.op("aten.div.Tensor", e, g.op("aten.sum.dim_IntList", e, (-1,), True, shape=("s0", "s1", 1)))
    w = g.cast(w, dtype) if dtype != "float32" else w
    return g.region(g.op("aten.bmm.default", w, v, shape=("s0", "s1", "s2")), s0=b, s1=m, s2=d, s3=n)


def cumsum(m: int = 24, n: int = 700) -> Region:
    """Running sums over the last dimension, [M, N]."""
    g = Graph()
    x = g.input("s0", "s1")
    return g.region(g.op("aten.cumsum.default", x, 1), s0=m, s1=n)


def logcumsumexp(m: int = 24, n: int = 700) -> Region:
    """Running log-sum-exp over the last dimension, [M, N]."""
    g = Graph()
    x = g.input("s0", "s1")
    return g.region(g.op("aten.logcumsumexp.default", x, 1), s0=m, s1=n)


def cumsum_outer(m: int = 300, n: int = 40) -> Region:
    """Running sums over the first dimension, [M, N]."""
    g = Graph()
    x = g.input("s0", "s1")
    return g.region(g.op("aten.cumsum.default", x, 0), s0=m, s1=n)


def mask(n: int = 300) -> Region:
    """0 where four masks are set, -inf elsewhere."""
    g = Graph()
    x, *others = (g.input("s0", dtype="bool") for _ in range(4))
    for y in others:
        x = g.op("aten.bitwise_and.Tensor", x, y)
    zero, low = (g.made("aten.full.default", (), value, shape=(), dtype="float32") for value in (0.0, float("-inf")))
    return g.region(g.op("aten.where.self", x, zero, low, shape=("s0",), dtype="float32"), s0=n)


def gated_loop(b: int = 3, t: int = 40, n: int = 8) -> Region:
    """h = f h + (1 - f) tanh(z + h W) over time, f = sigmoid of the first half of x[:, t], z the second: x [B, T, 2N], h [B, N], W [N, N].
    Gives every h, and the last one."""
    g = Graph()
    x, h, w = g.input(b, "s0", 2 * n), g.input(b, n), g.input(n, n)
    small = ((b, n), "float32")
    body = (
        ("aten.slice.Tensor", (Ref(1), 1, 0, n), (), *small),
        ("aten.sigmoid.default", (Ref(3),), (), *small),
        ("aten.slice.Tensor", (Ref(1), 1, n, 2 * n), (), *small),
        ("aten.mm.default", (Ref(0), Ref(2)), (), *small),
        ("aten.add.Tensor", (Ref(5), Ref(6)), (), *small),
        ("aten.tanh.default", (Ref(7),), (), *small),
        ("aten.mul.Tensor", (Ref(4), Ref(0)), (), *small),
        ("aten.rsub.Scalar", (Ref(4), 1.0), (), *small),
        ("aten.mul.Tensor", (Ref(10), Ref(8)), (), *small),
        ("aten.add.Tensor", (Ref(9), Ref(11)), (), *small),
    )
    arguments = (Const("dim", "s0"), (h,), ((x, 1, 0, 1),), (w,), body, (12,), (("all", 12, 1, False), ("last", 12, 0, False)))
    loop = g.loop(arguments)
    every = g.op("getitem", loop, 0, shape=(b, "s0", n), dtype="float32")
    last = g.op("getitem", loop, 1, shape=(b, n), dtype="float32")
    return g.region(every, last, s0=t)
