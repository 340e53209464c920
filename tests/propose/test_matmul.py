"""Generated matrix products against the float64 oracle: layouts, dtypes, blocks, sizes, special values; and what is refused."""

from __future__ import annotations

import ctypes
import dataclasses
import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import gelu, linear

from tests.propose.running import check_at, compile_all, random_inputs, reference, run
from tests.propose.test_attention import ARCH
from tests.propose.tracing import trace
from torch_autokernel.core.types import Region
from torch_autokernel.propose.blocks import Blocks, choose
from torch_autokernel.propose.index import Refused
from torch_autokernel.propose.kernel import Kernel
from torch_autokernel.propose.matmul import parts_of
from torch_autokernel.propose.matmul_text import problem, write
from torch_autokernel.propose.schedule import ScheduleProposer

SEED = 20261129
Tensor = torch.Tensor
HALF = torch.bfloat16


def drawn(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Callable[[], list[Tensor]]:
    return lambda: [torch.randn(s).to(dtype) for s in shapes]


def turned(x: Tensor, y: Tensor) -> Tensor:
    """As gradients of weights are made."""
    return x.t() @ y


def prepared(x: Tensor, w: Tensor) -> Tensor:
    return torch.tanh(x * 2) @ torch.exp(w)


def cast(x: Tensor, w: Tensor) -> Tensor:
    return (x @ w).float() * 2


def widened(x: Tensor, w: Tensor, scale: Tensor) -> Tensor:
    """Weights of 8 bits."""
    return linear(x, w.to(x.dtype)) * scale


SMALL = Blocks(8, 3, 1, 6, 16, 5, 0, 3)  # several blocks in every direction at small sizes
WIDE = Blocks(8, 6, 2, 12, 32, 64)
CASES: dict[str, tuple[Callable[..., Any], Callable[[], list[Tensor]], Blocks]] = {
    "linear": (linear, drawn((50, 37), (45, 37)), SMALL),
    "linear_bf16": (linear, drawn((50, 37), (45, 37), (45,), dtype=HALF), WIDE),
    "turned_bf16": (turned, drawn((37, 50), (37, 45), dtype=HALF), SMALL),
    "activated": (lambda x, w, b, s: gelu(linear(x, w, b)) * s[:, None], drawn((50, 37), (45, 37), (45,), (50,)), SMALL),
    "prepared_fp16": (prepared, drawn((50, 37), (37, 45), dtype=torch.float16), WIDE),
    "batched": (torch.bmm, drawn((3, 50, 37), (3, 37, 45)), SMALL),
    "direct_bf16": (linear, drawn((5, 37), (45, 37), dtype=HALF), Blocks(8, 4, 2, 16, 32, 37, 1)),
    "row": (torch.mm, drawn((1, 37), (37, 45)), Blocks(8, 1, 2, 16, 32, 37, 1)),
    "widened": (widened, lambda: [torch.randn(50, 37), torch.randint(-127, 128, (45, 37), dtype=torch.int8), torch.rand(45)], SMALL),
}
MORE: dict[str, tuple[Callable[..., Any], Callable[[], list[Tensor]], Blocks]] = {
    "repeated": (lambda x, w: x @ w.expand(3, 37, 45), drawn((3, 50, 37), (37, 45), dtype=HALF), SMALL),
    "cast_bf16": (cast, drawn((50, 37), (37, 45), dtype=HALF), WIDE),
    "baddbmm": (torch.baddbmm, drawn((3, 50, 45), (3, 50, 37), (3, 37, 45), dtype=HALF), WIDE),
    "tall": (linear, drawn((50, 37), (45, 37), dtype=HALF), Blocks(8, 12, 1, 24, 8, 16)),
    "flat": (turned, drawn((37, 50), (37, 45)), Blocks(8, 2, 4, 4, 64, 128)),
    "direct_lying": (torch.mm, drawn((5, 37), (37, 45), dtype=HALF), Blocks(8, 2, 3, 16, 24, 37, 1)),
}
Built = tuple[dict[str, Region], dict[str, Kernel], ctypes.CDLL]


def region_of(fn: Callable[..., Any], args: list[Tensor]) -> Region:
    return trace(fn, args)[0].region


def build(cases: dict[str, Any], folder: Path) -> Built:
    torch.manual_seed(SEED)
    regions = {name: region_of(fn, make()) for name, (fn, make, _) in cases.items()}
    kernels = {n: write(r.signature, parts_of(r.signature), cases[n][2]) for n, r in regions.items()}
    for name, region in regions.items():
        (folder / f"{name}.json").write_text(json.dumps([region.signature.to_json(), kernels[name].workspace]))
    return regions, kernels, compile_all({n: k.text for n, k in kernels.items()}, folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: Any) -> Path:
    return Path(tmp_path_factory.mktemp("matmul"))


@pytest.fixture(scope="module")
def quick(folder: Path) -> Built:
    return build(CASES, folder)


def test_kernels_at_every_size(quick: Built) -> None:
    torch.manual_seed(SEED)
    check_at(*quick, (1, 2, 7, 33, 70))


@pytest.mark.slow
def test_more_kernels_at_every_size(tmp_path: Path) -> None:
    check_at(*build(MORE, tmp_path), (1, 2, 3, 8, 17, 33, 70))


def test_no_kernel_leaves_its_buffers(quick: Built, folder: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "tests.propose.guarded", str(folder), *CASES], capture_output=True, text=True)
    assert done.returncode == 0, f"{done.returncode} after {done.stdout.splitlines()[-1:]} {done.stderr[-500:]}"


def test_an_empty_sum_is_what_is_added(quick: Built) -> None:
    regions, kernels, library = quick
    region = regions["linear_bf16"]
    sizes = {s: {50: 4, 45: 5, 37: 0}[n] for s, n in region.sizes.items()}
    given = random_inputs(region.signature, sizes)
    (b,) = [t for t in given if t.dim() == 1]
    (got,) = run(library.linear_bf16, kernels["linear_bf16"], region.signature, given)
    assert torch.equal(got, b.expand(4, 5))


@pytest.mark.parametrize("fill", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["linear", "turned_bf16", "prepared_fp16", "direct_bf16", "row"])
def test_values_that_are_not_finite_stay_where_eager_has_them(quick: Built, name: str, fill: float) -> None:
    regions, kernels, library = quick
    region = regions[name]
    for which in (0, 1):
        inputs = random_inputs(region.signature, region.sizes)
        inputs[which][-1, -1] = fill
        (got,) = run(getattr(library, name), kernels[name], region.signature, inputs)
        (want,) = reference(region, inputs, False)
        assert torch.equal(got.isnan(), want.isnan()) and torch.equal(got.isinf(), want.isinf()), which


def test_the_sum_is_rounded_once(tmp_path: Path) -> None:
    """In bf16 the bias is added before the rounding: 256 + 1 + 1 is 258, and 256 if the sum of the product is rounded first."""
    region = region_of(linear, drawn((2, 2), (2, 2), (2,), dtype=HALF)())
    kernel = write(region.signature, parts_of(region.signature), SMALL)
    library = compile_all({"once": kernel.text}, tmp_path)
    inputs = [torch.full_like(t, 1.0) for t in random_inputs(region.signature, region.sizes)]
    left = next(i for i, op in enumerate(region.signature.inputs) if len(op.shape) == 2)
    inputs[left][:, 0] = 256.0
    inputs[left][:, 1] = 1.0
    (got,) = run(library.once, kernel, region.signature, inputs)
    assert torch.equal(got, torch.full((2, 2), 258.0, dtype=HALF))


REFUSED: dict[str, tuple[Callable[..., Any], Callable[[], list[Tensor]], str]] = {
    "two": (lambda x, w: x @ w + w @ x, drawn((8, 8), (8, 8)), "2 matrix products|2 products|softmax"),
    "folded": (lambda x, w: (x @ w).sum(-1), drawn((8, 9), (9, 7)), "another shape"),
    "softmax": (lambda x, w: torch.softmax(x @ w, -1), drawn((8, 9), (9, 7)), "other rows"),
    "factors": (lambda b, x, w: torch.addmm(b, x, w, beta=2), drawn((7,), (8, 9), (9, 7)), "factors"),
    "two results": (lambda x, w: (x @ w, torch.relu(x @ w)), drawn((8, 9), (9, 7)), "more than one result"),
    "turned": (lambda x: (y := x @ x.t()) + y.t(), drawn((8, 9)), "element by element"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_more_than_one_product_is_refused(name: str) -> None:
    fn, make, reason = REFUSED[name]
    region = region_of(fn, make())
    proposer = ScheduleProposer()
    with pytest.raises(Refused, match=reason):
        parts_of(region.signature)
    assert proposer.refuses(region, ARCH) is not None and proposer.propose(region, ARCH, [], 4) == []


def test_a_machine_with_units_for_low_precision_is_left_alone() -> None:
    low, plain = (region_of(linear, drawn((64, 64), (64, 64), dtype=d)()) for d in (HALF, torch.float32))
    units = dataclasses.replace(ARCH, features=("avx512_bf16", "amx_bf16"))
    proposer = ScheduleProposer()
    assert "units" in (proposer.refuses(low, units) or "") and proposer.refuses(plain, units) is None
    assert proposer.refuses(low, ARCH) is None


def test_a_vectors_product_is_a_sum_there_too() -> None:
    """What it costs is to read the matrix, which no unit does faster."""
    vector = region_of(linear, drawn((1, 64), (64, 64), dtype=HALF)())
    found = ScheduleProposer().propose(vector, dataclasses.replace(ARCH, features=("avx512_bf16",)), [], 99)
    assert found and not any("products.h" in c.source.text for c in found)
    assert any("products.h" in c.source.text for c in ScheduleProposer().propose(vector, ARCH, [], 99))


def test_every_choice_satisfies_its_constraints() -> None:
    region = region_of(linear, drawn((50, 37), (45, 37))())
    base = problem(parts_of(region.signature), region.sizes)
    for change in ({}, {"rows": 1}, {"rows": 4096, "columns": 4096}, {"depth": 5000}, {"direct": False}, {"batch": 64}):
        asked = dataclasses.replace(base, **change)
        found = choose(asked, ARCH)
        assert len({dataclasses.astuple(b) for b in found}) == len(found) > 0
        for b in found:
            assert b.mr * b.nv + b.nv + 1 <= 16 and b.columns % (b.nv * b.lanes) == 0
            assert b.direct or b.rows % b.mr == 0 and 4 * b.columns * (b.depth + b.rows) <= 262144
            assert b.direct or 4 * b.nv * b.lanes * b.depth <= 16384


def test_few_rows_are_read_as_they_lie() -> None:
    """A matrix times a vector reads the matrix once; packing it would write and read it again."""
    for rows, direct in ((1, 1), (256, 0)):
        region = region_of(linear, drawn((rows, 512), (512, 512), dtype=HALF)())
        assert choose(problem(parts_of(region.signature), region.sizes), ARCH)[0].direct == direct
