"""Mean and squared deviations in one pass are as good as in two, for every tail, on data that such sums usually fail on."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.propose.running import compare, compile_all, run
from tests.propose.tracing import trace
from torch_autokernel.core.types import Region
from torch_autokernel.propose.choices import Schedule
from torch_autokernel.propose.kernel import Kernel, generate

SEED = 20261129


def whole(x: torch.Tensor) -> Any:
    var, mean = torch.var_mean(x, correction=0)
    return var, mean, (x - mean) * torch.rsqrt(var + 1e-5)


def last(x: torch.Tensor) -> Any:
    var, mean = torch.var_mean(x, -1, correction=0, keepdim=True)
    return var, mean, (x - mean) * torch.rsqrt(var + 1e-5)


def turned(x: torch.Tensor) -> Any:
    var, mean, y = last(x)
    return var, mean, (y + torch.exp(x)).t().contiguous()


def columns(x: torch.Tensor) -> Any:
    return torch.var_mean(x, (0, 2), correction=1)


def unbiased(x: torch.Tensor) -> torch.Tensor:
    return x.var(-1)


def grouped(x: torch.Tensor) -> torch.Tensor:
    return F.group_norm(x, 3)


def strided(x: torch.Tensor) -> Any:
    return torch.var_mean(x[:, :-1], correction=0)


# function, an input's shape, threads, accumulators and blocks that its text must show
CASES: dict[str, tuple[Callable[..., Any], tuple[int, ...], int, str]] = {
    "last": (last, (3, 1000), 2, "squares<float, L>"),
    "turned": (turned, (40, 1000), 2, "squares_each<float, L>"),
    "whole": (whole, (70001,), 2, "merge(t"),
    "kept": (last, (3, 70001), 8, "merge(t"),
    "strided": (strided, (301, 300), 2, "merge(t"),
    "columns": (columns, (5, 3, 301), 2, "squares<float, L>"),
    "unbiased": (unbiased, (5, 1000), 2, "squares<float, L>"),
    "grouped": (grouped, (2, 6, 501), 2, "squares<float, L>"),
}  # fmt: skip

ROWS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "normal": lambda z: z,
    "offset": lambda z: 1e4 + 0.01 * z,
    "drift": lambda z: z + torch.linspace(-1e4, 1e4, z.shape[-1], dtype=z.dtype),
    "first": lambda z: torch.cat((z[..., :1] + 1e6, z[..., 1:]), -1),
    "first step": lambda z: torch.cat((z[..., :16] + 1e6, z[..., 16:]), -1),
    "last": lambda z: torch.cat((z[..., :-1], z[..., -1:] + 1e6), -1),
    "steps": lambda z: z * 1e-3 + (torch.arange(z.shape[-1]) // 700 * 1e3),
    "small": lambda z: z * 1e-15,
    "large": lambda z: z * 1e15,
}  # fmt: skip


@pytest.fixture(scope="module")
def regions() -> dict[str, Region]:
    torch.manual_seed(SEED)
    with torch.no_grad():
        return {name: trace(fn, [torch.randn(shape)])[0].region for name, (fn, shape, _threads, _text) in CASES.items()}


@pytest.fixture(scope="module")
def built(regions: dict[str, Region], tmp_path_factory: Any) -> tuple[dict[str, Kernel], ctypes.CDLL]:
    schedule = Schedule(lanes=16, moments=1, blocks=5)
    kernels = {n: generate(r.signature, schedule, r.sizes, CASES[n][2]) for n, r in regions.items()}
    return kernels, compile_all({n: k.text for n, k in kernels.items()}, tmp_path_factory.mktemp("moments"))


@pytest.fixture(scope="module")
def twice(regions: dict[str, Region], tmp_path_factory: Any) -> tuple[dict[str, Kernel], ctypes.CDLL]:
    schedule = Schedule(lanes=16, moments=2, blocks=5)
    kernels = {n: generate(r.signature, schedule, r.sizes, CASES[n][2]) for n, r in regions.items()}
    assert not any("squares" in k.text for k in kernels.values())
    return kernels, compile_all({n: k.text for n, k in kernels.items()}, tmp_path_factory.mktemp("twice"))


def kernel(regions: dict[str, Region], built: Any, name: str) -> Callable[[torch.Tensor], list[torch.Tensor]]:
    kernels, library = built
    return lambda x: run(getattr(library, name), kernels[name], regions[name].signature, [x])


@pytest.mark.parametrize("name", CASES)
def test_one_pass(name: str, regions: dict[str, Region], built: Any) -> None:
    assert CASES[name][3] in built[0][name].text
    call, region = kernel(regions, built, name), regions[name]
    fixed = name in ("grouped", "strided")
    for shape in (CASES[name][1], *(() if fixed else (tuple(n + 1 for n in CASES[name][1][:-1]) + (n,) for n in (6, 31, 2050)))):
        x = torch.randn(shape)
        compare(region, [x], call(x), f"{name} {shape}")


def test_every_tail(regions: dict[str, Region], built: Any) -> None:
    call = kernel(regions, built, "last")
    for n in (*range(5, 150), *range(1020, 1060), 16 * (64 + 127) + 1, 16 * 64 * 9 - 1):
        x = torch.randn(2, n) + 3
        var, mean, _y = call(x)
        torch.testing.assert_close(var[:, 0].double(), x.double().var(-1, correction=0), rtol=1e-6, atol=0)
        torch.testing.assert_close(mean[:, 0].double(), x.double().mean(-1), rtol=1e-6, atol=0)


@pytest.mark.parametrize("data", ROWS)
@pytest.mark.parametrize("name", ["last", "turned", "kept", "whole"])
def test_hard_data(name: str, data: str, regions: dict[str, Region], built: Any) -> None:
    torch.manual_seed(SEED)
    for n in (100, 5000, 70001):
        shape = (n,) if name == "whole" else (3, n)
        x = ROWS[data](torch.randn(shape, dtype=torch.float64)).float()
        got = kernel(regions, built, name)(x)
        exact = torch.var_mean(x.double(), -1, correction=0)
        torch.testing.assert_close(got[0].double().reshape(exact[0].shape), exact[0], rtol=2e-6, atol=0)
        torch.testing.assert_close(got[1].double().reshape(exact[1].shape), exact[1], rtol=1e-6, atol=1e-6 * x.abs().mean().item())


@pytest.mark.parametrize("name", ["last", "turned", "kept", "whole"])
def test_constant_rows_have_no_variance(name: str, regions: dict[str, Region], built: Any) -> None:
    for value in (0.0, 0.1, -12345.678, 1e-20, 3e18):
        x = torch.full((3000,) if name == "whole" else (2, 3000), value)
        var, mean = kernel(regions, built, name)(x)[:2]
        torch.testing.assert_close(mean, torch.full_like(mean, value), rtol=1e-6, atol=0)
        assert (var <= (1e-6 * value) ** 2).all() and (var >= 0).all()


@pytest.mark.parametrize("name", ["last", "turned", "kept", "whole"])
def test_special_values_are_those_of_two_passes(name: str, regions: dict[str, Region], built: Any, twice: Any) -> None:
    nan, inf = float("nan"), float("inf")
    once, two = kernel(regions, built, name), kernel(regions, twice, name)
    for at in (0, 1, 17, 999, 2999):
        for put in ([nan], [inf], [-inf], [inf, -inf], [inf, nan]):
            x = torch.randn(3000)
            x[torch.tensor([at, (at + 1500) % 3000])[: len(put)]] = torch.tensor(put)
            x = x if name == "whole" else torch.stack((torch.randn(3000), x))
            for mine, theirs in zip(once(x), two(x), strict=True):
                torch.testing.assert_close(mine, theirs, equal_nan=True, rtol=1e-5, atol=1e-5)
    x = torch.randn(3000).sign() * 1e25  # squares beyond the range
    x = x if name == "whole" else x[None]
    assert torch.isposinf(once(x)[0]).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision(dtype: torch.dtype, tmp_path: Any) -> None:
    torch.manual_seed(SEED)
    w, b = torch.randn(2049, dtype=dtype), torch.randn(2049, dtype=dtype)
    x = (torch.randn(3, 2049) * 0.5 + 7).to(dtype)
    with torch.no_grad():
        (captured,) = trace(lambda x, w, b: F.layer_norm(x, (x.shape[-1],), w, b), [x, w, b])
    made = generate(captured.region.signature, Schedule(lanes=16, moments=1), captured.region.sizes, 2)
    assert "squares<" in made.text
    library = compile_all({"low": made.text}, tmp_path)
    inputs = [{tuple(t.shape): t for t in (x,)}.get(tuple(s.concrete(captured.region.sizes).shape), w) for s in captured.region.signature.inputs]
    inputs[-1] = b if inputs[-1] is w else inputs[-1]
    compare(captured.region, inputs, run(library.low, made, captured.region.signature, inputs), str(dtype))


def test_long_rows_are_read_once_short_ones_as_before() -> None:
    with torch.no_grad():
        for n, once in ((1000, False), (100_000, True)):
            (captured,) = trace(last, [torch.randn(4, n)])
            text = generate(captured.region.signature, Schedule(), captured.region.sizes, 2).text
            assert ("squares<" in text) == once and (text.count("get<ak::f32>(x0 ") == 2) == once
            assert "moments" not in text.partition("\n#include")[0]
            twice = generate(captured.region.signature, Schedule(moments=2), captured.region.sizes, 2).text
            assert "squares<" not in twice
