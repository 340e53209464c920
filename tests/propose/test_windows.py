"""Pools and small convolutions: kernels against eager over sizes, strides, padding, dilation and dtypes; special values; what is
refused."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.propose.running import compare, compile_all, random_inputs, run
from torch_autokernel.capture.whole import capture_whole
from torch_autokernel.core.errors import CaptureError
from torch_autokernel.core.types import Region
from torch_autokernel.core.windows import Window
from torch_autokernel.propose.choices import Schedule
from torch_autokernel.propose.index import Refused
from torch_autokernel.propose.kernel import Kernel, generate

SEED = 20261129
aten, prims = torch.ops.aten, torch.ops.prims


def randn(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape).to(dtype)


def pooled(*window: Any) -> Callable[[torch.Tensor], Any]:
    """Values and offsets, as the forward graph of a training has them."""
    return lambda x: tuple(prims._low_memory_max_pool_with_offsets(x, *window))


def turned(*shape: int) -> torch.Tensor:
    return randn(*shape).to(memory_format=torch.channels_last)


def convolved(**more: Any) -> Callable[..., torch.Tensor]:
    return lambda x, w, b=None: torch.convolution(x, w, b, *_geometry(w.dim() - 2, **more))


def _geometry(n: int, stride: int = 1, padding: int = 0, dilation: int = 1, groups: int = 1) -> tuple[Any, ...]:
    return [stride] * n, [padding] * n, [dilation] * n, False, [0] * n, groups


def max_gradient(kernel: int, size: tuple[int, int], stride: int | None = None, padding: int = 0) -> Callable[..., torch.Tensor]:
    """As AOTAutograd writes it."""
    steps = [stride or kernel] * 2

    def gradient(offsets: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        rows = offsets.shape[0] * offsets.shape[1]
        at = prims._low_memory_max_pool_offsets_to_indices(offsets, [kernel] * 2, list(size), steps, [padding] * 2, [1, 1])
        zeros = torch.zeros(rows, size[0] * size[1], dtype=g.dtype)
        return zeros.scatter_add(1, at.reshape(rows, -1), g.reshape(rows, -1)).reshape(*offsets.shape[:2], *size)

    return gradient


def places(kernel: int, size: tuple[int, int], stride: int, padding: int = 0, ceil: bool = False) -> list[torch.Tensor]:
    """Where the maxima of some images are, and a gradient."""
    image = randn(2, 3, *size).mul(2).round()
    _values, found = prims._low_memory_max_pool_with_offsets(image, [kernel] * 2, [stride] * 2, [padding] * 2, [1, 1], ceil)
    return [found, randn(*found.shape)]


def avg_gradient(*window: Any) -> Callable[..., torch.Tensor]:
    return lambda g, x: aten.avg_pool2d_backward(g, x, *window)


def indexed(x: torch.Tensor) -> Any:
    values, places = prims._low_memory_max_pool_with_offsets(x, [3, 2], [2, 2], [1, 0], [1, 1], False)
    return values, prims._low_memory_max_pool_offsets_to_indices(places, [3, 2], list(x.shape[-2:]), [2, 2], [1, 0], [1, 1])


def offsets(*shape: int, taps: int) -> torch.Tensor:
    return torch.randint(0, taps, shape).to(torch.int8)


CASES: dict[str, tuple[Callable[..., Any], Callable[[], list[torch.Tensor]]]] = {
    "max2": (lambda x: F.max_pool2d(x, 2), lambda: [randn(2, 3, 24, 26)]),
    "max2_odd": (lambda x: F.max_pool2d(x, 2), lambda: [randn(3, 2, 7, 35)]),
    "max2_bf16": (lambda x: F.max_pool2d(x, 2), lambda: [randn(2, 3, 10, 38, dtype=torch.bfloat16)]),
    "max2_f64": (lambda x: F.max_pool2d(x, 2), lambda: [randn(2, 3, 10, 38, dtype=torch.float64)]),
    "max2_last": (lambda x: F.max_pool2d(x, 2), lambda: [turned(2, 19, 6, 8)]),
    "max3s2p1": (lambda x: F.max_pool2d(x, 3, 2, 1), lambda: [randn(2, 3, 15, 36)]),
    "max3s1p1": (lambda x: F.max_pool2d(x, 3, 1, 1), lambda: [randn(2, 3, 9, 33)]),
    "max_gaps": (lambda x: F.max_pool2d(x, 3, 2, 1, 2, True), lambda: [randn(2, 3, 16, 21)]),
    "max3_ceil": (lambda x: F.max_pool2d(x, 3, 2, 0, 1, True), lambda: [randn(2, 3, 16, 20)]),
    "max_uneven": (lambda x: F.max_pool2d(x, (2, 3), (3, 1), (0, 1)), lambda: [randn(2, 3, 11, 22)]),
    "max_three_dims": (lambda x: F.max_pool2d(x, 2), lambda: [randn(3, 8, 18)]),
    "max1d": (lambda x: F.max_pool1d(x, 3, 2), lambda: [randn(2, 5, 75)]),
    "max3d": (lambda x: F.max_pool3d(x, 2), lambda: [randn(2, 2, 4, 6, 22)]),
    "max3d_3s2p1": (lambda x: F.max_pool3d(x, 3, 2, 1), lambda: [randn(2, 2, 5, 6, 23)]),
    "max3d_gaps": (lambda x: F.max_pool3d(x, 2, 1, 1, 2), lambda: [randn(2, 2, 5, 6, 23).round()]),
    "avg3d": (lambda x: F.avg_pool3d(x, 2), lambda: [randn(2, 2, 4, 6, 22)]),
    "avg3d_3s2p1": (lambda x: F.avg_pool3d(x, 3, 2, 1), lambda: [randn(2, 2, 5, 6, 23)]),
    "avg3d_valid": (lambda x: F.avg_pool3d(x, (2, 3, 1), (1, 2, 2), (1, 1, 0), True, False), lambda: [randn(2, 2, 5, 6, 23)]),
    "avg3d_divisor": (lambda x: F.silu(F.avg_pool3d(x, 2, divisor_override=3)), lambda: [turned(2, 16, 6, 8).reshape(2, 4, 4, 6, 8)]),
    "relu_max2": (lambda x: F.max_pool2d(F.relu(x), 2), lambda: [randn(2, 3, 24, 26)]),
    "offsets2": (pooled([2, 2], [2, 2], [0, 0], [1, 1], False), lambda: [randn(2, 3, 8, 34).round()]),
    "offsets3s2p1": (pooled([3, 3], [2, 2], [1, 1], [1, 1], False), lambda: [randn(2, 3, 8, 34).round()]),
    "offsets_gaps": (pooled([3, 3], [2, 2], [1, 1], [2, 2], True), lambda: [randn(2, 3, 9, 34, dtype=torch.bfloat16)]),
    "indices": (indexed, lambda: [randn(2, 3, 9, 34)]),
    "max_gradient2": (max_gradient(2, (8, 34)), lambda: [offsets(2, 3, 4, 17, taps=4), randn(2, 3, 4, 17)]),
    "max_gradient3": (max_gradient(3, (9, 27)), lambda: [offsets(2, 3, 3, 9, taps=9), randn(2, 3, 3, 9)]),
    "max_gradient3s2p1": (max_gradient(3, (8, 34), 2, 1), lambda: places(3, (8, 34), 2, 1)),
    "max_gradient3s2": (max_gradient(3, (10, 36), 2), lambda: places(3, (10, 36), 2)),
    "max_gradient3s1p1": (max_gradient(3, (5, 21), 1, 1), lambda: places(3, (5, 21), 1, 1)),
    "max_gradient5s3p2": (max_gradient(5, (12, 39), 3, 2), lambda: places(5, (12, 39), 3, 2, ceil=True)),
    "max_gradient2s3": (max_gradient(2, (9, 27), 3), lambda: places(2, (9, 27), 3)),
    "max_gradient_bf16": (
        max_gradient(3, (8, 34), 2, 1), lambda: [t.bfloat16() if k else t for k, t in enumerate(places(3, (8, 34), 2, 1))],
    ),
    "avg2": (lambda x: F.avg_pool2d(x, 2), lambda: [randn(2, 3, 24, 26)]),
    "avg3s2p1": (lambda x: F.avg_pool2d(x, 3, 2, 1, True), lambda: [randn(2, 3, 10, 24)]),
    "avg_valid": (lambda x: F.avg_pool2d(x, 3, 2, 1, True, False), lambda: [randn(2, 3, 10, 24)]),
    "avg_divisor": (lambda x: F.avg_pool2d(x, 3, 1, 1, divisor_override=5), lambda: [randn(2, 3, 10, 24, dtype=torch.bfloat16)]),
    "avg_gradient": (avg_gradient([2, 2], [2, 2], [0, 0], False, True, None), lambda: [randn(2, 3, 4, 17), randn(2, 3, 8, 34)]),
    "avg_gradient3s2p1": (
        avg_gradient([3, 3], [2, 2], [1, 1], False, True, None), lambda: [randn(2, 3, 4, 17), randn(2, 3, 8, 34)],
    ),
    "avg_gradient3s1": (
        avg_gradient([3, 3], [1, 1], [1, 1], False, False, None), lambda: [randn(2, 3, 8, 34), randn(2, 3, 8, 34)],
    ),
    "avg_gradient_ceil": (
        avg_gradient([3, 2], [2, 1], [1, 0], True, False, None), lambda: [randn(2, 3, 5, 33), randn(2, 3, 8, 34)],
    ),
    "causal": (lambda x, w, b: F.conv1d(F.pad(x, (3, 0)), w, b, groups=5), lambda: [randn(2, 5, 37), randn(5, 1, 4), randn(5)]),
    "causal_silu_bf16": (
        lambda x, w, b: F.silu(F.conv1d(F.pad(x, (3, 0)), w, b, groups=5)),
        lambda: [randn(2, 5, 37, dtype=torch.bfloat16), randn(5, 1, 4, dtype=torch.bfloat16), randn(5, dtype=torch.bfloat16)],
    ),
    "depthwise": (convolved(padding=1, groups=6), lambda: [randn(2, 6, 9, 35), randn(6, 1, 3, 3)]),
    "depthwise_f64": (convolved(padding=1, groups=6), lambda: [randn(2, 6, 9, 35).double(), randn(6, 1, 3, 3).double()]),
    "depthwise_last": (convolved(padding=1, groups=19), lambda: [turned(2, 19, 6, 8), randn(19, 1, 3, 3)]),
    "depthwise_stride": (convolved(stride=2, padding=1, groups=6), lambda: [randn(2, 6, 9, 35), randn(6, 1, 3, 3), randn(6)]),
    "depthwise_dilated": (convolved(padding=2, dilation=2, groups=6), lambda: [randn(2, 6, 9, 35), randn(6, 1, 3, 3)]),
    "multiplied": (convolved(groups=3), lambda: [randn(2, 3, 9, 35), randn(6, 1, 3, 3), randn(6)]),
    "grouped": (convolved(stride=2, padding=1, groups=2), lambda: [randn(2, 4, 9, 31), randn(6, 2, 3, 3)]),
    "three_channels": (convolved(padding=1), lambda: [randn(2, 3, 9, 35), randn(7, 3, 3, 3), randn(7)]),
    "conv_relu_pool": (
        lambda x, w, b: F.max_pool2d(F.relu(F.conv2d(x, w, b)), 2), lambda: [randn(5, 1, 28, 28), randn(32, 1, 3, 3), randn(32)],
    ),
}  # fmt: skip


def region_of(name: str) -> tuple[Region, list[torch.Tensor]]:
    torch.manual_seed(SEED)
    fn, make = CASES[name]
    inputs = make()
    whole = capture_whole(fn, inputs)
    return whole.captured.region, [inputs[k] for k in whole.order]


Built = tuple[Mapping[str, Region], Mapping[str, list[torch.Tensor]], Mapping[str, Kernel], ctypes.CDLL]


VARIED = ("max2", "max3s2p1", "offsets3s2p1", "max_gradient2", "max_gradient3s2p1", "avg_gradient3s2p1", "causal", "depthwise_stride", "conv_relu_pool")


def build(names: Iterable[str], schedule: Schedule, folder: Path) -> Built:
    found = {name: region_of(name) for name in names}
    kernels = {name: generate(r.signature, schedule, r.sizes, 2) for name, (r, _x) in found.items()}
    library = compile_all({name: k.text for name, k in kernels.items()}, folder)
    return {n: r for n, (r, _x) in found.items()}, {n: x for n, (_r, x) in found.items()}, kernels, library


@pytest.fixture(scope="module")
def built(tmp_path_factory: Any) -> Built:
    return build(CASES, Schedule(lanes=16, fixed=1, serial_below=64), tmp_path_factory.mktemp("windows"))


def check(name: str, built: Built) -> None:
    """At the sizes at hand and at others."""
    regions, inputs, kernels, library = built
    signature = regions[name].signature
    compare(regions[name], inputs[name], run(getattr(library, name), kernels[name], signature, inputs[name]), name)
    if signature.symbols and "gradient" not in name:
        other = random_inputs(signature, dict.fromkeys(signature.symbols, 3))
        compare(regions[name], other, run(getattr(library, name), kernels[name], signature, other), f"{name}, other sizes")


@pytest.mark.parametrize("name", CASES)
def test_like_eager(name: str, built: Built) -> None:
    check(name, built)


def test_in_other_vectors_and_past_the_caches(tmp_path: Path) -> None:
    other = build(VARIED, Schedule(lanes=8, stream=1), tmp_path)
    for name in VARIED:
        check(name, other)
    assert "put_stream" not in other[2]["max2"].text  # rows of 13


@pytest.mark.parametrize("name", ["max2", "max3s2p1", "relu_max2", "max_gaps", "offsets2", "offsets3s2p1", "offsets_gaps"])
def test_nan_wins_and_so_does_the_first_of_equals(name: str, built: Built) -> None:
    """Also where whole windows are -inf: padding is never the greatest."""
    regions, inputs, kernels, library = built
    x = inputs[name][0].clone().flatten()
    x[torch.randperm(x.numel())[: x.numel() // 5]] = float("-inf")
    x[torch.randperm(x.numel())[: x.numel() // 9]] = float("nan")
    x[: x.numel() // 3] = float("-inf")
    special = [x.reshape(inputs[name][0].shape)]
    compare(regions[name], special, run(getattr(library, name), kernels[name], regions[name].signature, special), name)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["causal", "three_channels", "avg2"])
def test_special_values_reach_what_reads_them(name: str, value: float, built: Built) -> None:
    regions, inputs, kernels, library = built
    x = [t.clone() for t in inputs[name]]
    x[0].flatten()[::29] = value
    compare(regions[name], x, run(getattr(library, name), kernels[name], regions[name].signature, x), name)


def test_an_image_is_read_once_for_all_channels_of_the_result(built: Built) -> None:
    lines = built[2]["conv_relu_pool"].text.splitlines()
    loop = next(i for i, line in enumerate(lines) if "for (int64_t c0" in line)
    assert not any("x0 +" in line for line in lines[loop:]) and sum("x0 +" in line for line in lines[:loop]) == 16


def test_short_rows_end_with_a_whole_step(built: Built) -> None:
    assert "each_whole<L>" in built[2]["max2"].text


def test_windows_upon_windows_are_refused() -> None:
    def fn(x: torch.Tensor) -> torch.Tensor:
        for _ in range(4):
            x = F.max_pool2d(x, 3, 1, 1)
        return x

    region = capture_whole(fn, [randn(2, 3, 16, 16)]).captured.region
    with pytest.raises(Refused, match="windows upon windows"):
        generate(region.signature, Schedule(), region.sizes, 2)


def test_gradients_of_many_windows_at_one_place_are_refused() -> None:
    with pytest.raises(CaptureError, match="torch's own is better"):
        capture_whole(avg_gradient([4, 4], [1, 1], [1, 1], False, True, None), [randn(2, 3, 7, 7), randn(2, 3, 8, 8)])


@pytest.mark.parametrize("ceil", [False, True])
def test_count_of_windows_is_torchs(ceil: bool) -> None:
    for size in range(3, 14):
        for kernel, stride, padding, dilation in ((2, 2, 0, 1), (3, 2, 1, 1), (3, 1, 1, 1), (2, 3, 1, 1), (2, 3, 0, 2), (3, 3, 1, 1)):
            want = F.max_pool1d(torch.zeros(1, 1, size), kernel, stride, padding, dilation, ceil).shape[-1]
            assert Window.of([kernel], [stride], [padding], [dilation]).count(0, size, ceil) == want
