from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torch_autokernel.core import dims

DIMS = st.recursive(
    st.one_of(st.integers(0, 9), st.sampled_from(["s0", "s1", "s10", "s2"])),
    lambda inner: st.one_of(st.builds(dims.mul, inner, inner), st.builds(dims.add, inner, inner)),
    max_leaves=6,
)
VALUES = {"s0": 3, "s1": 5, "s2": 7, "s10": 11}


@given(DIMS, DIMS)
def test_arithmetic_agrees_with_numbers(a: dims.Dim, b: dims.Dim) -> None:
    x, y = dims.evaluate(a, VALUES), dims.evaluate(b, VALUES)
    assert dims.evaluate(dims.mul(a, b), VALUES) == x * y
    assert dims.evaluate(dims.add(a, b), VALUES) == x + y
    assert dims.mul(a, b) == dims.mul(b, a) and dims.add(a, b) == dims.add(b, a)


@given(DIMS)
def test_text_is_canonical(a: dims.Dim) -> None:
    assert dims.render(dims.parse(a)) == a
    assert dims.rename(a, {}) == a
    assert dims.rename(a, VALUES) == dims.evaluate(a, VALUES)


@pytest.mark.parametrize("text", ["", "s0/2", "s0**2", "2s0", "s0 +", "a b*"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="not a size"):
        dims.parse(text)
