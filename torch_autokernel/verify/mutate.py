"""Wrong kernels made from right ones, by small changes of their text: what a judge must tell from the original.

Some mutants are right all the same (an unused bound, a sum that starts elsewhere): a score below one is read mutant by mutant.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

from torch_autokernel.lang.prototype import blank_comments


@dataclass(frozen=True)
class Mutant:
    """`text` is the whole changed text; `line` counts from 1; `before` and `after` are that line's."""

    operator: str
    line: int
    before: str
    after: str
    text: str

    def __str__(self) -> str:
        return f"line {self.line}, {self.operator}: `{self.before.strip()}` -> `{self.after.strip()}`"


Rule = tuple[str, str, tuple[str, ...]]  # operator, pattern, replacements (the pattern's groups as \1, \2)
_RULES: tuple[Rule, ...] = (
    ("comparison", r"(?<![<>=!-])<(?![<=>])(?= ?-?[\w(])", ("<=",)),
    ("comparison", r"(?<![<>=!-])>(?![<=>])(?= ?-?[\w(])", (">=", "<")),
    ("comparison", r"<=", ("<",)),
    ("comparison", r">=", (">",)),
    ("comparison", r"==", ("!=",)),
    ("comparison", r"!=", ("==",)),
    ("arithmetic", r"(?<=[\w)\]]) \+ (?=[\w(])", (" - ",)),
    ("arithmetic", r"(?<=[\w)\]]) - (?=[\w(])", (" + ",)),
    ("arithmetic", r"(?<=[\w)\]]) \* (?=[\w(])", (" / ", " + ")),
    ("arithmetic", r"(?<=[\w)\]]) / (?=[\w(])", (" * ",)),
    ("accumulator", r"\+=", ("=", "-=")),
    ("accumulator", r"\*=", ("=",)),
    ("accumulator", r"(?<= )(total|sum|mean|var|count|part|top) = (0|-INFINITY)(?=[,;])", (r"\1 = 1",)),
    ("increment", r"\+\+(?=[ij]\b)", ("++", )),
    ("constant", r"(?<![\w.])(\d+)(?![\w.])", ("<+1>", "<-1>", "<0>")),
    ("constant", r"(?<![\w.])(\d*\.\d+(?:e-?\d+)?|\d+e-?\d+)(?=f?\b)", ("<*1.01>", "<*2>")),
    ("index", r"\[([^\[\]]+)\]", (r"[\1 + 1]",)),
    ("index", r"\[([^\[\]]*[a-z][^\[\]]*)\]", (r"[(\1) / 2]",)),
    ("size", r"\bs0\b", ("(s0 - 1)", "s1")),
    ("size", r"\bs1\b", ("(s1 - 1)", "s0")),
    ("operand", r"\bx0\b", ("x1",)),
    ("operand", r"\bx1\b", ("x0", "x2")),
    ("type", r"\bdouble\b", ("float",)),
    ("type", r"\bfloat(?= (total|sum|mean|var|part|v|r|a|m2|top)\b)", ("_Float16",)),
    ("type", r"\bint64_t(?= [ij]\b)", ("int8_t",)),
    ("function", r"\bexpf(?=\()", ("exp2f",)),
    ("function", r"\bexp(?=\()", ("exp2",)),
    ("function", r"\bsqrtf?(?=\()", ("",)),
    ("function", r"\berff(?=\()", ("tanhf",)),
    ("function", r"\blarger(?=\()", ("fmaxf", "fminf")),
    ("function", r"\brelu(?=\()", ("", "fabsf")),
    ("function", r"\blogf?(?=\()", ("log1pf",)),
    ("function", r"\bround_bf16(?=\()", ("",)),
    ("branch", r"(?<=\? )([^:?]+) : ([^;,)]+)", (r"\2 : \1",)),
    ("pragma", r"^ *#pragma omp (critical|barrier|atomic|single).*$", ("",)),
    ("pragma", r" reduction\([^)]*\)", ("",)),
    ("pragma", r" nowait\b", ("",)),
    ("statement", r"(?<=[;{)] )[^;{}()]*(?:\([^;{}]*\))?[^;{}()]*=[^;{}=]*;", (";",)),
    ("statement", r"^( +)[^;{}#/]*[^=!<>]=[^=][^;{}]*;$", (r"\1;",)),
    ("statement", r"\bcontinue;", (";",)),
)  # fmt: skip


def mutants(text: str) -> Iterator[Mutant]:
    """Every mutant of a C++ kernel's text that the rules make, in order. Comments, includes and signatures stay."""
    lines, bare = text.split("\n"), blank_comments(text).split("\n")
    for number, (line, code) in enumerate(zip(lines, bare, strict=True)):
        if line.lstrip().startswith(("#include", "#define", 'extern "C"', "template")) or not code.strip():
            continue
        seen: set[str] = set()
        for operator, pattern, replacements in _RULES:
            for match in re.finditer(pattern, code):
                for replacement in replacements:
                    new = line[: match.start()] + _replaced(match, replacement) + line[match.end() :]
                    if new != line and new not in seen:
                        seen.add(new)
                        yield Mutant(operator, number + 1, line, new, "\n".join([*lines[:number], new, *lines[number + 1 :]]))


def sample(text: str, count: int, rng: random.Random) -> list[Mutant]:
    """Some mutants, spread over the operators."""
    by_operator: dict[str, list[Mutant]] = {}
    for mutant in mutants(text):
        by_operator.setdefault(mutant.operator, []).append(mutant)
    for group in by_operator.values():
        rng.shuffle(group)
    out: list[Mutant] = []
    while len(out) < count and by_operator:
        for operator in rng.sample(sorted(by_operator), len(by_operator)):
            out.append(by_operator[operator].pop())
            if not by_operator[operator]:
                del by_operator[operator]
    return out[:count]


def _replaced(match: re.Match[str], replacement: str) -> str:
    number = match[0]
    if replacement in ("<+1>", "<-1>", "<0>"):
        return {"<+1>": str(int(number) + 1), "<-1>": str(int(number) - 1), "<0>": "0"}[replacement]
    if replacement in ("<*1.01>", "<*2>"):
        return repr(float(number) * float(replacement[2:-1]))
    return match.expand(replacement)
