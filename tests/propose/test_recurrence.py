"""Kernels of loops over time against the original forward: many lengths, other vector widths, one and two threads, guard pages."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.capture.cells import CELLS, make
from tests.propose.running import compare, compile_all, run
from torch_autokernel.capture.recurrence import capture_recurrence
from torch_autokernel.core.types import Region
from torch_autokernel.propose.choices import Schedule
from torch_autokernel.propose.index import Refused
from torch_autokernel.propose.kernel import Kernel, generate

SEED = 20261125
QUICK = ("elman", "gated")


def build(names: tuple[str, ...], folder: Path, lanes: int, steps: int = 0, **more: int) -> tuple[dict[str, tuple[Region, Kernel, tuple[int, ...]]], ctypes.CDLL]:
    made = {}
    for name in names:
        function, args, module = make(name)
        whole = capture_recurrence(function, args, module)
        region = whole.captured.region
        sizes = dict.fromkeys(region.sizes, steps) if steps else region.sizes
        try:
            made[name] = region, generate(region.signature, Schedule(lanes=lanes, **more), sizes, 1 if more else 2), whole.order
        except Refused as reason:
            assert more and "share" in str(reason)
    return made, compile_all({n: k.text for n, (_r, k, _o) in made.items()}, folder)


def check(names: tuple[str, ...], folder: Path, lanes: int, steps: int = 0, **more: int) -> set[str]:
    torch.manual_seed(SEED)
    made, library = build(names, folder, lanes, steps, **more)
    for name, (region, kernel, order) in made.items():
        for length in (29, 1 + (name == "differences"), 2, 64):
            _function, args, module = make(name, length)
            flat = [*args, *([] if module is None else (p.detach() for p in module.parameters()))]
            inputs = [flat[i] for i in order]
            for threads in (1, 2):
                torch.set_num_threads(threads)
                compare(region, inputs, run(getattr(library, name), kernel, region.signature, inputs), f"{name} {length}")
    return set(made)


@pytest.fixture(autouse=True)
def threads_as_before() -> Any:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_simple_cells(tmp_path: Path) -> None:
    check(QUICK, tmp_path, 16)


def test_for_a_step_alone_nothing_is_packed(tmp_path: Path) -> None:
    check(("lstm", "gru"), tmp_path, 16, 1)
    one, many = (build(("lstm",), tmp_path, 16, steps)[0]["lstm"][1].text for steps in (1, 0))
    assert "packed0" not in one and "packed0" in many


def scan(dt: torch.Tensor, x: torch.Tensor, log_a: torch.Tensor) -> torch.Tensor:
    h, dt, out = torch.zeros(dt.shape[0], *log_a.shape), torch.nn.functional.softplus(dt), []
    for t in range(x.shape[1]):
        h = torch.exp(dt[:, t, :, None] * -torch.exp(log_a)) * h + (dt[:, t] * x[:, t])[..., None]
        out.append(h.sum(-1))
    return torch.stack(out, 1)


def test_what_is_costly_is_computed_before_the_loop(tmp_path: Path) -> None:
    torch.manual_seed(SEED)
    whole = capture_recurrence(scan, [torch.randn(2, 20, 6), torch.randn(2, 20, 6), torch.randn(6, 4)])
    region = whole.captured.region
    kernel = generate(region.signature, Schedule(lanes=8), region.sizes, 2)
    before, loop = kernel.text.split("for (int64_t t = 0")
    assert before.count("exp(") == 2 and "log1p(" in before and "log1p(" not in loop
    library = compile_all({"scan": kernel.text}, tmp_path)
    for length in (1, 2, 29, 300):
        given = [torch.randn(2, length, 6) * 9, torch.randn(2, length, 6), torch.randn(6, 4)]
        given[0][0, 0, :3] = torch.tensor([float("nan"), float("inf"), -200.0])
        inputs = [given[i] for i in whole.order]
        compare(region, inputs, run(library.scan, kernel, region.signature, inputs), str(length))


def gated(g: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """What is costly before the loop is larger than what it is made of."""
    a, h, out = torch.sigmoid(g)[:, :, None, :] * x[..., None], torch.zeros(g.shape[0], x.shape[2], g.shape[2]), []
    for t in range(x.shape[1]):
        h = 0.5 * h + torch.exp(a[:, t])
        out.append(h.sum(-1))
    return torch.stack(out, 1)


def test_what_is_costly_may_grow_before_the_loop(tmp_path: Path) -> None:
    torch.manual_seed(SEED)
    whole = capture_recurrence(gated, [torch.randn(2, 20, 8), torch.randn(2, 20, 24)])
    region = whole.captured.region
    kernel = generate(region.signature, Schedule(lanes=8), region.sizes, 2)
    library = compile_all({"gated": kernel.text}, tmp_path)
    for length in (1, 29):
        given = [torch.randn(2, length, 8), torch.randn(2, length, 24)]
        inputs = [given[i] for i in whole.order]
        compare(region, inputs, run(library.gated, kernel, region.signature, inputs), str(length))


@pytest.mark.slow
@pytest.mark.parametrize("lanes", [8, 32])
def test_every_cell(tmp_path: Path, lanes: int) -> None:
    check(CELLS, tmp_path, lanes)


@pytest.mark.slow
@pytest.mark.parametrize(("lanes", "rows"), [(8, 14), (16, 4)])
def test_every_cell_in_tiles(tmp_path: Path, lanes: int, rows: int) -> None:
    made = check(CELLS, tmp_path, lanes, rows=rows)
    assert {"lstm", "selective", "slstm"} <= made and "gated" not in made


@pytest.mark.slow
def test_every_cell_with_vectors_along_slices(tmp_path: Path) -> None:
    assert {"lstm", "selective"} <= check(CELLS, tmp_path, 8, columns=1)


@pytest.mark.slow
def test_rows_and_heads_are_shared_out_where_they_are_independent(tmp_path: Path) -> None:
    for name, parallel in (("lstm", True), ("wkv7", True), ("slstm", False)):  # slstm asks whether all rows are zero
        function, args, module = make(name)
        region = capture_recurrence(function, args, module).captured.region
        text = generate(region.signature, Schedule(lanes=16), region.sizes, 2).text
        assert ("#pragma omp parallel for" in text) is parallel, name


def test_a_sum_over_the_whole_length_is_refused() -> None:
    def centred(x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        x = x - x.mean(1, keepdim=True)
        for t in range(x.shape[1]):
            h = torch.tanh(x[:, t] + h)
        return h

    region = capture_recurrence(centred, [torch.randn(3, 40, 10), torch.randn(3, 10)]).captured.region
    with pytest.raises(Refused, match="whole length"):
        generate(region.signature, Schedule(), region.sizes, 2)


Args = Callable[[int], list[torch.Tensor]]


def agrees(function: Callable[..., Any], args: Args, folder: Path, rows: Sequence[int] = (1,), lanes: int = 8) -> list[str]:
    """The texts of the kernels, one for each tile of rows, which give the reference's results for arguments of any length."""
    torch.manual_seed(SEED)
    whole = capture_recurrence(function, args(29))
    region = whole.captured.region
    made = {f"rows{n}": generate(region.signature, Schedule(lanes=lanes, rows=n), region.sizes, 1) for n in rows}
    library = compile_all({name: kernel.text for name, kernel in made.items()}, folder)
    for length in (1, 2, 29):
        given = args(length)
        inputs = [given[i] for i in whole.order]
        for name, kernel in made.items():
            for threads in (1, 2):
                torch.set_num_threads(threads)
                compare(region, inputs, run(getattr(library, name), kernel, region.signature, inputs), f"{name} {length}")
    return [kernel.text for kernel in made.values()]


def lstm_of(batch: int, heads: int, d: int) -> Args:
    def args(t: int) -> list[torch.Tensor]:
        shapes = (batch, t, 4, heads, d), (4, heads, d, d), (4, heads, d), (batch, heads, d), (batch, heads, d)
        return [torch.randn(*s) / (d**0.5 if k == 1 else 1) for k, s in enumerate(shapes)]

    return args


@pytest.mark.parametrize(
    ("batch", "rows", "high", "left"),
    [(7, 6, 4, 3), *(pytest.param(*p, marks=pytest.mark.slow) for p in ((8, 6, 4, 0), (5, 6, 5, 0), (2, 3, 2, 0)))],
)
def test_a_batch_is_multiplied_in_tiles(tmp_path: Path, batch: int, rows: int, high: int, left: int) -> None:
    (text,) = agrees(make("lstm")[0], lstm_of(batch, 2, 40), tmp_path, [rows], 16)
    assert text.count("multiply_add(") == high + left and text.count("in_registers(") == 1 + (left > 0)


def test_tiles_of_other_cells(tmp_path: Path) -> None:
    rn, b, i, d = torch.randn, 6, 24, 72  # slstm asks whether all rows are zero, so that no row is a slice
    cells: dict[str, Args] = {
        "slstm": lambda t: [rn(5, t, 4, 1, 64), rn(4, 1, 64, 64) / 8, rn(4, 1, 64)],
        "elman": lambda t: [rn(b, t, i), rn(i, d) / 5, rn(d, d) / 9, rn(d), rn(b, d)],
    }
    for name, args in cells.items():
        (tmp_path / name).mkdir()
        assert "in_registers(" in agrees(make(name)[0], args, tmp_path / name, [4])[0]


def test_rows_that_share_nothing_are_refused() -> None:
    function, args, module = make("gated")
    region = capture_recurrence(function, args, module).captured.region
    with pytest.raises(Refused, match="share weights"):
        generate(region.signature, Schedule(lanes=8, rows=4), region.sizes, 2)


def test_large_panels_are_walked_to_and_fro(tmp_path: Path) -> None:
    for batch, rows in ((1, 1), (3, 3)):
        (tmp_path / str(batch)).mkdir()
        assert "each_way<L>(t & 1" in agrees(make("lstm")[0], lstm_of(batch, 1, 128), tmp_path / str(batch), [rows], 32)[0]


def stitched(x: torch.Tensor, w: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
    """The vector that is multiplied is made of two numbers a row, each for half of it, and of a number for each eighth."""
    for t in range(x.shape[1]):
        left, right = (1 - x[:, t, :1]) * x[:, t, 1:2], x[:, t, 2:3] * (1 + x[:, t, :1])
        halves = torch.cat([left.expand(-1, 16), right.expand(-1, 16)], 1)
        eighths = ((1 - x[:, t, 3:7]) * x[:, t, 3:7]).repeat_interleave(8, 1)
        h = torch.tanh(h + halves @ w) - eighths @ w
    return h


def test_a_factor_that_is_made_of_pieces(tmp_path: Path) -> None:
    rn = torch.randn
    texts = agrees(stitched, lambda t: [rn(3, t, 7), rn(32, 24) / 5, rn(3, 24)], tmp_path, (1, 3))
    assert all("w0" in text for text in texts)


# ---- cells in which a state must not be written over the one before it too soon ----
def swapped(x: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> Any:
    out = []
    for t in range(x.shape[1]):
        a, b = b * 0.5 + x[:, t], a * 0.9 - x[:, t]
        out.append(a)
    return torch.stack(out, 1), a, b


def before_and_after(x: torch.Tensor, w: torch.Tensor, h: torch.Tensor, c: torch.Tensor) -> Any:
    out = []
    for t in range(x.shape[1]):
        z = torch.tanh(h @ w + x[:, t])
        out.append(h * 0.5 + z)
        h, c = z, c - h
    return torch.stack(out, 1), h, c


def turned_round(x: torch.Tensor, w: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
    out = []
    for t in range(x.shape[1]):
        h = 0.5 * h.flip(0) + x[:, t] @ w
        out.append(h)
    return torch.stack(out, 1)


def in_several_passes(x: torch.Tensor, h: torch.Tensor, p: torch.Tensor) -> Any:
    out = []
    for t in range(x.shape[1]):
        xt = x[:, t]
        m = xt.mean(-1, keepdim=True)
        v = ((xt - m) * (xt - m)).mean(-1, keepdim=True)
        p = torch.cat([h[:, :8] * 2, (xt * torch.rsqrt(v + 1e-3))[:, 8:]], 1) + xt
        h = h * 0.5 + m
        out.append(p)
    return torch.stack(out, 1), h


@pytest.mark.parametrize("name", ["swapped", pytest.param("before and after", marks=pytest.mark.slow), "turned round", "in several passes"])
def test_states_are_read_before_they_are_written(tmp_path: Path, name: str) -> None:
    rn = torch.randn
    if name == "swapped":
        assert "next0 = take" in agrees(swapped, lambda t: [rn(5, t, 17), rn(5, 17), rn(5, 17)], tmp_path)[0]
    elif name == "before and after":
        given = lambda t: [rn(5, t, 64), rn(64, 64) / 8, rn(5, 64), rn(5, 64)]
        agrees(before_and_after, given, tmp_path, (1, 4))
    elif name == "turned round":
        agrees(turned_round, lambda t: [rn(4, t, 12), rn(12, 16) * 0.3, rn(4, 16)], tmp_path, (1, 4))
    else:
        agrees(in_several_passes, lambda t: [rn(3, t, 40), rn(3, 40), rn(3, 40)], tmp_path)


def repeated(g: torch.Tensor, h: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """The factor varies along the inner part of a dimension alone."""
    out = []
    for t in range(g.shape[1]):
        f = torch.sigmoid(h[:, :8] * 2 + g[:, t])
        f = f[:, None, :].expand(-1, 4, -1).reshape(g.shape[0], 32)
        h = 0.9 * h + (f @ x) * 0.1
        out.append(h)
    return torch.stack(out, 1)


def test_a_factor_that_varies_within_a_dimension(tmp_path: Path) -> None:
    agrees(repeated, lambda t: [torch.randn(3, t, 8), torch.randn(3, 16), torch.randn(32, 16)], tmp_path, (1, 3))


def joined(x: torch.Tensor, h: torch.Tensor, u: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    out = []
    for t in range(x.shape[1]):
        h = torch.tanh(h @ torch.cat([u, w], 1) + x[:, t])
        out.append(h)
    return torch.stack(out, 1)


def test_weights_that_are_put_together(tmp_path: Path) -> None:
    agrees(joined, lambda t: [torch.randn(3, t, 24), torch.randn(3, 24), torch.randn(24, 12), torch.randn(24, 12)], tmp_path, (1, 3))
