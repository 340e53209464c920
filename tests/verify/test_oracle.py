"""The error budget: tight enough for wrong arithmetic, wide enough for other arithmetic."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from tests.verify import regions
from tests.verify.problems import captured
from tests.verify.regions import Graph
from torch_autokernel.core.errors import UsageError
from torch_autokernel.core.types import Case, Region
from torch_autokernel.verify.bank import Bank, Prepared
from torch_autokernel.verify.compare import FACTOR, compare, consistent
from torch_autokernel.verify.oracle import Expected, Target, expect
from torch_autokernel.verify.rounding import UNIT, Exact, Noise, _convolved


def prepared(region: Region, distribution: str = "normal", seed: int = 11, **sizes: int) -> Prepared:
    found = Bank("standard", 0).prepare(region, Case(seed, {**region.sizes, **sizes}, distribution))
    assert found is not None
    return found


def budgets(expected: Expected) -> list[torch.Tensor]:
    return [t.deviation for t in expected.targets if t.deviation is not None]


def test_single_operation_has_a_budget_of_a_few_units() -> None:
    for dtype in ("float32", "float64", "bfloat16", "float16"):
        region = regions.add_relu(dtype, 20, 30)
        target = prepared(region).expected.targets[0]
        assert target.deviation is not None
        size = target.exact.abs()
        units = (FACTOR * target.deviation / (size * UNIT[getattr(torch, dtype)]))[size > 0.5]
        assert 2 <= float(units.min()) and float(units.max()) <= 16, dtype


@pytest.mark.parametrize("name", ["softmax", "layer_norm", "rms_norm", "gelu", "row_sum", "column_sum", "cross_entropy", "bias_gelu",
                                  "swiglu", "transposed_scale", "double_sum"])  # fmt: skip
@pytest.mark.parametrize("distribution", ["normal", "shifted", "small", "large", "rows", "wide", "grid"])
def test_eager_passes_and_its_neighbour_precision_does_not(name: str, distribution: str) -> None:
    region = getattr(regions, name)()
    ready = prepared(region, distribution)
    wrong = 0
    for target in ready.expected.targets:
        assert compare(target.eager, target).ok
        assert compare(target.exact.to(target.eager.dtype), target).ok
        coarse = {torch.float32: torch.float16, torch.float64: torch.float32, torch.bfloat16: torch.float8_e4m3fn}[target.eager.dtype]
        rounded = target.eager.to(coarse).to(target.eager.dtype)
        unrounded = torch.allclose(rounded.double(), target.exact, rtol=1e-12, atol=1e-14)  # a mean of multiples of 1/2
        wrong += not compare(rounded, target).ok or torch.equal(rounded, target.eager) or unrounded
    assert wrong == len(ready.expected.targets)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_one_bad_element_is_enough(dtype: str) -> None:
    target = prepared(regions.softmax(dtype, 20, 30)).expected.targets[0]
    got = target.eager.clone()
    got[7, 3] *= 1.1
    difference = compare(got, target)
    assert difference.bad == 1 and difference.index == (7, 3) and "[7, 3]" in difference.describe()


def test_no_element_gets_a_small_budget_by_luck() -> None:
    """With few noisy runs, several sources of error share a sign; the least budget is still near that of many runs."""
    for name, n in (("layer_norm", 64), ("softmax", 64), ("bias_gelu", 64), ("swiglu", 64)):
        for seed in range(3):
            ready = prepared(getattr(regions, name)(m=200, n=n), seed=seed)
            few, many = (expect(getattr(regions, name)(m=200, n=n), ready.case, list(ready.inputs), runs) for runs in (8, 64))
            for a, b in zip(budgets(few), budgets(many), strict=True):
                assert float((a / b).min()) >= 0.4, (name, seed)


def test_elements_without_conditioning_do_not_excuse_the_others() -> None:
    """Where more than half of the results are tiny and relatively uncertain, large ones keep their own budget."""
    region = regions.gelu(n=400)
    x = torch.cat((-torch.linspace(7, 60, 260), torch.linspace(5, 60, 140)))
    target = expect(region, Case(1, {"s0": 400}, "normal"), [x], 8).targets[0]
    assert target.deviation is not None
    assert float((target.deviation / target.exact.abs())[260:].max()) < 64 * UNIT[torch.float32]


def test_ill_conditioned_results_have_their_budget() -> None:
    """Differences of nearly equal numbers: the error is that of the numbers."""
    g = Graph()
    a, b = g.input("s0"), g.input("s0")
    region = g.region(g.op("aten.sub.Tensor", g.op("aten.exp.default", a), g.op("aten.exp.default", b)), s0=64)
    x = torch.randn(64)
    case = Case(1, {"s0": 64}, "normal")
    target = expect(region, case, [x, x + 1e-6], 8).targets[0]
    assert target.deviation is not None
    assert bool((target.deviation >= x.double().exp() * UNIT[torch.float32]).all())


def test_sum_budget_grows_with_its_length() -> None:
    cases = [prepared(regions.row_sum(m=64, n=n)) for n in (64, 4096)]
    small, large = (budgets(p.expected)[0].median() / p.inputs[0].std() for p in cases)  # how large inputs are is drawn too
    assert 8 * 4 < float(large / small) < 8 * 16  # root of 64 by size, root of 64 by length


def test_overflow_of_eager_in_an_intermediate_may_be_avoided() -> None:
    g = Graph()
    x = g.input("s0", dtype="float16")
    region = g.region(g.op("aten.mul.Tensor", g.op("aten.mul.Tensor", x, x), 1e-4), s0=2)
    target = expect(region, Case(1, {"s0": 2}, "normal"), [torch.tensor([1.0, 1000.0], dtype=torch.float16)], 8).targets[0]
    assert math.isinf(float(target.eager[1])) and float(target.exact[1]) == pytest.approx(100, rel=1e-3)
    one = float(target.eager[0])
    for value, ok in ((math.inf, True), (100.0, True), (math.nan, False), (-math.inf, False), (200.0, False)):
        assert compare(torch.tensor([one, value], dtype=torch.float16), target).ok is ok, value


def test_nan_and_inf_must_stand_where_they_stand() -> None:
    eager = torch.tensor([1.0, math.nan, math.inf, -math.inf])
    target = Target(eager.double(), eager, torch.full((4,), 1e-7, dtype=torch.float64))
    assert compare(eager.clone(), target).ok
    for at, value in ((0, math.nan), (1, 0.0), (2, -math.inf), (2, 3e38), (3, math.nan), (1, math.inf)):
        got = eager.clone()
        got[at] = value
        assert not compare(got, target).ok, (at, value)


def test_mean_of_a_row_with_infinity_may_be_infinite() -> None:
    region = regions.layer_norm(m=2, n=3)
    x = torch.tensor([[1.0, math.inf, 2.0], [1.0, 2.0, 3.0]])
    expected = expect(region, Case(1, {"s0": 2, "s1": 3}, "inf"), [x, torch.ones(3), torch.zeros(3)], 8)
    mean = expected.targets[1]
    assert math.isnan(float(mean.eager[0, 0]))
    assert compare(torch.tensor([[math.inf], [2.0]]), mean).ok and compare(mean.eager, mean).ok
    assert not compare(torch.tensor([[-math.inf], [2.0]]), mean).ok


def test_booleans_are_exact_but_for_ties() -> None:
    target = prepared(regions.greater(), "grid").expected.targets[0]
    got = target.eager.to(torch.uint8)
    assert compare(got, target).ok
    got[3, 4] ^= 1
    assert compare(got, target).bad == 1
    got[3, 4] = 2
    assert compare(got, target).bad == 1  # neither 0 nor 1


def test_a_bias_of_all_elements_is_seen() -> None:
    """Each element within its limit, but all at it."""
    target = prepared(regions.add_relu("bfloat16", 40, 50)).expected.targets[0]
    assert target.deviation is not None
    got = (target.exact + 2.9 * target.deviation).to(torch.bfloat16)  # rounding adds at most one deviation
    difference = compare(got, target)
    assert not difference.ok and "on the whole" in difference.describe()


def test_consistent_is_symmetric_and_sees_nan() -> None:
    target = prepared(regions.row_sum(m=5, n=7)).expected.targets[0]
    one, other = target.eager.clone(), target.eager.clone()
    assert consistent(one, other, target).ok
    other[2] = math.nan
    assert not consistent(one, other, target).ok and not consistent(other, one, target).ok
    one[2] = math.nan
    assert consistent(one, other, target).ok


@pytest.mark.parametrize("design", [0, 1])
def test_noise_is_orthogonal_and_never_small(design: int) -> None:
    pool, ones = Noise.pool(1, 100), torch.ones(50, dtype=torch.float64)
    runs = [Noise(pool, r, 8, design) for r in range(8)]
    sources = [[n.like(ones) for n in runs] for _ in range(7)]
    assert all(bool((s.abs() >= 0.5).all() & (s.abs() <= 1).all()) for row in sources for s in row)
    for i in range(7):
        for j in range(i):
            product = sum((a * b for a, b in zip(sources[i], sources[j], strict=True)), torch.zeros(50, dtype=torch.float64))
            assert float(product.abs().max()) < 1e-12


@pytest.mark.parametrize("runs", [8, 16])
def test_no_two_sources_cancel_in_both_designs(runs: int) -> None:
    """Elements of two sources that share a row of signs in one design do not in the other: of as many sources as there are rows at
    whatever distance they lie, of more at the same place."""
    pool, ones = Noise.pool(1, 100), torch.ones(runs - 1, dtype=torch.float64)
    shared = []
    for design in range(2):
        noises = [Noise(pool, r, runs, design) for r in range(runs)]
        rows = torch.stack([torch.stack([n.like(ones) for n in noises]) for _ in range(26)]).sign()  # source, run, element
        products = torch.einsum("sri,trj->stij", rows, rows)
        shared.append(products.abs() > runs / 2)
    others = ~torch.eye(26, dtype=torch.bool)[:, :, None, None]
    both, few = shared[0] & shared[1] & others, runs - 1
    assert bool((shared[0] & others).any()) and not bool(both[:few, :few].any())
    assert not bool(both.diagonal(dim1=2, dim2=3).any())


@pytest.mark.parametrize("runs", [4, 8, 16])
def test_elements_of_a_source_that_share_signs_lie_far_apart(runs: int) -> None:
    """A softmax between two keys does not move where both scores err alike."""
    far, shared = (runs - 1) ** 2, []
    pool, ones = Noise.pool(1, 4 * far), torch.ones(3 * far, dtype=torch.float64)
    for design in range(2):
        rows = torch.stack([Noise(pool, r, runs, design).like(ones) for r in range(runs)]).sign()
        shared.append((rows.T @ rows).abs() > runs / 2)
    at = torch.arange(3 * far)
    near = ((at - at[:, None]).abs() < far) & (at != at[:, None])
    assert bool((shared[0] & near).any()) and bool((shared[1] & near).any())
    assert not bool((shared[0] & shared[1] & near).any())


@pytest.mark.parametrize("transposed", [False, True])
def test_padding_brings_nothing_to_a_convolution(transposed: bool) -> None:
    """Whatever is not finite in images or weights is as it is in the sum of products of what lies within the image."""
    torch.manual_seed(3)
    x, w = torch.randn(2, 2, 4, 5).double(), torch.randn(2, 2, 3, 3).double()
    x[0, 0, 0, 1], x[1, 1, 3, 4], x[1, 0, 1, 1], x[0, 1, 2, 3] = math.inf, -math.inf, 0.0, math.nan
    w[0, 0, 0, 1], w[1, 1, 2, 2], w[1, 0, 0, 0] = math.inf, -math.inf, 0.0
    b = torch.randn(2).double()
    got = _convolved(torch.ops.aten.convolution.default, (x, w, b, [1, 1], [1, 1], [1, 1], transposed, [0, 0], 1))
    taps = w.transpose(0, 1).flip(2, 3) if transposed else w
    want = torch.empty_like(got)
    for n, o, r, c in itertools.product(*map(range, got.shape)):
        places = itertools.product(range(2), range(3), range(3))
        inside = [(i, p, q) for i, p, q in places if 0 <= r + p - 1 < 4 and 0 <= c + q - 1 < 5]
        want[n, o, r, c] = b[o] + sum(x[n, i, r + p - 1, c + q - 1] * taps[o, i, p, q] for i, p, q in inside)
    assert bool(want.isnan().any()) and bool(want.isinf().any())
    torch.testing.assert_close(got, want, equal_nan=True)


def test_reference_that_contradicts_its_signature_is_refused() -> None:
    region = regions.row_sum(m=4, n=5)
    wrong = Region(region.signature, region.reference.replace("[1]", "[0]"), region.sizes)
    with pytest.raises(UsageError, match="captured again"):
        expect(wrong, Case(1, dict(region.sizes), "normal"), [torch.ones(4, 5)], 8)


def test_undefined_on_negative_numbers_gets_positive_ones() -> None:
    g = Graph()
    region = g.region(g.op("aten.sqrt.default", g.op("aten.log.default", g.op("aten.add.Tensor", g.input("s0"), 1))), s0=500)
    ready = prepared(region)
    assert ready.case.distribution == "normal+" and ready.expected.finite == 1.0


def test_threads_of_torch_are_as_before() -> None:
    before = torch.get_num_threads()
    prepared(regions.softmax(m=4, n=5))
    assert torch.get_num_threads() == before


def test_a_mean_that_errs_enters_a_variance_squared() -> None:
    """Rows of one value each: its sequential sum errs by tens of roundings, always the same way, and two passes give the square
    of that. A single pass over sums of squares gives it to the first power, which is wrong."""
    region = regions.layer_norm()
    seen = 0
    for seed in range(12):
        ready = prepared(region, "rows", seed, s0=33, s1=127)
        x, target = ready.inputs[0], ready.expected.targets[2]
        total = torch.zeros(33, 1)
        for column in x.split(1, dim=1):
            total = total + column
        mean = total / 127
        honest = ((x - mean).square().mean(1, keepdim=True) + 1e-5).rsqrt()
        wrong = (x.square().mean(1, keepdim=True) - x.mean(1, keepdim=True).square() + 1e-5).rsqrt()
        assert compare(honest, target).ok
        seen += not compare(wrong, target).ok
    assert seen == 12


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_what_just_about_fits_may_overflow(dtype: str) -> None:
    """x y z with z = 0: where x y is within some roundings of the largest number, another order may make it infinite, and NaN of
    the product. Where it is not, NaN is wrong."""
    kind = getattr(torch, dtype)
    most, u = torch.finfo(kind).max, UNIT[kind]
    g = Graph()
    x, y, z = (g.input("s0", dtype=dtype) for _ in range(3))
    region = g.region(g.op("aten.mul.Tensor", g.op("aten.mul.Tensor", x, y), z), s0=4)
    inputs = [torch.tensor([most, most * (1 - 4 * u), most / 2, 1.0]).to(kind), torch.ones(4).to(kind), torch.zeros(4).to(kind)]
    (target,) = expect(region, Case(1, {"s0": 4}, "normal"), inputs, 4).targets
    assert compare(torch.zeros(4).to(kind), target).ok
    assert [compare(torch.zeros(4).to(kind).index_fill(0, torch.tensor(i), math.nan), target).ok for i in range(4)] == [True, True, False, False]
    assert not compare(torch.zeros(4).to(kind).index_fill(0, torch.tensor(0), 1.0), target).ok


def test_small_results_of_fp16_have_small_budgets() -> None:
    """Nothing flushes denormals of fp16: 4e-4 in place of 2e-4 is wrong."""
    target = prepared(regions.softmax("float16"), s0=40, s1=3000).expected.targets[0]
    got = target.eager.clone()
    assert compare(got, target).ok
    small = (got > 0) & (got < 3e-4)
    assert int(small.sum()) > 1000
    assert not compare(torch.where(small, 0, got), target).ok


def test_what_is_decided_on_inputs_alone_has_one_answer() -> None:
    x = torch.tensor([0.5, 1.5, 2.5, -0.5, 1.3, -2.7])
    case = Case(1, {"s0": 6}, "normal")
    target = expect(captured("round_half"), case, [x], 8).targets[0]
    assert compare(torch.round(x), target).ok
    assert not compare(torch.floor(x + 0.5), target).ok
    (target,) = expect(captured("less_each"), Case(1, {"s0": 1, "s1": 6}, "normal"), [x[None], x[None].clone()], 8).targets
    assert compare(x[None], target).ok and not compare(2 * x[None], target).ok


def test_what_is_decided_after_arithmetic_may_fall_either_way() -> None:
    x, s = torch.tensor([[1.5, 4.5, 7.5, 0.1]]), torch.tensor([3.0])
    target = expect(captured("quantise"), Case(1, {"s0": 1, "s1": 4}, "normal"), [x, s], 8).targets[0]
    for right in ([0, 2, 2, 0], [1, 2, 3, 0]):
        assert compare(torch.tensor([right], dtype=torch.int8), target).ok
    assert not compare(torch.tensor([[0, 2, 2, 1]], dtype=torch.int8), target).ok


def test_prefix_products_that_leave_the_range_do_not_come_back() -> None:
    for lost in (1e-30, 1e30):
        x = torch.tensor([[2.0, lost, lost, 1 / lost, 3.0]])
        target = expect(captured("cumprod"), Case(1, {"s0": 1, "s1": 5}, "normal"), [x], 8).targets[0]
        single = torch.tensor([[2.0, 2 * lost, 0.0, 0.0, 0.0]]) if lost < 1 else torch.tensor([[2.0, 2 * lost, *[math.inf] * 3]])
        assert compare(target.eager, target).ok and compare(single, target).ok
        single[0, 2:] = 1.0
        assert not compare(single, target).ok
    x = torch.tensor([[2.0, 1e-20, 1e10, 3.0]])  # within the range
    target = expect(captured("cumprod"), Case(1, {"s0": 1, "s1": 4}, "normal"), [x], 8).targets[0]
    assert not compare(torch.tensor([[2.0, 2e-20, 0.0, 0.0]]), target).ok


@pytest.mark.parametrize("name", ["softmax", "attention", "rms_norm", "bias_gelu"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_cut_off_bits_lie_on_one_side(name: str, dtype: str) -> None:
    target = prepared(getattr(regions, name)(dtype), seed=5).expected.targets[0]
    kind = target.eager.dtype
    nearest = target.exact.to(kind)
    assert compare(nearest, target).ok and compare(target.eager, target).ok
    down = (nearest.view(torch.int16) - (nearest.double().abs() > target.exact.abs()).to(torch.int16)).view(kind)
    assert "smaller on the whole" in compare(down, target).describe()
    up = (down.view(torch.int16) + 1).view(kind)
    assert not compare(torch.where(nearest == 0, nearest, up), target).ok


def test_one_nan_leaves_the_others_their_budgets() -> None:
    """Of scattered sums, whose scale is that of all results."""
    (target,) = prepared(captured("pool_gradient"), "nan").expected.targets
    assert target.deviation is not None and bool(target.exact.isnan().any())
    sums = target.exact.isfinite() & (target.exact.abs() > 0.5)
    units = (target.deviation / (target.exact.abs() * UNIT[torch.float32]))[sums]
    assert float(units.median()) > 2


@pytest.mark.parametrize("shape", [(3, 40), (300, 700)], ids=["small", "more than the pool holds"])
def test_relative_noise_is_a_factor_for_each_element(shape: tuple[int, int]) -> None:
    x = torch.randn(*reversed(shape), dtype=torch.float64).T
    pool = Noise.pool(5, x.numel())
    for design in range(2):
        factors = Noise(pool, 1, 4, design).like(x) * 1e-3 + 1
        assert torch.equal(Noise(pool, 1, 4, design).relative(x, 1e-3), factors * x)
        for mine in (x.clone(), x.contiguous(), x.float()):
            wanted = factors * mine
            assert torch.equal(Noise(pool, 1, 4, design).relative(mine, 1e-3, owned=True), wanted)


def test_results_that_nearly_overflow_are_looked_for_only_where_there_may_be_some(monkeypatch: pytest.MonkeyPatch) -> None:
    """The run for them is left out where no intermediate result was large, and would have given the same."""
    graph = Graph()
    region = graph.region(graph.op("aten.log.default", graph.op("aten.exp.default", graph.input("s0"))), s0=50)
    case = Case(1, {"s0": 50}, "normal")
    runs: list[bool] = []

    def counted(self: Exact, recorded: object, *args: object, brim: bool = False, **kwargs: object) -> None:
        runs.append(brim)
        made(self, recorded, *args, brim=brim, **kwargs)  # type: ignore[arg-type]

    made = Exact.__init__
    monkeypatch.setattr(Exact, "__init__", counted)
    (target,) = expect(region, case, [torch.linspace(-9, 80, 50)], 4).targets
    assert target.brim is None and not any(runs)
    (target,) = expect(region, case, [torch.linspace(-9, 88.7228394, 50)], 4).targets
    assert any(runs) and target.brim is not None and target.exact.isfinite().all() and target.brim[-1].isinf()
