"""bf16 and fp16: what is rounded where, what is kept between passes, what is only moved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.propose.running import check_at, compile_all, run
from tests.propose.tracing import trace
from torch_autokernel.core.types import Arch, Region
from torch_autokernel.propose.choices import Schedule, schedules
from torch_autokernel.propose.kernel import Kernel, generate

Function = Callable[..., Any]


def residual_norm(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    h = x + F.gelu(y)
    return h, h * torch.rsqrt(h.square().mean(-1, keepdim=True) + 1e-6)


def softmax(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.softmax(x * y, -1)


def softmax_columns(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    p = torch.softmax(F.gelu(x) * y, -1)
    return p, p.float().sum(0)


FUNCTIONS: dict[str, Function] = {"residual_norm": residual_norm, "softmax": softmax, "softmax_columns": softmax_columns}


def made(fn: Function, dtype: str, *more: torch.Tensor, **choices: int) -> tuple[Region, Kernel]:
    torch.manual_seed(5)
    x = [torch.randn(37, 150).to(getattr(torch, dtype)) for _ in range(2)]
    (captured,) = trace(fn, [*x, *more][: fn.__code__.co_argcount])
    region = captured.region
    return region, generate(region.signature, Schedule(lanes=16, serial_below=0, **choices), region.sizes, 2)


def body(kernel: Kernel) -> str:
    return kernel.text.partition("extern")[2]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_costly_values_are_computed_once(dtype: str, tmp_path: Path) -> None:
    """In the row of a result where that holds them exactly, in scratch elsewhere; and the kernels are right."""
    pairs = {f"{n}{f}": made(fn, dtype, fixed=f) for n, fn in FUNCTIONS.items() for f in (0, 1)}
    for name, function in (("residual_norm", "erf("), ("softmax", " exp("), ("softmax_columns", "erf(")):
        assert body(pairs[f"{name}0"][1]).count(function) == 1, pairs[f"{name}0"][1].text
    twice = body(made(softmax, dtype, park=0)[1])
    assert twice.count(" exp(") == 2
    library = compile_all({n: k.text for n, (_r, k) in pairs.items()}, tmp_path)
    check_at({n: r for n, (r, _k) in pairs.items()}, {n: k for n, (_r, k) in pairs.items()}, library, (1, 2, 3, 17, 65))


def test_a_result_is_read_again_as_it_is_stored() -> None:
    """In bf16 the second pass reads h from its own result: no scratch, and no rounding but those of the two results."""
    text = body(made(residual_norm, "bfloat16")[1])
    assert "row" not in text.replace("rows", "") and text.count("round_bf16(") == 2
    assert text.count("put<ak::bf16_held>(y0") == 1 and "get<ak::bf16>(y0" in text


def test_scratch_is_one_row_for_each_block() -> None:
    _region, kernel = made(softmax, "bfloat16", blocks=3)
    assert kernel.workspace == "12*s1 + 64"


def test_what_is_converted_back_was_rounded(tmp_path: Path) -> None:
    """The part that bf16 cannot hold is no zero."""

    def lost(x: torch.Tensor) -> torch.Tensor:
        return x - x.bfloat16().float()

    def lost_of_computed(x: torch.Tensor) -> torch.Tensor:
        return lost(x * 3)

    x = torch.randn(37, 150)
    for fn in (lost, lost_of_computed):
        region, kernel = made(fn, "float32")
        folder = tmp_path / fn.__name__
        folder.mkdir()
        (got,) = run(compile_all({"k": kernel.text}, folder).k, kernel, region.signature, [x])
        assert torch.equal(got, fn(x)) and got.abs().max() > 0


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_copies_keep_every_bit(dtype: str, tmp_path: Path) -> None:
    """All patterns, signalling NaN too, without arithmetic."""

    def turned(x: torch.Tensor) -> torch.Tensor:
        return x.t().contiguous()

    def joined(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, y], 1)

    patterns = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16).view(getattr(torch, dtype)).reshape(256, 256)
    for fn, inputs in ((turned, [patterns]), (joined, [patterns, patterns.flip(0).contiguous()])):
        region, kernel = made(fn, dtype)
        assert "half_bits" in kernel.text and f"ak::{'bf16' if dtype == 'bfloat16' else 'f16'}>" not in kernel.text
        folder = tmp_path / fn.__name__
        folder.mkdir()
        (got,) = run(compile_all({"k": kernel.text}, folder).k, kernel, region.signature, inputs)
        assert torch.equal(got.view(torch.int16), fn(*inputs).view(torch.int16))


def test_sizes_at_hand_and_others_give_the_same(tmp_path: Path) -> None:
    region, fixed = made(residual_norm, "float32", fixed=1)
    kernels = {"fixed": fixed, "any": generate(region.signature, Schedule(lanes=16, serial_below=0), region.sizes, 2)}
    assert "any_s0" in fixed.text and "any_s0" not in kernels["any"].text
    library = compile_all({n: k.text for n, k in kernels.items()}, tmp_path)
    for rows, columns in ((37, 150), (37, 151), (5, 150)):
        inputs = [torch.randn(rows, columns) for _ in range(2)]
        one, other = (run(getattr(library, n), k, region.signature, inputs) for n, k in kernels.items())
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_short_axes_have_fewer_lanes() -> None:
    """A step holds no more lanes than there are elements at the sizes at hand, where half as many do."""

    def scaled(x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(x, -1)

    for length, lanes in ((150, 32), (32, 32), (17, 32), (16, 16), (5, 8)):
        (captured,) = trace(scaled, [torch.randn(6, length)])
        text = generate(captured.region.signature, Schedule(lanes=32), captured.region.sizes, 2).text
        found = [int(line.partition("=")[2].partition(";")[0]) for line in text.splitlines() if "constexpr int L" in line]
        assert found[-1] == lanes, text


def test_low_precision_begins_with_twice_the_lanes() -> None:
    arch = Arch("cpu-test", limits={"threads": 2, "vector_bytes": 32})
    for dtype, lanes in (("float32", 16), ("bfloat16", 32), ("float16", 32)):
        first = next(schedules(made(softmax, dtype)[0], arch))
        assert first.lanes == lanes and first.fixed
