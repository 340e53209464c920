"""The prototype as authors write it."""

from __future__ import annotations

import pytest

from tests.lang.conftest import ADD, add_signature
from torch_autokernel.core.types import Op, Ref, Signature, TensorSpec
from torch_autokernel.lang import prototype

X = "const float* x, const float* w, float* y, int64_t M, int64_t N"


@pytest.mark.parametrize(
    "parameters",
    [
        X,
        "const float *x,const float *w,float *y,int64_t M,int64_t N",
        "const float* __restrict x, float const* __restrict__ w, float* __restrict y, const int64_t M, std::int64_t N",
        "float const * const x, const float* const w, float* y, long M, const long N",
        "const float*, const float*, float*, int64_t, int64_t",
        "const float* x, // rows\n  const float* w /* a, b */,\n  float* y,\n  int64_t M, int64_t N",
    ],
)
def test_spellings_that_are_taken(parameters: str) -> None:
    assert prototype.read(f'extern "C" void kernel({parameters}) {{ }}', add_signature()).problem == ""


@pytest.mark.parametrize(
    "parameters",
    [
        X.replace("float* y", "const float* y"),
        X.replace("float* y", "float** y"),
        X.replace("float* y", "float y"),
        X.replace("const float* x", "const float& x"),
        X.replace("int64_t M", "int64_t* M"),
        X.replace("int64_t M", "uint64_t M"),
        X.replace("const float* x", "const unsigned* x"),
        X.replace("const float* x", "const volatile float* x"),
        "",
        X + ", int64_t K",
    ],
)
def test_spellings_that_are_not(parameters: str) -> None:
    assert prototype.read(f'extern "C" void kernel({parameters}) {{ }}', add_signature()).problem


@pytest.mark.parametrize(
    "text",
    [
        "// void kernel() {}\n" + ADD,
        'const char* s = "void kernel() {";\n' + ADD,
        "/* void kernel() { */" + ADD,
        'const char* s = R"x(void kernel() {)x";\n' + ADD,
        "void kernel(const float*);\n" + ADD,
        ADD.replace(") {", ") noexcept {", 1),
        'extern "C" {\n' + ADD.replace('extern "C" ', "") + "}",
    ],
)
def test_other_mentions_do_not_count(text: str) -> None:
    assert prototype.read(text, add_signature()).problem == ""


def test_comments_go_and_lines_stay() -> None:
    text = 'a // "x\n"b // c" /* d */ /* e\n f */ g \'"\' h'
    blank = prototype.blank_comments(text)
    assert len(blank) == len(text) and blank.count("\n") == text.count("\n")
    assert blank.split() == ["a", "g", "h"]


def test_what_is_shown_to_an_author() -> None:
    specs = (TensorSpec(("s0", 1, "2*s1"), "bfloat16", ("2*s1", 0, 1)), TensorSpec(("s0",), "bool", ("s2",)))
    out = TensorSpec((), "int64", ())
    signature = Signature((Op("aten.sum.default", (Ref(0),)),), specs, (2,), (out,), ("s0", "s1", "s2"), {"s1": 2})
    assert (
        prototype.render(signature, workspace=True)
        == """extern "C" void kernel(
    const uint16_t* x0,  // bfloat16 [s0, 1, 2*s1], strides [2*s1, any, 1]
    const bool* x1,  // bool [s0], strides [s2]
    int64_t* y0,  // int64 [], strides []
    int64_t s0,  // at least 1
    int64_t s1,  // at least 2
    int64_t s2,  // at least 1
    void* workspace  // 64-byte aligned, contents undefined
)"""
    )
    assert prototype.read(prototype.render(signature, True) + "{ }\n// workspace: 4*s1", signature).workspace == "4*s1"


def test_names_are_mapped_by_position_even_when_swapped() -> None:
    kernel = 'extern "C" void kernel(const float* x, const float* w, float* y, int64_t s1, int64_t s0, void* p) {}'
    text = f"// workspace: 2*s1*s1 + s0\n{kernel}"
    assert prototype.read(text, add_signature()).workspace == "2*s0*s0 + s1"
