"""Training through a loop over time: results and gradients are eager autograd's, whatever is asked of it. The kernels are the printed
references, but for the last tests."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch.utils.checkpoint import checkpoint

import torch_autokernel as ak
from tests.capture.cells import CELLS, GRU, Tensor, elman, gated, lstm, make, rn, wkv7
from tests.capture.engines import ReferenceEngine
from torch_autokernel.capture.decorator import Accelerated

SEED = 20261129
QUICK = ("elman", "gated", "lstm")


def slstm(wx: Tensor, r: Tensor, b: Tensor) -> Tensor:
    """As in `cells.py`, without a comprehension over its sizes."""
    h, c, n, m = (torch.zeros_like(wx[:, 0, 0]),) * 4
    ys = []
    for t in range(wx.shape[1]):
        i, f, z, o = (wx[:, t] + torch.einsum("bnp,gndp->bgnd", h, r) + b).unbind(1)
        lf = torch.nn.functional.logsigmoid(f) + m
        top = torch.where(torch.all(n == 0), i, torch.maximum(i, lf))
        left, right = torch.exp(lf - top), torch.exp(i - top)
        c, n, m = left * c + right * torch.tanh(z), torch.clamp(left * n + right, min=1.0), top
        h = torch.sigmoid(o) * c / n
        ys.append(h)
    return torch.stack(ys, 1)


def cell(name: str, length: int = 29) -> tuple[Callable[..., Any], list[Tensor], torch.nn.Module | None]:
    torch.manual_seed(SEED)
    function, args, module = make(name, length)
    return (slstm if name == "slstm" else function), args, module


class Pair:
    """A forward decorated and as it is, on leaves of equal contents."""

    def __init__(self, function: Callable[..., Any], args: Sequence[Any], module: torch.nn.Module | None = None,
                 wanted: Sequence[int] | None = None, dtype: torch.dtype = torch.float32) -> None:  # fmt: skip
        self.module = None if module is None else module.to(dtype)
        self.fast = Accelerated(function, self.module, {"strict": True})
        self.plain = function if module is None else function.__get__(module)
        self.state = [] if module is None else [p for p in module.parameters() if p.requires_grad]
        self.args = list(args)
        self.wanted = range(len(args)) if wanted is None else wanted
        self.dtype = dtype

    def leaves(self, dtype: torch.dtype | None = None) -> list[Any]:
        out = []
        for k, a in enumerate(self.args):
            tensor = isinstance(a, Tensor) and a.is_floating_point()
            out.append(a.detach().to(self.dtype).to(dtype or self.dtype).clone().requires_grad_(k in self.wanted) if tensor else a)
        return out

    def gradients(self, function: Callable[..., Any], use: Callable[[Any], Tensor], dtype: torch.dtype | None = None) -> list[Any]:
        """The results, then the gradients of arguments and parameters."""
        leaves = self.leaves(dtype)
        ends = [t for t in (*leaves, *self.state) if isinstance(t, Tensor) and t.requires_grad]
        out = function(*leaves)
        results = list(out) if isinstance(out, tuple) else [out]
        return [*(r.detach() for r in results), *torch.autograd.grad(use(out), ends, allow_unused=True)]

    def check(self, use: Callable[[Any], Tensor], tolerance: float = 2e-4) -> None:
        got, want = self.gradients(self.fast, use), self.gradients(self.plain, use)
        assert self.fast.trainer.plans, self.fast.trainer.failed or self.fast.trainer.loops
        assert self.fast._compiled is None, "torch.compile was used"
        assert [g is None for g in got] == [w is None for w in want]
        for g, w in zip(got, want, strict=True):
            if w is not None:
                assert g.dtype == w.dtype
                torch.testing.assert_close(g, w, rtol=tolerance, atol=tolerance)


def everything(out: Any) -> Tensor:
    """A scalar in which every element has another weight."""
    results = out if isinstance(out, tuple) else (out,)
    return sum((r * torch.linspace(0.5, 1.5, r.numel()).reshape(r.shape).to(r.dtype)).sum() for r in results)  # type: ignore[return-value]


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in CELLS])
def test_gradients_are_those_of_eager(engine: ReferenceEngine, name: str) -> None:
    pair = Pair(*cell(name))
    pair.check(everything)
    assert len(engine.regions) == 2 and len(engine.calls) >= 4


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in CELLS])
def test_low_precision_is_no_farther_from_the_truth_than_eager(engine: ReferenceEngine, name: str) -> None:
    function, args, module = cell(name)
    pair = Pair(function, args, module, dtype=torch.bfloat16)
    got, want = pair.gradients(pair.fast, everything), pair.gradients(pair.plain, everything)
    assert pair.fast.trainer.plans, pair.fast.trainer.failed
    if module is not None:
        module.double()
    exact = pair.gradients(pair.plain, everything, torch.float64)
    for g, w, e in zip(got, want, exact, strict=True):
        assert g.dtype == w.dtype == torch.bfloat16
        assert (g.double() - e).square().mean() <= 2 * (w.double() - e).square().mean() + (4e-3 * e).square().mean()


@pytest.mark.parametrize("name", ["elman", "gated", pytest.param("lstm", marks=pytest.mark.slow),
                                  pytest.param("wkv7", marks=pytest.mark.slow), pytest.param("slstm", marks=pytest.mark.slow)])  # fmt: skip
def test_gradcheck_and_double_backward(engine: ReferenceEngine, name: str) -> None:
    function, args, _module = cell(name, 9)
    pair = Pair(function, args, dtype=torch.float64)
    leaves = pair.leaves()
    assert torch.autograd.gradcheck(pair.fast, leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(pair.fast, leaves, fast_mode=True)
    assert len(pair.fast.trainer.plans) == 1 and pair.fast._compiled is None


@pytest.mark.parametrize("wanted", [(0,), (2,), (4,), (1, 3)])
def test_some_inputs_alone(engine: ReferenceEngine, wanted: tuple[int, ...]) -> None:
    pair = Pair(*cell("elman"), wanted=wanted)
    pair.check(everything)
    forward, backward = engine.regions
    assert len(backward.signature.output_specs) <= len(wanted) + 1
    assert len(forward.signature.output_specs) <= 4


def test_state_tuning_needs_no_other_gradients(engine: ReferenceEngine) -> None:
    pair = Pair(*cell("wkv7"), wanted=(6,))
    pair.check(everything)
    (state,) = engine.regions[1].signature.output_specs
    assert state.shape == (3, 2, 10, 10)


def test_inputs_that_are_no_leaves(engine: ReferenceEngine) -> None:
    fast = ak.autokernel(gated)
    grads = []
    for f in (fast, gated):
        torch.manual_seed(SEED)
        a, b, h = rn(40, 3, 10).requires_grad_(), rn(40, 3, 10).requires_grad_(), rn(3, 10)
        f(a.sin(), (b * a).transpose(0, 0), h).square().sum().backward()
        grads.append((a.grad, b.grad))
    assert fast.trainer.plans
    for g, w in zip(*grads, strict=True):
        torch.testing.assert_close(g, w, rtol=1e-4, atol=1e-4)


def two_results(x: Tensor, w: Tensor, u: Tensor, h: Tensor, g: Tensor) -> Any:
    ys, zs = [], []
    for t in range(x.shape[1]):
        h, g = torch.tanh(x[:, t] @ w + h), g * 0.5 + u
        ys.append(h)
        zs.append(g)
    return torch.stack(ys, 1), torch.stack(zs, 1), h


@pytest.mark.parametrize("use", [lambda o: o[0].sum(), lambda o: o[1].sum(), lambda o: o[2].sum(), lambda o: o[0][:, 3].sum(),
                                 lambda o: (o[0] * o[2][:, None]).sum(), lambda o: o[1].expand(2, 3, 21, 10).sum()])  # fmt: skip
def test_results_that_nobody_uses(engine: ReferenceEngine, use: Callable[[Any], Tensor]) -> None:
    """What only they depend on has no gradient, as in eager."""
    torch.manual_seed(SEED)
    Pair(two_results, [rn(3, 21, 6), rn(6, 10), rn(10), rn(3, 10), rn(3, 10)]).check(use)


def test_results_that_record_nothing(engine: ReferenceEngine) -> None:
    torch.manual_seed(SEED)
    pair = Pair(two_results, [rn(3, 21, 6), rn(6, 10), rn(10), rn(3, 10), rn(3, 10)], wanted=(0,))
    for f in (pair.fast, pair.plain):
        assert [r.requires_grad for r in f(*pair.leaves())] == [True, False, True]
    assert pair.fast.trainer.plans


def late(x: Tensor, h: Tensor, g: Tensor) -> Any:
    """After one step the first result does not depend on x yet."""
    ys = []
    for t in range(x.shape[1]):
        ys.append(g * 1.5)
        h, g = torch.tanh(x[:, t] + h), h * 0.5
    return torch.stack(ys, 1), h, g


def first(out: Any) -> Tensor:
    return everything(out[0] if isinstance(out, tuple) else out)


@pytest.mark.parametrize("function", [late, elman, gated, wkv7, lstm])
def test_one_kernel_at_all_lengths(engine: ReferenceEngine, function: Any) -> None:
    names = {elman: "elman", gated: "gated", wkv7: "wkv7", lstm: "lstm"}
    pair = Pair(function, [rn(3, 40, 10), rn(3, 10), rn(3, 10)] if function is late else cell(names[function], 40)[1])
    pair.check(first)
    for length in (1, 2, 3, 57):
        pair.args = [rn(3, length, 10), rn(3, 10), rn(3, 10)] if function is late else cell(names[function], length)[1]
        pair.check(first)
    assert len(pair.fast.trainer.plans) == 5
    assert len({r.signature.digest for r in engine.regions}) == 2


def outer(x: Tensor, wi: Tensor, w: Tensor, h: Tensor, c: Tensor) -> Tensor:
    """Products before and behind the loop, integers, an unfamiliar operation."""
    wx, ys = torch.nn.functional.softplus(x @ wi), []
    for t in range(x.shape[1]):
        h = torch.nn.functional.softplus(wx[:, t] + h @ w, beta=2.0) - torch.nn.functional.elu(h)
        ys.append(h)
    return torch.softmax(torch.stack(ys, 1) @ w, -1)[c]


def test_anything_may_stand_around_the_loop(engine: ReferenceEngine) -> None:
    torch.manual_seed(SEED)
    Pair(outer, [rn(3, 21, 6), rn(6, 10), rn(10, 10) * 0.3, rn(3, 10), torch.tensor([2, 0, 0, 1])]).check(everything)


def test_functions_keep_their_own_derivative_where_they_overflow(engine: ReferenceEngine) -> None:
    """The derivative of log(1 + exp x) would be NaN for large x, softplus's is 1."""
    torch.manual_seed(SEED)
    pair = Pair(outer, [rn(3, 21, 6) * 100, rn(6, 10) * 100, rn(10, 10) * 0.3, rn(3, 10), torch.tensor([0])])
    assert all(g.isfinite().all() for g in pair.gradients(pair.plain, everything) if g is not None)
    pair.check(everything)


# ---- what surrounds a call ----
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoint(engine: ReferenceEngine, reentrant: bool) -> None:
    pair = Pair(*cell("elman"))

    def under(f: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args: checkpoint(f, *args, use_reentrant=reentrant)

    for _ in range(2):
        grads = []
        for f in (pair.fast, pair.plain):
            leaves = pair.leaves()
            everything(under(f)(*leaves)).backward()
            grads.append([t.grad for t in leaves])
        for g, w in zip(*grads, strict=True):
            torch.testing.assert_close(g, w, rtol=1e-4, atol=1e-4)
    assert pair.fast.trainer.plans


def test_without_gradients_afterwards(engine: ReferenceEngine) -> None:
    pair = Pair(*cell("gated"))
    pair.check(everything)
    for block in (torch.no_grad(), torch.inference_mode()):
        with block:
            out = pair.fast(*pair.args)
            torch.testing.assert_close(out, pair.plain(*pair.args))
            assert not out.requires_grad
    pair.check(everything)


def test_parameters_changed_in_place_between_calls(engine: ReferenceEngine) -> None:
    torch.manual_seed(SEED)
    losses = []
    for decorated in (True, False):
        torch.manual_seed(SEED)
        module = GRU()
        f = Accelerated(GRU.forward, module, {"strict": True}) if decorated else module
        optimizer = torch.optim.AdamW(module.parameters(), lr=0.05)
        x, losses_here = rn(3, 21, 6), []
        for _ in range(6):
            optimizer.zero_grad()
            loss = (f(x) - 0.3).square().mean()
            loss.backward()
            optimizer.step()
            losses_here.append(float(loss.detach()))
        losses.append(losses_here)
        assert not decorated or f.trainer.plans and f._compiled is None
    assert losses[0] == pytest.approx(losses[1], rel=1e-3) and losses[0][-1] < 0.8 * losses[0][0]


def test_a_parameter_that_is_another_one_now(engine: ReferenceEngine) -> None:
    pair = Pair(*cell("gru"))
    pair.check(everything)
    assert pair.module is not None
    pair.module.cell.weight_hh = torch.nn.Parameter(rn(36, 12) * 0.3)
    pair.state = list(pair.module.parameters())
    pair.check(everything)
    assert pair.fast.trainer.renewals == 1 and len(pair.fast.trainer.plans) == 1


def test_backward_twice(engine: ReferenceEngine) -> None:
    pair = Pair(*cell("elman"))
    leaves = pair.leaves()
    loss = everything(pair.fast(*leaves))
    loss.backward(retain_graph=True)
    once = [t.grad.clone() for t in leaves]
    loss.backward()
    for t, g in zip(leaves, once, strict=True):
        torch.testing.assert_close(t.grad, 2 * g)
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


@pytest.mark.parametrize("changed", range(5))
def test_inputs_changed_before_the_gradient(engine: ReferenceEngine, changed: int) -> None:
    """Where eager complains, the same error or the right gradients; where it does not, the right gradients."""
    pair = Pair(*cell("elman"))
    want = pair.gradients(pair.plain, everything)[1:]
    pair.gradients(pair.fast, everything)
    complains = []
    for f in (pair.plain, pair.fast):
        leaves = pair.leaves()
        loss = everything(f(*leaves))
        with torch.no_grad():
            leaves[changed].mul_(2)
        try:
            loss.backward()
        except RuntimeError as error:
            assert "modified by an inplace operation" in str(error)
            complains.append(True)
            continue
        complains.append(False)
        for t, w in zip(leaves, want, strict=True):
            torch.testing.assert_close(t.grad, w, rtol=1e-4, atol=1e-4)
    assert complains[0] or not complains[1]
    assert changed != 2 or complains[1], "the recurrent weight is read by the gradient"


def test_a_change_that_only_the_second_derivative_would_read(engine: ReferenceEngine) -> None:
    pair = Pair(*cell("elman"))
    leaves = pair.leaves()
    loss = everything(pair.fast(*leaves))
    with torch.no_grad():
        leaves[3].mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(loss, leaves, create_graph=True)


def test_results_may_be_changed_in_place(engine: ReferenceEngine) -> None:
    pair = Pair(*cell("lstm"))

    def use(out: Any) -> Tensor:
        out[0].mul_(2)
        out[1].add_(out[2])
        return everything(out)

    pair.check(use)


def test_what_autograd_saves_is_told_to_hooks(engine: ReferenceEngine) -> None:
    """And a plan that is made beneath them tells them nothing of its own trials."""
    pair = Pair(*cell("elman"))
    counts = []
    for _ in range(2):
        seen: list[Tensor] = []
        leaves = pair.leaves()
        with torch.autograd.graph.saved_tensors_hooks(lambda t, seen=seen: seen.append(t) or t * 1, lambda t: t):
            loss = everything(pair.fast(*leaves))
        loss.backward()
        counts.append(len(seen))
    assert counts[0] == counts[1] > 0


def test_other_worlds(engine: ReferenceEngine) -> None:
    pair = Pair(*cell("gated"))
    pair.check(everything)
    args = tuple(pair.args)
    _out, tangent = torch.func.jvp(pair.fast, args, tuple(torch.ones_like(a) for a in args))
    torch.testing.assert_close(tangent, torch.func.jvp(pair.plain, args, tuple(torch.ones_like(a) for a in args))[1])
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(args[0], torch.ones_like(args[0]))
        with torch.no_grad():
            tangent = torch.autograd.forward_ad.unpack_dual(pair.fast(dual, *args[1:])).tangent
    assert tangent is not None


def test_many_gradients_at_once(engine: ReferenceEngine) -> None:
    """The backward runs under vmap."""
    pair = Pair(*cell("elman"))
    pair.check(everything)
    jacobians = [
        torch.autograd.functional.jacobian(lambda w, f=f: f(*pair.args[:2], w, *pair.args[3:]), pair.args[2], vectorize=True)
        for f in (pair.fast, pair.plain)
    ]
    torch.testing.assert_close(*jacobians, rtol=1e-4, atol=1e-4)


def test_a_mode_sees_the_backward(engine: ReferenceEngine) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    pair = Pair(*cell("elman"))
    pair.check(everything)
    loss, leaves = everything(pair.fast(*(leaves := pair.leaves()))), leaves
    calls = len(engine.calls)
    with FlopCounterMode(display=False) as counter:
        loss.backward()
    assert len(engine.calls) == calls
    assert counter.get_total_flops() > 29 * 2 * 2 * 3 * 10 * 10


# ---- what is not done ----
def stopped(x: Tensor, h: Tensor) -> Tensor:
    for t in range(x.shape[1]):
        h = torch.tanh(x[:, t] + 1e-6 * h.detach())
    return h


def cut(x: Tensor, h: Tensor) -> Tensor:
    for t in range(x.shape[1]):
        h = torch.tanh(x[:, t] + (h if h.requires_grad else 0.5 * h))
    return h


def shut(x: Tensor, h: Tensor) -> Tensor:
    for t in range(x.shape[1]):
        with torch.no_grad():
            k = h * 1e-6
        h = torch.tanh(x[:, t] + k)
    return h


@pytest.mark.parametrize("function", [stopped, cut, shut])
def test_python_that_speaks_of_gradients_is_left_alone(engine: ReferenceEngine, function: Any) -> None:
    fast = Accelerated(function, None, {})
    args = (rn(3, 40, 10).requires_grad_(), rn(3, 10).requires_grad_())
    assert fast.trainer._plan("key", args) is None and not engine.regions
    assert "gradients itself" in fast.trainer.failed["key"] or "does" in fast.trainer.failed["key"]


def _spoiled(engine: ReferenceEngine, monkeypatch: pytest.MonkeyPatch, which: int, spoil: Callable[[Any], Any]) -> Accelerated:
    load = engine.load

    def loaded(entry: Any) -> Any:
        call = load(entry)
        mine = entry.signature.digest == engine.regions[which].signature.digest
        return (lambda *t: tuple(spoil(r) for r in call(*t))) if mine else call

    monkeypatch.setattr(engine, "load", loaded)
    return Accelerated(elman, None, {})


@pytest.mark.parametrize("which", [0, 1])
def test_kernels_that_differ_from_the_original_are_not_used(
    engine: ReferenceEngine, monkeypatch: pytest.MonkeyPatch, which: int
) -> None:
    fast = _spoiled(engine, monkeypatch, which, lambda r: r * 1.02)
    args = tuple(a.requires_grad_() for a in cell("elman")[1])
    assert fast.trainer._plan("key", args) is None
    assert "differ at this length" in fast.trainer.failed["key"]


def test_kernels_that_are_slower_than_the_original_are_not_used(
    engine: ReferenceEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slowly(r: Tensor) -> Tensor:
        time.sleep(0.2)
        return r

    fast = _spoiled(engine, monkeypatch, 1, slowly)
    engine.timed = True
    args = tuple(a.requires_grad_() for a in cell("elman")[1])
    assert fast.trainer._plan("key", args) is None
    assert "no faster" in fast.trainer.failed["key"]


def test_without_a_kernel_for_the_gradient_nothing_is_replaced(monkeypatch: pytest.MonkeyPatch, engine: ReferenceEngine) -> None:
    engine.wanted = lambda region: bool(engine.regions) is False
    fast = Accelerated(elman, None, {})
    args = tuple(a.requires_grad_() for a in cell("elman")[1])
    assert fast.trainer._plan("key", args) is None and fast.trainer.failed["key"] == "backward: not wanted"


def test_gradients_of_another_layout(engine: ReferenceEngine) -> None:
    pair = Pair(*cell("gated"))
    pair.check(lambda out: (out.transpose(0, 2).contiguous() * torch.linspace(0, 1, 29)).sum())
    pair.check(lambda out: torch.imag(torch.conj(out * 1j)).sum())


class Cell(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.step, self.out = torch.nn.Linear(14, 6), torch.nn.Linear(6, 3)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        ys = []
        for t in range(x.shape[0]):
            h = torch.tanh(self.step(torch.cat((x[t], h), 1)))
            ys.append(self.out(h))
        return torch.stack(ys)


def test_gradients_of_weights_lie_as_eagers(engine: ReferenceEngine) -> None:
    """A linear layer's weight is known to the loop turned."""
    torch.manual_seed(SEED)
    module = Cell()
    pair = Pair(Cell.forward, [rn(12, 4, 8), rn(4, 6)], module)
    pair.check(everything)
    strides = [[g.stride() for g in pair.gradients(f, everything)[3:]] for f in (pair.fast, pair.plain)]
    assert strides[0] == strides[1]


def test_gradients_of_batched_weights_lie_as_eagers(engine: ReferenceEngine) -> None:
    def batched(x: Tensor, h: Tensor, w: Tensor) -> Tensor:
        ys = []
        for t in range(x.shape[0]):
            h = torch.tanh(torch.bmm(h, w.mT) + x[t])
            ys.append(h)
        return torch.stack(ys)

    torch.manual_seed(SEED)
    pair = Pair(batched, [rn(12, 2, 4, 6), rn(2, 4, 6), rn(2, 6, 6) * 0.3])
    pair.check(everything)
    fast, plain = (pair.gradients(f, everything)[-1].stride() for f in (pair.fast, pair.plain))
    assert fast == plain
