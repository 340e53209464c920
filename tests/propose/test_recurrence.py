"""Kernels of loops over time against the original forward: many lengths, other vector widths, one and two threads, guard pages."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.capture.cells import CELLS, make
from tests.propose.running import compare, compile_all, run
from torch_autokernel.capture.recurrence import capture_recurrence
from torch_autokernel.core.types import Region
from torch_autokernel.propose.choices import Schedule
from torch_autokernel.propose.index import Refused
from torch_autokernel.propose.kernel import Kernel, generate

SEED = 20261125
QUICK = ("elman", "gated")


def build(names: tuple[str, ...], folder: Path, lanes: int) -> tuple[dict[str, tuple[Region, Kernel, tuple[int, ...]]], ctypes.CDLL]:
    made = {}
    for name in names:
        function, args, module = make(name)
        whole = capture_recurrence(function, args, module)
        region = whole.captured.region
        made[name] = region, generate(region.signature, Schedule(lanes=lanes), region.sizes, 2), whole.order
    return made, compile_all({n: k.text for n, (_r, k, _o) in made.items()}, folder)


def check(names: tuple[str, ...], folder: Path, lanes: int) -> None:
    torch.manual_seed(SEED)
    made, library = build(names, folder, lanes)
    for name, (region, kernel, order) in made.items():
        for length in (29, 1 + (name == "differences"), 2, 64):
            _function, args, module = make(name, length)
            flat = [*args, *([] if module is None else (p.detach() for p in module.parameters()))]
            inputs = [flat[i] for i in order]
            for threads in (1, 2):
                torch.set_num_threads(threads)
                compare(region, inputs, run(getattr(library, name), kernel, region.signature, inputs), f"{name} {length}")


@pytest.fixture(autouse=True)
def threads_as_before() -> Any:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_simple_cells(tmp_path: Path) -> None:
    check(QUICK, tmp_path, 16)


@pytest.mark.slow
@pytest.mark.parametrize("lanes", [8, 32])
def test_every_cell(tmp_path: Path, lanes: int) -> None:
    check(CELLS, tmp_path, lanes)


@pytest.mark.slow
def test_rows_and_heads_are_shared_out_where_they_are_independent(tmp_path: Path) -> None:
    for name, parallel in (("lstm", True), ("wkv7", True), ("slstm", False)):  # slstm asks whether all rows are zero
        function, args, module = make(name)
        region = capture_recurrence(function, args, module).captured.region
        text = generate(region.signature, Schedule(lanes=16), region.sizes, 2).text
        assert ("#pragma omp parallel for" in text) is parallel, name


def test_a_sum_over_the_whole_length_is_refused() -> None:
    def centred(x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        x = x - x.mean(1, keepdim=True)
        for t in range(x.shape[1]):
            h = torch.tanh(x[:, t] + h)
        return h

    region = capture_recurrence(centred, [torch.randn(3, 40, 10), torch.randn(3, 10)]).captured.region
    with pytest.raises(Refused, match="whole length"):
        generate(region.signature, Schedule(), region.sizes, 2)
