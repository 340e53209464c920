"""The plan of cases: sizes, guards, strides, bounds, secrecy."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from tests.verify import regions
from tests.verify.build import specimen
from tests.verify.regions import Graph
from torch_autokernel.core.types import Case, Region
from torch_autokernel.verify.bank import Prepared
from torch_autokernel.verify.cases import LANES, LARGEST, largest, plan, work
from torch_autokernel.verify.checks.repeatable import middling
from torch_autokernel.verify.oracle import Expected


def layouts_do_not_overlap(region: Region, sizes: dict[str, int]) -> bool:
    for spec in region.signature.inputs:
        spec = spec.concrete(sizes)
        span = 1
        for stride, n in sorted((int(s), int(n)) for s, n in zip(spec.stride, spec.shape, strict=True) if int(n) > 1):
            if stride and stride < span:
                return False
            span = max(span, stride * (int(n) - 1) + span)
    return True


def test_every_symbol_meets_one_odd_and_long_sizes() -> None:
    region = regions.softmax()
    cases = plan(region, "standard", 1)
    for symbol in region.signature.symbols:
        values = {c.sizes[symbol] for c in cases}
        assert 1 in values and region.sizes[symbol] in values and max(values) > 190
        assert sum(v % 2 for v in values) >= 3 and len(values) >= 6
    assert cases[0].sizes == region.sizes and cases[0].origin == "primary"
    assert {c.distribution for c in cases} >= {"normal", "shifted", "small", "large", "rows", "wide", "grid", "nan", "inf", "edges"}


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("region", [regions.softmax(), regions.gelu(), regions.layer_norm(m=3, n=40)], ids=["softmax", "gelu", "layer_norm"])
def test_every_symbol_leaves_every_remainder(region: Region, seed: int) -> None:
    cases = plan(region, "standard", seed)
    for symbol in region.signature.symbols:
        assert {c.sizes[symbol] % LANES for c in cases} == set(range(LANES)), symbol


def test_every_symbol_is_odd_and_long_at_once() -> None:
    """What only long rows leave over is met for certain, not with three seeds of four."""
    for region in (regions.layer_norm(m=3, n=40), specimen("wrong", "group_norm_count").region):
        for seed in range(64):
            for symbol in region.signature.symbols:
                assert any(c.sizes[symbol] % 2 and c.sizes[symbol] > 128 for c in plan(region, "standard", seed)), (seed, symbol)


def test_sizes_are_met_up_to_where_kernels_are_used() -> None:
    for seed in range(6):
        cases = plan(regions.row_sum(m=7, n=20000), "standard", seed)
        assert 60000 <= max(c.sizes["s1"] for c in cases) <= 80000


def test_each_float_input_is_far_from_zero_alone() -> None:
    cases = plan(regions.cross_entropy(), "standard", 1)
    assert [c.note for c in cases if c.note.endswith("alone")] == []  # one float input: the case of far rows is that
    cases = plan(regions.layer_norm(), "standard", 1)
    alone = [c for c in cases if c.note.endswith("alone")]
    assert [c.note for c in alone] == [f"input {i} alone" for i in range(3)]
    assert all(c.distribution == "far" and min(c.sizes.values()) >= 13 for c in alone)


def test_plan_follows_from_the_seed_alone() -> None:
    region = regions.softmax()
    assert plan(region, "standard", 5) == plan(region, "standard", 5)
    one, other = ({(c.seed, str(c.sizes)) for c in plan(region, "standard", s)} for s in (5, 6))
    assert not one & other


def test_levels_differ_in_length() -> None:
    counts = [len(plan(regions.softmax(), level, 1)) for level in ("quick", "standard", "full")]
    assert counts[0] < counts[1] < counts[2]
    with pytest.raises(ValueError, match="known: quick, standard, full"):
        plan(regions.softmax(), "thorough", 1)


@pytest.mark.parametrize("seed", range(20))
def test_guards_are_kept(seed: int) -> None:
    region = regions.softmax()
    region = dataclasses.replace(region, signature=dataclasses.replace(region.signature, guards={"s1": 5, "s0": 2}))
    assert all(c.sizes["s1"] >= 5 and c.sizes["s0"] >= 2 for c in plan(region, "standard", seed))


def test_large_regions_are_scaled_down_and_bounded() -> None:
    region = regions.layer_norm(m=1 << 16, n=1 << 13)
    cases = plan(region, "standard", 1)
    assert len(cases) >= 5
    assert all(largest(region.signature, c.sizes) <= LARGEST for c in cases)
    assert sum(work(region.signature, c.sizes) for c in cases[5:]) <= 1 << 26


def test_fixed_sizes_that_are_too_large_have_no_case() -> None:
    g = Graph()
    x = g.input(1 << 14, 1 << 13)
    assert plan(g.region(g.op("aten.neg.default", x)), "standard", 1) == []


@pytest.mark.parametrize("seed", range(20))
def test_stride_symbols_make_valid_layouts(seed: int) -> None:
    g = Graph()
    a = g.input("s0", "s1", stride=("s2", 1))
    b = g.input("s1", "s0", stride=("s2", 1))  # shares a stride that must suit both
    region = g.region(g.op("aten.add.Tensor", a, g.op("aten.permute.default", b, (1, 0), shape=("s0", "s1"))), s0=8, s1=16, s2=24)
    for case in plan(region, "standard", seed):
        assert layouts_do_not_overlap(region, dict(case.sizes)), case.sizes


def test_long_loops_meet_small_numbers_too() -> None:
    """On ordinary ones a cell may be chaos, and its case is cut short."""
    for seed in range(8):
        long = {c.distribution for c in plan(regions.gated_loop(), "standard", seed) if c.sizes["s0"] > 64}
        assert {"normal", "small"} <= long


def _sized(distribution: str, numbers: int) -> Prepared:
    return Prepared(Case(0, {}, distribution), (torch.empty(numbers),), Expected((), 0.0, 1.0))


def test_repeats_prefer_numbers_near_one() -> None:
    """Beside 1e9 a result that is wrong by 1 is right: such cases are repeated only where there are no others."""
    huge = [_sized("huge", n) for n in (5, 1, 4, 2, 3)]
    shifted, normal = _sized("shifted+", 9), _sized("normal", 7)
    assert _numbers(middling([*huge, shifted, normal], 1)) == [9]
    assert _numbers(middling([*huge, shifted, normal], 2)) == [7, 9]
    assert _numbers(middling([*huge, shifted], 2)) == [9, 3]
    assert _numbers(middling(huge, 2)) == [3, 4] and _numbers(middling(huge[:1], 2)) == [5]


def _numbers(cases: list[Prepared]) -> list[int]:
    return [p.inputs[0].numel() for p in cases]
