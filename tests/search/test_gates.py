"""Regions that are not worth a search, and regions that are."""

from __future__ import annotations

import dataclasses

from tests.search.fakes import ARCH, region
from torch_autokernel.core.types import Op, Ref, Region, Signature, TensorSpec
from torch_autokernel.search.gates import refusal


def test_what_costs_less_than_a_call_is_refused() -> None:
    assert (refusal(region(64, 64), ARCH) or "").startswith("too small: it moves 32768 bytes, about 3.3 us")


def test_nothing_is_too_small_for_a_direct_call() -> None:
    assert refusal(dataclasses.replace(region(2, 3), phase="direct"), ARCH) is None


def test_what_may_pay_goes_through() -> None:
    assert refusal(region(128, 128), ARCH) is None


def test_a_product_is_weighed_by_its_arithmetic() -> None:
    """14 KB in and out, but torch takes 18 us for the products in between; in float32 all of it takes less than a call."""

    def product(dtype: str) -> Region:
        spec = TensorSpec.contiguous(("s0", "s0"), dtype)
        op = Op("aten.mm.default", (Ref(0), Ref(1)), {}, ("s0", "s0"), dtype)
        return Region(Signature((op,), (spec, spec), (2,), (spec,), ("s0",)), "", {"s0": 48})

    assert refusal(product("bfloat16"), ARCH) is None
    assert "too small" in (refusal(product("float32"), ARCH) or "")


def test_an_empty_output_is_refused() -> None:
    assert refusal(region(0, 4096), ARCH) == "an output has no elements at these sizes"


def test_an_expanded_input_counts_once() -> None:
    base = region(128, 128)
    wide = TensorSpec(("s0", "s1"), "float32", (0, 1))
    one_row = dataclasses.replace(base.signature, inputs=(wide, *base.signature.inputs[1:]))
    small = dataclasses.replace(base, signature=one_row, sizes={"s0": 100, "s1": 100})
    assert "it moves 40400 bytes" in (refusal(small, ARCH) or "")
