"""Kernels of torch's recurrent layers and of scans: odd lengths, narrow and wide vectors, matrices in panels, both dtypes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch._higher_order_ops import scan

from tests.propose.running import compare, compile_all, run
from torch_autokernel.capture.scan import Scan
from torch_autokernel.capture.staged import capture_staged
from torch_autokernel.core.types import Case
from torch_autokernel.propose.choices import Schedule
from torch_autokernel.propose.kernel import generate
from torch_autokernel.verify.inputs import make

SEED = 20261129


def heads(x: torch.Tensor, h: torch.Tensor, r: torch.Tensor) -> Any:
    """A matrix for each head, [N, D, D], read the other way round."""

    def step(h: torch.Tensor, xt: torch.Tensor) -> Any:
        h = torch.tanh(xt + torch.einsum("bnp,ndp->bnd", h, r))
        return h, h * 2

    return scan(step, h, x, reverse=True)


def spaced(x: torch.Tensor, h: torch.Tensor, w: torch.Tensor) -> Any:
    """Every other element of a matrix: not dense, but one run of memory."""

    def step(h: torch.Tensor, xt: torch.Tensor) -> Any:
        h = torch.tanh(xt + h @ w)
        return h, h * 2

    return scan(step, h, x)


def regions(name: str) -> list[Scan]:
    layers: dict[str, tuple[nn.RNNBase, int]] = {
        "lstm": (nn.LSTM(5, 40), 3), "gru": (nn.GRU(5, 70, bidirectional=True), 2), "one row": (nn.LSTM(5, 50, batch_first=True), 1),
        "projected": (nn.LSTM(5, 60, proj_size=50), 2), "relu": (nn.RNN(5, 67, nonlinearity="relu", bias=False), 3),
        "bf16": (nn.LSTM(5, 48, dtype=torch.bfloat16), 3), "bf16 gru": (nn.GRU(5, 40, dtype=torch.bfloat16), 1),
    }  # fmt: skip
    if name == "heads":
        args = [torch.randn(9, 2, 3, 40), torch.randn(2, 3, 40), torch.randn(3, 40, 40)]
        return list(capture_staged(heads, args, None).scans.values())
    if name == "spaced":
        args = [torch.randn(9, 2, 80), torch.randn(2, 80), torch.randn(80, 160)[:, ::2]]
        return list(capture_staged(spaced, args, None).scans.values())
    layer, batch = layers[name]
    x = torch.randn(*((batch, 9) if layer.batch_first else (9, batch)), 5, dtype=next(layer.parameters()).dtype)
    return list(capture_staged(type(layer).forward, [x], layer).scans.values())


def check(names: tuple[str, ...], folder: Path, lanes: int) -> None:
    found = {f"{name.replace(' ', '_')}_{k}": s.region for name in names for k, s in enumerate(regions(name))}
    kernels = {n: generate(r.signature, Schedule(lanes=lanes), r.sizes, 2) for n, r in found.items()}
    assert any("/ 8 *" in k.text or f"/ {lanes} *" in k.text for k in kernels.values()), "nothing lies in panels"
    library = compile_all({n: k.text for n, k in kernels.items()}, folder)
    for name, region in found.items():
        for length in (9, 1, 2, 33):
            inputs = make(region, Case(SEED + length, {"s0": length}, "weights", "test"))
            compare(region, inputs, run(getattr(library, name), kernels[name], region.signature, inputs), f"{name} {length}")


def test_a_layer_and_heads(tmp_path: Path) -> None:
    check(("lstm", "heads", "spaced"), tmp_path, 16)


@pytest.mark.slow
@pytest.mark.parametrize("lanes", [8, 32])
def test_every_layer(tmp_path: Path, lanes: int) -> None:
    check(("lstm", "gru", "one row", "projected", "relu", "bf16", "bf16 gru", "heads", "spaced"), tmp_path, lanes)
