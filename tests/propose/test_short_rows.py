"""Rows too short to be vectors: lanes are different rows, for every width and number of rows, read and written in one block."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.propose.cases import cross_entropy_grad
from tests.propose.running import check_at, check_guarded, compare, compile_all, random_inputs, run
from tests.propose.tracing import trace
from torch_autokernel.core.types import Region
from torch_autokernel.propose.choices import Schedule
from torch_autokernel.propose.kernel import Kernel, generate

SEED = 20261129
WIDTHS = (5, 6, 7, 8, 9, 10, 15, 16, 17, 24)


def rms(x: torch.Tensor) -> Any:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6), x.amax(-1)


def masked(x: torch.Tensor) -> Any:
    keep = x > 0.3
    return torch.where(keep, x, 0.0).sum(-1), keep.any(-1), torch.where(keep, 1.0, x).prod(-1), keep & (x == x.amax(-1, keepdim=True))


def sliced(x: torch.Tensor) -> torch.Tensor:
    return torch.softmax(x[:, 1:], -1)


def turned(x: torch.Tensor) -> Any:
    return torch.softmax(x, -1).t().contiguous()


def loss(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(x, t, label_smoothing=0.1)


def rows(n: int, dtype: torch.dtype = torch.float32, grad: bool = False) -> list[torch.Tensor]:
    return [torch.randn(130, n).to(dtype).requires_grad_(grad)]


def with_targets(n: int) -> list[torch.Tensor]:
    return [torch.randn(130, n), torch.randint(0, n, (130,))]


CASES: dict[str, tuple[Callable[..., Any], list[torch.Tensor]]] = {
    "softmax": (lambda x: torch.softmax(x, -1), rows(10)),
    "log_softmax": (lambda x: torch.log_softmax(x, -1), rows(10, grad=True)),
    "bf16": (lambda x: torch.softmax(x, -1), rows(10, torch.bfloat16)),
    "f16": (rms, rows(9, torch.float16)),
    "f64": (rms, rows(12, torch.float64)),
    "int": (lambda x: x.sum(-1), [torch.randint(0, 100, (130, 11))]),
    "masked": (masked, rows(6)),
    "sliced": (sliced, rows(12)),
    "turned": (turned, rows(10)),
    "batched": (lambda x: torch.softmax(x, -1), [torch.randn(3, 70, 7)]),
    "layer_norm": (lambda x, w, b: F.layer_norm(x, (x.shape[-1],), w, b),
                   [torch.randn(130, 20, requires_grad=True), torch.randn(20, requires_grad=True), torch.randn(20, requires_grad=True)]),
    "cross_entropy": (F.cross_entropy, with_targets(10)),
    "cross_entropy_each": (lambda x, t: F.cross_entropy(x, t, reduction="none", ignore_index=2), with_targets(13)),
    "label_smoothing": (loss, with_targets(10)),
    "cross_entropy_grad": (cross_entropy_grad, [*with_targets(10), torch.randn(130), torch.randn(130), torch.randn([])]),
}  # fmt: skip
WITHIN = ("sliced_f",)  # rows that do not lie one behind the other


@pytest.fixture(scope="module")
def traced() -> dict[str, Region]:
    torch.manual_seed(SEED)
    found = {f"{n}_{'fb'[k]}": c.region for n, (fn, xs) in CASES.items() for k, c in enumerate(trace(fn, xs))}
    return found | {f"width{w}": trace(rms, rows(w), frozenset([w]))[0].region for w in WIDTHS}


Built = tuple[dict[str, Kernel], ctypes.CDLL]


@pytest.fixture(scope="module", params=[8, 16])
def built(request: Any, traced: dict[str, Region], tmp_path_factory: Any) -> Built:
    kernels = {n: generate(r.signature, Schedule(lanes=request.param, fixed=1), r.sizes, 2) for n, r in traced.items()}
    return kernels, compile_all({n: k.text for n, k in kernels.items()}, tmp_path_factory.mktemp("short"))


def test_every_case_at_every_size(traced: dict[str, Region], built: Built) -> None:
    torch.manual_seed(SEED)
    assert [n for n, k in built[0].items() if "short_rows<" not in k.text and "short_results<" not in k.text] == list(WITHIN)
    check_at(traced, *built, (1, 2, 3, 17, 40))


def test_every_width_with_every_tail(traced: dict[str, Region], built: Built) -> None:
    torch.manual_seed(SEED)
    for w in WIDTHS:
        region, name = traced[f"width{w}"], f"width{w}"
        assert f"L, {w}>" in built[0][name].text
        for m in range(1, 36):
            inputs = random_inputs(region.signature, dict.fromkeys(region.signature.symbols, m))
            compare(region, inputs, run(getattr(built[1], name), built[0][name], region.signature, inputs), f"{m} rows of {w}")


def test_special_values_stay_in_their_rows(traced: dict[str, Region], built: Built) -> None:
    x = torch.randn(130, 10)
    x[3, 2], x[7, 9], x[8, 0], x[129] = float("nan"), float("inf"), -float("inf"), -float("inf")
    got = run(built[1].softmax_f, built[0]["softmax_f"], traced["softmax_f"].signature, [x])[0]
    torch.testing.assert_close(got, torch.softmax(x, -1), equal_nan=True)


def test_a_late_sum_does_not_depend_on_threads(traced: dict[str, Region], built: Built) -> None:
    signature, before = traced["cross_entropy_f"].signature, torch.get_num_threads()
    x, t = torch.randn(9000, 10), torch.randint(0, 10, (9000,))
    inputs = [t if s.dtype == "int64" else x for s in signature.inputs]
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results.append(run(built[1].cross_entropy_f, built[0]["cross_entropy_f"], signature, inputs)[0])
    torch.set_num_threads(before)
    assert torch.equal(*results)
    torch.testing.assert_close(results[0], F.cross_entropy(x, t))


def test_touches_nothing_beyond_its_buffers(traced: dict[str, Region], built: Built, tmp_path: Path) -> None:
    """Every buffer ends at an unreadable page; a byte too far kills the child."""
    names = [f"width{w}" for w in WIDTHS] + ["bf16_f", "masked_f", "cross_entropy_f", "turned_f"]
    (tmp_path / "all.so").symlink_to(built[1]._name)
    check_guarded(traced, {n: built[0][n] for n in names}, tmp_path)


def test_which_rows_are_short() -> None:
    def short(m: int, n: int, **choices: int) -> bool:
        (captured,) = trace(lambda x: torch.softmax(x, -1), [torch.randn(m, n)])
        text = generate(captured.region.signature, Schedule(lanes=16, **choices), captured.region.sizes, 2).text
        assert "short=" not in text or choices
        return "short_rows" in text

    assert short(64, 10) and short(64, 24) and short(1000, 5)
    assert not short(64, 25) and not short(16, 10) and not short(64, 10, short=1)


def test_one_pass_over_the_logits_of_a_loss(traced: dict[str, Region], built: Built) -> None:
    """The mean over all rows is gathered in the sweep that reads them."""
    text = built[0]["cross_entropy_f"].text
    assert text.count("short_rows<") == 1 and text.count("each<L>") == 1
