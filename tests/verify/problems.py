"""Problems as a user brings them: functions with inputs, captured as one region each. `captured("rotary")` in a kernel's header."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import functional as F

from torch_autokernel.capture.whole import region_of
from torch_autokernel.core.types import Region

Function = Callable[..., Any]
PROBLEMS: dict[str, tuple[Function, tuple[torch.Tensor, ...], tuple[int, ...]]] = {}


def problem(*inputs: torch.Tensor, static: Sequence[int] = ()) -> Callable[[Function], Function]:
    def kept(function: Function) -> Function:
        PROBLEMS[function.__name__] = function, inputs, tuple(static)
        return function

    return kept


@functools.cache
def captured(name: str) -> Region:
    """The problem of that name as one region."""
    return region_of(*PROBLEMS[name])


def given(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype)


def whole(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.int64)


X = given(40, 300)
B = given(40, 300, dtype=torch.bfloat16)


@problem(given(6, 8, 45), given(8), given(8), static=(8,))
def group_norm(x, w, b):
    return F.group_norm(x, 4, w, b, 1e-5)


@problem(X, whole(40))
def ce_each(x, t):
    return F.cross_entropy(x, t, reduction="none")


@problem(given(3, 20, 16), given(20, 16), given(20, 16), static=(16,))
def rotary(x, c, s):
    return x * c + torch.cat((-x[..., 8:], x[..., :8]), -1) * s


@problem(B)
def log_softmax_bf16(x):
    return F.log_softmax(x, -1)


@problem(X)
def log_softmax(x):
    return F.log_softmax(x, -1)


@problem(X, X)
def softmax_backward(g, y):
    return y * (g - (g * y).sum(-1, keepdim=True))


@problem(X)
def normalize(x):
    return F.normalize(x, dim=-1, eps=1e-6)


@problem(given(500))
def mish(x):
    return F.mish(x)


@problem(given(500))
def elu(x):
    return F.elu(x, 0.7)


@problem(X)
def logsumexp(x):
    return x.logsumexp(-1)


@problem(X, given(40))
def quantise(x, s):
    return torch.round(x / s[:, None]).clamp(-128, 127).to(torch.int8)


@problem(X)
def std(x):
    return x.std(-1)


@problem(given(40, 300, dtype=torch.float64))
def softmax64(x):
    return F.softmax(x, -1)


@problem(given(40, 300, dtype=torch.float64), given(300, dtype=torch.float64), given(300, dtype=torch.float64))
def layer_norm64(x, w, b):
    return F.layer_norm(x, x.shape[-1:], w, b, 1e-5)


@problem(given(500), given(500), given(500), given(500))
def adam(p, g, m, v):
    first, second = m * 0.9 + g * 0.1, v * v * 0.999 + g * g * 0.001
    return p - 0.01 * first / (second.sqrt() + 1e-8), first, second


@problem(given(30, 20), whole(30, 7))
def gather(x, i):
    return torch.gather(x, 1, i)


@problem(given(4, 3, 40), given(3, 4), given(3), static=(3, 4))
def depthwise(x, w, b):
    padded, n = F.pad(x, (3, 0)), x.shape[-1]
    return F.silu(sum(padded[..., k : k + n] * w[:, k : k + 1] for k in range(4)) + b[:, None])


@problem(X, given(300, dtype=torch.float16))
def mixed_rms(x, w):
    return (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)).half() * w


@problem(given(40, 30))
def cumprod(x):
    return torch.cumprod(x, 1)


@problem(given(3, 40, 16), given(3, 48, 16), given(3, 48, 16), torch.ones(40, 48, dtype=torch.bool), static=(16,))
def masked_attention(q, k, v, m):
    return torch.softmax(torch.where(m, (q @ k.transpose(1, 2)) * 0.25, -1e9), -1) @ v


@problem(given(3, 40, 16), given(3, 48, 16), given(3, 48, 16), given(40, 48), static=(16,))
def biased_attention(q, k, v, m):
    return torch.softmax((q @ k.transpose(1, 2)) * 0.25 + m, -1) @ v


@problem(X)
def gelu_tanh(x):
    return F.gelu(x, approximate="tanh")


@problem(B)
def hardswish_bf16(x):
    return F.hardswish(x)


@problem(given(20, 30, 12))
def mean_mid(x):
    return x.mean(1)


@problem(given(20, 300))
def causal_mean(x):
    return torch.cumsum(x, -1) / torch.arange(1, x.shape[-1] + 1)


@problem(given(20, 300, dtype=torch.float16), given(20, 300, dtype=torch.float16))
def geglu_fp16(a, b):
    return F.gelu(a) * b


@problem(given(4, 30000))
def row_sum_wide(x):
    return x.sum(-1)


@problem(given(500))
def reciprocal(x):
    return 1 / x


@problem(given(500))
def round_half(x):
    return torch.round(x)


@problem(X, X)
def less_each(a, b):
    return torch.where(a < b, a * 2, b)


@problem(X)
def first_max(x):
    return (x == x.amax(-1, keepdim=True)).float()


@problem(given(4, 1, 12, 14), given(8, 1, 3, 3), given(8))
def conv_pool(x, w, b):
    return F.max_pool2d(F.relu(F.conv2d(x, w, b, padding=1)), 2)


@problem(given(4, 6, 12, 20))
def pool_offsets(x):
    from torch._inductor import inductor_prims  # noqa: F401

    return tuple(torch.ops.prims._low_memory_max_pool_with_offsets(x, [3, 3], [2, 2], [1, 1], [1, 1], False))


@problem(given(4, 6, 6, 10, dtype=torch.int8), given(4, 6, 6, 10))
def pool_gradient(offsets, g):
    rows = offsets.shape[0] * offsets.shape[1]
    at = torch.ops.prims._low_memory_max_pool_offsets_to_indices(offsets, [3, 3], [12, 20], [2, 2], [1, 1], [1, 1])
    zeros = torch.zeros(rows, 240)
    return zeros.scatter_add(1, at.reshape(rows, -1), g.reshape(rows, -1)).reshape(*offsets.shape[:2], 12, 20)


@problem(given(2, 3, 40, 8), given(2, 3, 40, 8), given(2, 3, 40, 8))
def causal_attention(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


@problem(given(4, 6, 12, 20))
def avg_pool(x):
    return F.avg_pool2d(x, 3, 2, 1)


@problem(given(3, 4, 6, 8, 10))
def avg_pool3d(x):
    return F.avg_pool3d(x, 3, 2, 1)


@problem(given(37, 53))
def argmax(x):
    return x.argmax(-1)


@problem(given(37, 53, dtype=torch.uint8))
def bright(x):
    return (x + 200).float() * 0.5


@problem(whole(37, 53))
def whole_sum(x):
    return (x * x).sum(-1)
