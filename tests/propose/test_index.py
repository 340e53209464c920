import itertools
import random

import pytest

from torch_autokernel.core import dims
from torch_autokernel.propose import ir
from torch_autokernel.propose.index import Affine, CutNeeded, Range, Refused, Space, SplitNeeded, at_most, divide, nonnegative


@pytest.mark.parametrize(
    ("a", "b", "quotient"),
    [("6*s0*s1", "2*s1", "3*s0"), (12, 4, 3), (12, 5, None), ("s0", "s1", None), ("s0*s1 + s0", "s0", "s1 + 1"),
     ("s0*s0 + 2*s0 + 1", "s0 + 1", "s0 + 1"), (0, "s0", 0), ("s0", 0, None), ("2*s0", 4, None)],
)  # fmt: skip
def test_divide(a: dims.Dim, b: dims.Dim, quotient: dims.Dim | None) -> None:
    assert divide(a, b) == quotient


@pytest.mark.parametrize(
    ("a", "known"), [("s0 - 1", True), ("s0 - 2", False), ("s0*s1 - s0", True), ("s0 - s1", False), (0, True), (-1, False),
                     ("s0*s1 - s0 - s1 + 1", True)],
)  # fmt: skip
def test_nonnegative_for_all_sizes_from_one(a: dims.Dim, known: bool) -> None:
    assert nonnegative(a) is known


def test_divmod_against_brute_force() -> None:
    space = Space({"i": Range(0, "s0"), "j": Range(0, "s1")})
    e = Affine.of({"i": "s1", "j": 1})
    whole, part = space.divmod(e, "s1")
    assert (whole, part) == (Affine.axis("i"), Affine.axis("j"))


def test_divmod_demands_a_split() -> None:
    space = Space({"i": Range(0, "12*s0")})
    with pytest.raises(SplitNeeded) as need:
        space.divmod(Affine.axis("i"), 4)
    assert (need.value.axis, need.value.inner) == ("i", 4)


def test_divmod_within_one_period() -> None:
    space = Space({"i": Range(32, 64)})
    assert space.divmod(Affine.axis("i"), 32) == (Affine((), 1), Affine((("i", 1),), -32))


def test_divmod_refuses_what_it_cannot_know() -> None:
    with pytest.raises(Refused, match="division by s1"):
        Space({"i": Range(0, "s0")}).divmod(Affine.axis("i"), "s1")


def test_what_is_a_value_is_neither_split_nor_cut() -> None:
    space = Space({"@3": Range(0, 12)})
    with pytest.raises(Refused, match="division by 4"):
        space.divmod(Affine.axis("@3"), 4)
    with pytest.raises(Refused, match="boundary"):
        space.side(Affine.axis("@3"), 5)


def test_side_cuts_inside_and_answers_outside() -> None:
    space = Space({"i": Range(0, 16)})
    assert space.side(Affine.axis("i"), 16) is True
    assert space.side(Affine.axis("i").plus(16), 16) is False
    with pytest.raises(CutNeeded) as need:
        space.side(Affine.axis("i").plus(3), 8)
    assert (need.value.axis, need.value.at) == ("i", 5)


@pytest.mark.parametrize("coefficient", [-3, -2, -1, 1, 2, 3])
@pytest.mark.parametrize("start", [-4, 0, 9, 47])
def test_a_cut_parts_what_is_below_from_what_is_not(coefficient: int, start: int) -> None:
    for at in range(-8, 60):
        values = [coefficient * i + start for i in range(16)]
        try:
            assert all((v < at) is Space({"i": Range(0, 16)}).side(Affine.of({"i": coefficient}, start), at) for v in values)
        except CutNeeded as need:
            assert isinstance(need.at, int) and 0 < need.at < 16
            sides = [[v < at for v in part] for part in (values[: need.at], values[need.at :])]
            assert all(len(set(side)) == 1 for side in sides) and sides[0][0] != sides[1][0]


def test_a_loop_that_is_walked_backwards_is_split_too() -> None:
    with pytest.raises(SplitNeeded) as need:
        Space({"i": Range(0, 12)}).divmod(Affine.of({"i": -1}, 11), 4)
    assert (need.value.axis, need.value.inner) == ("i", 4)


def test_refold_is_reshape(seed: int = 7) -> None:
    """Where no split is needed, an index keeps its element under a reshape."""
    random.seed(seed)
    for old, new in (((2, 3, 4), (6, 4)), ((6, 4), (2, 3, 4)), ((2, 1, 12), (2, 3, 4)), ((24,), (2, 12, 1)), ((4, 6), (4, 2, 3))):
        axes: dict[str, Range] = {}
        index = []
        for d, n in enumerate(old):
            axes[f"i{d}"] = Range(0, n)
            index.append(Affine.axis(f"i{d}") if n != 1 else Affine())
        index_t = tuple(index)
        for _ in range(4):
            try:
                got = ir.refold(Space(axes), index_t, old, new)
                break
            except SplitNeeded as need:
                n = axes.pop(need.axis).high
                a, b = need.axis + "a", need.axis + "b"
                axes[a], axes[b] = Range(0, n // need.inner), Range(0, need.inner)  # type: ignore[operator]
                index_t = tuple(i.substitute(need.axis, Affine.of({a: need.inner, b: 1})) for i in index_t)
        for point in itertools.product(*(range(r.high) for r in axes.values())):  # type: ignore[arg-type]
            at = dict(zip(axes, point, strict=True))
            flat = lambda ix, shape, at=at: _flat([_value(e, at) for e in ix], shape)
            assert flat(index_t, old) == flat(got, new)


def _value(e: Affine, at: dict[str, int]) -> int:
    return int(e.const) + sum(int(c) * at[a] for a, c in e.terms)


def _flat(index: list[int], shape: tuple[int, ...]) -> int:
    out = 0
    for i, n in zip(index, shape, strict=True):
        assert 0 <= i < n
        out = out * n + i
    return out


def test_at_most() -> None:
    assert at_most("s0", "s0*s1") and not at_most("s0*s1", "s0")
