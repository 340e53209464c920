"""Kernels of loops that give what their gradients read, and of those gradients: against their printed references."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.capture.test_loop_training import cell
from tests.propose.running import compare, compile_all, random_inputs, run
from torch_autokernel.capture.loop_plan import loop_operands, named_state, structure
from torch_autokernel.capture.loop_region import Loop, Training
from torch_autokernel.capture.loop_training import differentiate
from torch_autokernel.capture.recurrence import capture_recurrence
from torch_autokernel.propose.choices import Schedule
from torch_autokernel.propose.kernel import generate
from torch_autokernel.propose.recurrence import Recurrence

SEED = 20261129
CELLS = ("lstm", "slstm", "gru", "elman", "wkv7", "gated", "selective", "differences", "backward_lstm")
QUICK = ("elman", "lstm")


def training(name: str, dtype: torch.dtype = torch.float32) -> Training:
    function, args, module = cell(name)
    module = None if module is None else module.to(dtype)
    args = [a.to(dtype).requires_grad_() for a in args]
    whole = capture_recurrence(function, args, module, structure())
    loop = Loop.of(whole.captured.region.signature)
    operands = loop_operands(whole, loop.call(), tuple(args), named_state(module), 29)
    return differentiate(loop, [t.detach() for t in operands], [t.requires_grad for t in operands], 29)


@pytest.fixture(autouse=True)
def threads_as_before() -> Any:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def check(names: tuple[str, ...], folder: Path, lanes: int, dtype: torch.dtype = torch.float32) -> None:
    torch.manual_seed(SEED)
    regions = {}
    for name in names:
        made = training(name, dtype)
        regions |= {f"{name}_forward": made.forward, f"{name}_backward": made.backward}
    kernels = {n: generate(r.signature, Schedule(lanes=lanes), r.sizes, 2) for n, r in regions.items()}
    library = compile_all({n: k.text for n, k in kernels.items()}, folder)
    for name, region in regions.items():
        for length in (29, max(1, region.signature.guards.get("s0", 1)), 2, 40):
            inputs = [x * 0.25 for x in random_inputs(region.signature, {"s0": length})]
            for threads in (1, 2):
                torch.set_num_threads(threads)
                compare(region, inputs, run(getattr(library, name), kernels[name], region.signature, inputs), f"{name} {length}")


def test_some_cells(tmp_path: Path) -> None:
    check(QUICK, tmp_path, 16)


@pytest.mark.slow
@pytest.mark.parametrize("lanes", [8, 32])
def test_every_cell(tmp_path: Path, lanes: int) -> None:
    check(CELLS, tmp_path, lanes)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes(tmp_path: Path, dtype: torch.dtype) -> None:
    check(("elman", "lstm", "wkv7", "gru"), tmp_path, 16, dtype)


@pytest.mark.parametrize(("name", "forward", "backward"), [("lstm", 2, 1), ("wkv7", 2, 2), ("elman", 1, 1)])
def test_slices_of_a_batch_stay_apart(name: str, forward: int, backward: int) -> None:
    """Neither what is kept nor gradients of weights tie them together."""
    made = training(name)
    for region, wanted in ((made.forward, forward), (made.backward, backward)):
        text = Recurrence(region.signature, Schedule(), region.sizes, 2)
        text.kernel()
        assert len(text.cell.parallel) == wanted
