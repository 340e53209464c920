"""What the steps of random programs do, and how they are chosen.

Every step is well conditioned: arguments are kept away from poles, so that a difference in a result is a mistake and not a
rounding that was amplified. Steps that jump (rounding, comparing) are taken of inputs alone where `smooth` is asked for.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from tests.fuzz.programs import LAYOUTS, Given, Program, Step, function

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
INTEGERS = (torch.int64, torch.int32, torch.uint8, torch.int8, torch.int16)
MOST = 4000  # elements of one value



def depthwise(x: torch.Tensor) -> torch.Tensor:
    """A convolution of every channel by itself."""
    if x.dim() not in (3, 4):
        return x * 1
    weight = torch.full((x.shape[1], 1, *(2,) * (x.dim() - 2)), 0.375, dtype=x.dtype)
    return F.conv1d(x, weight, padding=1, groups=x.shape[1]) if x.dim() == 3 else F.conv2d(x, weight, padding=1, groups=x.shape[1])


SMOOTH: dict[str, Callable[..., Any]] = {
    "neg": torch.neg, "abs": torch.abs, "exp": lambda x: torch.exp(x.clamp(-4, 4)), "log": lambda x: torch.log(x.abs() + 0.5),
    "sqrt": lambda x: torch.sqrt(x.abs() + 0.1), "rsqrt": lambda x: torch.rsqrt(x.abs() + 0.5), "sigmoid": torch.sigmoid,
    "tanh": torch.tanh, "erf": torch.erf, "sin": lambda x: torch.sin(x.clamp(-9, 9)),
    "cos": lambda x: torch.cos(x.clamp(-9, 9)), "relu": torch.relu, "silu": F.silu, "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"), "square": lambda x: torch.square(x.clamp(-9, 9)),
    "log1p": lambda x: torch.log1p(x.abs()), "expm1": lambda x: torch.expm1(x.clamp(-4, 4)), "softplus": F.softplus,
    "elu": F.elu, "leaky_relu": lambda x: F.leaky_relu(x, 0.1), "hardswish": F.hardswish, "mish": F.mish,
    "logsigmoid": F.logsigmoid, "reciprocal": lambda x: torch.reciprocal(x.abs() + 0.5), "clone": torch.clone,
    "detach": lambda x: x.detach() * 1.0, "contiguous": lambda x: x.contiguous(), "exp2": lambda x: torch.exp2(x.clamp(-4, 4)),
    "log2": lambda x: torch.log2(x.abs() + 0.5), "hardtanh": F.hardtanh, "selu": F.selu, "tan_h_shrink": F.tanhshrink,
    "in_place": lambda x: x.clone().mul_(0.5).add_(1), "softsign": F.softsign, "zeros_like": torch.zeros_like,
    "max_pool": lambda x: F.max_pool2d(x, 2, ceil_mode=True) if x.dim() in (3, 4) else x * 1,
    "max_pool_over": lambda x: F.max_pool2d(x, 3, 2, 1) if x.dim() in (3, 4) else x * 1,
    "avg_pool": lambda x: F.avg_pool2d(x, 2, ceil_mode=True) if x.dim() in (3, 4) else x * 1, "depthwise": lambda x: depthwise(x),
    "log10": lambda x: torch.log10(x.abs() + 0.5), "atan": torch.atan, "sinh": lambda x: torch.sinh(x.clamp(-3, 3)),
    "dropout_eval": lambda x: F.dropout(x, 0.5, False).view_as(x), "nan_to_num": torch.nan_to_num, "frac_pow": lambda x: (x.abs() + 0.5) ** 0.75,
}  # fmt: skip
JUMPS: dict[str, Callable[..., Any]] = {
    "floor": torch.floor, "ceil": torch.ceil, "round": torch.round, "trunc": torch.trunc, "sign": torch.sign,
    "isnan": torch.isnan, "positive": lambda x: x > 0, "heaviside_like": lambda x: (x >= 0.25).to(x.dtype),
    "logical_not": torch.logical_not, "isfinite": torch.isfinite, "signbit": torch.signbit, "to_int": lambda x: x.clamp(-9, 9).to(torch.int32),
}  # fmt: skip
WHOLE: dict[str, Callable[..., Any]] = {
    "i_neg": lambda x: -x, "i_abs": torch.abs, "i_not": torch.bitwise_not, "i_square": lambda x: x * x,
    "i_plus": lambda x: x + 3, "i_less": lambda x: x < 2, "i_float": lambda x: x.float() * 0.5, "i_clamp": lambda x: x.clamp(0, 2),
    "i_sign": torch.sign, "i_times_half": lambda x: x * 0.5, "i_div": lambda x: x / 2, "i_floordiv": lambda x: x // 2,
    "i_rem": lambda x: x % 3, "i_pow": lambda x: x**2, "i_shift": lambda x: x << 1, "i_clone": torch.clone, "i_logical": torch.logical_not,
    "i_max": lambda x: torch.maximum(x, torch.ones_like(x)), "i_rsub": lambda x: 5 - x, "i_cumsum": lambda x: x.flatten().cumsum(0),
}  # fmt: skip
BOOLS: dict[str, Callable[..., Any]] = {
    "b_not": lambda x: ~x, "b_float": lambda x: x.float(), "b_int": lambda x: x.int() + 1, "b_sum": lambda x: x.sum(),
    "b_any": lambda x: x.any(), "b_all": lambda x: x.all(), "b_scaled": lambda x: x * 2.5, "b_plus": lambda x: x + 1,
    "b_xor": lambda x: x ^ x.flip(0) if x.dim() else x ^ x,
}  # fmt: skip
SCALAR: dict[str, Callable[..., Any]] = {
    "plus": lambda x, s: x + s, "times": lambda x, s: x * s, "from": lambda x, s: s - x, "power": lambda x, s: x.clamp(-3, 3) ** s,
    "over": lambda x, s: x / s, "min_s": lambda x, s: x.clamp(max=s), "max_s": lambda x, s: x.clamp(min=s),
    "under": lambda x, s: s / (x.abs() + 0.5),
}  # fmt: skip
PAIRS: dict[str, Callable[..., Any]] = {
    "add": torch.add, "sub": torch.sub, "mul": torch.mul, "div": lambda a, b: a / (b.abs() + 0.5), "maximum": torch.maximum,
    "minimum": torch.minimum, "add_alpha": lambda a, b: torch.add(a, b, alpha=2), "rsub": lambda a, b: torch.rsub(a, b),
    "lerp_like": lambda a, b: a + 0.3 * (b - a), "addcmul": lambda a, b: a + a * b * 0.5, "hypot": lambda a, b: (a * a + b * b + 0.1).sqrt(),
    "mse": lambda a, b: (a - b) ** 2, "gate": lambda a, b: F.silu(a) * b, "atan2": lambda a, b: torch.atan2(a, b.abs() + 0.5),
}  # fmt: skip
INTEGER_PAIRS: dict[str, Callable[..., Any]] = {
    "i_add": torch.add, "i_sub": torch.sub, "i_mul": torch.mul, "i_and": torch.bitwise_and, "i_or": torch.bitwise_or,
    "i_xor": torch.bitwise_xor, "i_minimum": torch.minimum, "i_eq": torch.eq, "i_lt": torch.lt, "i_true_div": lambda a, b: a / (b.abs() + 1),
}  # fmt: skip
COMPARISONS: dict[str, Callable[..., Any]] = {
    "eq": torch.eq, "ne": torch.ne, "lt": torch.lt, "le": torch.le, "gt": torch.gt, "ge": torch.ge,
    "logical_and": torch.logical_and, "logical_or": torch.logical_or, "logical_xor": torch.logical_xor,
}  # fmt: skip
REDUCTIONS: dict[str, Callable[..., Any]] = {
    "sum": lambda x, d, k: x.sum(d, keepdim=k), "mean": lambda x, d, k: x.mean(d, keepdim=k),
    "amax": lambda x, d, k: x.amax(d, keepdim=k), "amin": lambda x, d, k: x.amin(d, keepdim=k),
    "var": lambda x, d, k: x.var(d, keepdim=k, correction=0), "std": lambda x, d, k: (x.var(d, keepdim=k, correction=0) + 0.1).sqrt(),
    "logsumexp": lambda x, d, k: torch.logsumexp(x, d, keepdim=k), "norm": lambda x, d, k: (x.square().sum(d, keepdim=k) + 0.1).sqrt(),
    "var_mean": lambda x, d, k: torch.add(*torch.var_mean(x, d, keepdim=k, correction=0)),
    "prod": lambda x, d, k: x.clamp(-1.5, 1.5).prod(d[0], keepdim=k),
    "argmax": lambda x, d, k: x.argmax(d[0], keepdim=k) * 0.5, "max_dim": lambda x, d, k: torch.add(*x.max(d[0], keepdim=k)),
}  # fmt: skip
ALONG: dict[str, Callable[..., Any]] = {
    "softmax": lambda x, d: F.softmax(x, d), "log_softmax": lambda x, d: F.log_softmax(x, d), "flip": lambda x, d: x.flip(d),
    "select0": lambda x, d: x.select(d, 0), "select_last": lambda x, d: x.select(d, -1), "cumsum": lambda x, d: x.cumsum(d),
    "unsqueeze": lambda x, d: x.unsqueeze(d), "half": lambda x, d: x.narrow(d, 0, (x.shape[d] + 1) // 2),
    "every_other": lambda x, d: x[(slice(None),) * d + (slice(None, None, 2),)], "tail": lambda x, d: x[(slice(None),) * d + (slice(1, None),)],
    "squeeze": lambda x, d: x.squeeze(d), "roll": lambda x, d: x.roll(1, d), "twice": lambda x, d: torch.cat([x, x * 0.5], d),
    "chunks": lambda x, d: x.chunk(2, d)[-1], "rotate_half": lambda x, d: torch.cat([-x.narrow(d, x.shape[d] // 2, x.shape[d] - x.shape[d] // 2), x.narrow(d, 0, x.shape[d] // 2)], d),
    "layer_norm": lambda x, d: (x - x.mean(d, keepdim=True)) * torch.rsqrt(x.var(d, keepdim=True, correction=0) + 0.1),
    "repeat": lambda x, d: x.repeat(*[2 if i == d else 1 for i in range(x.dim())]), "stack": lambda x, d: torch.stack([x, -x], d),
    "repeat_interleave": lambda x, d: x.unsqueeze(d).expand(*x.shape[:d], 2, *x.shape[d:]).reshape(*x.shape[:d], -1, *x.shape[d + 1 :]) if x.numel() else x.clone(),
    "glu_like": lambda x, d: torch.sigmoid(x.narrow(d, 0, x.shape[d] // 2)) * x.narrow(d, x.shape[d] // 2, x.shape[d] // 2),
    "diff": lambda x, d: x.narrow(d, 1, x.shape[d] - 1) - x.narrow(d, 0, x.shape[d] - 1) if x.shape[d] > 1 else x * 1,
    "set_part": lambda x, d: torch.slice_scatter(x, torch.zeros_like(x.narrow(d, 0, x.shape[d] // 2)), d, 0, x.shape[d] // 2),
    "unbind": lambda x, d: x.unbind(d)[0] if x.shape[d] else x * 1,
}  # fmt: skip
SHAPES: dict[str, Callable[..., Any]] = {
    "permute": lambda x, p: x.permute(p), "reshape": lambda x, p: x.reshape(p), "expand": lambda x, p: x.expand(p),
    "pad": lambda x, p: F.pad(x, p, value=0.25), "flatten": lambda x: x.flatten(), "transpose": lambda x: x.transpose(0, -1),
    "tril": lambda x: x.tril(), "triu": lambda x: x.triu(1), "convert": lambda x, d: x.to(d), "positions": lambda x: x + torch.arange(x.shape[-1]),
    "permuted_clone": lambda x, p: x.permute(p).contiguous(), "causal": lambda x: x.masked_fill(torch.ones(x.shape[-2:], dtype=torch.bool).triu(1), -1.0),
    "pad_negative": lambda x, p: F.pad(x, p), "sum_all": lambda x: x.sum(), "mean_all": lambda x: x.mean(), "full_minus": lambda x: torch.full_like(x, 2.0) - x,
}  # fmt: skip
OTHER: dict[str, Callable[..., Any]] = {
    "where": lambda c, a, b: torch.where(c, a, b), "where_scalar": lambda c, a: torch.where(c, a, 0.5), "masked_fill": lambda c, a: a.masked_fill(c, -1.0),
    "embedding": lambda i, w: F.embedding(i, w), "cat": lambda a, b, d: torch.cat([a, b], d), "matmul": lambda a, b: a @ b,
    "gather": lambda x, i, d: torch.gather(x, d, i), "index": lambda x, i: x[i], "index_select": lambda x, i, d: x.index_select(d, i),
    "one_hot": lambda i, n: F.one_hot(i, n).float(), "sum_product": lambda a, b: (a * b).sum(-1), "cross_entropy": lambda x, t: F.cross_entropy(x, t),
    "ramp": lambda n: torch.arange(n) * 2 + 1, "add_outer": lambda a, b: a.unsqueeze(-1) + b.unsqueeze(-2),
}  # fmt: skip
GROUPS = (SMOOTH, JUMPS, WHOLE, BOOLS, SCALAR, PAIRS, INTEGER_PAIRS, COMPARISONS, REDUCTIONS, ALONG, SHAPES, OTHER)
STEPS: dict[str, Callable[..., Any]] = {name: fn for group in GROUPS for name, fn in group.items()}


class Chooser:
    """One random program in the making; the values so far are run along to know their shapes."""

    def __init__(self, seed: int, smooth: bool, training: bool) -> None:
        self.rng = random.Random(seed)
        self.smooth, self.training = smooth, training
        self.generator = torch.Generator().manual_seed(seed)
        self.sizes = self.rng.sample([1, 2, 3, 4, 5, 7, 8, 16, 17, 33], 3) + [self.rng.choice([0, 1, 1, 2, 3, 6])]
        self.main = self.rng.choices(FLOATS, (6, 2, 1, 2))[0]
        self.inputs: list[Given] = []
        self.values: list[torch.Tensor] = []
        self.steps: list[Step] = []

    def given(self) -> Given:
        rng = self.rng
        shape = tuple(rng.choice(self.sizes) for _ in range(rng.choices((0, 1, 2, 3, 4), (1, 3, 6, 4, 2))[0]))
        kind = rng.choices(("float", "int", "bool"), (7, 1, 1))[0]
        layout = rng.choices(LAYOUTS, (8, 2, 1, 1, 1, 1))[0]
        if kind == "float":
            dtype = self.main if rng.random() < 0.85 else rng.choice(FLOATS)
            return Given(shape, dtype, layout, self.training and rng.random() < 0.7 and layout != "expanded")
        return Given(shape, torch.bool if kind == "bool" else rng.choices(INTEGERS, (6, 3, 1, 1, 1))[0], layout)

    def add_input(self, given: Given) -> int:
        from tests.fuzz.programs import make

        assert not self.steps
        self.inputs.append(given)
        self.values.append(make(given, self.generator).detach())
        return len(self.values) - 1

    def pick(self, test: Callable[[torch.Tensor], bool], fresh: bool = False) -> int | None:
        """A value that passes, later ones likelier; `fresh` means an input."""
        number = len(self.inputs) if fresh else len(self.values)
        found = [i for i in range(number) if test(self.values[i])]
        return self.rng.choices(found, [1 + i for i in range(len(found))])[0] if found else None

    def step(self) -> Step | None:
        rng = self.rng
        way = rng.choices(
            (self._smooth, self._jump, self._whole, self._bool, self._scalar, self._pair, self._integer_pair, self._compare,
             self._reduce, self._along, self._shape, self._other),
            (5, 1, 1, 1, 2, 6, 1, 1, 4, 5, 4, 3),
        )[0]  # fmt: skip
        return way()

    def _named(self, group: dict[str, Any], args: tuple[int | None, ...], params: tuple[Any, ...] = ()) -> Step | None:
        return None if None in args else Step(self.rng.choice(list(group)), args, params)  # type: ignore[arg-type]

    def _float(self) -> int | None:
        return self.pick(lambda t: t.is_floating_point())

    def _smooth(self) -> Step | None:
        return self._named(SMOOTH, (self._float(),))

    def _jump(self) -> Step | None:
        return self._named(JUMPS, (self.pick(lambda t: t.is_floating_point(), self.smooth),))

    def _whole(self) -> Step | None:
        return self._named(WHOLE, (self.pick(_is_whole),))

    def _bool(self) -> Step | None:
        return self._named(BOOLS, (self.pick(lambda t: t.dtype == torch.bool),))

    def _scalar(self) -> Step | None:
        return self._named(SCALAR, (self._float(),), (self.rng.choice([2, 3, 0.5, -1, 1.5, 1]),))

    def _two(self, test: Callable[[torch.Tensor], bool], fresh: bool = False) -> tuple[int | None, int | None]:
        a = self.pick(test, fresh)
        if a is None:
            return None, None
        b = self.pick(lambda t: test(t) and _broadcasts(self.values[a], t), fresh)
        return (a, b) if self.rng.random() < 0.5 else (b, a)

    def _pair(self) -> Step | None:
        return self._named(PAIRS, self._two(lambda t: t.is_floating_point()))

    def _integer_pair(self) -> Step | None:
        return self._named(INTEGER_PAIRS, self._two(_is_whole))

    def _compare(self) -> Step | None:
        return self._named(COMPARISONS, self._two(lambda t: t.is_floating_point() or not self.smooth, self.smooth))

    def _reduce(self) -> Step | None:
        x = self.pick(lambda t: t.is_floating_point() and t.dim() > 0 and t.numel() > 0)
        if x is None:
            return None
        rank = self.values[x].dim()
        dims = self.rng.sample(range(rank), self.rng.randint(1, rank))
        return self._named(REDUCTIONS, (x,), (tuple(dims), self.rng.random() < 0.5))

    def _along(self) -> Step | None:
        x = self.pick(lambda t: t.is_floating_point() and t.dim() > 0)
        return None if x is None else self._named(ALONG, (x,), (self.rng.randrange(self.values[x].dim()),))

    def _shape(self) -> Step | None:
        x = self.pick(lambda t: True)
        assert x is not None
        t, rng = self.values[x], self.rng
        name = rng.choice(list(SHAPES))
        if name in ("permute", "permuted_clone"):
            return Step(name, (x,), (tuple(rng.sample(range(t.dim()), t.dim())),))
        if name == "reshape":
            return Step(name, (x,), (self._refolded(list(t.shape)),))
        if name == "expand":
            return Step(name, (x,), ((rng.choice(self.sizes), *(rng.choice(self.sizes) if s == 1 else s for s in t.shape)),))
        if name in ("pad", "pad_negative"):
            low = 0 if name == "pad" else -1
            return Step(name, (x,), (tuple(rng.randint(low, 2) for _ in range(2 * rng.randint(1, max(1, t.dim())))),))
        if name == "convert":
            return Step(name, (x,), (rng.choice((*FLOATS, torch.float32)),))
        return Step(name, (x,))

    def _refolded(self, shape: list[int]) -> tuple[int, ...]:
        if len(shape) > 1 and self.rng.random() < 0.6:
            k = self.rng.randrange(len(shape) - 1)
            return (*shape[:k], shape[k] * shape[k + 1], *shape[k + 2 :])
        for k, s in enumerate(shape):
            for f in (2, 3):
                if s > f and s % f == 0:
                    return (*shape[:k], s // f, f, *shape[k + 1 :])
        return (*shape, 1)

    def _other(self) -> Step | None:
        rng = self.rng
        name = rng.choice(list(OTHER))
        floats = lambda t: t.is_floating_point()
        index = lambda t: t.dtype in (torch.int64, torch.int32) and t.numel() > 0 and int(t.min()) >= 0
        if name in ("where", "where_scalar", "masked_fill"):
            a, b = self._two(floats)
            c = self.pick(lambda t: t.dtype == torch.bool and a is not None and _broadcasts(self.values[a], t))
            return None if None in (a, b, c) else Step(name, (c, a, b) if name == "where" else (c, a))  # type: ignore[arg-type]
        if name == "ramp":
            return Step(name, (), (rng.choice(self.sizes),))
        if name in ("cat", "matmul", "sum_product", "add_outer", "cross_entropy"):
            a, b = self._two(floats)
            if name == "cross_entropy":
                b = self.pick(lambda t: t.dtype == torch.int64 and index(t) and t.dim() == 1, fresh=True)
            params = (rng.randrange(max(1, self.values[a].dim())),) if name == "cat" and a is not None else ()
            return None if None in (a, b) else Step(name, (a, b), params)  # type: ignore[arg-type]
        i = self.pick(index, fresh=True)
        if i is None:
            return None
        if name == "one_hot":
            return Step(name, (i,), (int(self.values[i].max()) + 1,)) if self.values[i].dtype == torch.int64 else None
        x = self.pick(lambda t: floats(t) and t.dim() > 0)
        if x is None:
            return None
        params = (rng.randrange(self.values[x].dim()),) if name in ("gather", "index_select") else ()
        return Step(name, (i, x) if name == "embedding" else (x, i), params)


def _is_whole(t: torch.Tensor) -> bool:
    return not t.is_floating_point() and t.dtype != torch.bool


def _broadcasts(a: torch.Tensor, b: torch.Tensor) -> bool:
    return all(x == y or 1 in (x, y) for x, y in zip(reversed(a.shape), reversed(b.shape), strict=False))


def random_program(seed: int, length: int = 12, *, smooth: bool = False, training: bool = False) -> Program:
    """The program of a seed: always the same one."""
    chooser = Chooser(seed, smooth, training)
    for _ in range(chooser.rng.randint(1, 4)):
        chooser.add_input(chooser.given())
    for _ in range(6 * length):
        if len(chooser.steps) >= length:
            break
        step = chooser.step()
        if step is None:
            continue
        try:
            made = STEPS[step.name](*[chooser.values[a] for a in step.args], *step.params)
        except (RuntimeError, IndexError, TypeError, ValueError):
            continue  # not for these shapes or dtypes
        if made.numel() > MOST or made.dim() > 5 or (made.is_floating_point() and not made.isfinite().all()):
            continue
        if made.is_floating_point() and made.numel() and made.abs().max() > 1e4:
            continue
        chooser.steps.append(step)
        chooser.values.append(made)
    total, count = len(chooser.values), len(chooser.inputs)
    first = max(count, total - 1)
    outputs = {min(first, total - 1), *chooser.rng.sample(range(total), min(total, chooser.rng.choice((0, 0, 1, 2))))}
    from tests.fuzz.programs import without_dead

    return without_dead(Program(tuple(chooser.inputs), tuple(chooser.steps), tuple(sorted(outputs))))


def values_of(program: Program, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    """All values of a run."""
    everything = Program(program.inputs, program.steps, tuple(range(len(program.inputs) + len(program.steps))))
    return list(function(everything, STEPS)(*inputs))
