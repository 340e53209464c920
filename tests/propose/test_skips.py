"""Which blocks of keys a mask may be told to empty: never one in which some key counts."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest

from torch_autokernel.propose.index import Affine
from torch_autokernel.propose.pull import Inst, Table
from torch_autokernel.propose.skips import masked, possible

NAMES = {"h": "h"}
ENDS = {"i": ("i0", "i1"), "j": ("j0", "j1")}
TESTS = {"lt": int.__lt__, "le": int.__le__, "gt": int.__gt__, "ge": int.__ge__, "eq": int.__eq__, "ne": int.__ne__}


def position(table: Table, terms: dict[str, int], const: int) -> Inst:
    at = Affine.of(terms, const)
    return table.make("index", "int64_t", axes=at.axes, at=at)


def condition(table: Table, rng: random.Random, depth: int) -> Inst:
    if depth and rng.random() < 0.7:
        fn = rng.choice(("and", "or", "not"))
        args = tuple(condition(table, rng, depth - 1) for _ in range(1 if fn == "not" else 2))
        return table.make("fn", "bool", args, fn=fn)
    if rng.random() < 0.15:
        return table.make("load", "bool", axes=frozenset("ij"), tensor="x0", at=Affine.of({"i": 7, "j": 1}))
    sides = [position(table, {a: rng.randint(-2, 2) for a in "ijh"}, rng.randint(-5, 5)) for _ in range(2)]
    if rng.random() < 0.3:
        sides[1] = table.make("const", "int64_t", value=rng.randint(-5, 5))
    return table.make("fn", "bool", tuple(sides), fn=rng.choice(list(TESTS)))


def holds(c: Inst, at: dict[str, int], loaded: bool) -> bool:
    if c.kind == "load":
        return loaded
    if c.fn == "not":
        return not holds(c.args[0], at, loaded)
    if c.fn in ("and", "or"):
        return (all if c.fn == "and" else any)(holds(a, at, loaded) for a in c.args)
    x, y = ((a.value if a.kind == "const" else a.at.const + sum(at[n] * k for n, k in a.at.terms)) for a in c.args)
    return TESTS[c.fn](x, y)


def told(text: str, **names: int) -> bool:
    return bool(eval(text.replace("&&", " and ").replace("||", " or "), {}, names))


@pytest.mark.parametrize("seed", range(200))
def test_possible_is_never_false_where_a_key_counts(seed: int) -> None:
    rng, table = random.Random(seed), Table()
    c = condition(table, rng, 3)
    for inverse in (False, True):
        text = possible(c, inverse, ENDS, NAMES)
        if text is None:
            continue
        i0, j0, h = (rng.randint(0, 6) for _ in range(3))
        i1, j1 = i0 + rng.randint(0, 4), j0 + rng.randint(0, 4)
        points = [{"i": i, "j": j, "h": h} for i, j in itertools.product(range(i0, i1 + 1), range(j0, j1 + 1))]
        some = any(holds(c, p, loaded) is not inverse for p in points for loaded in (False, True))
        if some:
            assert told(text, i0=i0, i1=i1, j0=j0, j1=j1, h=h), text


def causal(table: Table) -> Inst:
    return table.make("fn", "bool", (position(table, {"j": 1}, 0), position(table, {"i": 1}, 0)), fn="le")


def test_causal_blocks_are_told_exactly() -> None:
    table = Table()
    text = possible(causal(table), False, ENDS, NAMES)
    assert text is not None
    for i0, j0 in itertools.product(range(0, 40, 4), repeat=2):
        assert told(text, i0=i0, i1=i0 + 3, j0=j0, j1=j0 + 3) is (j0 <= i0 + 3)


def test_masked_values_are_followed_through_functions_of_numbers() -> None:
    table = Table()
    dot: Any = table.make("leaf", "float", axes=frozenset("ij"), tensor="dot")
    low = table.make("const", "float", value=float("-inf"))
    two = table.make("const", "float", value=2.0)
    choice = table.make("fn", "float", (causal(table), dot, low), fn="select")
    found = masked(table.make("fn", "float", (choice, two), fn="mul"), table)
    assert found is not None and found.live is choice.args[0] and not found.inverse and found.value.args == (low, two)
    turned = masked(table.make("fn", "float", (causal(table), low, dot), fn="select"), table)
    assert turned is not None and turned.inverse
    assert masked(table.make("fn", "float", (choice, dot), fn="add"), table) is None
    assert masked(dot, table) is None


def test_two_masks_that_leave_the_same_number_are_one() -> None:
    table = Table()
    dot: Any = table.make("leaf", "float", axes=frozenset("ij"), tensor="dot")
    low, other = (table.make("const", "float", value=v) for v in (float("-inf"), -1e9))
    late = table.make("fn", "bool", (position(table, {"j": 1}, 0), position(table, {}, 7)), fn="gt")
    for value, live in ((low, True), (other, False)):
        inner = table.make("fn", "float", (causal(table), dot, low), fn="select")
        found = masked(table.make("fn", "float", (late, value, inner), fn="select"), table)
        assert found is not None
        text = possible(found.live, found.inverse, ENDS, NAMES)
        assert text is not None and not told(text, i0=0, i1=9, j0=8, j1=9)
        assert told(text, i0=0, i1=3, j0=5, j1=6) is not live
