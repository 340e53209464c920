"""Rows in tiles where tensors lie both ways: the same results as element by element, for full tiles and others, for elements of
every width, and nothing beyond the buffers."""

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
from torch_autokernel.propose.choices import Schedule
from torch_autokernel.propose.kernel import Kernel, generate
from torch_autokernel.propose.schedule import ScheduleProposer

Tensor = torch.Tensor
SEED = 20261130
R = torch.randn


def last(x: Tensor) -> Tensor:
    """The same values, with the channels side by side."""
    return x.to(memory_format=torch.channels_last)


def both_ways(x: Tensor, y: Tensor) -> Any:
    """Results that lie either way, of operands that do."""
    z = x.exp() * y
    return z.t().contiguous(), z + 1, (x - y).t().contiguous()


def joined(x: Tensor, y: Tensor) -> Tensor:
    """Cut along the axis of the vectors; each part reads its own operand."""
    return torch.cat([x, y.sin(), x * 2], 1).contiguous(memory_format=torch.contiguous_format)


def cut_rows(x: Tensor, y: Tensor) -> Tensor:
    """Cut along an axis that is neither."""
    return torch.cat([x.transpose(1, 2), y.transpose(1, 2) * 3], 0).contiguous()


def gathered(table: Tensor, index: Tensor, x: Tensor) -> Tensor:
    """Beside what is read at places that are data."""
    return table[index] + x.t()


def normed(x: Tensor, y: Tensor, w: Tensor) -> Any:
    """Results behind a reduction: in tiles where they have loops of their own."""
    h = torch.cat([x, y], 1)
    return h.contiguous(), F.silu(F.group_norm(h, 2, w))


def grouped(x: Tensor, y: Tensor, w: Tensor) -> Any:
    """Groups of channels, of which each comes from one operand: cut, then split."""
    h = torch.cat([x, y], 1)
    return h.contiguous(), last(F.silu(F.group_norm(h, 4, w)))


def masked(x: Tensor, keep: Tensor, n: Tensor) -> Any:
    return torch.where(keep.t(), x, 0.0), (n.t() * 3).contiguous(), ~keep.t()


def wide(x: Tensor, n: Tensor) -> Any:
    return (x * 2).t().contiguous(), n + n.t()[:1].sum(0)[None, None] * 0 + n, n.t().contiguous() - 1


CASES: dict[str, tuple[Callable[..., Any], list[Tensor], bool]] = {  # function, inputs, whether tiles are expected
    "added": (lambda x, y: x + y, [last(R(2, 24, 9, 11)), R(2, 24, 9, 11)], True),
    "result": (lambda x: (x * 2).contiguous(), [last(R(3, 37, 5, 8))], True),
    "both": (both_ways, [R(40, 70), R(40, 70)], True),
    "heads": (lambda x: (x * 0.5).view(4, 20, 3, 16).permute(0, 2, 3, 1).contiguous(), [R(4, 20, 48)], True),
    "joined": (joined, [last(R(2, 12, 6, 7)), last(R(2, 19, 6, 7))], True),
    "cut": (cut_rows, [R(2, 30, 20), R(3, 30, 20)], True),
    "gathered": (gathered, [R(50, 33), torch.randint(0, 50, (20,)), R(33, 20)], True),
    "normed": (normed, [last(R(2, 16, 6, 7)), last(R(2, 16, 6, 7)), R(32)], True),
    "grouped": (grouped, [last(R(2, 16, 6, 7)), last(R(2, 16, 6, 7)), R(32)], True),
    "masked": (masked, [R(33, 47), R(47, 33) > 0, torch.randint(-100, 100, (47, 33), dtype=torch.int8)], True),
    "wide": (wide, [R(30, 21).double(), torch.randint(-100, 100, (21, 21))], True),
    "half": (lambda x, y: (x * y.t()).exp(), [R(70, 50).bfloat16(), R(50, 70).bfloat16()], True),
    "moved": (lambda x: x.t().clone(memory_format=torch.contiguous_format), [R(70, 50).half()], True),
    "mixed": (lambda x, y: x + y.t(), [R(70, 50), R(50, 70).bfloat16()], True),
    "integers": (lambda x, y: x - y.t(), [torch.randint(-9, 9, (40, 41), dtype=torch.int32), torch.randint(-9, 9, (41, 40), dtype=torch.int32)], True),
    "broadcast": (lambda x, w: x.exp() * w.t(), [R(3, 20, 30), R(30, 20)], True),
    "half_cut": (lambda x, y: torch.cat([x.t().sin(), y * 2], 1).contiguous(), [R(50, 40), R(40, 35)], True),
    "cut_late": (lambda x, y: torch.cat([y, x.t()], 0).t().contiguous(), [R(50, 40), R(35, 50)], True),
    "narrow": (lambda x: (x * 2).permute(0, 2, 3, 1).contiguous(), [R(2, 3, 16, 16)], False),
    "straight": (lambda x, y: x + y, [last(R(2, 24, 9, 11)), last(R(2, 24, 9, 11))], False),
}  # fmt: skip
SCHEDULES = [
    Schedule(lanes=16, apart=1), Schedule(lanes=8, stream=1, serial_below=0, apart=1), Schedule(lanes=32, fixed=1, apart=1, serial_below=0),
]  # fmt: skip


@pytest.fixture(scope="module")
def regions() -> dict[str, Region]:
    torch.manual_seed(SEED)
    return {name: trace(function, inputs)[0].region for name, (function, inputs, _tiled) in CASES.items()}


def tiled(kernel: Kernel) -> bool:
    return "turned(" in kernel.text


@pytest.mark.parametrize("march", ["native", "x86-64-v3", "x86-64"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_case(schedule: Schedule, march: str, regions: dict[str, Region], tmp_path: Path) -> None:
    if march != "native" and schedule is not SCHEDULES[0]:
        pytest.skip("one schedule for each machine")
    torch.manual_seed(SEED)
    kernels = {name: generate(region.signature, schedule, region.sizes, 2) for name, region in regions.items()}
    assert {name for name, kernel in kernels.items() if tiled(kernel)} == {name for name, case in CASES.items() if case[2]}
    library = compile_all({n: k.text for n, k in kernels.items()}, tmp_path, march)
    check_at(regions, kernels, library, (1, 2, 3, 17, 33) if march == "native" else (2, 33))
    flat = {name: region for name, region in regions.items() if all(len(s.shape) < 3 for s in region.signature.inputs)}
    check_at(flat, {name: kernels[name] for name in flat}, library, (70, 131, 260))


def test_nothing_beyond_the_buffers(regions: dict[str, Region], tmp_path: Path) -> None:
    kernels = {n: generate(r.signature, SCHEDULES[0], r.sizes, 2) for n, r in regions.items() if CASES[n][2]}
    compile_all({n: k.text for n, k in kernels.items()}, tmp_path)
    check_guarded(regions, kernels, tmp_path)


def test_element_by_element_is_tried_too(regions: dict[str, Region]) -> None:
    def tried(name: str) -> list[tuple[int, int]]:
        made = ScheduleProposer().propose(regions[name], AVX2, (), 10)
        return [(c.source.schedule.get("apart", 0), c.source.schedule.get("tile", 1)) for c in made]

    assert tried("added")[:2] == tried("broadcast")[:2] == [(0, 1), (0, 0)] and (1, 1) not in tried("added")
    assert (1, 1) in tried("grouped") and set(tried("straight")) == {(0, 1)}
    texts = [generate(regions["added"].signature, Schedule(tile=n), regions["added"].sizes, 2).text for n in (0, 1)]
    assert ["turned(" in t for t in texts] == [False, True] and "get_strided" in texts[0] and "get_strided" not in texts[1]
