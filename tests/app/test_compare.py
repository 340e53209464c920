from __future__ import annotations

import pytest
import torch
from torch import nn

from torch_autokernel.app.compare import difference, exact_results, in_float64
from torch_autokernel.app.problem import Problem

VALUES = torch.linspace(-2.0, 3.0, 101)


def equal(got: object, expected: object, exact: object = None) -> bool:
    return difference([got], [expected], None if exact is None else [exact])[0] <= 1


@pytest.mark.parametrize(("dtype", "near", "far"), [
    (torch.float32, 3e-5, 1e-3), (torch.bfloat16, 1e-2, 2e-1), (torch.float16, 1e-3, 5e-2), (torch.float64, 1e-10, 1e-6),
])  # fmt: skip
def test_the_tolerance_follows_the_dtype(dtype: torch.dtype, near: float, far: float) -> None:
    expected = VALUES.to(dtype)
    assert equal((expected.double() * (1 + near)).to(dtype), expected)
    assert not equal((expected.double() * (1 + far)).to(dtype), expected)


def test_one_wrong_value_is_found_and_named() -> None:
    got = VALUES.clone()
    got[7] += 1e-2
    parts, where = difference([VALUES, got], [VALUES, VALUES])
    assert parts > 1
    assert where.startswith("result 1: -1.64 where -1.65 is expected")


def test_specials_must_be_in_place() -> None:
    nan, inf = float("nan"), float("inf")
    expected = torch.tensor([1.0, nan, inf, -inf])
    assert equal(expected.clone(), expected)
    for wrong in ([1.0, nan, inf, inf], [1.0, 0.0, inf, -inf], [nan, nan, inf, -inf], [1.0, inf, nan, -inf]):
        assert not equal(torch.tensor(wrong), expected)
    assert not equal(torch.tensor([nan]), torch.tensor([0.0]))


def test_shape_dtype_kind_and_count() -> None:
    assert not equal(VALUES[:-1], VALUES)
    assert not equal(VALUES.double(), VALUES)
    assert not equal(1.0, VALUES)
    assert equal(3, 3) and not equal(3, 4)
    assert difference([VALUES], [VALUES, VALUES])[0] > 1
    assert difference([], [])[0] > 1
    index = torch.arange(4)
    assert equal(index.clone(), index) and not equal(index + 1, index)
    assert equal(torch.empty(0), torch.empty(0))


def test_a_gradient_that_cancels_may_be_all_rounding() -> None:
    exact = torch.zeros(100, dtype=torch.float64)
    expected, got = 1e-8 * torch.randn(100), 1e-8 * torch.randn(100)
    assert not equal(got, expected)
    assert equal(got, expected, exact)
    assert not equal(torch.full((100,), 1e-6), expected, exact)


def test_results_in_float64() -> None:
    model = nn.Linear(3, 2)
    problem = Problem("p", model, (torch.randn(4, 3),), "callable")
    assert in_float64(problem).call().dtype is torch.float64
    assert model.weight.dtype is torch.float32
    fixed = Problem("p", lambda x: x @ torch.ones(3, 2), (torch.randn(4, 3),), "callable")
    assert exact_results(fixed, lambda p: [p.call()]) is None
