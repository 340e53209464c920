"""Indices that follow from sizes: the tables are what torch computes, and what they choose is read in slices."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from tests.propose.cases import Case, randn
from tests.propose.running import check_at, compile_all, reference, run
from tests.propose.test_attention import ARCH
from tests.propose.tracing import trace
from torch_autokernel.core import deadline
from torch_autokernel.core.types import Region
from torch_autokernel.propose import ir, tables
from torch_autokernel.propose.choices import Schedule, schedules
from torch_autokernel.propose.index import Affine, Space
from torch_autokernel.propose.ir import Node, const, convert, point
from torch_autokernel.propose.kernel import Kernel, generate
from torch_autokernel.propose.schedule import ScheduleProposer

SEED = 20261130
SCHEDULES = {"first": Schedule(lanes=16), "streamed": Schedule(lanes=8, serial_below=0, stream=1, fixed=1)}


def resized(by: float | tuple[float, ...], mode: str) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda x: F.interpolate(x * 2, scale_factor=by, mode=mode).tanh()


def image(*shape: int) -> list[torch.Tensor]:
    return [randn(*shape)]


def picked(x: torch.Tensor) -> torch.Tensor:
    """Strides, edges, places counted from the end, in turns."""
    i = torch.arange(36)
    return x[:, (i * 2).clamp(3, 60)] - x[:, i - 36] * x[:, torch.where(i < 34, i, 63)]


CASES = {
    "twice": Case(resized(2, "bilinear"), image, ((2, 3, 4, 37), (1, 3, 4, 37), (5, 2, 4, 37)), (4, 37)),
    "odd": Case(resized((3, 1.5), "bilinear"), image, ((2, 3, 5, 22), (1, 1, 5, 22)), (5, 22)),
    "half": Case(resized(0.5, "bilinear"), image, ((2, 3, 20, 74),), (20, 74)),
    "eightfold": Case(resized(8, "bilinear"), image, ((2, 2, 4, 5),), (4, 5)),
    "corners": Case(lambda x: F.interpolate(x, size=(11, 31), mode="bilinear", align_corners=True) + 1, image, ((2, 3, 6, 16),), (6, 16)),
    "nearest_bf16": Case(resized(2, "nearest"), lambda *s: [randn(*s, dtype=torch.bfloat16)], ((2, 3, 10, 37),), (10, 37)),
    "nearest": Case(lambda x, y: torch.cat((resized(2, "nearest")(x), y), 1),
                    lambda b, c, h, w: [randn(b, c, h, w), randn(b, c, 2 * h, 2 * w)], ((2, 3, 10, 37), (1, 2, 10, 37)), (10, 37, 20, 74)),
    "threefold": Case(resized(3, "nearest"), image, ((2, 3, 10, 37),), (10, 37)),
    "quarter": Case(resized(0.25, "nearest"), image, ((2, 3, 12, 136),), (12, 136)),
    "line": Case(resized(2, "linear"), image, ((2, 3, 37), (4, 3, 37)), (37,)),
    "cubic": Case(resized(2, "bicubic"), image, ((1, 2, 6, 9),), (6, 9)),
    "volume": Case(resized(2, "trilinear"), image, ((1, 2, 3, 4, 9),), (3, 4, 9)),
    "picked": Case(picked, image, ((5, 64), (1, 64)), (64,)),
    "thirds": Case(lambda x: x[:, (torch.arange(36) / 3).long()] * 2, image, ((5, 64), (1, 64)), (64,)),
    "reflected": Case(lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect").sigmoid(), image, ((2, 3, 9, 37),), (9, 37)),
    "replicated": Case(lambda x: F.pad(x, (2, 1, 0, 3), mode="replicate") + 1, image, ((2, 3, 9, 37),), (9, 37)),
    "flipped": Case(lambda x: F.interpolate(x, scale_factor=2, mode="nearest").flip(-1) * 2, image, ((2, 3, 10, 37),), (10, 37)),
    "padded_back": Case(lambda x: F.pad(x, (1, 2), mode="reflect")[:, -1 - torch.arange(20)] * 2, image, ((5, 37),), (37,)),
    "stacked_back": Case(lambda x, y: torch.stack((x, y), -1).flatten(1).flip(-1) * 2, lambda m, n: [randn(m, n), randn(m, n)], ((5, 37),), (37,)),
    "resized_again": Case(lambda x: F.interpolate(F.interpolate(x, size=7, mode="nearest"), size=11, mode="nearest") * 2, image, ((2, 3, 10),), (10,)),
    "zero_below": Case(lambda x: x[:, torch.arange(12) * 2] / torch.ceil(torch.arange(12) * 0.5 - 0.5).clamp(max=1), image, ((3, 40),), (40,)),
    "turned": Case(lambda x: F.interpolate(x.permute(0, 3, 1, 2), scale_factor=2, mode="bilinear"), image, ((2, 9, 8, 5),), (9, 8)),
}  # fmt: skip
BY_SLICES = {"twice", "half", "nearest_bf16", "nearest", "threefold", "quarter", "line", "picked", "thirds", "reflected", "replicated", "flipped",
             "padded_back", "stacked_back", "zero_below", "turned"}


@pytest.fixture(scope="module")
def traced() -> dict[str, Region]:
    torch.manual_seed(SEED)
    return {n: trace(c.fn, c.make(*c.shapes[0]), frozenset(c.static))[0].region for n, c in CASES.items()}


def built(traced: dict[str, Region], schedule: Schedule) -> dict[str, Kernel]:
    return {name: generate(r.signature, schedule, r.sizes, 2) for name, r in traced.items()}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_case_at_every_size(schedule: str, traced: dict[str, Region], tmp_path: Path) -> None:
    torch.manual_seed(SEED)
    if schedule != "first":
        traced = {n: traced[n] for n in BY_SLICES}
    kernels = built(traced, SCHEDULES[schedule])
    library = compile_all({n: k.text for n, k in kernels.items()}, tmp_path)
    check_at(traced, kernels, library, (1, 2, 3))
    for name in ("twice", "nearest", "picked"):  # infinities and NaNs stay where they are
        region, (x, *rest) = traced[name], CASES[name].make(*CASES[name].shapes[0])
        x.view(-1)[torch.randperm(x.numel())[:9]] = torch.tensor([float("nan"), float("inf"), -float("inf")]).repeat(3)
        inputs = [x, *rest]
        (made,) = run(getattr(library, name), kernels[name], region.signature, inputs)
        (expected,) = reference(region, inputs, False)
        assert torch.equal(made.isnan(), expected.isnan()) and torch.equal(made.isinf(), expected.isinf()) and made.isnan().any()


def test_what_takes_turns_is_read_in_slices(traced: dict[str, Region]) -> None:
    texts = {n: k.text for n, k in built(traced, SCHEDULES["first"]).items()}
    assert {n for n, text in texts.items() if "within(" not in text} == BY_SLICES
    assert all("put_pairs" in texts[n] for n in ("twice", "nearest", "line"))


def value_at(node: Node, place: int) -> object:
    """What the node holds at a place: for nodes of constants, views, pieces and one tensor whose elements are their places."""
    todo, index = node, (Affine((), place),)
    while todo.kind != "input":
        if todo.kind == "const":
            return todo.value
        if todo.kind == "view":
            assert todo.pull is not None
            todo, index = todo.args[0], todo.pull(Space({}), index)
            continue
        (dim,) = todo.dims
        at = index[dim].const
        found = [(p, o) for p, (low, high, o) in zip(todo.args, todo.bounds, strict=True) if low <= at < high]
        assert len(found) == 1
        part, offset = found[0]
        index = ir.broadcast((*index[:dim], index[dim].plus(-offset), *index[dim + 1 :]), part.shape)
        todo = part
    return index[0].const


def test_tables_against_brute_force() -> None:
    """Whatever is chosen by slices is what the table names; tables that walk in turns are never refused."""
    rng, told = random.Random(SEED), 0
    x = Node("input", (40,), "float32", label="x0")
    for _ in range(600):
        turns, length = rng.randint(1, 4), rng.randint(2, 12)
        step, starts = rng.randint(0, 3), [rng.randint(0, 6) for _ in range(turns)]
        low, high = sorted(rng.sample(range(40), 2))
        table = [min(max(starts[k % turns] + step * (k // turns), low), high) for k in range(turns * length)]
        if rng.random() < 0.3:
            table[rng.randrange(len(table))] = rng.randrange(40)
        node = tables.chosen(x, 0, table)
        if node is not None:
            told += 1
            assert node.shape == (len(table),) and [value_at(node, k) for k in range(len(table))] == table
    assert told > 300
    assert tables.chosen(x, 0, [0, 40]) is None and tables.chosen(x, 0, [-1, 0]) is None
    assert tables.chosen(x, 0, rng.sample(range(40), 40)) is None
    assert tables.chosen(Node("input", ("s0",), "float32", label="x0"), 0, [0, 1]) is None


def test_numbers_are_computed_as_torch_does() -> None:
    """In single precision, step by step: in double, places of a scale of 0.1 would be others."""
    iota = Node("iota", (500,), "int64", value=(0, 1))
    scaled = point("sub", [point("mul", [point("add", [convert(iota, "float32"), const(0.5)], "float32"), const(0.1)], "float32"), const(0.5)],
                   "float32")  # fmt: skip
    i = torch.arange(500)
    exact = (i.float() + 0.5) * 0.1 - 0.5
    assert tables.known(scaled) == exact.tolist()
    assert tables.known(convert(scaled, "int64")) == exact.long().tolist()
    below = point("minimum", [convert(scaled, "int64"), const(3)], "int64")
    assert tables.known(ir.reshape(below, (500, 1))) == exact.long().clamp(max=3).tolist()


def test_what_is_no_table() -> None:
    iota = Node("iota", (8,), "int64", value=(0, 1))
    tensor = Node("input", (8,), "int64", label="x0")
    for node in (
        point("add", [iota, tensor], "int64"), Node("iota", ("s0",), "int64", value=(0, 1)), Node("iota", (8,), "int64", value=(0, "s0")),
        point("mul", [iota, const(2**62)], "int64"), point("div", [convert(iota, "float32"), const(0.0)], "float32"),
        ir.expand(ir.unsqueeze(iota, 0), (2, 8)), ir.rounded(iota, "int8"), const(1),
    ):  # fmt: skip
        assert tables.known(node) is None


def test_weights_in_turns_are_constants() -> None:
    iota = convert(Node("iota", (12,), "int64", value=(0, 1)), "float32")
    half = point("mul", [iota, const(0.5)], "float32")
    part = point("sub", [half, point("floor", [half], "float32")], "float32")
    folded = tables.folded(part)
    assert folded.kind != "point" and [value_at(folded, k) for k in range(12)] == [0.0, 0.5] * 6
    assert tables.folded(half) is half
    signs = ir.chosen(point("lt", [iota, const(6)], "bool", "float32"), const(0.0), const(-0.0), "float32")
    assert str([value_at(tables.folded(signs), k) for k in range(12)]) == str([0.0] * 6 + [-0.0] * 6)


def test_both_ways_are_tried(traced: dict[str, Region]) -> None:
    """Which is faster is measured."""
    told = [k.gathers for k in schedules(traced["nearest"], ARCH)]
    assert told[0] == 0 and 1 in told and not any(k.gathers for k in schedules(trace(torch.exp, [torch.randn(3, 4)])[0].region, ARCH))
    kernels = {k.gathers: generate(traced["nearest"].signature, k, traced["nearest"].sizes, 2) for k in schedules(traced["nearest"], ARCH)}
    assert "within(" in kernels[1].text and "within(" not in kernels[0].text


def test_places_a_step_apart_tell_no_sizes() -> None:
    """Positions' embeddings: of any length."""
    x, p = torch.randn(2, 37, 8), torch.randn(128, 8)
    region = trace(lambda x, p: x + p[torch.arange(x.shape[1])], [x, p])[0].region
    assert all(isinstance(n, str) for s in region.signature.inputs for n in s.shape)
    region = trace(lambda x: F.interpolate(x, size=32, mode="nearest") * 2, [torch.randn(2, 3, 16)])[0].region
    assert region.signature.inputs[0].shape == ("s0", "s1", 16)
    region = trace(lambda x: x[:, torch.arange(4) * torch.arange(4)] * 2, [torch.randn(3, 16)])[0].region
    assert region.signature.inputs[0].shape == ("s0", 16)


def test_generating_ends_with_the_time(traced: dict[str, Region]) -> None:
    """What the deadline ended is no refusal: asked again with time, the same proposer generates."""
    proposer, region, arch = ScheduleProposer(), traced["nearest"], ARCH
    with deadline.within(0):
        assert proposer.refuses(region, arch) == deadline.ENDED and not proposer.propose(region, arch, [], 2)
    assert proposer.refuses(region, arch) is None
    with deadline.within(0):
        assert not proposer.propose(region, arch, [], 2)
    assert len(proposer.propose(region, arch, [], 2)) == 2
