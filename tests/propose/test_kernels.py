"""Generated kernels against the fp64 oracle and eager: odd sizes, sizes of one, low precision, other vector widths."""

from __future__ import annotations

import ctypes
import dataclasses
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.propose.cases import CASES, Case
from tests.propose.running import (
    AVX2,
    FLAGS,
    GUARDED,
    INCLUDE,
    check_at,
    check_guarded,
    compare,
    compile_all,
    random_inputs,
    run,
)
from tests.propose.tracing import trace
from torch_autokernel.core import dims
from torch_autokernel.core.types import Region
from torch_autokernel.propose.choices import Schedule, schedules
from torch_autokernel.propose.index import Refused
from torch_autokernel.propose.kernel import Kernel, generate

SEED = 20261124
SIZES = (1, 2, 3, 17)
SCHEDULES = {
    "first": Schedule(lanes=16), "wide": Schedule(lanes=32, columns=2, serial_below=0, blocks=3, fixed=1, together=3),
    "outer": Schedule(lanes=8, columns=1, park=0, stream=1, strip=64, apart=1),
}  # fmt: skip


def regions(case: Case) -> list[Region]:
    torch.manual_seed(SEED)
    return [c.region for c in trace(case.fn, case.make(*case.shapes[0]), frozenset(case.static))]


@pytest.fixture(scope="module")
def traced() -> dict[str, Region]:
    print("seed", SEED)
    return {f"{name}_{'fb'[k]}": r for name, case in CASES.items() for k, r in enumerate(regions(case))}


Built = tuple[dict[str, Kernel], ctypes.CDLL]


def _build(traced: dict[str, Region], schedule: Schedule, folder: Path, march: str = "native") -> Built:
    kernels = {name: generate(r.signature, schedule, r.sizes, 2) for name, r in traced.items()}
    return kernels, compile_all({name: k.text for name, k in kernels.items()}, folder, march)


VARIED = ("softmax", "layer_norm", "cross_entropy", "rope", "indexed", "bag", "repeated", "thrice", "stacked", "stacked_bf16", "stacked_norm", "stacked_apart", "group_norm_last", "batch_stats", "batch_stats_last", "column_sum", "full_sum",
          "transposed", "special", "argmax", "argmax_outer", "argmax_middle_bf16")  # fmt: skip


@pytest.fixture(scope="module", params=SCHEDULES)
def built(request: Any, traced: dict[str, Region], tmp_path_factory: Any) -> Built:
    """All cases under the first schedule, those with the most different loops under the others."""
    some = {n: r for n, r in traced.items() if request.param == "first" or n[:-2] in VARIED}
    return _build(some, SCHEDULES[request.param], tmp_path_factory.mktemp(request.param))


def _check(traced: dict[str, Region], built: Built) -> None:
    kernels, library = built
    check_at(traced, kernels, library, SIZES)


def test_every_case_at_every_size(traced: dict[str, Region], built: Built) -> None:
    torch.manual_seed(SEED)
    _check(traced, built)


def test_special_values(traced: dict[str, Region], built: Built) -> None:
    case, region = CASES["special"], traced["special_f"]
    for shape in case.shapes:
        inputs = case.make(*shape)
        compare(region, inputs, run(built[1].special_f, built[0]["special_f"], region.signature, inputs), "special values")


def test_places_of_extremes(traced: dict[str, Region], built: Built) -> None:
    """The first of equals, the first NaN, rows that are infinite throughout, rows shorter than a step: as torch says."""
    torch.manual_seed(SEED)
    for name in (n for n in built[0] if n.startswith("argmax")):
        case, region = CASES[name[:-2]], traced[name]
        for shape in case.shapes:
            for whole in (None, float("inf"), float("-inf"), float("nan")):
                inputs = case.make(*shape)
                if whole is not None and inputs[0].is_floating_point():
                    inputs[0].fill_(whole)
                found = run(getattr(built[1], name), built[0][name], region.signature, inputs)
                for got, want in zip(found, torch.utils._pytree.tree_leaves(case.fn(*inputs)), strict=True):
                    assert got.is_floating_point() or torch.equal(got, want), (name, shape, whole)


@pytest.mark.skipif("avx2" not in (Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""), reason="no AVX2")
def test_without_avx512(traced: dict[str, Region], tmp_path: Path) -> None:
    torch.manual_seed(SEED)
    names = ["layer_norm_b", "rope_f", "cross_entropy_grad_f", "rms_residual_f16_f", "swiglu_bf16_b", "integers_f", "group_norm_last_b", "special_f"]
    some = {n: traced[n] for n in names}
    _check(some, _build(some, Schedule(lanes=16), tmp_path, "haswell"))


def test_result_does_not_depend_on_threads(traced: dict[str, Region], built: Built) -> None:
    torch.manual_seed(SEED)
    before = torch.get_num_threads()
    for name in ("layer_norm_b", "full_sum_f", "batch_stats_last_b", "cross_entropy_f"):
        signature = traced[name].signature
        inputs = random_inputs(signature, dict.fromkeys(signature.symbols, 61))
        results = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(run(getattr(built[1], name), built[0][name], signature, inputs))
        torch.set_num_threads(before)
        for a, b in zip(*results, strict=True):
            assert torch.equal(a, b), name


def test_large_sums_stay_close(tmp_path: Path) -> None:
    """Long rows and long columns: at hinted sizes no worse than three times eager."""
    torch.manual_seed(SEED)
    made = {}
    for name, shape in (("full_sum", (900, 1100)), ("column_sum", (30000, 40)), ("mse", (3, 200000)), ("softmax", (2, 150000))):
        x = CASES[name].make(*shape)
        made[name] = (trace(CASES[name].fn, [t.detach() for t in x])[0].region, [t.detach() for t in x])
    kernels, library = _build({n: r for n, (r, _x) in made.items()}, Schedule(lanes=32), tmp_path)
    for name, (region, x) in made.items():
        compare(region, x, run(getattr(library, name), kernels[name], region.signature, x), name)


def test_log_sums_of_long_rows_are_taken_many_at_a_time(tmp_path: Path) -> None:
    """Eight vectors a step of the state: flat rows, steep ones (which go one by one), infinities, and ends of rows."""
    torch.manual_seed(SEED)
    region = trace(lambda x: torch.logcumsumexp(x, -1), [torch.randn(3, 1000)])[0].region
    schedule = [s for s in schedules(region, AVX2) if isinstance(s, Schedule)][1]
    assert schedule.lanes == 64
    kernels, library = _build({"k": region}, schedule, tmp_path)
    for columns in (1, 63, 64, 65, 1000):
        for scale in (0.1, 3.0, 40.0):
            x = torch.randn(3, columns) * scale
            x[1, columns // 2] = float("-inf")
            x[2, columns // 2 :] = float("inf")
            inputs = [x]
            compare(region, inputs, run(library.k, kernels["k"], region.signature, inputs), f"{columns} columns, {scale}")


NARROW: dict[str, tuple[Any, torch.dtype]] = {
    "place_u8": (lambda x: (x + 200).argmax(1), torch.uint8), "place_i8": (lambda x: (x + 100).max(1), torch.int8),
    "place_i16": (lambda x: (x * 300).argmin(0), torch.int16), "compared": (lambda x: (x + 100 > 0, torch.where(x + 100 > x, 1, 2)), torch.int8),
    "widened": (lambda x: ((x + 100).int(), (x * 3).float(), (x * x * x).long()), torch.int8),
    "summed": (lambda x: ((x + 100).sum(1), (x + 100).cumsum(1), x.sum(1, dtype=torch.int8).float(), x.prod(1, dtype=torch.uint8).int()), torch.int8),
    "alone": (lambda x: ((-x).float(), x.abs().float(), (~x).int(), x.square().int(), x.sign().int()), torch.int8),
    "bytes": (lambda x: ((-x).float(), (~x).float(), (x - 200).float(), x.sub(7, alpha=3).int(), (5 - x).float()), torch.uint8),
    "extremes": (lambda x: ((x * 5).amax(1).float(), torch.maximum(x + 100, x).int(), x.clamp(3, 100).int()), torch.uint8),
}  # fmt: skip


def test_narrow_integers_stay_within_their_range(tmp_path: Path) -> None:
    """They are computed in 32 bits; what is compared, widened or folded is what a tensor of the dtype would hold."""
    torch.manual_seed(SEED)
    drawn = {n: torch.randint(torch.iinfo(t).min, torch.iinfo(t).max + 1, (45, 70)).to(t) for n, (_fn, t) in NARROW.items()}
    made = {n: trace(fn, [drawn[n]])[0].region for n, (fn, _t) in NARROW.items()}
    kernels, library = _build(made, Schedule(lanes=16), tmp_path)
    for name, (fn, _dtype) in NARROW.items():
        found = run(getattr(library, name), kernels[name], made[name].signature, [drawn[name]])
        for got, want in zip(found, torch.utils._pytree.tree_leaves(fn(drawn[name])), strict=True):
            assert torch.equal(got, want), name


def test_touches_nothing_beyond_its_buffers(traced: dict[str, Region], tmp_path: Path) -> None:
    """Every buffer ends at an unreadable page; a byte too far kills the child."""
    names = ["softmax_f", "layer_norm_b", "rope_f", "swiglu_bf16_f", "integers_f", "batch_stats_last_f", "slices_f", "pad_f", "column_sum_f"]
    kernels = {n: generate(traced[n].signature, Schedule(lanes=32), traced[n].sizes, 2) for n in names}
    compile_all({n: k.text for n, k in kernels.items()}, tmp_path)
    check_guarded(traced, kernels, tmp_path)
    planted = subprocess.run([*GUARDED, "--planted"], capture_output=True, cwd=Path(__file__).parents[2])
    assert planted.returncode < 0, "the guard page did not hold"


def test_rows_that_come_from_afar_are_fetched_ahead(traced: dict[str, Region], tmp_path: Path) -> None:
    """For large sizes; the same kernels are right at small ones and read nothing beyond their buffers."""
    names = ["softmax_f", "layer_norm_f", "cross_entropy_f"]
    large = {n: dict(zip(traced[n].signature.symbols, (4096, 4096), strict=True)) for n in names}
    kernels = {n: generate(traced[n].signature, Schedule(lanes=16), large[n], 2) for n in names}
    assert all("prefetch<L>(" in k.text for k in kernels.values())
    assert "prefetch<L>(" not in generate(traced["softmax_f"].signature, Schedule(lanes=16), traced["softmax_f"].sizes, 2).text
    library = compile_all({n: k.text for n, k in kernels.items()}, tmp_path)
    torch.manual_seed(SEED)
    check_at({n: traced[n] for n in names}, kernels, library, (2, 3, 17, 90))
    check_guarded(traced, kernels, tmp_path)


@pytest.mark.parametrize("over", [(0,), (0, 1), None])
def test_reductions_over_nothing_are_refused(over: tuple[int, ...] | None) -> None:
    region = trace(lambda x: torch.exp(x).sum(over) + 1, [torch.randn(0, 7)])[0].region
    with pytest.raises(Refused):
        generate(region.signature, Schedule(lanes=16), region.sizes, 2)


def test_products_are_rounded_wherever_they_are_used(tmp_path: Path) -> None:
    """softmax(x * w) of huge products: the greatest less its own maximum is 0, not the rounding error of a contracted product."""
    x, w = torch.randn(4, 35) * 1e19, torch.randn(35) * 1e18
    region = trace(lambda x, w: torch.softmax(x * w, -1), [x, w])[0].region
    kernel = generate(region.signature, Schedule(lanes=16), region.sizes, 2)
    library = compile_all({"k": kernel.text}, tmp_path)
    torch.testing.assert_close(run(library.k, kernel, region.signature, [x, w])[0], torch.softmax(x * w, -1))


def test_headers_are_clean(tmp_path: Path) -> None:
    source = tmp_path / "all.cpp"
    source.write_text("#include <autokernel/moments.h>\n#include <autokernel/short_rows.h>\nint main() { return 0; }\n")
    flags = [f for f in FLAGS if f != "-w"]
    done = subprocess.run(["g++", *flags, "-Wall", "-Wextra", "-Werror", "-march=native", f"-I{INCLUDE}", "-c", str(source), "-o", str(tmp_path / "x.o")],
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr[:2000]


def test_long_rows_read_what_they_share_once(tmp_path: Path) -> None:
    """The results of all rows go through the weights strip by strip, behind the reductions; rows that share little do not."""
    torch.manual_seed(SEED)

    def first(n: int) -> tuple[Region, Schedule]:
        x, w, b = torch.randn(3, n), torch.randn(n), torch.randn(n)
        region = trace(lambda x, w, b: torch.nn.functional.layer_norm(x, (n,), w, b), [x, w, b])[0].region
        return region, [s for s in schedules(region, arch) if isinstance(s, Schedule)][1]

    arch = dataclasses.replace(AVX2, limits={**AVX2.limits, "l2_bytes": 32768})
    region, schedule = first(33000)
    assert schedule.apart and not first(3000)[1].apart
    assert not any(s.apart for s in schedules(first(33000)[0], AVX2))
    kernel = generate(region.signature, schedule, region.sizes, 2)
    strips, rows = kernel.text.rindex("for (int64_t b = 0; b < cdiv("), kernel.text.rindex("for (int64_t r")
    assert strips < rows
    check_at({"k": region}, {"k": kernel}, compile_all({"k": kernel.text}, tmp_path), (2, 300))


def test_scratch_is_for_rows_that_stay_in_a_cache() -> None:
    """A row for each block, whatever is summed over rows beside it; none for rows of a megabyte."""
    soft = lambda x: torch.softmax(torch.tanh(x), -1)

    def spaces(fn: Any, *shape: int) -> list[int]:
        region = trace(fn, [torch.randn(*shape)])[0].region
        made = [generate(region.signature, Schedule(stream=1, park=p, blocks=4), region.sizes, 2) for p in (0, 1)]
        return [dims.evaluate(kernel.workspace, region.sizes) for kernel in made]

    without, scratch = spaces(soft, 64, 1000)
    assert without == 0 < scratch <= 2 * 4 * 4096
    beside = spaces(lambda x: (soft(x), soft(x).sum(1)), 64, 3, 1000)
    assert beside[0] == beside[1]
    assert spaces(soft, 3, 300000) == [0, 0]
