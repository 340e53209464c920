"""Rows in groups: the same results as one by one, whatever is kept, parked or shared, for full groups and others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.propose.running import AVX2, check_at, check_guarded, compile_all
from tests.propose.tracing import trace
from torch_autokernel.core.types import Region
from torch_autokernel.propose.choices import Schedule, schedules
from torch_autokernel.propose.kernel import generate

Tensor = torch.Tensor
SEED = 20261130
R = torch.randn


def rms_norm(x: Tensor, w: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * w


def parked_in_an_own_result(x: Tensor) -> Any:
    """Its axes lie in another order there, so they are no single loop."""
    e = torch.exp(x)
    return e.permute(0, 2, 1, 3).contiguous(), e / e.sum((1, 2, 3), keepdim=True)


def parked_though_shared(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
    e = torch.exp(w)
    return (y / (x * e).sum(-1, keepdim=True)) * e


def counted(x: Tensor) -> Any:
    """Numbers, truth values and doubles of a row."""
    many = (x > 0).sum(-1, keepdim=True)
    return torch.where((x > 1).any(-1, keepdim=True), x * many, x.double().mean(-1, keepdim=True).float() - x), many


def beside(x: Tensor) -> Any:
    """A row's own results beside those of its elements."""
    mean = x.mean(-1, keepdim=True)
    return (x - mean) * 2, mean, x.amax(-1)


CASES: dict[str, tuple[Callable[..., Any], list[Tensor], bool]] = {  # function, inputs, whether groups are expected
    "rms_norm": (rms_norm, [R(37, 300), R(300)], True),
    "layer_norm": (lambda x, w, b: F.layer_norm(x, (4, 50), w, b), [R(11, 4, 50), R(4, 50), R(4, 50)], True),
    "softmax": (lambda x: torch.softmax(x, -1), [R(5, 6, 70)], True),
    "half": (lambda x, w: F.rms_norm(x, (90,), w), [R(21, 90).bfloat16(), R(90).bfloat16()], True),
    "own": (parked_in_an_own_result, [R(6, 4, 3, 40)], False),
    "shared": (parked_though_shared, [R(3, 40).abs() + 1, R(3, 40), R(40)], True),
    "counted": (counted, [R(19, 66)], True),
    "beside": (beside, [R(19, 66)], True),
}
SCHEDULES = [
    Schedule(lanes=8, together=3), Schedule(lanes=16, together=4, stream=1, serial_below=0, fixed=1),
    Schedule(lanes=8, together=2, park=0, serial_below=0),
]  # fmt: skip


@pytest.fixture(scope="module")
def regions() -> dict[str, Region]:
    torch.manual_seed(SEED)
    return {name: trace(function, inputs)[0].region for name, (function, inputs, _grouped) in CASES.items()}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_case(schedule: Schedule, regions: dict[str, Region], tmp_path: Path) -> None:
    torch.manual_seed(SEED)
    kernels = {name: generate(region.signature, schedule, region.sizes, 2) for name, region in regions.items()}
    grouped = {name for name, kernel in kernels.items() if "each_back<L>(" in kernel.text}
    assert grouped == {name for name, (_function, _inputs, expected) in CASES.items() if expected or name == "own" and not schedule.park}
    check_at(regions, kernels, compile_all({n: k.text for n, k in kernels.items()}, tmp_path), (1, 2, 3, 17))


def test_nothing_is_read_beyond_the_buffers(regions: dict[str, Region], tmp_path: Path) -> None:
    """Also by what fetches the next rows, which is for large sizes."""
    names = ["rms_norm", "layer_norm", "softmax"]
    kernels = {n: generate(regions[n].signature, SCHEDULES[1], dict.fromkeys(regions[n].signature.symbols, 2048), 2) for n in names}
    assert "prefetch<L>(" in kernels["rms_norm"].text
    compile_all({n: k.text for n, k in kernels.items()}, tmp_path)
    check_guarded(regions, kernels, tmp_path)


def test_long_rows_from_memory_are_tried_together() -> None:
    def groups(*shape: int) -> set[int]:
        region = trace(rms_norm, [R(*shape), R(shape[-1])])[0].region
        return {s.together for s in schedules(region, AVX2) if isinstance(s, Schedule)}

    assert groups(300, 4096) == {1, 4}
    assert groups(3000, 512) == groups(80, 80000) == {1}


def test_rows_in_the_cache_are_tried_together() -> None:
    """Where a row's sum waits for the next step, other rows are at work."""
    region = trace(rms_norm, [R(64, 768), R(768)])[0].region
    assert [s.together for s in schedules(region, AVX2)].index(4) <= 3
    (alone,) = [trace(lambda x: torch.tanh(x) * 2, [R(64, 768)])[0].region]
    assert {s.together for s in schedules(alone, AVX2)} == {1}
