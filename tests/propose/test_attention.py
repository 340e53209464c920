"""Generated attention kernels against the float64 oracle: spellings, sizes, tiles, special values; and what is refused."""

from __future__ import annotations

import ctypes
import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.propose.running import check_at, compare, compile_all, random_inputs, run
from tests.propose.tracing import trace
from torch_autokernel.core.types import Arch, Region
from torch_autokernel.propose import attention
from torch_autokernel.propose.attention_text import problem, write
from torch_autokernel.propose.index import Refused
from torch_autokernel.propose.kernel import Kernel
from torch_autokernel.propose.schedule import ScheduleProposer
from torch_autokernel.propose.tiles import Tiles, choose

SEED = 20261125
Tensor = torch.Tensor
ARCH = Arch("cpu-x86_64-avx2", limits={"threads": 2, "vector_bytes": 32, "l1_bytes": 32768, "l2_bytes": 524288})


def qkv(
    *, heads: int = 4, kv_heads: int | None = None, queries: int = 50, keys: int = 50, dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    shapes = ((2, heads, queries, 24), *[(2, kv_heads or heads, keys, 24)] * 2)
    return [torch.randn(s).to(dtype) for s in shapes]


def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(q @ k.transpose(-1, -2) * 0.2, -1) @ v


def alibi(q: Tensor, k: Tensor, v: Tensor, slopes: Tensor) -> Tensor:
    t = torch.arange(q.shape[2])
    return torch.softmax(q @ k.transpose(-1, -2) / 5 - (t[None, :] - t[:, None]).abs() * slopes[:, None, None], -1) @ v


def window(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    t = torch.arange(q.shape[2])
    keep = (t[None, :] <= t[:, None]) & (t[:, None] - t[None, :] < 9)
    return torch.softmax((q @ k.transpose(-1, -2)).masked_fill(~keep, float("-inf")), -1) @ v


def causal_padded(q: Tensor, k: Tensor, v: Tensor, hidden: Tensor) -> Tensor:
    t = torch.arange(q.shape[2])
    s = (q @ k.transpose(-1, -2)).masked_fill(t[None, :] > t[:, None], float("-inf"))
    return torch.softmax(s.masked_fill(hidden[:, None, None, :], float("-inf")), -1) @ v


def causal_finite(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Rows without any key that counts are uniform, as the number that masks is finite; then scaled."""
    t = torch.arange(q.shape[2])
    s = torch.where(t[None, :] < t[:, None], q @ k.transpose(-1, -2), -1e4)
    return torch.softmax(s * 0.5, -1) @ v


def given(q: Tensor, k: Tensor, v: Tensor, keep: Tensor) -> Tensor:
    return torch.softmax(torch.where(keep, q @ k.transpose(-1, -2), float("-inf")), -1) @ v


def grouped(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return plain(q, k.repeat_interleave(4, 1), v.repeat_interleave(4, 1))


def padded(q: Tensor, k: Tensor, v: Tensor, hidden: Tensor) -> Tensor:
    """One query of each head against a cache of keys that is filled in part."""
    k, v = k.repeat_interleave(4, 1), v.repeat_interleave(4, 1)
    s = (q @ k.transpose(-1, -2)).masked_fill(hidden[:, None, None, :], float("-inf"))
    return torch.softmax(s, -1) @ v


def safe(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    s = (q * 0.5) @ (k.transpose(-1, -2) * 0.5) + bias
    nothing = ~(~(s == float("-inf"))).any(-1, keepdim=True)
    return torch.where(nothing, torch.zeros_like(s), torch.softmax(s, -1)) @ v


def rewritten(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """How Inductor writes a softmax of x / 8, with keys that lie transposed."""
    x = q[0, 0] @ k[0, 0].T
    y = x / 8
    wild = (~((y == y) * (y.abs() != math.inf))).any(-1, keepdim=True)
    z = x * 1
    e = torch.exp(torch.where(~wild, (z - z.amax(-1, True)) / 8, y - y.amax(-1, True)))
    return (e / e.sum(-1, keepdim=True)) @ (v[0, 0] * 2)


def joined(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Heads from one row of features and back into one, as a transformer block does."""
    q, k, v = (x.reshape(2, -1, 4, 24).transpose(1, 2) for x in (q, k, v))
    return plain(q, k, v).transpose(1, 2).contiguous().view(2, -1, 96)


def capped(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    s = 30 * torch.tanh(q @ k.transpose(-1, -2) / 30)
    return torch.softmax(s.float(), -1).to(q.dtype) @ v


def transposed(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Keys and values that lie column by column."""
    return torch.softmax(q @ k, -1) @ v.transpose(-1, -2)


WIDE, SMALL, DIRECT = Tiles(8, 6, 2, 48, 128), Tiles(8, 4, 1, 8, 16, 1, 0, 3), Tiles(8, 2, 4, 4, 32, 1, 1, 2)
def torchs(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def torchs_joined(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    y = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.4)
    return y.transpose(1, 2).reshape(y.shape[0], y.shape[2], -1)


def torchs_masked(q: Tensor, k: Tensor, v: Tensor, keep: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, keep)


CASES: dict[str, tuple[Callable[..., Any], Callable[[], list[Tensor]], Tiles]] = {
    "window": (window, qkv, Tiles(8, 6, 2, 12, 32)),
    "alibi": (alibi, lambda: [*qkv(), torch.rand(4)], SMALL),
    "joined": (joined, lambda: [torch.randn(2, 50, 96) for _ in range(3)], WIDE),
    "low_mask": (causal_finite, qkv, SMALL),
    "decode": (grouped, lambda: qkv(kv_heads=1, queries=1), DIRECT),
    "torchs": (torchs, qkv, SMALL),
    "fetched": (grouped, lambda: qkv(kv_heads=1, queries=1), Tiles(8, 4, 2, 4, 32, 1, 1, 2, 1)),
}
MORE: dict[str, tuple[Callable[..., Any], Callable[[], list[Tensor]], Tiles]] = {
    "plain": (plain, lambda: qkv(keys=70), WIDE),
    "given": (given, lambda: [*qkv(keys=40), torch.rand(50, 40) > 0.5], SMALL),
    "grouped": (grouped, lambda: qkv(kv_heads=1), Tiles(8, 6, 2, 48, 128, 1)),
    "safe": (safe, lambda: [*qkv(), torch.randn(50, 50)], SMALL),
    "rewritten": (rewritten, qkv, Tiles(8, 8, 1, 8, 24)),
    "capped_bf16": (capped, lambda: qkv(dtype=torch.bfloat16), WIDE),
    "window_fp16": (window, lambda: qkv(dtype=torch.float16), DIRECT),
    "decode_bf16": (grouped, lambda: qkv(kv_heads=1, queries=1, dtype=torch.bfloat16), DIRECT),
    "transposed": (transposed, lambda: [qkv()[0], *(torch.randn(2, 4, 24, 50) for _ in range(2))], SMALL),
    "padded": (padded, lambda: [*qkv(kv_heads=1, queries=1), torch.arange(50).expand(2, 50) > 9], DIRECT),
    "causal_padded": (causal_padded, lambda: [*qkv(), torch.arange(50).expand(2, 50) > 30], SMALL),
    "direct": (window, qkv, Tiles(8, 1, 8, 3, 64, 0, 1, 5)),
    "fetched_bf16": (window, lambda: qkv(dtype=torch.bfloat16), Tiles(8, 2, 4, 4, 32, 1, 1, 2, 1)),
    "sixteen_few": (plain, lambda: qkv(keys=70), Tiles(16, 2, 2, 4, 32, 0, 1, 2)),
    "torchs_joined": (torchs_joined, qkv, WIDE),
    "torchs_bf16": (torchs, lambda: qkv(dtype=torch.bfloat16), WIDE),
    "torchs_few": (torchs, lambda: qkv(queries=3), DIRECT),
    "torchs_masked": (torchs_masked, lambda: [*qkv(keys=40), torch.rand(50, 40) > 0.5], SMALL),
    "torchs_bias": (torchs_masked, lambda: [*qkv(), torch.randn(2, 1, 50, 50)], SMALL),
}
Built = tuple[dict[str, Region], dict[str, Kernel], ctypes.CDLL]


def region_of(fn: Callable[..., Any], args: list[Tensor]) -> Region:
    return trace(fn, args)[0].region


def build(cases: dict[str, Any], folder: Path) -> Built:
    torch.manual_seed(SEED)
    regions = {name: region_of(fn, make()) for name, (fn, make, _) in cases.items()}
    kernels = {n: write(r.signature, attention.parts_of(r.signature), cases[n][2]) for n, r in regions.items()}
    return regions, kernels, compile_all({n: k.text for n, k in kernels.items()}, folder)


@pytest.fixture(scope="module")
def quick(tmp_path_factory: Any) -> Built:
    return build(CASES, tmp_path_factory.mktemp("attention"))


@pytest.fixture(scope="module")
def more(tmp_path_factory: Any) -> Built:
    return build(MORE, tmp_path_factory.mktemp("attention_more"))


def check(built: Built, sizes: tuple[int, ...]) -> None:
    regions, kernels, library = built
    check_at(regions, kernels, library, sizes)


SIZES = (2, 3, 17)


def test_kernels_at_every_size(quick: Built) -> None:
    torch.manual_seed(SEED)
    check(quick, SIZES)


@pytest.mark.slow
def test_kernels_at_more_sizes(quick: Built) -> None:
    torch.manual_seed(SEED)
    check(quick, (5, 8, 33))


@pytest.mark.slow
def test_more_kernels_at_every_size(more: Built) -> None:
    torch.manual_seed(SEED)
    check(more, (*SIZES, 33))


def poisoned(built: Built, name: str, fill: float, which: int, at: int) -> tuple[Tensor, Tensor]:
    """Result and eager's where element `at` of the keys of input `which` is `fill`."""
    regions, kernels, library = built
    region = regions[name]
    inputs = random_inputs(region.signature, dict(region.sizes))
    inputs[which][0, 0, at, 3] = fill
    for t in inputs:
        if t.dtype == torch.bool:
            t[..., 10:] = name != "given"  # hides these keys: whole blocks of them
    space: dict[str, Any] = {"torch": torch, "aten": torch.ops.aten, "prims": torch.ops.prims, "inf": math.inf, "nan": math.nan}
    exec(region.reference, space)
    (want,) = space["reference"](*inputs, *[region.sizes[s] for s in region.signature.symbols])
    return run(getattr(library, name), kernels[name], region.signature, inputs)[0], want


FILLS = (math.nan, math.inf, -math.inf)


def not_finite(built: Built, name: str, fill: float) -> None:
    torch.manual_seed(SEED)
    region = built[0][name]
    for which, spec in enumerate(region.signature.inputs):
        if len(spec.shape) < 4:
            continue
        rows = spec.concrete(region.sizes).shape[-2]
        for at in {0, int(rows) - 1}:
            got, want = poisoned(built, name, fill, which, at)
            assert torch.equal(got.isnan(), want.isnan()), (which, at)
            assert torch.equal(got.isinf(), want.isinf()), (which, at)


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("name", ["window", "low_mask", "decode"])
def test_values_that_are_not_finite_stay_where_eager_has_them(quick: Built, name: str, fill: float) -> None:
    """In a key, a query or a value, also one that a mask hides: 0 * inf is NaN."""
    not_finite(quick, name, fill)


@pytest.mark.slow
@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("name", ["given", "padded", "causal_padded", "direct", "safe", "transposed", "torchs_bias"])
def test_more_values_that_are_not_finite_stay_where_eager_has_them(more: Built, name: str, fill: float) -> None:
    not_finite(more, name, fill)


@pytest.mark.parametrize("fill", FILLS)
def test_no_masked_value_has_a_part_in_torchs(quick: Built, fill: float) -> None:
    """Torch multiplies some of them by 0, as its blocks fall."""
    regions, kernels, library = quick
    torch.manual_seed(SEED)
    region = regions["torchs"]
    q, k, v = random_inputs(region.signature, dict(region.sizes))
    (usual,) = run(library.torchs, kernels["torchs"], region.signature, [q, k, v])
    at = v.shape[-2] // 2
    v[0, 1, at, 3] = fill
    (got,) = run(library.torchs, kernels["torchs"], region.signature, [q, k, v])
    hit = torch.zeros_like(usual, dtype=torch.bool)
    hit[0, 1, at:, 3] = True
    torch.testing.assert_close(got[~hit], usual[~hit])
    assert bool((got[hit].isnan() if math.isnan(fill) else got[hit] == fill).all())
    k[0, 0, at, 2] = fill  # scores of this key, where it is not masked
    q[1, 2, 7] = fill
    (got,) = run(library.torchs, kernels["torchs"], region.signature, [q, k, v])
    assert bool(got[0, 0, :at].isfinite().all()) and not bool(got[1, 2, 7].isfinite().any())


def test_rows_without_a_key(quick: Built) -> None:
    """A mask of -inf leaves NaN, one of a finite number the mean of all values, and scores below that number count as eager's."""
    regions, kernels, library = quick
    region = regions["low_mask"]
    q, k, v = random_inputs(region.signature, dict(region.sizes))
    got = run(library.low_mask, kernels["low_mask"], region.signature, [q, k, v])[0]
    torch.testing.assert_close(got[..., 0, :], v.mean(-2).reshape_as(got[..., 0, :]), rtol=1e-4, atol=1e-5)
    low = [q.abs() * -300, k.abs() * 300, v]  # every score that is not masked is lower than the masked ones
    compare(region, low, run(library.low_mask, kernels["low_mask"], region.signature, low), "low scores")


@pytest.mark.slow
def test_rows_without_a_key_are_nan_or_zero(more: Built) -> None:
    regions, kernels, library = more
    region = regions["given"]
    inputs = random_inputs(region.signature, dict(region.sizes))
    which = next(n for n, t in enumerate(inputs) if t.dtype == torch.bool)
    inputs[which][7] = False
    got = run(library.given, kernels["given"], region.signature, inputs)[0]
    assert got.isnan().any(-1).reshape(8, -1)[:, 7].all() and got.isnan().sum() == 8 * 24
    region = regions["safe"]
    inputs = random_inputs(region.signature, dict(region.sizes))
    which = next(n for n, t in enumerate(inputs) if t.dim() == 2)
    inputs[which][7] = -math.inf
    got = run(library.safe, kernels["safe"], region.signature, inputs)[0]
    assert (got.reshape(8, 50, 24)[:, 7] == 0).all() and got.isfinite().all()


def test_keys_that_a_mask_empties_are_not_visited(tmp_path: Path) -> None:
    """Products of six queries and sixteen keys are counted, against those in which the window leaves some key."""
    torch.manual_seed(SEED)
    region = region_of(window, qkv())
    kernel = write(region.signature, attention.parts_of(region.signature), Tiles(8, 6, 2, 12, 32))
    counted = kernel.text.replace("panel_dots<6, 2, L>(", "visits += 1, panel_dots<6, 2, L>(")
    counted = counted.replace(
        'extern "C" void kernel',
        'static int visits = 0;\nextern "C" int kernel_visits() { return visits; }\nextern "C" void kernel',
    )
    counted = counted.replace("#pragma omp", "//")
    library = compile_all({"counted": counted}, tmp_path)
    inputs = random_inputs(region.signature, dict(region.sizes))
    run(library.counted, kernel, region.signature, inputs)
    some = lambda i, last_i, j, last_j: j <= last_i and last_j > i - 9  # noqa: E731
    few = sum(
        some(i, min(i + 5, r0 + 11, 49), j, j + 15)
        for r0 in range(0, 50, 12) for j0 in (0, 32) if some(r0, min(49, r0 + 11), j0, min(49, j0 + 31))
        for i in range(r0, min(50, r0 + 12), 6) for j in (j0, j0 + 16)
    )  # fmt: skip
    assert library.kernel_visits() == 8 * few < 8 * 9 * 4


def first_of(q: Tensor, k: Tensor, v: Tensor) -> Any:
    w = torch.softmax(q @ k.transpose(-1, -2), -1)
    return w @ v, w


REFUSED: dict[str, tuple[Callable[..., Any], str]] = {
    "product": (lambda q, k, v: q @ k.transpose(-1, -2), "no softmax|made of"),
    "two results": (first_of, "more than one result"),
    "relu": (lambda q, k, v: torch.relu(q @ k.transpose(-1, -2)) @ v, "no softmax"),
    "columns": (lambda q, k, v: torch.softmax(q @ k.transpose(-1, -2), -2) @ v, "no softmax"),
    "thrown away": (lambda q, k, v: (torch.softmax(q @ k.transpose(-1, -2), -1) * (v.sum() > 0)) @ v, "no softmax"),
    "scores twice": (lambda q, k, v: torch.softmax(q @ k.transpose(-1, -2) + k @ q.transpose(-1, -2), -1) @ v, "2 products"),
    "transposed": (lambda q, k, v: torch.softmax((q @ k.transpose(-1, -2)).transpose(-1, -2), -1) @ v, "transposed"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_attention_is_refused(name: str) -> None:
    fn, reason = REFUSED[name]
    region = region_of(fn, qkv())
    with pytest.raises(Refused, match=reason):
        attention.parts_of(region.signature)
    assert ScheduleProposer().refuses(region, ARCH) is not None
    assert ScheduleProposer().propose(region, ARCH, [], 4) == []


def test_candidates_differ_in_their_choices() -> None:
    found = ScheduleProposer().propose(region_of(window, qkv(queries=300, keys=300)), ARCH, [], 6)
    assert len(found) == 6
    assert len({tuple(c.source.schedule.items()) for c in found}) == 6


def test_repeated_keys_are_one() -> None:
    """Of a group of heads that share keys, only one set is packed, and the panels do not depend on the group."""
    region = region_of(grouped, qkv(kv_heads=1))
    parts = attention.parts_of(region.signature)
    shared = [a for a in parts.outer if a not in parts.key.axes]
    assert len(shared) == 1 and problem(parts, region.sizes).group == 4


def test_every_choice_satisfies_its_constraints() -> None:
    parts = attention.parts_of(region_of(plain, qkv()).signature)
    for change in ({}, {"queries": 1}, {"depth": 128, "columns": 128}, {"queries": 4096, "keys": 4096}, {"depth": 500}):
        asked = dataclasses.replace(problem(parts, {"s0": 2, "s1": 4, "s2": 512, "s3": 64}), **change)
        found = choose(asked, ARCH)
        assert found
        for t in found:
            assert t.mr * t.nv + t.nv + 1 <= 16 and t.rows % t.mr == 0 and t.keys % (t.nv * t.lanes) == 0
            assert 4 * t.keys * (asked.depth + asked.columns) <= 262144 and 4 * t.mr * t.keys <= 32768


def test_keys_beyond_the_second_cache_may_be_fetched_ahead() -> None:
    """With and without, side by side; what is packed into panels or lies in the cache is not."""
    parts = attention.parts_of(region_of(grouped, qkv(kv_heads=1, queries=1)).signature)
    asked = problem(parts, {"s0": 2, "s1": 4, "s2": 512, "s3": 64})
    far = choose(dataclasses.replace(asked, keys=65536), ARCH)
    assert [t.ahead for t in far[:4]] == [1, 0, 1, 0] and far[1] == dataclasses.replace(far[0], ahead=0)
    for near in ({"keys": 64}, {"keys": 65536, "queries": 512}):
        assert not any(t.ahead for t in choose(dataclasses.replace(asked, **near), ARCH))
