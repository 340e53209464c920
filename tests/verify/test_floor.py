"""Compulsory bytes of small signatures, counted by hand, and the floor that follows."""

from __future__ import annotations

from typing import Any

from torch_autokernel.core.types import Arch, Op, Ref, Region, Signature, TensorSpec
from torch_autokernel.verify.floor import CEILING, MULTIPLY_ADDS, compulsory_bytes, floor_ns, multiply_adds

ROWS, COLUMNS = 128, 512
MATRIX = TensorSpec.contiguous(("s0", "s1"), "float32")
ROW = TensorSpec.contiguous(("s1",), "float32")


def region(ops: list[Op], inputs: list[TensorSpec], output: TensorSpec = MATRIX, rows: int = ROWS) -> Region:
    number = len(inputs) + len(ops) - 1
    signature = Signature(tuple(ops), tuple(inputs), (number,), (output,), ("s0", "s1"))
    return Region(signature, "", {"s0": rows, "s1": COLUMNS})


def op(name: str, *args: Any) -> Op:
    return Op(f"aten.{name}", args, {}, ("s0", "s1"), "float32")


def test_inputs_and_outputs_count_once() -> None:
    made = region([op("mul.Tensor", Ref(0), Ref(1)), op("mul.Tensor", Ref(2), Ref(0))], [MATRIX, ROW])
    assert compulsory_bytes(made) == 4 * (2 * ROWS * COLUMNS + COLUMNS)


def test_a_product_takes_its_multiply_adds() -> None:
    """Of 128 by 64 times 64 by 512, with or without a row that is added: far more arithmetic than bytes."""
    left, right = TensorSpec.contiguous(("s0", 64), "float32"), TensorSpec.contiguous((64, "s1"), "float32")
    plain = region([op("mm.default", Ref(0), Ref(1))], [left, right])
    more = region([op("addmm.default", Ref(0), Ref(1), Ref(2)), op("exp.default", Ref(3))], [ROW, left, right])
    assert multiply_adds(plain) == multiply_adds(more) == 128 * 512 * 64
    arch = Arch("cpu-x", limits={"l1_bytes": 1 << 30})
    assert floor_ns(plain, arch, 2) == 128 * 512 * 64 / (2 * MULTIPLY_ADDS[""])
    assert floor_ns(plain, Arch("cpu-x", ("amx_tile",), {"l1_bytes": 1 << 30}), 2) < floor_ns(plain, arch, 2)


def test_low_precision_counts_its_own_bytes() -> None:
    half = TensorSpec.contiguous(("s0", "s1"), "bfloat16")
    assert compulsory_bytes(region([op("exp.default", Ref(0))], [half], half)) == 2 * 2 * ROWS * COLUMNS


def test_a_broadcast_input_counts_what_is_there() -> None:
    wide = TensorSpec(("s0", "s1"), "float32", (0, 1))
    assert compulsory_bytes(region([op("exp.default", Ref(0))], [wide])) == 4 * (ROWS * COLUMNS + COLUMNS)


def test_an_input_that_is_sliced_through_a_view_may_be_left_unread() -> None:
    ops = [op("permute.default", Ref(0), (1, 0)), op("slice.Tensor", Ref(1), 0, 0, 1), op("exp.default", Ref(2))]
    assert compulsory_bytes(region(ops, [MATRIX])) == 4 * ROWS * COLUMNS


def test_the_ceiling_falls_with_the_level() -> None:
    arch = Arch("x", limits={"l1_bytes": 32 << 10, "l2_bytes": 1 << 20, "l3_bytes": 16 << 20})
    rates = {}
    for rows in (8, 256, 8192, 65536):
        made = region([op("exp.default", Ref(0))], [MATRIX], rows=rows)
        rates[rows] = compulsory_bytes(made) / floor_ns(made, arch, 1)
    assert list(rates.values()) == [CEILING["l1"], CEILING["l2"], CEILING["l3"], CEILING["memory"]]


def test_a_measured_memory_lowers_the_ceiling() -> None:
    made = region([op("exp.default", Ref(0))], [MATRIX], rows=65536)
    arch = Arch("x", limits={"l1_bytes": 1, "l2_bytes": 1, "l3_bytes": 1}, peak_bytes_per_s=16e9)
    assert compulsory_bytes(made) / floor_ns(made, arch, 2) == 64.0


def test_unknown_caches_leave_the_most_generous_ceiling() -> None:
    made = region([op("exp.default", Ref(0))], [MATRIX], rows=65536)
    assert compulsory_bytes(made) / floor_ns(made, Arch("x"), 2) == 2 * CEILING["l1"]
