"""Tensors of a case: exact layout, valid indices, special values, repeatability."""

from __future__ import annotations

import dataclasses
import random

import pytest
import torch

from tests.verify import regions
from tests.verify.problems import captured
from tests.verify.regions import Graph
from torch_autokernel.core.types import Case, Const, Region
from torch_autokernel.verify.indices import ranges
from torch_autokernel.verify.inputs import _DISTRIBUTIONS, make
from torch_autokernel.verify.runner import WorkerRunner, storage_bytes


def case(region: Region, distribution: str = "normal", seed: int = 3, **sizes: int) -> Case:
    return Case(seed, {**region.sizes, **sizes}, distribution)


def test_layout_is_that_of_the_signature() -> None:
    region = regions.swiglu(m=5, n=6)
    a, b = make(region, case(region))
    assert a.shape == (5, 6) and a.stride() == (12, 1)
    storage = torch.frombuffer(bytearray(storage_bytes(a)), dtype=torch.bfloat16)
    assert storage.numel() == 4 * 12 + 6
    assert bool(storage[6:12].isnan().all()) and bool(a.isfinite().all())


def test_expanded_and_transposed_inputs() -> None:
    region = regions.transposed_scale(5, 6)
    x, c = make(region, case(region))
    assert x.stride() == (1, 5) and c.stride() == (0, 0) and len(storage_bytes(c)) == 4
    assert len(set(c.flatten().tolist())) == 1


def test_the_same_case_gives_the_same_bytes() -> None:
    region = regions.layer_norm(m=4, n=7)
    for distribution in (*_DISTRIBUTIONS, "nan", "edges"):
        one, other = (make(region, case(region, distribution)) for _ in range(2))
        assert all(bytes(storage_bytes(a)) == bytes(storage_bytes(b)) for a, b in zip(one, other, strict=True))
    assert not torch.equal(make(region, case(region))[0], make(region, case(region, seed=4))[0])


def test_special_values_are_few() -> None:
    region = regions.add_relu(m=30, n=40)
    x = make(region, case(region, "nan"))[0]
    assert 0 < int(x.isnan().sum()) <= 12
    x = make(region, case(region, "inf"))[0]
    assert int((x == -torch.inf).all(dim=1).sum()) == 1 and bool((x == torch.inf).any())
    assert 0 < int((make(region, case(region, "edges"))[0].abs() < 1e-30).sum()) <= 12


def test_positive_variant() -> None:
    region = regions.add_relu(m=30, n=40)
    assert all(bool((t > 0).all()) for d in ("normal+", "shifted+", "small+") for t in make(region, case(region, d)))


def test_index_range_follows_from_the_indexed_tensor() -> None:
    region = regions.embedding()
    assert ranges(region.signature)[1].bounds == ["s0"]
    for seed in range(10):
        _, index = make(region, case(region, seed=seed, s0=7))
        assert 0 <= int(index.min()) and int(index.max()) < 7


def test_index_range_passes_through_operations_and_marks_are_met() -> None:
    region = regions.cross_entropy()
    found = ranges(region.signature)[1]
    assert found.bounds == ["s1"] and found.marks == {-100} and not found.negative
    labels = {int(v) for seed in range(5) for v in make(region, case(region, seed=seed, s1=9))[1]}
    assert -100 in labels and max(labels) < 9 and min(labels - {-100}) >= 0


def test_plain_indexing_counts_from_the_end_too() -> None:
    g = Graph()
    x, i = g.input("s0"), g.input("s1", dtype="int64")
    region = g.region(g.op("aten.index.Tensor", x, (i,), shape=("s1",)), s0=6, s1=200)
    values = make(region, case(region))[1]
    assert -6 <= int(values.min()) < 0 and int(values.max()) == 5


def test_embedding_backward_takes_its_size_from_an_argument() -> None:
    g = Graph()
    grad, index = g.input("s0", "s1"), g.input("s0", dtype="int64")
    g.input("s2", "s1")
    out = g.op("aten.embedding_dense_backward.default", grad, index, Const("dim", "s2"), -1, False, shape=("s2", "s1"))
    assert ranges(g.region(out, s0=2, s1=3, s2=4).signature)[1].bounds == ["s2"]


def test_one_input_redrawn_holds_the_others() -> None:
    region = regions.layer_norm(m=4, n=7)
    base = make(region, case(region))
    for i in range(3):
        other = make(region, dataclasses.replace(case(region), note=f"input {i} redrawn"))
        assert [torch.equal(a, b) for a, b in zip(base, other, strict=True)] == [k != i for k in range(3)]


def test_distributions_are_what_their_names_say() -> None:
    region = regions.add_relu(m=40, n=50)
    x = {name: make(region, case(region, name))[0] for name in _DISTRIBUTIONS}
    assert x["huge"].abs().min() >= 2**8 and x["tiny"].abs().max() <= 2**-12 and x["tiny"].abs().min() > 1e-30
    assert 0.02 < (x["sparse"] != 0).float().mean() < 0.3
    steps = x["sorted"].diff(dim=1)
    assert bool((steps >= 0).all()) or bool((steps <= 0).all())
    assert x["clustered"].round(decimals=0).unique().numel() <= 12
    assert x["cancelling"].sum(1).abs().max() < 0.1 * x["cancelling"].abs().sum(1).min()
    assert all(bool(t.isfinite().all()) for t in x.values())


def test_integers_have_structure() -> None:
    region = regions.embedding()
    seen = set()
    for seed in range(60):
        index = make(region, case(region, seed=seed))[1]
        assert 0 <= int(index.min()) and int(index.max()) < region.sizes["s0"]
        distinct = index.unique().numel()
        seen |= {"one"} if distinct == 1 else {"two"} if distinct == 2 else set()
        seen |= {"sorted"} if bool((index.diff() >= 0).all()) and distinct > 2 else {"mixed"} if distinct > 2 else set()
    assert seen == {"one", "two", "sorted", "mixed"}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
def test_poison_of_ordinary_numbers_is_that(dtype: str) -> None:
    """Between 1/2 and 2 of either sign, whatever else the process allocates meanwhile."""
    runner = WorkerRunner.__new__(WorkerRunner)
    runner._random = random.Random(3)
    for _ in range(200):
        numbers = torch.frombuffer(bytearray(runner._ordinary(dtype)), dtype=getattr(torch, dtype))
        assert ((numbers.abs() >= 0.5) & (numbers.abs() <= 2)).all()


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int64", "bool"])
def test_poison_of_integers_shares_no_byte_with_the_other_one(dtype: str) -> None:
    """Else an int8 result of 127 is now and then what both patterns had there, and counts as never written."""
    runner = WorkerRunner.__new__(WorkerRunner)
    runner._random = random.Random(3)
    for _ in range(20):
        assert not set(runner._ordinary(dtype)) & set(runner._nan())


def test_far_rows_and_faint_rows() -> None:
    region = regions.softmax(m=200, n=40)
    for seed in range(20):
        far, above, below, faint = (make(region, case(region, name, seed))[0] for name in ("far", "above", "below", "faint"))
        for rows in (far, above, below):
            middle = rows.mean(1)
            assert (middle.abs() > 14).all() and (rows - middle[:, None]).abs().max() < 6 and (middle.abs() > 2e4).any()
        size = faint.abs().amax(1)
        assert size.min() < 1e-12 and 0.3 < size.max() < 6
        assert len(far.sign().unique()) == 2 and bool((above > 0).all()) and bool((below < 0).all())
        few = make(region, dataclasses.replace(case(region, "far", seed), sizes={"s0": 2, "s1": 3}))[0]
        assert len(few.sign().unique()) == 2


def test_a_stretch_is_drawn_anew() -> None:
    region = regions.add_relu(m=8, n=50)
    base = make(region, case(region))
    starts = set()
    for turn in range(6):
        for a, b in zip(base, make(region, dataclasses.replace(case(region), note=f"stretch {turn} of 8")), strict=True):
            at = (a != b).flatten().nonzero().flatten()
            assert len(at) == 50 == int(at[-1] - at[0]) + 1
            starts.add(int(at[0]))
    assert len(starts) > 3


def test_one_input_alone_is_from_the_distribution() -> None:
    region = regions.add_relu(m=8, n=50)
    plain, far = (make(region, case(region, name)) for name in ("normal", "far"))
    mixed = make(region, dataclasses.replace(case(region, "far"), note="input 1 alone"))
    assert torch.equal(mixed[0], plain[0]) and torch.equal(mixed[1], far[1])


def test_places_of_maxima_lie_in_the_image() -> None:
    """As a pool gives them: none in the padding, each of the others sooner or later."""
    region = captured("pool_gradient")
    met = set()
    for seed in range(60):
        for tame in (True, False):
            offsets = make(region, case(region, "normal", seed), tame)[0].long()
            rows, columns = (torch.arange(n) for n in offsets.shape[-2:])
            h, w = 2 * rows[:, None] - 1 + offsets // 3, 2 * columns - 1 + offsets % 3
            assert bool(((h >= 0) & (h < 12) & (w >= 0) & (w < 20)).all())
        met |= {("corner", int(offsets[0, 0, 0, 0])), ("inner", int(offsets[0, 0, 3, 4]))}
    assert met == {("corner", n) for n in (4, 5, 7, 8)} | {("inner", n) for n in range(9)}
