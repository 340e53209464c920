"""What the first look at a text refuses, and what it must let through."""

from __future__ import annotations

import pathlib

import pytest

from tests.lang.conftest import ADD
from torch_autokernel.lang import gate
from torch_autokernel.lang.compiler import INCLUDE

BAD = {
    '#include "/etc/passwd"': "#include",
    "#include </etc/passwd>": "#include",
    "#include <fstream>": "#include",
    "#include <autokernel/../../x.h>": "#include",
    "#define H <cmath>\n#include H": "#include",
    "#include <unistd.h>": "#include",
    "  #  include <sys/mman.h>": "#include",
    "#inc\\\nlude <fstream>": "splits a word",
    "%:include <fstream>": "another spelling",
    "??=include <fstream>": "another spelling",
    "# \\\n include <fstream>": "#include",
    "/**/#include <fstream>": "#include",
    "#include /* a */ <fstream>": "#include",
    "#include <cmath> <fstream>": "#include",
    "#include_next <cmath>": "#include_next",
    '#line 1 "x"': "#line",
    '# 1 "x"': "#1",
    "#import <x>": "#import",
    "#embed <x>": "#embed",
    '#pragma GCC optimize("fast-math")': "#pragma",
    "#pragma GCC push_options": "#pragma",
    "#pragma weak kernel": "#pragma",
    '#pragma GCC target("avx")': "#pragma",
    "#pragma STDC FENV_ACCESS ON": "#pragma",
    "#pragma redefine_extname a b": "#pragma",
    '_Pragma("GCC optimize(3)")': "_Pragma",
    '#define P _Pragma("weak x")': "_Pragma",
    "#define S(x) #x\n_Pragma(S(weak x))": "_Pragma",
    'asm("int3");': "`asm`",
    '__asm__ volatile("nop");': "`__asm__`",
    'int f() { __asm(""); }': "`__asm`",
    '#define A __asm__\nA("");': "`__asm__`",
    "__attribute__((constructor)) void f() {}": "constructor",
    "__attribute__((__constructor__(101))) void f();": "constructor",
    "__attribute__((always_inline, constructor)) void f();": "constructor",
    "[[gnu::constructor]] void f();": "constructor",
    '__attribute__((section(".init"))) int x;': "section",
    '__attribute__((ifunc("r"))) void f();': "ifunc",
    '__attribute__((optimize("fast-math"))) void f();': "optimize",
    '__attribute__((target("avx512f"))) void f();': "target",
    '__attribute__((visibility("default"))) void g();': "visibility",
    "#define C constructor\n__attribute__((C)) void f();": "`C`",
    "__attribute((constructor)) void f();": "__attribute",
    "#define A __attribute__\nA((constructor)) void f();": "__attribute__ without",
    "[[using gnu: constructor]] void f();": "constructor",
    "__attribute__((destructor)) void f();": "destructor",
    "#if __has_include(<x>)\n#endif": "__has_include",
    "int a;\0int b;": "NUL",
    "int a;\rint b;": "carriage",
    "x" * (1 << 21): "bytes",
}


@pytest.mark.parametrize("text", BAD, ids=range(len(BAD)))
def test_refused(text: str) -> None:
    found = gate.findings(text + "\n" + ADD)
    assert any(BAD[text] in f for f in found), (text, found)


GOOD = [
    "#include <cmath>  // for exp",
    "#include <algorithm>\n#include <autokernel/math.h>",
    "#include <omp.h>",
    "#pragma omp parallel for simd schedule(static) \\\n  collapse(2)",
    "#pragma GCC unroll 4",
    "#pragma GCC ivdep",
    "#pragma once",
    '#define M(x) \\\n  _Pragma("omp simd") \\\n  for (int i = 0; i < x; i++)',
    "// asm volatile, __attribute__((constructor))",
    "/* #include <fstream> */",
    "static inline __attribute__((always_inline)) float f(float x) { return x; }",
    "typedef float v16 __attribute__((vector_size(64), aligned(4), may_alias));",
    "[[maybe_unused]] static int x;",
    "auto f = [](int i) { int a[2] = {1, 2}; return a[a[i]]; };",
    "#define CAT(a, b) a##b",
    "#if defined(__AVX512F__)\n#else\n#endif",
    "int module = 1, import = 2;",
    "\r\n#include <cmath>\r\n",
]


@pytest.mark.parametrize("text", GOOD, ids=range(len(GOOD)))
def test_let_through(text: str) -> None:
    assert gate.findings(text + "\n" + ADD) == []


def test_line_numbers() -> None:
    assert gate.findings("\n#define A \\\n  1\n#include <fstream>")[0].startswith("line 4: ")


def test_every_shipped_header_may_be_included() -> None:
    names = [p.relative_to(INCLUDE) for p in pathlib.Path(INCLUDE).rglob("*.h")]
    assert names
    assert gate.findings("".join(f"#include <{n}>\n" for n in names)) == []
