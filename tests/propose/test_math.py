"""The vector functions against numpy in float64: units in the last place over all bit patterns, and special values."""

from __future__ import annotations

import ctypes
import math
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.propose.running import FLAGS, INCLUDE

Array = Any
SEED = 20261124


def _erf(x: Array) -> Array:
    return torch.erf(torch.from_numpy(x)).numpy()


FUNCTIONS: dict[str, tuple[Callable[[Array], Array], float]] = {
    "exp": (np.exp, 1.1), "expm1": (np.expm1, 1.6), "log": (np.log, 1.0), "log1p": (np.log1p, 1.7), "tanh": (np.tanh, 2.5),
    "erf": (_erf, 1.5), "sin": (np.sin, 1.7), "cos": (np.cos, 1.7), "sqrt": (np.sqrt, 0.51), "rsqrt": (lambda x: 1 / np.sqrt(x), 1.6),
    "floor": (np.floor, 0), "ceil": (np.ceil, 0), "trunc": (np.trunc, 0), "round": (np.round, 0), "abs": (np.abs, 0),
    "exp_down": (lambda x: np.exp(np.minimum(x, 0)), 1.1),
}  # fmt: skip
TARGETS = [("native", 1), ("native", 2), ("haswell", 1), ("native", 4), ("native", 16), ("native", 32), ("haswell", 8), ("haswell", 16), ("haswell -mno-avx2", 8), ("x86-64", 8)]


def _targets() -> list[tuple[str, int]]:
    """What this machine can compile for and run."""
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    return [t for t in TARGETS if t[0] == "native" or (t[0].startswith("haswell") and "avx2" in flags) or (t[0] == "x86-64" and "sse2" in flags)]


@pytest.fixture(scope="module", params=_targets(), ids=lambda t: f"{t[0]}-{t[1]}")
def library(request: Any, tmp_path_factory: Any) -> ctypes.CDLL:
    march, lanes = request.param
    out = tmp_path_factory.mktemp("math") / "math.so"
    source = Path(__file__).with_name("math.cpp")
    subprocess.run(
        ["g++", *FLAGS, "-shared", *f"-march={march}".split(), f"-DLANES={lanes}", f"-I{INCLUDE}", str(source), "-o", str(out)], check=True
    )
    return ctypes.CDLL(str(out))


@pytest.mark.parametrize("march", ["x86-64", "sandybridge", "haswell", "skylake-avx512", "sapphirerapids"])
def test_it_compiles_for_machines_that_are_not_here(march: str) -> None:
    source = Path(__file__).with_name("math.cpp")
    for lanes in (1, 2, 4, 8, 16, 32, 64):
        command = ["g++", *FLAGS, "-fsyntax-only", f"-march={march}", f"-DLANES={lanes}", f"-I{INCLUDE}", str(source)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, f"{lanes} lanes: {done.stderr[-500:]}"


def _inputs() -> Array:
    print("seed", SEED)
    rng = np.random.default_rng(SEED)
    patterns = np.arange(0, 2**32, 9973, dtype=np.uint64).astype(np.uint32).view(np.float32)
    near = [rng.uniform(-1, 1, 60000), rng.uniform(-110, 110, 80000), rng.normal(size=60000) * 5, 1 + rng.normal(size=40000) * 1e-3]
    special = [0.0, -0.0, math.inf, -math.inf, math.nan, 88.72284, 88.73, -87.4, -103.97, -104.1, 1e-45, -1e-45, 0.5, 1.5, 2.5, -0.5, 0.5625, 1.6875, 2.8125, -3.9375]
    turns = np.arange(-63600, 63600) * (math.pi / 2)  # where sines and cosines are smallest
    alone = [np.full(64, 0.0), np.full(64, -0.0)]  # whole steps of them: a special value beside them may lead another way
    return np.concatenate([*alone, patterns, *near, turns, rng.uniform(-1e5, 1e5, 60000), special]).astype(np.float32)


def _apply(fn: Any, x: Array) -> Array:
    y = np.empty_like(x)
    fn(x.ctypes.data_as(ctypes.c_void_p), y.ctypes.data_as(ctypes.c_void_p), ctypes.c_int64(len(x)))
    return y


@pytest.mark.parametrize("name", FUNCTIONS)
def test_units_in_the_last_place(library: ctypes.CDLL, name: str) -> None:
    exact, limit = FUNCTIONS[name]
    x = _inputs()
    with np.errstate(all="ignore"):
        want = exact(x.astype(np.float64))
        rounded = want.astype(np.float32)
        got = _apply(getattr(library, f"m_{name}"), x)
        assert np.array_equal(np.isnan(got), np.isnan(rounded))
        assert np.array_equal(np.isinf(got), np.isinf(rounded))
        fine = np.isfinite(rounded)
        ulp = np.abs(np.spacing(np.abs(rounded[fine]))).astype(np.float64)
        error = np.abs(got[fine].astype(np.float64) - want[fine]) / ulp
    worst = error.argmax()
    assert error[worst] <= limit, f"{name}({x[fine][worst]!r}) = {got[fine][worst]!r}, {error[worst]:.2f} ulp"
    zero = fine & (rounded == 0)
    assert np.array_equal(np.signbit(got[zero]), np.signbit(rounded[zero]))


def test_sigmoid_is_as_exact_as_eager(library: ctypes.CDLL) -> None:
    x = _inputs()
    exact = torch.sigmoid(torch.from_numpy(x).double()).numpy()
    got = _apply(library.m_sigmoid, x)
    assert np.array_equal(np.isnan(got), np.isnan(x))
    fine = ~np.isnan(x)
    assert np.abs(got[fine] - exact[fine]).max() <= 2 * 2**-24


def test_low_precision_rounding_is_torchs(library: ctypes.CDLL) -> None:
    x = _inputs()
    for name, dtype in (("round_bf16", torch.bfloat16), ("round_f16", torch.float16)):
        want = torch.from_numpy(x).to(dtype).float().numpy()
        for kind in "ms":
            got = _apply(getattr(library, f"{kind}_{name}"), x)
            assert np.array_equal(got, want, equal_nan=True), (name, kind)


@pytest.mark.parametrize(("kind", "dtype"), [("i8", np.int8), ("u8", np.uint8), ("i16", np.int16)])
def test_narrow_integers_keep_their_sign(library: ctypes.CDLL, kind: str, dtype: Any) -> None:
    """All values, in whole steps and in what is left over, widened and narrowed again."""
    values = np.arange(np.iinfo(dtype).min, np.iinfo(dtype).max + 1, dtype=np.int32)
    x = np.concatenate([values, values[:3]]).astype(dtype)
    wide, back = np.empty(len(x), np.int32), np.empty(len(x), dtype)
    for name, source, target in (("wide", x, wide), ("narrow", wide, back)):
        pointers = [ctypes.c_void_p(a.ctypes.data) for a in (source, target)]
        getattr(library, f"m_{name}_{kind}")(*pointers, ctypes.c_int64(len(x)))
    assert np.array_equal(wide, x.astype(np.int32)) and np.array_equal(back, x)


def test_scalars_agree_with_vectors(library: ctypes.CDLL) -> None:
    x = np.ascontiguousarray(_inputs()[::97])
    for name in ("exp", "log", "tanh", "erf", "floor", "round", "sign", "rsqrt"):
        a, b = _apply(getattr(library, f"m_{name}"), x), _apply(getattr(library, f"s_{name}"), x)
        assert np.allclose(a, b, rtol=4e-7, atol=1e-45, equal_nan=True), name


@pytest.mark.parametrize("d", [3.0, -7.5, 0.0, math.inf, math.nan, 1e-40, 3e38, 1e-45])
def test_division_by_one_number(library: ctypes.CDLL, d: float) -> None:
    x = np.ascontiguousarray(_inputs()[::53])
    y = np.empty_like(x)
    library.m_quotient(x.ctypes.data_as(ctypes.c_void_p), y.ctypes.data_as(ctypes.c_void_p), ctypes.c_float(d), ctypes.c_int64(len(x)))
    with np.errstate(all="ignore"):
        want = x / np.float32(d)
    same = (y == want) | (np.isnan(y) & np.isnan(want))
    near = np.abs(y.astype(np.float64) - want) <= 2 * np.spacing(np.abs(want)).astype(np.float64)
    assert (same | near).all()


def test_maximum_keeps_nan(library: ctypes.CDLL) -> None:
    library.m_max.restype = ctypes.c_float
    for n in (1, 7, 16, 33, 100):
        for at in range(0, n, max(1, n // 5)):
            x = np.arange(n, dtype=np.float32)
            x[at] = np.nan
            assert math.isnan(library.m_max(x.ctypes.data_as(ctypes.c_void_p), ctypes.c_int64(n))), (n, at)
        x = -np.arange(1, n + 1, dtype=np.float32)
        assert library.m_max(x.ctypes.data_as(ctypes.c_void_p), ctypes.c_int64(n)) == -1


@pytest.mark.parametrize(("name", "dtype"), [
    ("maximum_f32", np.float32), ("minimum_f32", np.float32), ("maximum_f64", np.float64), ("minimum_f64", np.float64),
    ("maximum_i32", np.int32), ("minimum_i64", np.int64),
])  # fmt: skip
def test_extremes_of_every_pair(library: ctypes.CDLL, name: str, dtype: Any) -> None:
    """What torch says, NaN on either side and in both, and of two zeros one of them."""
    some = [0, -3, 7, 1, -1] if "i" in name[-3:] else [0.0, -0.0, 1.5, -2.5, np.inf, -np.inf, np.nan, 1e-40]
    a, b = (np.ascontiguousarray(x.ravel(), dtype) for x in np.meshgrid(some * 9, some * 9))
    y = np.empty_like(a)
    getattr(library, f"m_{name}")(*(ctypes.c_void_p(x.ctypes.data) for x in (a, b, y)), ctypes.c_int64(len(a)))
    want = getattr(torch, name[:7])(torch.from_numpy(a), torch.from_numpy(b)).numpy()
    assert np.array_equal(y, want, equal_nan=dtype in (np.float32, np.float64))


def test_double_sum(library: ctypes.CDLL) -> None:
    library.m_sum.restype = ctypes.c_double
    for n in (1, 3, 8, 17, 100):
        x = np.arange(n, dtype=np.float64) * 0.25
        assert library.m_sum(x.ctypes.data_as(ctypes.c_void_p), ctypes.c_int64(n)) == x.sum()
