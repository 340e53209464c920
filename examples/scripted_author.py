"""A language model's stand-in for demonstrations: it edits kernels that it is shown, well, badly, dishonestly or not at all.

Its answers follow from the question alone, so a run can be repeated. It knows no kernel by heart: without a kernel in the
question it only talks. What is right, wrong or faster, it does not know either; that is for the judge and the stopwatch.
"""

from __future__ import annotations

import random
import re

from torch_autokernel.core.types import digest
from torch_autokernel.propose.llm.talk import Request

BETTER = (  # edits that keep a kernel right: other vector lengths, other splits between threads, other stores
    ("64 lanes a step", r"constexpr int L = \d+;", "constexpr int L = 64;"),
    ("32 lanes a step", r"constexpr int L = \d+;", "constexpr int L = 32;"),
    ("4 lanes a step", r"constexpr int L = \d+;", "constexpr int L = 4;"),
    ("rows in chunks of four", r"schedule\(static\)", "schedule(static, 4)"),
    ("rows handed out as needed", r"schedule\(static\)", "schedule(dynamic, 16)"),
    ("stores that stay in cache", r"put_stream<", "put<"),
    ("threads from fewer elements on", r"if \((.*?) > \d+\)", r"if (\1 > 4096)"),
    ("one thread only", r"#pragma omp parallel for.*", "// one thread"),
)
WORSE = (  # plausible mistakes
    ("short loop", r"each<L>\(0, (s\d+|\d+),", r"each<L>(0, \1 - 1,"),
    ("wrong start of a maximum", r"-std::numeric_limits<float>::infinity\(\)", "0.0f"),
    ("sum instead of difference", r"(v\d+) - (v\d+)", r"\1 + \2"),
    ("a missing semicolon", r";\n    \}", "\n    }"),
    ("the wrong row", r"r0 \* s1", "r0 * s0"),
)
CHEATS = (  # fast, and not the function
    ("writes nothing", r"\bput(_stream)?<[^;]*;", "(void)0;"),
    ("only the sizes at hand", r'(extern "C" void kernel\([^)]*\) \{)', r"\1\n  if (s0 % 64) return;"),
    ("half of the rows", r"r0 < s0;", "r0 < s0 / 2;"),
)
TALK = ("I would first profile the kernel.", "```cpp\nint main() {", "Sure! Here is the kernel you asked for.")


def answer(request: Request) -> str:
    """A scripted model's answer."""
    question = request.messages[-1].text
    rng = random.Random(digest([question, request.sample]))
    if request.schema is not None:
        return _data(question)
    shown = re.findall(r"^(`{3,})cpp\n(.*?)^\1$", question, re.DOTALL | re.MULTILINE)
    dice = rng.random()
    if not shown or dice < 0.1:
        return rng.choice(TALK)
    edits = BETTER if dice < 0.7 else WORSE if dice < 0.85 else CHEATS
    name, text = _edit(rng, rng.choice(shown)[1], edits)
    return f"strategy: {name}\n```cpp\n{text}```\n"


def _edit(rng: random.Random, text: str, edits: tuple[tuple[str, str, str], ...]) -> tuple[str, str]:
    """The text after the first edit, in a random order, that changes it."""
    for name, pattern, new in rng.sample(edits, len(edits)):
        changed = re.sub(pattern, new, text)
        if changed != text:
            return name, changed
    return "as it was", text


def _data(question: str) -> str:
    if '"cases"' in question:
        return '{"cases": [{"sizes": [{"symbol": "s0", "value": 33}], "distribution": "wide", "why": "a remainder"}]}'
    return '{"probability": 0.5, "reasons": ["I have only edited it"]}'
