"""Pools and small convolutions as regions: what a region holds, where it ends, and what stands in for it."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from functorch.compile import aot_function, min_cut_rematerialization_partition

from tests.capture.engines import ReferenceEngine
from torch_autokernel.capture.backend import autokernel
from torch_autokernel.capture.decompositions import inductor_table
from torch_autokernel.capture.partition import partition
from torch_autokernel.capture.signature import Captured
from torch_autokernel.capture.whole import capture_whole, region_of, trace
from torch_autokernel.core.errors import CaptureError

Tensor = torch.Tensor
X, ONE, TAPS, BIAS = torch.randn(2, 8, 12, 14), torch.randn(2, 1, 12, 14), torch.randn(8, 1, 3, 3), torch.randn(8)


def regions(fn: Any, *args: Tensor) -> list[Captured]:
    return partition(trace(fn, args)[0].graph).regions


def names(captured: Captured) -> list[str]:
    return [str(n.target).removeprefix("aten.").partition(".")[0] for n in captured.members if "getitem" not in str(n.target)]


def test_a_pool_is_traced_in_a_fresh_process() -> None:
    """Its decomposition needs a module of Inductor's that nothing else may have imported."""
    text = (
        "import torch, sys\nfrom torch_autokernel.capture.whole import capture_whole\n"
        "whole = capture_whole(lambda x: torch.nn.functional.max_pool2d(torch.relu(x), 2), [torch.randn(2, 3, 8, 8)])\n"
        "print([op.target for op in whole.captured.region.signature.ops])"
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True)
    assert "'aten.relu.default', 'aten.max_pool2d_with_indices.default'" in done.stdout, done.stderr[-600:]


def test_other_functions_do_not_import_the_lowerings() -> None:
    text = (
        "import torch, sys\nfrom torch_autokernel.capture.whole import capture_whole\n"
        "capture_whole(torch.relu, [torch.randn(4)])\nprint('torch._inductor.lowering' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr[-600:]


def test_batch_and_channels_stay_symbolic_and_images_are_constants() -> None:
    signature = capture_whole(lambda x: F.max_pool2d(x, 2), [X]).captured.region.signature
    assert signature.inputs[0].shape == ("s0", "s1", 12, 14) and signature.output_specs[0].shape == ("s0", "s1", 6, 7)


def test_a_small_convolution_is_joined_with_what_stands_behind_it() -> None:
    (found,) = regions(lambda x, w, b: F.max_pool2d(F.relu(F.conv2d(x, w, b)), 2), ONE, TAPS, BIAS)
    assert names(found) == ["convolution", "relu", "prims"]
    (rest,) = found.parts  # asked for where torch's convolution is faster
    assert names(rest) == ["relu", "prims"]


def test_a_large_convolution_stays_torchs() -> None:
    fn = lambda x, w: F.max_pool2d(F.relu(F.conv2d(x, w)), 2)  # noqa: E731
    (found,) = regions(fn, X, torch.randn(4, 8, 3, 3))
    assert names(found) == ["relu", "prims"] and found.parts == ()
    with pytest.raises(CaptureError, match="torch's own is better"):
        capture_whole(fn, [X, torch.randn(4, 8, 3, 3)])
    assert "convolution" in region_of(fn, [X, torch.randn(4, 8, 3, 3)]).reference  # somebody may write a kernel


@pytest.mark.parametrize("more", [{"transposed": True}, {"kernel": (8, 1, 6, 6)}])
def test_other_convolutions_are_not_held(more: dict[str, Any]) -> None:
    kernel = torch.randn(more.get("kernel", (8, 1, 3, 3)))
    fn = lambda x, w: torch.convolution(x, w, None, [1, 1], [0, 0], [1, 1], "transposed" in more, [0, 0], 8) + 1  # noqa: E731
    assert all("convolution" not in names(c) for c in regions(fn, X, kernel))


def test_overlapping_windows_begin_behind_what_is_costly_to_make() -> None:
    found = regions(lambda x: F.max_pool2d(torch.sigmoid(x), 3, 1, 1), X)
    assert [names(c) for c in found] == [["sigmoid"], ["prims"]]
    found = regions(lambda x: F.max_pool2d(torch.sigmoid(x), 2), X)
    assert [names(c) for c in found] == [["sigmoid", "prims"]]
    found = regions(lambda x: F.max_pool2d(F.relu(x), 3, 1, 1), X)
    assert [names(c) for c in found] == [["relu", "prims"]]
    found = regions(lambda x, w: F.conv2d(F.conv2d(x, w, groups=8), w, groups=8), X, TAPS)
    assert [names(c) for c in found] == [["convolution"], ["convolution"]]


def test_windows_of_many_elements_stay_torchs() -> None:
    assert regions(lambda x: F.max_pool2d(x, 6), X) == []
    assert regions(lambda x: F.avg_pool2d(x, 6), X) == []


def test_places_of_maxima_in_three_dimensions_stay_torchs() -> None:
    x = torch.randn(2, 3, 8, 8, 8)
    (found,) = regions(lambda x: F.max_pool3d(x, 3, 2, 1), x)
    assert names(found) == ["max_pool3d_with_indices"]
    assert regions(lambda x: F.max_pool3d(x, 3, 2, 1, return_indices=True), x) == []


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Conv2d(1, 8, 3), torch.nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.line = torch.nn.Conv1d(8, 8, 4, groups=8)

    def forward(self, x: Tensor) -> Tensor:
        h = F.max_pool2d(F.relu(self.first(x)), 2)
        h = F.avg_pool2d(F.silu(self.second(h)), 2)
        return self.line(F.pad(h.flatten(2), (3, 0)))


@pytest.mark.parametrize("rest", ["inductor", "eager"])
def test_kernels_run_forward_and_backward(engine: ReferenceEngine, caplog: pytest.LogCaptureFixture, rest: str) -> None:
    torch.manual_seed(0)
    model, x = Net(), torch.randn(3, 1, 22, 26)
    compiled: Any = torch.compile(model, backend=autokernel, options={"rest": rest, "strict": True})
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), model(x), rtol=1e-4, atol=1e-5)
    got, want = compiled(x), model(x)
    assert got.stride() == want.stride()
    gradients = [torch.autograd.grad(y.square().mean(), list(model.parameters())) for y in (got, want)]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-6)
    assert engine.calls and "the reference runs" not in caplog.text
    told = {phase: {op.target for r in engine.regions if r.phase == phase for op in r.signature.ops} for phase in ("forward", "backward")}
    assert {"aten.convolution.default", "prims._low_memory_max_pool_with_offsets.default", "aten.avg_pool2d.default"} <= told["forward"]
    assert "aten.avg_pool2d_backward.default" in told["backward"]
    if rest == "inductor":  # else AOTAutograd saves the indices, and the scattered sum does not see where they come from
        assert "aten.scatter_add.default" in told["backward"]


def test_what_stands_around_a_pools_gradient_is_asked_for_without_it() -> None:
    graphs: list[Any] = []

    def keep(gm: Any, _inputs: Any) -> Any:
        graphs.append(gm)
        return gm.forward

    run = aot_function(lambda x: F.max_pool2d(torch.sin(x), 2), keep, keep, min_cut_rematerialization_partition, inductor_table())
    run(torch.randn(2, 3, 8, 8, requires_grad=True)).sum().backward()
    (whole,) = partition(graphs[1].graph).regions
    assert "scatter_add" in names(whole) and [names(p) for p in whole.parts] == [["prims"], ["cos", "mul"]]


@pytest.mark.parametrize(("window", "size", "ours"), [((3, 1, 1), 8, True), ((3, 2, 1), 8, True), ((3, 2, 0), 9, False), ((4, 1, 1), 9, False)])
def test_gradients_of_overlapping_windows(window: tuple[int, ...], size: int, ours: bool, engine: ReferenceEngine) -> None:
    """By steps that divide the image, and few windows for each element; others stay torch's."""
    compiled: Any = torch.compile(lambda x: F.max_pool2d(x, *window) * 2, backend=autokernel, options={"strict": True})
    x = torch.randn(2, 3, size, size, requires_grad=True)
    (got,) = torch.autograd.grad(compiled(x).square().sum(), x)
    (want,) = torch.autograd.grad((F.max_pool2d(x, *window) * 2).square().sum(), x)
    torch.testing.assert_close(got, want)
    assert any("scatter_add" in r.reference for r in engine.regions) == ours
