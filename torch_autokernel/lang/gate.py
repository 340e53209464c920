"""A first look at an author's text, before a compiler sees it. It keeps the compiler from reading files and the text from
reaching around the rules; what a compiled object may call is judged later, from the object."""

from __future__ import annotations

import re

from torch_autokernel.lang.prototype import blank_comments

MOST_BYTES = 1 << 20
HEADERS = frozenset(
    "algorithm array bit bitset cassert cfloat cinttypes climits cmath complex cstddef cstdint cstring functional "
    "initializer_list iterator limits new numeric optional tuple type_traits utility variant "
    "stdint.h stddef.h math.h string.h float.h limits.h inttypes.h stdbool.h "
    "omp.h immintrin.h x86intrin.h emmintrin.h xmmintrin.h arm_neon.h arm_sve.h arm_bf16.h arm_fp16.h".split()
)
_OURS = re.compile(r"autokernel/[a-z0-9_]+\.h")
ATTRIBUTES = frozenset(
    "always_inline noinline aligned vector_size ext_vector_type may_alias unused maybe_unused hot cold const pure flatten "
    "nodiscard likely unlikely fallthrough assume_aligned nothrow noreturn gnu clang".split()
)
_PRAGMA = re.compile(r"(omp\b.*|once|GCC\s+(ivdep|unroll\s+\d+)|unroll\b.*|clang\s+loop\b.*|STDC\s+FP_CONTRACT\s+(ON|OFF))\s*")
DIRECTIVES = frozenset("include pragma define undef if ifdef ifndef elif else endif error".split())
WORDS = {
    "asm": "assembly", "__asm": "assembly", "__asm__": "assembly", "__has_include": "looking for files",
    "__has_embed": "looking for files", "__attribute": "write __attribute__",
}  # fmt: skip


def findings(text: str) -> list[str]:
    """What is not allowed in a kernel's text, each with its line; empty for text that may be compiled."""
    if len(text.encode("utf-8", "surrogatepass")) > MOST_BYTES:
        return [f"the text has more than {MOST_BYTES} bytes"]
    if "\0" in text or "\r" in text.replace("\r\n", "\n"):
        return ["the text has NUL or lone carriage-return characters"]
    if re.search(r"\w\\[ \t]*\n\w", text):
        return ["a line continuation splits a word"]
    joined = _join_lines(text)
    code = blank_comments(joined)
    found: list[str] = []
    for number, (line, bare) in enumerate(zip(joined.split("\n"), code.split("\n"), strict=True), 1):
        found += [f"line {number}: {what}" for what in _line(line, bare)]
    return found + _attributes(code)


def _join_lines(text: str) -> str:
    """Lines that end in a backslash joined to the next, with empty lines after them so that numbers stay."""
    out: list[str] = []
    held, extra = "", 0
    for line in text.replace("\r\n", "\n").split("\n"):
        if line.rstrip().endswith("\\"):
            held, extra = held + line.rstrip()[:-1], extra + 1
            continue
        out += [held + line] + [""] * extra
        held, extra = "", 0
    return "\n".join(out + ([held] + [""] * (extra - 1) if extra else []))


def _line(line: str, bare: str) -> list[str]:
    found = [f"`{w}` is not allowed ({WORDS[w]})" for w in dict.fromkeys(re.findall(r"\w+", bare)) if w in WORDS]
    if "%:" in bare or "??=" in line:
        found.append("another spelling of # is not allowed")
    for text in re.findall(r'\b_Pragma\s*\(\s*(?:"((?:\\.|[^"\\])*)")?', line):
        if not _PRAGMA.fullmatch(text.strip()):
            found.append(f"_Pragma({text!r}) is not allowed")
    if directive := re.match(r"\s*#\s*(\w*)(.*)", bare):
        found += _directive(directive[1], line)
    return found


def _directive(name: str, line: str) -> list[str]:
    if name and name not in DIRECTIVES:
        return [f"#{name} is not allowed"]
    rest = line.partition(name)[2].strip() if name else ""
    if name == "include":
        target = re.fullmatch(r"<([^<>]+)>\s*(//.*|/\*.*\*/\s*)?", rest)
        if not target or not (target[1] in HEADERS or _OURS.fullmatch(target[1])):
            return [f"#include {rest[:60]} is not allowed; allowed are <autokernel/...> and standard headers such as <cmath>"]
    if name == "pragma" and not _PRAGMA.fullmatch(re.sub(r"//.*", "", rest).strip()):
        return [f"#pragma {rest[:60]} is not allowed; allowed are omp, once, GCC ivdep, GCC unroll"]
    return []


def _attributes(code: str) -> list[str]:
    """Attributes beyond the allow-list: some run code at load time, some change how the text is compiled."""
    spans = re.findall(r"__attribute__\s*\(\((.*?)\)\)", code, re.DOTALL) + re.findall(r"\[\[(.*?)\]\]", code, re.DOTALL)
    words = [w.strip("_") for span in spans for w in re.findall(r"[A-Za-z_]\w*(?=\s*(?:\(|,|$|:))", span.strip())]
    count = len(re.findall(r"__attribute__", code)) - len(re.findall(r"__attribute__\s*\(\(", code))
    found = [f"attribute `{w}` is not allowed" for w in dict.fromkeys(words) if w not in ATTRIBUTES]
    return found + (["__attribute__ without (( )) is not allowed"] if count else [])
