"""Loops over time in plain Python under `torch.compile`: dynamo unrolls them, the backend rolls them up again."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import fx
from torch._inductor.decomposition import select_decomp_table
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_leaves

from tests.capture.engines import ReferenceEngine
from torch_autokernel.capture.record import recording
from torch_autokernel.capture.reference import load_reference
from torch_autokernel.capture.unrolled import unrolled_loops
from torch_autokernel.core import deadline

Tensor = torch.Tensor
T = 11


def rnn(x: Tensor, w: Tensor, u: Tensor, b: Tensor) -> Any:
    h, out = x.new_zeros(x.shape[0], 8), []
    for t in range(T):
        h = torch.tanh(x[:, t] @ w + h @ u + b)
        out.append(h)
    return torch.stack(out, 1), h


def lstm(x: Tensor, w: Tensor, u: Tensor) -> Any:
    h = x.new_zeros(x.shape[1], 8)
    c, out = torch.zeros_like(h), []
    for t in range(T):
        i, f, g, o = (x[t] @ w + h @ u).chunk(4, -1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        out.append(h)
    return torch.stack(out), (h, c)


def matrix_state(r: Tensor, w: Tensor, k: Tensor, v: Tensor) -> Tensor:
    s, out = r.new_zeros(r.shape[0], r.shape[2], r.shape[2]), []
    for t in range(T):
        s = s * w[:, t, None] + v[:, t, :, None] * k[:, t, None]
        out.append((s * r[:, t, None]).sum(-1))
    return torch.stack(out, 1)


def backwards(x: Tensor) -> Tensor:
    s, out = x[:, -1], []
    for t in reversed(range(T)):
        s = 0.9 * s + 0.1 * x[:, t]
        out.append(s)
    return torch.stack(out[::-1], 1)


def unbound(x: Tensor, a: Tensor | float) -> Tensor:
    s, out = torch.zeros_like(x[0]), []
    for v in x.unbind(0):
        s = a * s + v
        out.append(s * 2)
    return torch.stack(out)


def slices(x: Tensor) -> Tensor:
    s, out = x[:, 0:1] * 0, []
    for t in range(T):
        s = torch.maximum(s * 0.5, x[:, t : t + 1])
        out.append(s)
    return torch.cat(out, 1)


def beside_the_first(x: Tensor) -> Tensor:
    s = x[:, 0]
    out = [s]
    for t in range(1, T):
        s = 0.5 * s + (x[:, t] - x[:, t - 1]).abs()
        out.append(s)
    return torch.stack(out, 1)


def buffer(x: Tensor) -> Tensor:
    y, s = torch.empty_like(x), torch.zeros_like(x[:, 0])
    for t in range(T):
        s = 0.9 * s + x[:, t]
        y[:, t] = s
    return y


def buffer_backwards(x: Tensor) -> Tensor:
    y, s = torch.ones_like(x), x[0] * 0
    for t in range(T - 1, -1, -1):
        s = torch.sin(s) + x[t]
        y[t] = s
    return y * 2


def two(x: Tensor) -> Tensor:
    return unbound(unbound(x, 0.5).sin(), 0.3)


def last(x: Tensor) -> Tensor:
    s = x[:, 0] * 0
    for t in range(T):
        s = s * 0.9 + x[:, t]
    return s * 3


def gated(x: Tensor, g: Tensor) -> Tensor:
    s, out = torch.zeros_like(x[:, 0]), []
    for t in range(T):
        s = s * torch.sigmoid(g[:, t])[:, None] + x[:, t]
        out.append(s.sum(-1))
    return torch.stack(out, 1)


def some(*shape: int) -> Tensor:
    return torch.randn(shape)


LOOPS: dict[str, tuple[Callable[..., Any], Callable[[], Sequence[Any]], int]] = {
    "rnn": (rnn, lambda: (some(3, T, 6), some(6, 8) / 3, some(8, 8) / 3, some(8)), 1),
    "lstm": (lstm, lambda: (some(T, 3, 6), some(6, 32) / 3, some(8, 32) / 3), 1),
    "matrix_state": (matrix_state, lambda: [some(3, T, 8).sigmoid() for _ in range(4)], 1),
    "backwards": (backwards, lambda: [some(3, T, 5)], 1),
    "unbound": (unbound, lambda: (some(T, 3, 5), some(5)), 1),
    "slices": (slices, lambda: [some(3, T, 5)], 1),
    "beside_the_first": (beside_the_first, lambda: [some(3, T, 5)], 1),
    "buffer": (buffer, lambda: [some(3, T, 5)], 1),
    "buffer_backwards": (buffer_backwards, lambda: [some(T, 3, 5)], 1),
    "two": (two, lambda: [some(T, 3, 5)], 2),
    "last": (last, lambda: [some(3, T, 5)], 1),
    "gated": (gated, lambda: (some(3, T, 5), some(3, T)), 1),
    "transposed": (lambda x: unbound(x.transpose(0, 1), 0.5), lambda: [some(3, T, 5)], 1),
    "apart": (lambda x: matrix_state(*x.chunk(4, -1)), lambda: [some(3, T, 32).sigmoid()], 1),
}  # fmt: skip


def is_loop(region: Any) -> bool:
    return "for t in" in region.reference


def same(got: Any, want: Any) -> None:
    for g, w in zip(tree_leaves(got), tree_leaves(want), strict=True):
        torch.testing.assert_close(g, w)
        assert g.stride() == w.stride()


@pytest.mark.parametrize("name", LOOPS)
def test_loop_is_one_region(name: str, engine: ReferenceEngine) -> None:
    function, make, count = LOOPS[name]
    args = make()
    with recording() as records, torch.no_grad():
        compiled = torch.compile(function, backend="autokernel")
        same(compiled(*args), function(*args))
        same(compiled(*args), function(*args))
    found = [r for r in engine.regions if is_loop(r)]
    assert len(found) == count and all(r.signature.digest in engine.calls for r in found), [r.left for r in records]
    assert all(r.sizes["s0"] in (T, T - 1) for r in found)


@pytest.mark.parametrize("name", LOOPS)
def test_training_is_right(name: str, engine: ReferenceEngine) -> None:
    """What is kept of single steps for the gradient is no loop's result, so those stay unrolled; whatever is done, it is right."""
    function, make, _ = LOOPS[name]
    mine = [a.requires_grad_() for a in make()]
    theirs = [a.detach().clone().requires_grad_() for a in mine]
    got, want = torch.compile(function, backend="autokernel")(*mine), function(*theirs)
    same(got, want)
    for outs in (got, want):
        torch.autograd.backward([o.square().sum() for o in tree_leaves(outs)])
    same([a.grad for a in mine], [a.grad for a in theirs])


def decaying(x: Tensor) -> Tensor:
    s, out = x[0] * 0, []
    for t in range(T):
        s = s + x[t] * 0.9**t
        out.append(s)
    return torch.stack(out)


def layers(x: Tensor, *ws: Tensor) -> Tensor:
    for w in ws:
        x = torch.tanh(x @ w)
    return x


def one_in_the_middle(x: Tensor) -> Any:
    s, out = torch.zeros_like(x[:, 0]), []
    for t in range(T):
        s = torch.tanh(s + x[:, t])
        out.append(s)
    return torch.stack(out, 1), out[3]


def noisy(x: Tensor) -> Tensor:
    s, out = torch.zeros_like(x[:, 0]), []
    for t in range(T):
        s = s * 0.9 + x[:, t] * torch.rand_like(s)
        out.append(s)
    return torch.stack(out, 1)


def every_other(x: Tensor) -> Tensor:
    s, out = torch.zeros_like(x[:, 0]), []
    for t in range(T):
        s = s * 0.9 + x[:, t] if t % 2 else s - x[:, t]
        out.append(s)
    return torch.stack(out, 1)


def two_steps_back(x: Tensor) -> Tensor:
    out = [x[:, 0], x[:, 1]]
    for t in range(2, T):
        out.append(torch.tanh(out[t - 1] + out[t - 2] + x[:, t]))
    return torch.stack(out, 1)


def shuffled(x: Tensor) -> Tensor:
    s, out = torch.zeros_like(x[:, 0]), []
    for t in (3, 1, 0, 2, 5, 4, 6, 7, 9, 8, 10):
        s = s * 0.9 + x[:, t]
        out.append(s)
    return torch.stack(out, 1)


def wide(x: Tensor) -> Tensor:
    s, out = torch.zeros_like(x[:, 0]), []
    for t in range(T - 1):
        s = s * 0.9 + x[:, t : t + 2].sum(1)
        out.append(s)
    return torch.stack(out, 1)


def as_a_whole_too(x: Tensor) -> Tensor:
    s, out = torch.zeros_like(x[:, 0]), []
    for t in range(T):
        s = torch.tanh(s + x[:, t] + x.mean(1) * x[:, t])
        out.append(s * x.sum())
    return torch.stack(out, 1)


def attends(x: Tensor) -> Tensor:
    s, out = torch.zeros_like(x[:, 0]), []
    for t in range(T):
        a = torch.softmax((x * (s + x[:, t])[:, None]).sum(-1), -1)
        s = (a[..., None] * x).sum(1)
        out.append(s)
    return torch.stack(out, 1)


def along_two(x: Tensor) -> Tensor:
    x = x.new_ones(T, T, 5) * x[0]
    s, out = torch.zeros_like(x[0]), []
    for t in range(T):
        s = torch.tanh(s + x[t] - x[:, t] * 2)
        out.append(s)
    return torch.stack(out, 1)


def into_itself(x: Tensor) -> Tensor:
    x = x.clone()
    for t in range(1, T):
        x[:, t] = x[:, t] + 0.5 * x[:, t - 1]
    return x


def of_its_argument(x: Tensor) -> Tensor:
    for t in range(1, T):
        x[:, t] += 0.5 * x[:, t - 1]
    return x * 2


def written_twice(x: Tensor) -> Tensor:
    y, s = torch.zeros_like(x), torch.zeros_like(x[:, 0])
    for t in range(T):
        s = 0.9 * s + x[:, t]
        y[:, t] = s
        y[:, max(t - 1, 0)] = s * 2
    return y


def half_written(x: Tensor) -> Tensor:
    y, s = torch.ones_like(x), torch.zeros_like(x[:, 0])
    for t in range(T - 1):
        s = 0.9 * s + x[:, t]
        y[:, t] = s
    return y


def wide_writes(x: Tensor) -> Tensor:
    y, s = torch.zeros_like(x), torch.zeros_like(x[:, 0])
    for t in range(T - 1):
        s = 0.9 * s + x[:, t]
        y[:, t : t + 2] = torch.stack([s, s * 2], 1)
    y[:, T - 1 : T] = s[:, None]
    return y


def rows_of_a_buffer(x: Tensor) -> Tensor:
    y, s = torch.zeros(3, 2, T, 5), torch.zeros_like(x[:, 0])
    for t in range(T):
        s = 0.9 * s + x[:, t]
        y[:, 1, t] = s
    return y


def of_integers(x: Tensor) -> Tensor:
    return unbound((x * 10).long(), 3)


ODD: dict[str, tuple[Callable[..., Any], Callable[[], Sequence[Any]]]] = {
    "layers": (layers, lambda: (some(3, 5), *(some(5, 5) for _ in range(T)))),
    **{f.__name__: (f, lambda: [some(3, T, 5)]) for f in (
        one_in_the_middle, every_other, two_steps_back, shuffled, wide, as_a_whole_too, attends, along_two, into_itself, of_its_argument, written_twice,
        half_written, wide_writes, rows_of_a_buffer)},
    **{f.__name__: (f, lambda: [some(T, 3, 5)]) for f in (decaying, of_integers)},
}  # fmt: skip
NONE = ("attends", "along_two", "layers", "one_in_the_middle", "every_other", "decaying", "of_integers", "wide")


@pytest.mark.parametrize("name", ODD)
def test_what_looks_like_a_loop_is_right(name: str, engine: ReferenceEngine) -> None:
    function, make = ODD[name]
    args = make()
    mine, theirs = ([a.clone() for a in args] for _ in range(2))
    with torch.no_grad():
        same(torch.compile(function, backend="autokernel")(*mine), function(*theirs))
    same(mine, theirs)
    if name in NONE:
        assert not any(is_loop(r) for r in engine.regions)


def test_random_numbers_come_in_order(engine: ReferenceEngine) -> None:
    x = some(3, T, 5)
    with torch.no_grad():
        torch.manual_seed(1)
        torch.compile(noisy, backend="autokernel", options={"fallback_random": True})(x)
        after = torch.rand(3)
        torch.manual_seed(1)
        noisy(x)
    assert torch.equal(after, torch.rand(3)) and not any(is_loop(r) for r in engine.regions)


def test_why_a_loop_stays_is_told(engine: ReferenceEngine) -> None:
    with recording() as records, torch.no_grad():
        torch.compile(one_in_the_middle, backend="autokernel")(some(3, T, 5))
    assert any("a single step's value is read after the loop" in left.reason for r in records for left in r.left)


@pytest.mark.parametrize("name", ["rnn", "buffer", "beside_the_first"])
def test_without_a_kernel_the_graph_is_as_it_was(name: str, engine: ReferenceEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch_autokernel.capture import backend

    graphs: list[tuple[str, str]] = []
    swap_loops = backend.swap_loops

    def watched(gm: torch.fx.GraphModule, *rest: Any) -> Any:
        before = str(gm.graph)
        found = swap_loops(gm, *rest)
        graphs.append((before, str(gm.graph)))
        return found

    monkeypatch.setattr(backend, "swap_loops", watched)
    refused = []
    engine.wanted = lambda region: not is_loop(region) or refused.append(region)
    function, make, _ = LOOPS[name]
    args = make()
    with torch.no_grad():
        same(torch.compile(function, backend="autokernel")(*args), function(*args))
    ((before, after),) = graphs
    assert before == after and refused


@pytest.mark.parametrize("back", [False, True])
def test_one_kernel_for_all_lengths(back: bool, engine: ReferenceEngine) -> None:
    """The length is a symbol: graphs of two lengths ask for the same kernel."""

    def scanned(x: Tensor) -> Tensor:
        s, out = torch.ones_like(x[:, 0]), []
        order = range(x.shape[1])
        for t in reversed(order) if back else order:
            s = 0.9 * s + x[:, t]
            out.append(s)
        return torch.stack(out, 1)

    with torch.no_grad():
        for length in (9, 14, 40):
            torch._dynamo.reset()
            x = some(3, length, 5)
            same(torch.compile(scanned, backend="autokernel", dynamic=False)(x), scanned(x))
    loops = [r for r in engine.regions if is_loop(r)]
    assert len({r.signature.digest for r in loops}) == 1
    assert [r.sizes["s0"] for r in loops] == [9, 14, 33]  # the first step is made apart, and 32 are timed


def test_loops_and_the_rest_share_the_time_of_one_graph(engine: ReferenceEngine) -> None:
    purses: list[Any] = []
    engine.wanted = lambda region: purses.append((is_loop(region), deadline._SPENT.get()))

    def both(x: Tensor) -> Any:
        return backwards(x), torch.softmax(x.sin(), -1)

    with torch.no_grad():
        torch.compile(both, backend="autokernel")(some(3, T, 5))
    assert {kind for kind, _ in purses} == {True, False}
    assert all(purse is purses[0][1] is not None for _, purse in purses)


def test_equal_loops_have_one_signature() -> None:
    """Also in another process, where sets have another order."""

    def weighted(x: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor, e: Tensor) -> Tensor:
        s, out = torch.zeros_like(x[:, 0]), []
        for t in range(T):
            s = torch.tanh(s * a + x[:, t]) / b - torch.maximum(torch.sigmoid(s - c), d).cos() + e.sin()
            out.append(s)
        return torch.stack(out, 1)

    digests = set()
    for _ in range(6):
        args = [some(3, T, 5), *(some(5) for _ in range(5))]
        gm = make_fx(weighted, decomposition_table=select_decomp_table(), tracing_mode="fake")(*args)
        (loop,), _ = unrolled_loops(gm.graph, "inference")
        digests.add(loop.region.signature.digest)
        assert [n.name for n in loop.inputs] == ["x_1", "a_1", "b_1", "c_1", "d_1", "e_1"]
    assert len(digests) == 1


def test_a_loop_that_writes_stays() -> None:
    """AOTAutograd takes such writes out, so this graph is made by hand."""

    def written(x: Tensor) -> Any:
        y, s = torch.empty_like(x), torch.zeros_like(x[:, 0])
        for t in range(T):
            s = 0.9 * s + x[:, t]
            y[:, t].copy_(s)
        return y, s

    gm = make_fx(written, decomposition_table=select_decomp_table(), tracing_mode="fake")(some(3, T, 5))
    loops, left = unrolled_loops(gm.graph, "inference")
    assert not loops and "does more than give a value" in left[0].reason


def test_a_scan_beside_a_loop(engine: ReferenceEngine) -> None:
    from torch._higher_order_ops import scan

    def both(x: Tensor, y: Tensor) -> Any:
        def step(c: Tensor, v: Tensor) -> Any:
            c = c * 0.5 + torch.sin(v)
            return c, c * 2

        c, ys = scan(step, torch.zeros_like(x[0]), x)
        return c, ys, unbound(y, 0.5)

    x, y = some(T, 3, 5), some(T, 3, 5)
    with torch.no_grad():
        got = torch.compile(both, backend="autokernel")(x, y)
        c, ys = torch.zeros(3, 5), []
        for v in x:
            c = c * 0.5 + torch.sin(v)
            ys.append(c * 2)
        same(got, (c, torch.stack(ys), unbound(y, 0.5)))
    assert len([r for r in engine.regions if is_loop(r)]) == 2


def test_sizes_that_are_symbols_stay_symbols(engine: ReferenceEngine) -> None:
    from torch._dynamo.testing import CompileCounterWithBackend

    def nine(x: Tensor) -> Tensor:
        s = x[:, 0]
        for t in range(9):
            s = torch.tanh(s + x[:, t])
        return s

    counter = CompileCounterWithBackend("autokernel")
    compiled = torch.compile(nine, backend=counter, dynamic=True)
    with torch.no_grad():
        for length in (20, 25, 30):
            x = some(3, length, 5)
            torch.testing.assert_close(compiled(x), nine(x))
    assert counter.frame_count == 1


@pytest.mark.parametrize("function", [lambda x, n: x[:, n : n + 1] * 2, lambda x, n: x[:, x.shape[0] :] * n, lambda x, n: x[n] * 2])
def test_an_index_that_is_a_symbol(function: Callable[..., Any], engine: ReferenceEngine) -> None:
    x = some(3, 20, 5)
    with torch.no_grad():
        compiled = torch.compile(function, backend="autokernel", dynamic=True, options={"strict": True})
        for n in (1, 2):
            torch.testing.assert_close(compiled(x, n), function(x, n))


def last_channels(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def cat_of_channels_last(x: Tensor, _q: Tensor) -> Tensor:
    s, out = x[:, 0] * 0, []
    for t in range(T):
        s = last_channels(torch.tanh(s + x[:, t]))
        out.append(s)
    return torch.cat([x[:, 0], *out], 1)


def stack_of_channels_last(x: Tensor, _q: Tensor) -> Any:
    s, out = last_channels(x[:, 0]) * 0, []
    for t in range(T):
        s = torch.tanh(s + x[:, t])
        out.append(s)
    return torch.stack(out, 1), s, torch.cat(out, 1)


def buffer_beside_a_loop(x: Tensor, q: Tensor) -> Any:
    y = torch.zeros(T, 3, 6, 5)
    for t in range(T):
        y[t : t + 1] = last_channels((x[:, (t * 3) % T, 0] * (t + 1)).unsqueeze(0))
    s = q[:, 0]
    for t in range(T):
        s = torch.tanh(s + q[:, t])
    return y, s


@pytest.mark.parametrize("function", [cat_of_channels_last, stack_of_channels_last, buffer_beside_a_loop])
def test_layouts_are_those_of_eager(function: Callable[..., Any], engine: ReferenceEngine) -> None:
    x, q = some(3, T, 4, 6, 5), some(3, T, 5)
    with torch.no_grad():
        same(torch.compile(function, backend="autokernel")(x, q), function(x, q))


def test_a_sequence_may_be_longer_than_the_loop(engine: ReferenceEngine) -> None:
    def f(x: Tensor, y: Tensor) -> Tensor:
        s, out = y[:, 0] * 0, []
        for t in range(T):
            s = torch.tanh(s * 0.5 + x[t + 3] * y[:, t])
            out.append(s)
        return torch.stack(out, 1)

    x, y = some(100, 3, 5), some(3, T, 5)
    with torch.no_grad():
        same(torch.compile(f, backend="autokernel")(x, y), f(x, y))
        (loop,) = [r for r in engine.regions if is_loop(r)]
        assert loop.sizes == {"s0": T} and not loop.signature.guards.get("s0", 0) > T
        torch._dynamo.reset()
        x, y = some(100, 3, 5), some(100, 3, 5).transpose(0, 1)
        same(torch.compile(lambda x, y: f(x, y[:, :90]), backend="autokernel")(x, y), f(x, y[:, :90]))


class Drawn:
    """A random cell within a random loop: sequences read forwards or backwards, at a distance, along any dimension, by index or
    taken apart; states that are made anew, kept or exchanged; results stacked, written into a buffer, or the last ones."""

    OPS = ("add", "mul", "tanh", "sigmoid", "product", "mean", "maximum", "where", "scaled")

    def __init__(self, seed: int) -> None:
        rng = random.Random(seed)
        self.dim, self.back, self.shift = rng.randrange(3), rng.random() < 0.3, rng.choice((0, 0, 1))
        self.states, self.zeros = rng.randint(1, 3), rng.random() < 0.5
        self.unbind = self.shift == 0 and rng.random() < 0.3
        count = rng.randint(3, 7)
        self.steps = [(rng.choice(self.OPS), rng.randrange(100), rng.randrange(100)) for _ in range(count)]
        self.next = [rng.randrange(count + self.states) for _ in range(self.states)]
        self.next[0] = self.states + rng.randrange(count)
        self.results = rng.sample(("stack", "buffer", "last", "reversed", "beside"), rng.randint(1, 3))
        self.value, self.out_dim = rng.randrange(count), rng.randrange(3)

    def sizes(self) -> list[int]:
        shape = [3, 4]
        shape.insert(self.dim, T)
        return shape

    def args(self) -> list[Tensor]:
        return [some(*self.sizes()), some(*self.sizes()), some(4, 4) / 2, some(4)]

    def cell(self, states: list[Tensor], xt: Tensor, gt: Tensor, w: Tensor, b: Tensor) -> list[Tensor]:
        made = [*states]
        for name, i, j in self.steps:
            have = [*made, xt, gt, b]
            p, q = have[i % len(have)], have[j % len(have)]
            p = p.expand(3, 4) if p.dim() == 1 else p
            made.append({
                "add": lambda p, q: p + q, "mul": lambda p, q: torch.sin(p) * q, "tanh": lambda p, q: torch.tanh(p - q),
                "sigmoid": lambda p, q: torch.sigmoid(p), "product": lambda p, q: torch.tanh(p @ w) + q, "maximum": torch.maximum,
                "mean": lambda p, q: p - q.mean(-1, keepdim=True), "where": lambda p, q: torch.where(p > 0, q, p * 0.5),
                "scaled": lambda p, q: p * 0.25 - 1,
            }[name](p, q))  # fmt: skip
        return made

    def __call__(self, x: Tensor, g: Tensor, w: Tensor, b: Tensor) -> Any:
        at = [torch.zeros(3, 4) if self.zeros else x.select(self.dim, 0) * (k + 1) for k in range(self.states)]
        xs = x.unbind(self.dim) if self.unbind else None
        order = range(self.shift, T)
        values, buffer = [], torch.empty(3, T, 4)
        for t in reversed(order) if self.back else order:
            xt = xs[t] if xs is not None else x.select(self.dim, t - self.shift)
            made = self.cell(at, xt, g.select(self.dim, t), w, b)
            at = [made[k] for k in self.next]
            values.append(made[self.states + self.value])
            if "buffer" in self.results:
                buffer[:, t] = values[-1]
        out: list[Tensor] = []
        if "stack" in self.results:
            out.append(torch.stack(values, self.out_dim))
        if "buffer" in self.results:
            out.append(buffer[:, self.shift :] * 2)
        if "last" in self.results:
            out.append(at[0] + 1)
        if "reversed" in self.results:
            out.append(torch.cat(values[::-1], 1))
        if "beside" in self.results:
            out.append(torch.stack([b.expand(3, 4), *values, xt], 1))
        return out


class Watched(fx.Interpreter):
    """Runs a graph and keeps each node's value."""

    def __init__(self, gm: fx.GraphModule) -> None:
        super().__init__(gm)
        self.values: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        self.values[n] = super().run_node(n)
        return self.values[n]


DRAWN = 60


def test_drawn_loops() -> None:
    """The graph computes the same after results are gathered, and each region's text what its nodes compute."""
    close = functools.partial(torch.testing.assert_close, rtol=1e-4, atol=1e-5, equal_nan=True)
    found = 0
    for seed in range(DRAWN):
        program = Drawn(seed)
        args, called = program.args(), torch.func.functionalize(lambda *xs, program=program: program(*xs))
        gm = make_fx(called, decomposition_table=select_decomp_table(), tracing_mode="fake")(*args)
        gm.graph.eliminate_dead_code()
        loops, _ = unrolled_loops(gm.graph, "inference")
        gm.recompile()
        watched = Watched(gm)
        told = functools.partial("seed {}: {}".format, seed)
        close(list(watched.run(*args)), program(*args), msg=told)
        for loop in loops:
            inputs = [watched.values[n] for n in loop.inputs]
            sizes = loop.region.signature.bind(tuple(tuple(t.shape) for t in inputs), tuple(t.stride() for t in inputs))
            got = load_reference(loop.region.reference)(*inputs, sizes["s0"])
            close(list(got), [watched.values[n] for n in loop.outputs], msg=told)
        found += bool(loops)
    assert found > DRAWN // 3, found
