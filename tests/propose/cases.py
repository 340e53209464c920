"""The regions that the tests and the benchmark generate kernels for: a torch function and inputs by shape."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

Make = Callable[..., list[torch.Tensor]]


@dataclass(frozen=True)
class Case:
    """`shapes` are arguments of `make`; the first is traced, all are run."""

    fn: Callable[..., Any]
    make: Make
    shapes: Sequence[tuple[int, ...]]
    static: tuple[int, ...] = ()


def randn(*shape: int, grad: bool = False, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape).to(dtype).requires_grad_(grad)


ROWS = ((37, 53), (1, 1), (3, 17), (1, 1000), (5, 1023), (64, 512), (130, 16))


def rms(x: torch.Tensor, r: torch.Tensor, w: torch.Tensor) -> Any:
    h = x + r
    return h, h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6) * w


def rope(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    x = x.transpose(1, 2)
    half = x.shape[-1] // 2
    turned = torch.cat((-x[..., half:], x[..., :half]), dim=-1)
    return x * cos + turned * sin


def indexed(t: torch.Tensor, x: torch.Tensor, i: torch.Tensor, j: torch.Tensor) -> Any:
    """t: [7, 5, 6]; x: [R, 7, 5]; i, j: [R]. Rows, columns, pairs, outer pairs, an index computed here, from the end too."""
    inner = torch.clamp(i * 2 - 5, max=4)
    return t[i - 7] * 2, x[..., j] + 1, x[:, i, j].exp(), x[:, i[:, None], j] - 1, torch.relu(x[:, :, inner]), t[i, j].sum(-1)


def repeated(x: torch.Tensor) -> Any:
    """x: [N, H, W]. Every element twice in each direction, and in one of four places."""
    twice = x[:, :, None, :, None].expand(-1, -1, 2, -1, 2)
    place = torch.arange(2)[:, None, None] * 2 + torch.arange(2)
    return twice.sin().flatten(1), torch.where(place == 3, twice.exp(), 0.0).flatten(1)


def thrice(x: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    return (x[..., None].expand(-1, -1, 3) * g.sum(-1, keepdim=True)).flatten(1)


def one_hot(x: torch.Tensor, w: torch.Tensor, t: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Sums of rows that differ in one place, which may lie outside."""
    places = torch.arange(x.shape[1])
    hot = torch.where(places == t, -1.0, 0.0).to(x.dtype) * w
    cold = torch.where(t != places, w.exp() * 0.125, x[:, :1])
    return hot.sum(1), x.exp() * hot.sum(1, keepdim=True) - hot, cold.sum(-1) / x.shape[1]


def one_hot_columns(x: torch.Tensor, w: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Along the first dimension, behind a view."""
    hot = torch.where(torch.arange(x.shape[0])[:, None] == t, w, 0.0)
    return hot.T.reshape(1, x.shape[1], -1).sum(2) + x.sum(0)


def not_one_hot(x: torch.Tensor, w: torch.Tensor, t: torch.Tensor, u: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Comparisons with other than one number a row, or beside other variation."""
    places = torch.arange(x.shape[1])
    return (
        torch.where(places == u, w, 0.0).sum(1), torch.where(places == t, x, 0.0).sum(1), (torch.where(places == t, w, 0.0) + x).sum(1),
        torch.where(places * 2 == t, w, 0.0).sum(1), torch.where(places.flip(0) == t, w, 0.0).sum(1),
        torch.where((places == t) | (places == t + 1), w, 0.0).sum(1), torch.where(places == t, w.exp(), 0.0).sum((0, 1)),
    )  # fmt: skip


def infinite(m: int) -> torch.Tensor:
    w = torch.randn(m, 1)
    w[::3] = float("inf")
    return w


def bag(table: torch.Tensor, i: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return (table[i] * w[..., None]).sum(1)


def stacked(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary embedding of neighbours."""
    pairs = x.unflatten(-1, (-1, 2))
    a, b = pairs[..., 0], pairs[..., 1]
    return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2)


def stacked_norm(x: torch.Tensor, w: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    h = x * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + 1e-6) * w
    return stacked(h.unflatten(-1, (3, -1)).to(x.dtype), cos, sin)


def stacked_apart(x: torch.Tensor, y: torch.Tensor, n: torch.Tensor) -> Any:
    """Three and four results of a place side by side, and two of other types."""
    three = torch.stack((x.sin(), x * y, y.exp()), -1)
    four = torch.stack((x, y, x + y, torch.maximum(x, y)), -1)
    return three, four, torch.stack((n + 1, n * 2), -1), torch.stack((x > y, x < 0), -1)


def rope_tables(q: torch.Tensor, k: torch.Tensor, at: torch.Tensor, inverse: torch.Tensor) -> Any:
    """The tables are made within the region, and every head reads them."""
    angle = at[:, None].float() * inverse
    angle = torch.cat((angle, angle), -1)
    return rope(q, angle.cos(), angle.sin()), rope(k, angle.cos(), angle.sin())


def pieces(x: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> Any:
    """x: [B, H, T, 2, D]; a, b: [T, 1, D]. Costly values that all B x H share: other ones in each half, one in the second half only."""
    second = torch.cat((x[..., :1, :], x[..., 1:, :] * torch.sin(torch.cat((a, b), 1))[:, 1:]), -2)
    return x * torch.exp(torch.cat((a, b), 1)), second, torch.cat((x[..., 1:, :], x[..., :1, :]), -2) * torch.cat((a.cos(), b.sin()), 1)


def masked_scores(s: torch.Tensor) -> torch.Tensor:
    t = torch.arange(s.shape[-1])
    keep = t[None, :] <= torch.arange(s.shape[-2])[:, None]
    return torch.softmax(torch.where(keep, s, float("-inf")), -1)


def cross_entropy_grad(x: torch.Tensor, t: torch.Tensor, top: torch.Tensor, log: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    """As Inductor writes it after its own passes."""
    valid = (t != -100)[:, None]
    hit = torch.where(torch.where(valid, t[:, None], 0) == torch.arange(x.shape[1])[None, :], -1.0, 0.0)
    grad = hit * torch.where(valid, g / 3, 0.0)
    return grad - torch.exp(x - top[:, None] - log[:, None]) * grad.sum(1, keepdim=True)


def batch_stats(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> Any:
    var, mean = torch.var_mean(x, (0, 2, 3), correction=0, keepdim=True)
    return torch.relu((x - mean) * torch.rsqrt(var + 1e-5) * w[:, None, None] + b[:, None, None]), mean


def swiglu(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return F.silu(a) * b


def last_norm(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(x, (x.shape[-1],), w, b)


def norm_inputs(m: int, n: int, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    return [randn(m, n, grad=True, dtype=dtype), randn(n, grad=True, dtype=dtype), randn(n, grad=True, dtype=dtype)]


def scan_fused(x: torch.Tensor, w: torch.Tensor) -> Any:
    """Something before, behind and beside the scan: a normalised running sum, and its total."""
    c = torch.cumsum(torch.exp(x) * w, 1)
    return c * torch.sigmoid(x), (c * c).sum(1), c / (1 + x.square().sum(1, keepdim=True))


def image(n: int, c: int, h: int, w: int, last: bool = False, grad: bool = False) -> torch.Tensor:
    x = torch.randn(n, c, h, w)
    if last:
        x = x.to(memory_format=torch.channels_last)
    return x.requires_grad_(grad)


CASES: dict[str, Case] = {
    "softmax": Case(lambda x: torch.softmax(x, -1), lambda m, n: [randn(m, n)], ROWS),
    "log_softmax": Case(lambda x: torch.log_softmax(x, -1), lambda m, n: [randn(m, n, grad=True)], ROWS),
    "softmax_middle": Case(lambda x: torch.softmax(x, 1), lambda b, m, n: [randn(b, m, n)], ((3, 37, 53), (1, 1, 1), (2, 5, 300))),
    "layer_norm": Case(last_norm, norm_inputs, ROWS[:1] + ROWS[2:]),
    "layer_norm_bf16": Case(last_norm, lambda m, n: norm_inputs(m, n, torch.bfloat16), ((37, 53), (3, 17), (5, 1023))),
    "rms_residual": Case(rms, lambda b, t, n: [randn(b, t, n, grad=True), randn(b, t, n, grad=True), randn(n, grad=True)],
                         ((3, 37, 53), (1, 1, 1), (2, 5, 300))),
    "rms_residual_f16": Case(rms, lambda b, t, n: [randn(b, t, n, dtype=torch.float16), randn(b, t, n, dtype=torch.float16),
                                                   randn(n, dtype=torch.float16)], ((3, 37, 53), (2, 5, 300))),
    "bias_gelu": Case(lambda x, b: F.gelu(x + b), lambda m, n: [randn(m, n, grad=True), randn(n, grad=True)], ROWS),
    "bias_gelu_tanh": Case(lambda x, b: F.gelu(x + b, approximate="tanh"), lambda m, n: [randn(m, n, grad=True), randn(n, grad=True)],
                           ROWS[:4]),
    "swiglu": Case(swiglu, lambda m, n: [randn(m, n, grad=True), randn(m, n, grad=True)], ROWS),
    "swiglu_bf16": Case(swiglu, lambda m, n: [randn(m, n, grad=True, dtype=torch.bfloat16), randn(m, n, grad=True, dtype=torch.bfloat16)],
                        ROWS[:4]),
    "cross_entropy": Case(lambda x, t: F.cross_entropy(x, t), lambda m, n: [randn(m, n), torch.randint(0, n, (m,))], ROWS),
    "cross_entropy_grad": Case(cross_entropy_grad, lambda m, n: [randn(m, n), torch.randint(0, n, (m,)), randn(m), randn(m), torch.randn([])], ROWS),
    "softmax_grad": Case(lambda g, y: (g - (g * y).sum(-1, keepdim=True)) * y, lambda m, n: [randn(m, n), randn(m, n)], ROWS),
    "group_norm": Case(lambda x, w, b: F.silu(F.group_norm(x, 4, w, b)), lambda n, h, w: [image(n, 8, h, w, grad=True), randn(8, grad=True), randn(8, grad=True)],
                       ((3, 5, 7), (2, 16, 16))),
    "group_norm_last": Case(lambda x, w, b: F.silu(F.group_norm(x, 4, w, b)), lambda n, h, w: [image(n, 8, h, w, True, True), randn(8, grad=True), randn(8, grad=True)],
                            ((3, 5, 7), (2, 16, 16))),
    "batch_stats": Case(batch_stats, lambda n, c, h, w: [image(n, c, h, w, grad=True), randn(c, grad=True), randn(c, grad=True)], ((3, 6, 5, 7), (2, 3, 16, 16))),
    "batch_stats_last": Case(batch_stats, lambda n, c, h, w: [image(n, c, h, w, True, True), randn(c, grad=True), randn(c, grad=True)],
                             ((3, 6, 5, 7), (2, 64, 9, 9))),
    "rope": Case(rope, lambda b, t, h, d: [randn(b, t, h, d, grad=True), randn(t, d), randn(t, d)], ((3, 5, 2, 8), (2, 7, 4, 8)), (8,)),
    "rope_wide": Case(rope, lambda b, t, h, d: [randn(b, t, h, d, grad=True), randn(t, d), randn(t, d)], ((2, 5, 3, 64),), (64,)),
    "rope_tables": Case(rope_tables, lambda b, t, h, d: [randn(b, t, h, d), randn(b, t, 2, d), torch.arange(t), torch.rand(d // 2)],
                        ((3, 5, 4, 32), (2, 7, 8, 32)), (32,)),
    "pieces": Case(pieces, lambda b, h, t, d: [randn(b, h, t, 2, d), randn(t, 1, d), randn(t, 1, d)], ((4, 3, 5, 16), (8, 2, 3, 33))),
    "column_sum": Case(lambda x: x.sum(0), lambda m, n: [randn(m, n)], (*ROWS, (3000, 40))),
    "middle_sum": Case(lambda x: x.sum(1), lambda b, m, n: [randn(b, m, n)], ((3, 37, 53), (1, 1, 1), (2, 500, 3))),
    "full_sum": Case(lambda x: (x * x).sum(), lambda m, n: [randn(m, n)], (*ROWS, (500, 700))),
    "mse": Case(lambda x, y: ((x - y) ** 2).mean(), lambda m, n: [randn(m, n, grad=True), randn(m, n)], ROWS),
    "causal": Case(masked_scores, lambda b, t: [randn(b, t, t)], ((2, 37), (1, 1), (3, 64))),
    "minmax": Case(lambda x: (x.amax(-1) - x.amin(-1), x.amax(0)), lambda m, n: [randn(m, n)], ROWS),
    "transposed": Case(lambda x, y: (x.t() + y).contiguous(), lambda m, n: [randn(n, m), randn(m, n)], ROWS),
    "broadcast": Case(lambda x, y: torch.sin(x)[:, None] * torch.cos(y)[None, :] + x[:, None], lambda m, n: [randn(m) * 50, randn(n) * 1e4], ROWS),
    "integers": Case(lambda x, y: ((x * 3 - y) > 2, (x & (y + 7)) | y, torch.where(x > y, x, y).to(torch.int32).sum(-1)),
                     lambda m, n: [torch.randint(-50, 50, (m, n)), torch.randint(-50, 50, (m, n))], ROWS[:4]),
    "double": Case(lambda x: torch.softmax(torch.tanh(x) * 3, -1), lambda m, n: [torch.randn(m, n, dtype=torch.float64)], ROWS[:5]),
    "special": Case(lambda x: (torch.exp(x), torch.log(x.abs()), torch.tanh(x), torch.sigmoid(x), torch.maximum(x, x * 0 + 1), x.amax(-1),
                               torch.clamp(x, -1, 1), torch.relu(x)),
                    lambda m, n: [special(m, n)], ((7, 53), (2, 300))),
    "var": Case(lambda x: (x.var(-1), x.var(0, correction=0)), lambda m, n: [randn(m, n) + 100], ROWS[2:]),
    "pad": Case(lambda x: F.pad(torch.exp(x), (1, 2)), lambda m, n: [randn(m, n)], ((37, 53), (3, 17))),
    "cumsum": Case(lambda x: x.cumsum(-1), lambda m, n: [randn(m, n, grad=True)], (*ROWS, (3, 5000))),
    "cumsum_outer": Case(lambda x: x.cumsum(0), lambda m, n: [randn(m, n, grad=True)], (*ROWS, (3000, 40))),
    "cumsum_middle_bf16": Case(lambda x: x.cumsum(1), lambda b, m, n: [randn(b, m, n, dtype=torch.bfloat16)], ((3, 37, 53), (2, 5, 300))),
    "cumsum_fused": Case(scan_fused, lambda m, n: [randn(m, n, grad=True), randn(n, grad=True)], ROWS),
    "cumsum_twice": Case(lambda x: x.cumsum(0).cumsum(1) + x.cumsum(1)[:, :1], lambda m, n: [randn(m, n)], ROWS),
    "cumsum_integers": Case(lambda x: (x.cumsum(-1), (x > 1).cumsum(0)), lambda m, n: [torch.randint(-50, 50, (m, n))], ROWS[:4]),
    "cumsum_of_reshape": Case(lambda x: F.silu(x).flatten(1).cumsum(1), lambda b, m, n: [randn(b, m, n)], ((3, 37, 53), (2, 5, 300))),
    "cumsum_reversed": Case(lambda x, y: torch.flip(torch.cumsum(torch.flip(x, [1]), 1), [1]) * y, lambda m, n: [randn(m, n), randn(m, n)], ROWS),
    "cumprod": Case(lambda x: (torch.cumprod(1 + 0.1 * x, -1), torch.cumprod(1 + 0.1 * x, 0)), lambda m, n: [randn(m, n)], ROWS),
    "logcumsumexp": Case(lambda x: torch.logcumsumexp(x, -1), lambda m, n: [randn(m, n, grad=True) * 3], ROWS),
    "logcumsumexp_outer": Case(lambda x: torch.logcumsumexp(x * 9, 0), lambda m, n: [randn(m, n)], ROWS),
    "scans_double": Case(lambda x: (x.cumsum(-1), x.cumprod(0)), lambda m, n: [torch.randn(m, n, dtype=torch.float64)], ROWS[:5]),
    "slices": Case(lambda x: x[:, 2:10] * x[:, 20:28] + x[:, :1], lambda m, n: [randn(m, n)], ((37, 53), (1, 53)), (53,)),
    "indexed": Case(indexed, lambda r: [randn(7, 5, 6), randn(r, 7, 5), torch.randint(7, (r,)), torch.randint(-5, 5, (r,))],
                    ((9,), (1,), (33,)), (7, 5, 6)),
    "repeated": Case(repeated, lambda n, h, w: [randn(n, h, w)], ((5, 3, 9), (1, 6, 16), (3, 1, 5)), (2,)),
    "thrice": Case(thrice, lambda n, w: [randn(n, w), randn(n, w, 5)], ((2, 9), (4, 17)), (3, 5)),
    "bag": Case(bag, lambda n, d, b, k: [randn(n, d), torch.randint(-n, n, (b, k)), torch.rand(b, k)], ((40, 24, 6, 5), (7, 64, 3, 9))),
    "stacked": Case(stacked, lambda b, t, h, d: [randn(b, h, t, 2 * d, grad=True), randn(t, d), randn(t, d)],
                    ((2, 5, 3, 16), (1, 7, 2, 16), (3, 4, 1, 16)), (16, 32)),
    "stacked_bf16": Case(stacked, lambda b, t, h, d: [randn(b, h, t, 2 * d, dtype=torch.bfloat16), randn(t, d, dtype=torch.bfloat16),
                         randn(t, d, dtype=torch.bfloat16)], ((2, 5, 3, 19),), (19, 38)),
    "stacked_norm": Case(stacked_norm, lambda t, d: [randn(t, 6 * d), randn(6 * d), randn(t, 1, d), randn(t, 1, d)], ((5, 21), (9, 21)),
                         (21, 42, 126)),
    "stacked_apart": Case(stacked_apart, lambda r, c: [randn(r, c), randn(r, c), torch.arange(r * c).reshape(r, c)], ROWS),
    "shifted_rows": Case(lambda x, m: x + (F.pad(x, (0, 0, 1, -1)) - x) * m, lambda m, n: [randn(m, n), randn(n)], ((37, 53), (2, 17))),
    "cropped": Case(lambda x: torch.exp(F.pad(x, (-1, 2, 2, -1))), lambda m, n: [randn(m, n)], ((37, 53), (5, 17))),
    "vector_int8": Case(lambda x, w, s: F.linear(x, w.to(x.dtype)) * s,
                        lambda k, n: [randn(1, k), torch.randint(-127, 128, (n, k), dtype=torch.int8), randn(n)], ROWS),
    "vector_column": Case(lambda x, v: torch.tanh(torch.mm(x * 2, v)), lambda m, k: [randn(m, k), randn(k, 1)], ROWS),
    "vector_batch_bf16": Case(lambda x, w: torch.bmm(x, torch.exp(w)) * 2,
                              lambda b, k, n: [randn(b, 1, k, dtype=torch.bfloat16), randn(b, k, n, dtype=torch.bfloat16)],
                              ((3, 37, 53), (2, 5, 300))),
    "vector_added": Case(lambda b, x, w: torch.addmm(b, x, w.to(x.dtype)).relu(),
                         lambda k, n: [randn(n), randn(1, k), torch.randint(0, 255, (k, n), dtype=torch.uint8)], ROWS),
    "one_hot": Case(one_hot, lambda m, n: [randn(m, n), randn(m, 1), torch.randint(-2, n + 2, (m, 1))], ROWS),
    "one_hot_zero": Case(lambda x, w, t: torch.where(1 / torch.where(torch.arange(x.shape[1]) == t, 1.0, 0.0).mul(-torch.relu(w)).sum(1) > 0, x[:, 0], 2.0),
                         lambda m, n: [randn(m, n), randn(m, 1), torch.randint(0, n, (m, 1))], ROWS),
    "one_hot_columns": Case(one_hot_columns, lambda m, n: [randn(m, n), randn(n), torch.randint(0, m, (n,))], ROWS),
    "one_hot_bf16": Case(one_hot, lambda m, n: [randn(m, n, dtype=torch.bfloat16), randn(m, 1, dtype=torch.bfloat16),
                                                torch.randint(0, n, (m, 1))], ROWS[:4]),
    "one_hot_overflowing": Case(lambda x, w, t: torch.where(torch.arange(x.shape[1]) == t, -1.0, 0.0).mul(w).sum(1) + x[:, 0],
                                lambda m, n: [randn(m, n), infinite(m), torch.randint(0, n, (m, 1))], ROWS),
    "not_one_hot": Case(not_one_hot, lambda m, n: [randn(m, n), randn(m, 1), torch.randint(0, n, (m, 1)), torch.randint(0, n, (n,))],
                        ROWS),
    "one_hot_turned": Case(lambda w, t: torch.where(torch.arange(t.shape[0] * 2).reshape(-1, 2).T.reshape(1, 2, -1) == t[None, None], w[None], 0.5)
                           .sum(-1), lambda n: [randn(2, n), torch.randint(0, 2 * n, (n,))], ((37,), (64,)), (2, 4)),
    "rolled": Case(lambda x, y: F.gelu(torch.roll(x, (3, -2), (1, 2)) + y), lambda b, m, n: [randn(b, m, n), randn(b, m, n)],
                   ((2, 16, 24), (1, 16, 24), (5, 16, 24)), (16, 24)),
    "rolled_far": Case(lambda x: torch.roll(x, 1000, 0) * torch.roll(x, -1, 1) + torch.roll(x, 37, 0), lambda m, n: [randn(m, n, grad=True)],
                       ((37, 24),), (37, 24)),
    "modulo": Case(lambda x: x[:, (torch.arange(24) * 5 + 3).fmod(24)] + torch.arange(24).fmod(5) * (torch.arange(24) - 30).fmod(7)
                   + (torch.arange(24) - 3).fmod(24) + (torch.arange(24) + 20).fmod(24), lambda m, n: [randn(m, n)], ((37, 24), (1, 24)), (24,)),
    "argmax": Case(lambda x: (x.argmax(-1), x.argmin(-1, keepdim=True), x.amax(-1)), lambda m, n: [odd(m, n)], ROWS),
    "argmax_outer": Case(lambda x: (x.argmax(0), x.argmin(0), x.max(0)[0]), lambda m, n: [odd(m, n)], ROWS),
    "argmax_middle_bf16": Case(lambda x: (x.argmax(1), x.argmin(1)), lambda b, m, n: [odd(b, m, n).bfloat16()], ((3, 37, 53), (2, 5, 300), (1, 2, 1))),
    "argmax_all": Case(lambda x: (torch.argmax(x), torch.argmin(x * 2), x.sum().argmax(0), x.sum().argmin(-1, keepdim=True)), lambda m, n: [odd(m, n)], ROWS),
    "argmax_integers": Case(lambda x: (x.argmax(-1), x.argmin(0), x.int().argmin(-1), x.to(torch.int8).argmax(-1)),
                            lambda m, n: [torch.randint(-3, 4, (m, n))], ROWS),
    "argmax_double": Case(lambda x: (x.argmax(-1), x.argmin(0)), lambda m, n: [odd(m, n).double()], ROWS),
    "argmax_of_probabilities": Case(lambda x, y: (torch.softmax(x, -1).argmax(-1), x.gather(-1, y.argmax(-1, keepdim=True))),
                                    lambda m, n: [(torch.randperm(m * n) * 0.01).reshape(m, n), randn(m, n)], ROWS),
    "argmax_of_pieces": Case(lambda x: (torch.cat([x, x * 2], 1).argmax(1), F.pad(x, (2, 3)).argmin(1), x.flip(1).argmax(1), x.roll(3, 1).argmax(1)),
                             lambda m, n: [odd(m, n)], ((37, 53), (5, 53), (1, 53)), (53,)),
    "argmax_of_stacks": Case(lambda x: (torch.stack([x, x * -2], 1).argmax(1), torch.stack([x, x + 1, -x], 2).max(2)[1]), lambda m, n: [odd(m, n)],
                             ((37, 53), (2, 5), (1, 300))),
    "argmax_backwards": Case(lambda x: (x.flip(1).argmax(1), x.flip(0).argmin(0)), lambda m, n: [odd(m, n)], ROWS),
    "argmax_turned": Case(lambda x: (x.t().argmax(), x.t().flip(0).argmin(keepdim=True)), lambda m, n: [odd(m, n)],
                          ((37, 53), (8, 5), (3, 300))),
}  # fmt: skip


def odd(*shape: int) -> torch.Tensor:
    """Ties everywhere, both zeros, infinities, and NaN in some rows."""
    x = torch.randint(-4, 5, shape).float() * torch.tensor(-0.5)
    flat = x.view(-1)
    if len(flat) > 40:
        flat[torch.randint(len(flat), (5,))] = torch.tensor([float("nan"), float("nan"), float("inf"), float("-inf"), -float("nan")])
    return x


def special(m: int, n: int) -> torch.Tensor:
    x = torch.randn(m, n) * 100
    x.view(-1)[:6] = torch.tensor([float("nan"), float("inf"), float("-inf"), 0.0, 1e-42, -1e-42])
    return x
