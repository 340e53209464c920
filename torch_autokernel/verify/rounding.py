"""The reference in float64, exactly or with simulated rounding.

`Native` records what eager computes in; `Exact` runs the same operations in float64; with a `Noise` every result is perturbed
by about as much as an honest implementation in the native dtype may err. This is Monte Carlo arithmetic (Parker 1997) but for
two things: each kind of operation has a model, instead of each flop; signs are orthogonal instead of independent. u is the
unit roundoff of the dtype that an operation computes in.

    movement, comparison, minimum, maximum, negation   0
    conversion to a narrower dtype                      u of the narrower, at least `LEAST`
    + - * / and other pointwise                         2u of the result (reassociation, contraction)
    exp, log, tanh, ...                                 8u of the result (vector libraries promise 4 ulp)
    sum over K                                          u (2 + sqrt K) of max(|result|, root of the sum of squares): sequential
                                                        summation, whose errors walk at random; on constant and on sorted
                                                        rows they do not: u (2 + K/4)
    convolution, mean of a window                       as a sum of its products, or of the window's elements
    attention                                           as its products, its exponential and its sum one by one
    prefix sum, k-th of K                               u (2 + sqrt k) of the same, over the first k
    prefix product, k-th of K                           u (2 + k) of the result, and the smallest normal number times
                                                        |p_k| / |p_j|, p_j the least product up to k: fl(x y) = x y (1 + d) + e,
                                                        e the error of an underflow (Higham 2002, 2.1), goes through the factors
                                                        from j to k; at most the result, as what underflows becomes 0 or no more
                                                        than twice as large
    log of a prefix sum of exp                          u (2 + sqrt k) of max(|result|, 1)
    variance over K                                     a (v + root of v (v + mean^2) + a (v + mean^2)), a = u (2 + sqrt K) or
                                                        u (2 + K/4) as above: Welford's update, or two passes, whose mean's
                                                        error enters squared (Chan, Golub, LeVeque 1983); one pass over sums
                                                        of squares may err more

bf16 and fp16 operations compute in fp32 and are rounded once (u of the narrow dtype), as eager's are. A fused kernel that keeps
fp32 in between is nearer to float64 than eager is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from torch_autokernel.core.products import ATTENTION
from torch_autokernel.verify import attention, extended

# What rounding to a dtype may err where u of the value is less. Denormals of fp32's range may be flushed to zero; nothing
# flushes those of fp16 (F16C and AVX512-FP16 ignore the flags): half their distance.
LEAST = {torch.float64: 2.0**-1022, torch.float32: 2.0**-126, torch.float16: 2.0**-25, torch.bfloat16: 2.0**-126}
UNIT = {torch.float64: 2.0**-53, torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
_NARROW = (torch.float16, torch.bfloat16)

_MOVES = frozenset(
    "clone copy cat stack gather index index_select embedding where masked_fill constant_pad_nd flip roll repeat amax amin "
    "rev max min maximum minimum fmax fmin relu clamp clamp_min clamp_max neg abs sign floor ceil round trunc slice_scatter "
    "max_pool2d_with_indices max_pool3d_with_indices _low_memory_max_pool_with_offsets "
    "select_scatter as_strided_scatter sort topk tril triu fill alias detach lift_fresh_copy _unsafe_view expand_copy "
    "index_put scatter index_copy zeros_like ones_like full_like empty_like broadcast_in_dim resize threshold hardtanh "
    "_unsafe_index bitwise_not logical_not nan_to_num diagonal_copy unfold_copy view_copy squeeze_copy".split()
)
_CONVERSIONS = frozenset(("convert_element_type", "_to_copy", "to"))
_TRANSCENDENTAL = frozenset(
    "exp exp2 expm1 log log1p log2 log10 tanh sigmoid erf erfc erfinv sin cos tan asin acos atan atan2 sinh cosh pow rsqrt "
    "sqrt reciprocal gelu silu mish softplus elu hardswish gelu_backward silu_backward tanh_backward sigmoid_backward "
    "softplus_backward elu_backward lgamma log_sigmoid_forward logaddexp xlogy".split()
)
# What follows from a value as it is: nothing in it can be rearranged.
_DECISIONS = frozenset(
    "gt ge lt le eq ne isnan isinf isfinite signbit sign floor ceil round trunc frac argmax argmin logical_and logical_or "
    "logical_not logical_xor".split()
)
_ACCUMULATES = frozenset("scatter_add scatter_reduce index_add embedding_dense_backward _unsafe_index_put".split())


class Native(TorchDispatchMode):
    """Runs as usual; `dtypes` holds, for each operation, the dtypes of its results and the widest unit of its float inputs."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.dtypes: list[tuple[tuple[torch.dtype | None, ...], float]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        results = out if isinstance(out, (tuple, list)) else (out,)
        units = [UNIT[a.dtype] for a in args if isinstance(a, torch.Tensor) and a.dtype in UNIT]
        kinds = tuple(r.dtype if isinstance(r, torch.Tensor) else None for r in results)
        self.dtypes.append((kinds, max(units, default=0.0)))
        return out


class Noise:
    """Perturbations between 1/2 and 1 of either sign, for run `run` of `runs` (a power of two).

    An element of a source (one operation, one input) gets the same perturbation in every run, but for a sign in each, taken
    from a row of a Hadamard matrix; sources begin with different rows, and neighbours have different ones. Rows are orthogonal,
    so over all runs the mean square of a result's deviation is the sum of squares over sources and neighbours: they cannot
    cancel by luck, as independent samples would on some rows of a large tensor. A softmax shows why neighbours matter: it does
    not move where its operands are perturbed alike, which of two large ones in a row happens to be so in many rows.

    With more sources and neighbours than runs, rows of the matrix are shared, and two sources that share one may cancel in all
    runs: q cos + p sin with both rounded to bf16 did for one element in 100000, and a softmax between two keys whose places
    differ by as many as there are rows. So there are two designs, of which the second moves on by one more row after each round
    of rows: what shares a row in the one does not in the other, if it lies closer together than the square of their number (in
    one source) or in the same round (in two, but where sources are many).
    """

    def __init__(self, pool: torch.Tensor, run: int, runs: int, design: int = 0) -> None:
        self._pool, self._size = pool, pool.numel() // 2
        self._rows, self._source, self._design = runs - 1, 0, design
        self._run = run
        self._signs: dict[int, torch.Tensor] = {}

    @staticmethod
    def pool(seed: int, most: int) -> torch.Tensor:
        """Perturbations for tensors of up to `most` elements, twice in a row: larger ones repeat them."""
        generator = torch.Generator().manual_seed(seed & (2**63 - 1))
        size = 65521 if most > 1 << 15 else 4093
        values = 0.5 + 0.5 * torch.rand(size, generator=generator, dtype=torch.float64)
        return (values * (torch.rand(size, generator=generator) < 0.5).double().mul(2).sub(1)).repeat(2)

    def like(self, tensor: torch.Tensor) -> torch.Tensor:
        """A fresh tensor of the next source's perturbations."""
        turned, count = self._next(tensor.numel()), tensor.numel()
        return (turned if count <= self._size else turned.repeat(-(-count // self._size))[:count]).reshape(tensor.shape)

    def _next(self, count: int) -> torch.Tensor:
        """The next source's perturbations for so many elements; for more than the pool holds, what repeats."""
        row = (self._source * (1 + 4 * self._design) + self._source // self._rows * 2 * self._design) % self._rows
        self._source += 1
        start, some = self._source * 7919 % self._size, min(count, self._size)
        return self._pool[start : start + some] * self._signs_from(row)[:some]

    def _signs_from(self, row: int) -> torch.Tensor:
        """This run's signs for a source whose first element has this row."""
        if row not in self._signs:
            n = self._rows
            rows = [(row + i + i // n * self._design) % n for i in range(n * n)]
            period = [-1.0 if ((r * (1 + self._design) % n + 1) & self._run).bit_count() % 2 else 1.0 for r in rows]
            self._signs[row] = torch.tensor(period, dtype=torch.float64).repeat(-(-self._size // (n * n)))
        return self._signs[row]

    def relative(self, tensor: torch.Tensor, amplitude: float, owned: bool = False) -> torch.Tensor:
        """The tensor, perturbed; written over where it is `owned`: fresh memory costs more than the products."""
        factors, count = self._next(tensor.numel()).mul_(amplitude).add_(1), tensor.numel()
        if count <= self._size:
            return factors.reshape(tensor.shape).mul_(tensor)
        flat, whole = tensor.reshape(-1), count // self._size * self._size
        owned = owned and tensor.is_contiguous() and tensor.dtype == torch.float64
        out = flat if owned else torch.empty(count, dtype=torch.float64)
        torch.mul(flat[:whole].view(-1, self._size), factors, out=out[:whole].view(-1, self._size))
        torch.mul(flat[whole:], factors[: count - whole], out=out[whole:])
        return out.view(tensor.shape)

    def rounded(self, tensor: torch.Tensor, kind: torch.dtype) -> torch.Tensor:
        """Rounding to a dtype, gradual underflow included: by u of the value, at least by half the distance of denormals."""
        size = (tensor.abs() * UNIT[kind]).clamp_min(LEAST[kind])
        return torch.addcmul(tensor, torch.where(size.isfinite(), size, 0.0), self.like(tensor))

    def absolute(self, tensor: torch.Tensor, scale: torch.Tensor, amplitude: float) -> torch.Tensor:
        return torch.addcmul(tensor, torch.where(scale.isfinite(), scale, 0.0), self.like(tensor), value=amplitude)


class Exact(TorchDispatchMode):
    """Maps low-precision dtype arguments to float64. Tensors made from numbers alone are made in their own dtype first.

    `coherent` says that rows are alike or sorted, so that errors of a sum add up. `plain` takes means as sums (eager's running
    mean turns an infinite element into NaN, a sum keeps it infinite), attention as it is defined, and a convolution's padding
    as zeros that are multiplied. `brim` lets every result overflow that is within 8 roundings of what its native dtype holds:
    on which side of that another order of operations falls is open.

    `disturbed` pairs inputs with their perturbed copies. Arithmetic takes the copies; what is only moved stays in pairs; what
    is decided (compared, rounded to an integer) on inputs alone is decided on the inputs as they are: no arithmetic comes
    before it, so a tie there has one answer.

    `overflowed` says, after a run without noise, whether some result was that large, or NaN: where none was, a run with `brim`
    gives the same.
    """

    def __init__(
        self, recorded: list[tuple[tuple[torch.dtype | None, ...], float]], noise: Noise | None = None, plain: bool = False,
        coherent: bool = False, brim: bool = False, disturbed: Iterable[tuple[torch.Tensor, torch.Tensor]] = (),
    ) -> None:  # fmt: skip
        super().__init__()  # type: ignore[no-untyped-call]
        self.recorded = recorded
        self.noise = noise
        self.plain = plain
        self.coherent = coherent
        self.brim = brim
        self.pairs = {id(plain): (plain, copy) for plain, copy in disturbed}
        self.turn = 0
        self.overflowed = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        turn, self.turn = self.turn, self.turn + 1
        if not _takes_tensors(args):
            return _upcast(func(*args, **kwargs))
        args, kwargs = [_wide(a) for a in args], {k: _wide(v) for k, v in kwargs.items()}
        if self.pairs and (found := self._as_it_is(func, args, kwargs, turn)) is not None:
            return found
        args, kwargs = self._copies(args), self._copies(kwargs)
        padded = func._schema.name == "aten::convolution" and not self.plain
        out = _convolved(func, args) if padded else func(*args, **kwargs)
        if self.plain and func._schema.name == "aten::var_mean":
            return out[0], _mean_like(out[1], args, kwargs)
        if self.plain and str(func) == ATTENTION:
            return attention.defined(*args, **kwargs), out[1]
        if func.is_view:
            return out
        kinds, unit = self.recorded[turn] if turn < len(self.recorded) else ((torch.float32,), UNIT[torch.float32])
        if self.noise is None and not self.brim:
            self.overflowed = self.overflowed or _overflows(out, kinds)
            return out
        if self.brim:
            over = _overflowing(out, kinds)
            return _stays_infinite(over, args[1]) if func._schema.name == "aten::cumprod" else over
        if isinstance(out, (tuple, list)):
            moved = [self._disturb(func, args, kwargs, r, k, unit, i) for i, (r, k) in enumerate(zip(out, kinds, strict=False))]
            return type(out)(moved)
        return self._disturb(func, args, kwargs, out, kinds[0], unit, 0)

    def _as_it_is(self, func: Any, args: list[Any], kwargs: dict[str, Any], turn: int) -> Any:
        """The result where the operation moves inputs or decides on them, and nothing else; None where it does not."""
        name = func._schema.name.split("::")[1]
        tensors = [t for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor) and t.is_floating_point()]
        if not tensors or any(id(t) not in self.pairs for t in tensors):
            return None
        kinds, unit = self.recorded[turn] if turn < len(self.recorded) else ((torch.float32,), UNIT[torch.float32])
        if name in _DECISIONS or name in _CONVERSIONS and kinds[0] not in UNIT:
            return func(*args, **kwargs)
        narrows = name in _CONVERSIONS and UNIT[kinds[0]] > unit  # type: ignore[index]
        if narrows or not (func.is_view or name in _MOVES or name in _CONVERSIONS):
            return None
        out, copies = func(*args, **kwargs), func(*self._copies(args), **self._copies(kwargs))
        for plain, copy in zip(pytree.tree_leaves(out), pytree.tree_leaves(copies), strict=True):
            if plain.is_floating_point():
                self.pairs[id(plain)] = plain, copy
        return out

    def _copies(self, values: Any) -> Any:
        """Arguments with the perturbed copies for inputs."""
        if not self.pairs:
            return values
        return pytree.tree_map_only(torch.Tensor, lambda t: self.pairs[id(t)][1] if id(t) in self.pairs else t, values)

    def _growth(self, count: float) -> float:
        """How a sum over so many errs, in units of rounding."""
        return 2 + (max(math.sqrt(count), count / 4) if self.coherent else math.sqrt(count))

    def _disturb(
        self, func: Any, args: Any, kwargs: Any, out: Any, kind: torch.dtype | None, unit: float, which: int
    ) -> Any:
        """The result with the perturbation of this kind of operation."""
        if not isinstance(out, torch.Tensor) or not out.is_floating_point() or kind not in UNIT:
            return out
        name, noise, u = func._schema.name.split("::")[1], self.noise, UNIT[kind]
        assert noise is not None
        inner = min(u, UNIT[torch.float32])
        if name in _CONVERSIONS:
            return noise.rounded(out, kind) if u > unit > 0 else out
        if name in _MOVES and not (name == "index_put" and any(a is True for a in args)):
            return out
        if str(func) == ATTENTION:
            if which == 0:
                narrow = kind if kind in _NARROW else None
                out = attention.noisy(noise, args, kwargs, out, inner, narrow, self._growth)
        elif name in _REDUCTIONS:
            scale, count = _REDUCTIONS[name](func, args, kwargs, out, which)
            amplitude = inner * self._growth(count)
            if name == "cumprod":
                least = LEAST[torch.float64 if u == UNIT[torch.float64] else torch.float32]
                lost = torch.minimum(out.abs(), _enlarged(out, args[1]) * least)
                scale = torch.maximum(scale, lost / amplitude)
            if _REDUCTIONS[name] is _variance and which == 0:
                out = noise.absolute(out, scale + amplitude * _mean_square(args, kwargs, out), amplitude).abs()
            else:
                out = noise.absolute(out, scale, amplitude)
        elif name in _TRANSCENDENTAL:
            out = noise.relative(out, 8 * inner, _is_fresh(out, args, kwargs))
        elif name in _ACCUMULATES or name == "index_put":
            scale = torch.maximum(out.abs(), _usual(out))
            out = noise.absolute(out, scale, inner * (2 + math.sqrt(min(1024, _most(args)))))
        elif torch.Tag.pointwise in func.tags:
            out = noise.relative(out, 2 * inner, _is_fresh(out, args, kwargs))
        else:  # unknown: as a reduction over the longest dimension, relative to the result's own size
            scale = torch.maximum(out.abs(), _usual(out) if out.numel() else out.abs())
            out = noise.absolute(out, scale, inner * (8 + math.sqrt(_longest(args))))
        return noise.rounded(out, kind) if kind in _NARROW else out


def _is_fresh(out: torch.Tensor, args: Any, kwargs: Any) -> bool:
    """Whether an operation's only result lies in memory of its own."""
    memory = out.untyped_storage().data_ptr()
    given = (t for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor))
    return all(t.untyped_storage().data_ptr() != memory for t in given)


def _usual(out: torch.Tensor) -> torch.Tensor:
    """The root mean square of what is finite: one NaN must not take all others' budgets."""
    return extended.finite(out).square().mean().sqrt()


def _overflowing(out: Any, kinds: tuple[torch.dtype | None, ...]) -> Any:
    """Results beyond what their native dtype holds, or within 8 roundings of it, as infinities."""
    if isinstance(out, (tuple, list)):
        return type(out)(_overflowing(r, (k,)) for r, k in zip(out, kinds, strict=False))
    if not _overflows(out, kinds):
        return out
    return torch.where(out.abs() >= _most_of(kinds[0]), torch.copysign(torch.full_like(out, math.inf), out), out)


def _overflows(out: Any, kinds: tuple[torch.dtype | None, ...]) -> bool:
    """Whether a result is beyond what its native dtype holds, within 8 roundings of it, or NaN."""
    if isinstance(out, (tuple, list)):
        return any(_overflows(r, (k,)) for r, k in zip(out, kinds, strict=False))
    if not isinstance(out, torch.Tensor) or not out.is_floating_point() or kinds[0] not in UNIT or not out.numel():
        return False
    least, most = out.aminmax()
    return not (float(least) > -_most_of(kinds[0]) and float(most) < _most_of(kinds[0]))


def _most_of(kind: torch.dtype | None) -> float:
    """What just about fits into a dtype."""
    assert kind is not None
    return torch.finfo(kind).max * (1 - 8 * UNIT[kind])


def _stays_infinite(out: torch.Tensor, dim: int) -> torch.Tensor:
    """A prefix product that has overflowed on its way: infinite from there on, NaN from a factor of 0 on."""
    if not out.dim():
        return out
    over = out.isinf().cummax(dim).values & ~out.isnan()
    lost = torch.where(out == 0, math.nan, torch.copysign(torch.full_like(out, math.inf), out))
    return torch.where(over, lost, out)


def _mean_like(out: torch.Tensor, args: Any, kwargs: Any) -> torch.Tensor:
    return _over_dims(torch.mean, args[0], args, kwargs, out)


def _wide(value: Any) -> Any:
    return torch.float64 if isinstance(value, torch.dtype) and value.is_floating_point else value


def _takes_tensors(args: Any) -> bool:
    first = args[0] if args else None
    return any(isinstance(t, torch.Tensor) for t in (first if isinstance(first, (list, tuple)) else (first,)))


def _upcast(value: Any) -> Any:
    return value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value


def _most(args: Any) -> int:
    return max((a.numel() for a in args if isinstance(a, torch.Tensor)), default=1)


def _longest(args: Any) -> int:
    return max((max(a.shape, default=1) for a in args if isinstance(a, torch.Tensor)), default=1)


# --------------------------------------------------------------------------------------------- reductions
Scale = tuple[torch.Tensor, float]


def _count(x: torch.Tensor, out: torch.Tensor) -> float:
    return max(1.0, x.numel() / max(1, out.numel()))


def _sum(func: Any, args: Any, kwargs: Any, out: torch.Tensor, which: int) -> Scale:
    squares = func(args[0].double().square(), *args[1:], **{k: _wide(v) for k, v in kwargs.items()})
    return torch.maximum(out.abs(), squares.sqrt()), _count(args[0], out)


def _mean(func: Any, args: Any, kwargs: Any, out: torch.Tensor, which: int) -> Scale:
    count = _count(args[0], out)
    squares = func(args[0].double().square(), *args[1:], **{k: _wide(v) for k, v in kwargs.items()})
    return torch.maximum(out.abs(), (squares / count).sqrt()), count


def _variance(func: Any, args: Any, kwargs: Any, out: torch.Tensor, which: int) -> Scale:
    count, mean_square = _count(args[0], out), _mean_square(args, kwargs, out)
    if which == 0:
        return out.abs() + (out.abs() * mean_square).sqrt(), count
    return torch.maximum(out.abs(), (mean_square / count).sqrt()), count


def _mean_square(args: Any, kwargs: Any, out: torch.Tensor) -> torch.Tensor:
    return _over_dims(torch.sum, args[0].double().square(), args, kwargs, out) / _count(args[0], out)


def _over_dims(reduce: Callable[..., torch.Tensor], x: torch.Tensor, args: Any, kwargs: Any, out: torch.Tensor) -> torch.Tensor:
    """`x` reduced over the dimensions that an operation with these arguments reduces, in the shape of its result."""
    dim = args[1] if len(args) > 1 else kwargs.get("dim")
    return reduce(x) if dim is None else reduce(x, dim, keepdim=out.dim() == x.dim())


def _product(func: Any, args: Any, kwargs: Any, out: torch.Tensor, which: int) -> Scale:
    matrices = [a for a in args if isinstance(a, torch.Tensor)][-2:]
    left, right = (m.double().square() for m in matrices)
    squares = torch.matmul(left, right).sqrt()
    return torch.maximum(out.abs(), squares), float(matrices[0].shape[-1])


def _dot(func: Any, args: Any, kwargs: Any, out: torch.Tensor, which: int) -> Scale:
    return torch.maximum(out.abs(), (args[0].square() * args[1].square()).sum().sqrt()), float(args[0].numel())


def _running(func: Any, args: Any, kwargs: Any, out: torch.Tensor, which: int) -> Scale:
    """A prefix sum of k addends errs as a sum over k does: early elements get no budget from late ones."""
    squares = args[0].double().square().cumsum(args[1])
    share, count = _so_far(args[0], args[1])
    return torch.maximum(out.abs(), squares.sqrt()) * share, count


def _running_prod(func: Any, args: Any, kwargs: Any, out: torch.Tensor, which: int) -> Scale:
    """Every factor brings its rounding, and they add up."""
    share, count = _so_far(args[0], args[1])
    return out.abs() * share, count**2


def _enlarged(out: torch.Tensor, dim: int) -> torch.Tensor:
    """By how much later factors of a prefix product enlarge the error of one that underflows on the way: |p_k| / |p_j| from j
    to k, so at most |p_k| over the least product that is not 0 up to there."""
    least = torch.where(out == 0, math.inf, out.abs())
    return (out.abs() / (least.cummin(dim).values if out.dim() else least)).nan_to_num(0, 0, 0)


def _running_log(func: Any, args: Any, kwargs: Any, out: torch.Tensor, which: int) -> Scale:
    """The relative error of a prefix sum is the absolute one of its logarithm; that itself is rounded at every step."""
    share, count = _so_far(args[0], args[1])
    return out.abs().clamp_min(1.0) * share, count


def _so_far(x: torch.Tensor, dim: int) -> tuple[torch.Tensor, float]:
    """(2 + sqrt k) / (2 + sqrt K) for the k-th of K elements along the dimension, and K."""
    if not x.dim():
        return x.new_ones((), dtype=torch.float64), 1.0
    count = max(1, x.shape[dim])
    k = torch.arange(1, count + 1, dtype=torch.float64) if x.shape[dim] else torch.empty(0, dtype=torch.float64)
    share = (2 + k.sqrt()) / (2 + math.sqrt(count))
    return share.reshape([-1 if d == dim % x.dim() else 1 for d in range(x.dim())]), float(count)


def _convolved(func: Any, args: Any) -> torch.Tensor:
    """A convolution whose padding brings nothing. In float64 torch multiplies its zeros by the weights, of which infinite ones
    give NaN at the border; its convolutions in fp32 and bf16 do so as well in some sizes, not in most."""
    x, weight, bias, *rest = args
    if bool(weight.isfinite().all()):
        return func(x, weight, bias, *rest)  # type: ignore[no-any-return]

    product = lambda left, right: func(left, right, None, *rest)
    found = func(extended.finite(x), extended.finite(weight), bias, *rest)
    return found + extended.beside(product, x, weight, x == 0)  # type: ignore[no-any-return]


def _convolution(func: Any, args: Any, kwargs: Any, out: torch.Tensor, which: int) -> Scale:
    """A sum of products, and of the bias where there is one."""
    x, weight, bias, *rest = args
    squared = (x.double().square(), weight.double().square(), None if bias is None else bias.double().square())
    squares = _convolved(func, (*squared, *rest))
    count = weight[0].numel() + (bias is not None)
    return torch.maximum(out.abs(), squares.sqrt()), float(count)


def _avg_pool(func: Any, args: Any, kwargs: Any, out: torch.Tensor, which: int) -> Scale:
    """A sum over the window, of which padding has no share, by what eager divides it by."""
    x, kernel, *_rest = args
    names = ("stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")
    given = dict(zip(names, args[2:], strict=False)) | kwargs
    plainly = {**given, "divisor_override": 1}
    counted = torch.ones_like(x, dtype=torch.float64)
    divisor = func(counted, kernel, **plainly) / func(counted, kernel, **given)
    squares = func(x.double().square(), kernel, **plainly)
    return torch.maximum(out.abs(), squares.sqrt() / divisor), float(math.prod(kernel))


def _prod(func: Any, args: Any, kwargs: Any, out: torch.Tensor, which: int) -> Scale:
    return out.abs(), _count(args[0], out) ** 2


_REDUCTIONS: dict[str, Callable[[Any, Any, Any, torch.Tensor, int], Scale]] = {
    "sum": _sum, "mean": _mean, "var": _variance, "var_mean": _variance, "prod": _prod, "cumsum": _running,
    "cumprod": _running_prod, "logcumsumexp": _running_log, "convolution": _convolution, "avg_pool2d": _avg_pool,
    "avg_pool3d": _avg_pool,
    "mm": _product, "addmm": _product, "bmm": _product, "baddbmm": _product, "mv": _product, "dot": _dot,
}  # fmt: skip
