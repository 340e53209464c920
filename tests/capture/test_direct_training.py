"""Training calls by two kernels: eager's results and gradients in every way in which autograd can be asked."""

from __future__ import annotations

import copy
import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from filelock import FileLock

import torch_autokernel as ak
from tests.capture.engines import ReferenceEngine
from torch_autokernel.capture import direct_training, trial
from torch_autokernel.core.config import Config
from torch_autokernel.core.errors import CaptureError
from torch_autokernel.lang import recorded
from torch_autokernel.store import Store
from torch_autokernel.verify.statistics import Ratio

Tensor = torch.Tensor


def rms_norm(x: Tensor, w: Tensor) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * w


def residual(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
    return F.silu(x) * w + y


def two(x: Tensor, y: Tensor) -> tuple[dict[str, Tensor]]:
    return ({"soft": torch.softmax(x * y, -1)},)


def loss(x: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(x, target)


class Scaled(torch.nn.Module):
    def __init__(self, n: int = 16) -> None:
        super().__init__()
        self.weight, self.frozen = torch.nn.Parameter(torch.randn(n)), torch.nn.Parameter(torch.randn(n), requires_grad=False)
        self.register_buffer("shift", torch.randn(n))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x * self.weight + self.shift) * self.frozen


@pytest.fixture(scope="session")
def recorder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Built once for all workers of the run."""
    shared = tmp_path_factory.getbasetemp().parent / "recorder"
    with FileLock(f"{shared}.lock"):
        found = recorded.recorder(Store(shared), Config(on_miss="generate"))
    assert found is not None
    return found


@pytest.fixture(params=["C++", "Python"], autouse=True)
def recorded_in(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of this file holds for both ways to record a call."""
    found = request.getfixturevalue("recorder") if request.param == "C++" else None
    monkeypatch.setattr(direct_training, "_recorder", lambda engine, config: found)


def leaf(*shape: int, needs: bool = True) -> Tensor:
    return torch.randn(*shape).requires_grad_(needs)


def grads(function: Callable[..., Any], args: tuple[Any, ...], more: tuple[Tensor, ...] = (), seed: int = 0) -> list[Any]:
    results = [r for r in torch.utils._pytree.tree_leaves(function(*args)) if isinstance(r, Tensor)]
    torch.manual_seed(seed)
    given = [torch.randn_like(r) for r in results]
    wanted = [t for t in (*args, *more) if isinstance(t, Tensor) and t.requires_grad]
    return [*results, *torch.autograd.grad(results, wanted, given, allow_unused=True)]


def plans(target: Any) -> list[Any]:
    found: list[Any] = target._training
    return found


CASES = {
    "rms_norm": (rms_norm, lambda: (leaf(6, 16), leaf(16))),
    "only the weight": (rms_norm, lambda: (leaf(6, 16, needs=False), leaf(16))),
    "a gradient that is passed on": (residual, lambda: (leaf(6, 16), leaf(6, 16), leaf(16))),
    "not a leaf": (residual, lambda: (leaf(6, 16) * 2, leaf(6, 16), leaf(16))),
    "in a structure": (two, lambda: (leaf(6, 16), leaf(6, 16))),
    "integers": (loss, lambda: (leaf(6, 16), torch.randint(16, (6,)))),
    "a number": (lambda x, k: x.sigmoid() * k, lambda: (leaf(6, 16), 3)),
    "unused": (lambda x, y: x.sigmoid(), lambda: (leaf(6, 16), leaf(6, 16))),
    "turned": (rms_norm, lambda: (torch.randn(16, 6).t().requires_grad_(), leaf(16))),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_results_and_gradients(name: str, engine: ReferenceEngine) -> None:
    function, make = CASES[name]
    fast, args = ak.autokernel(function), make()
    for _ in range(2):
        torch.testing.assert_close(grads(fast, args), grads(function, args))
    assert len(plans(fast)) == 1 and fast._compiled is None, fast.untrained
    assert len(engine.calls) >= 4, "the kernels do not run"
    assert [r.phase for r in engine.regions] == ["direct", "direct"]


def test_a_module(engine: ReferenceEngine) -> None:
    plain = Scaled()
    fast = ak.autokernel(copy.deepcopy(plain))
    x = leaf(6, 16)
    for _ in range(3):
        mine, theirs = grads(fast, (x,), (fast.weight,)), grads(plain, (x,), (plain.weight,))
        torch.testing.assert_close(mine, theirs)
    assert len(plans(fast.forward)) == 1 and fast.forward._compiled is None, fast.forward.untrained
    calls = len(engine.calls)
    with torch.no_grad():
        torch.testing.assert_close(fast(x), plain(x))
    assert len(fast.forward.plans) == 1
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (fast, plain)]
    for _ in range(3):
        for m, optimizer in zip((fast, plain), optimizers, strict=True):
            optimizer.zero_grad()
            m(x).square().mean().backward()
            optimizer.step()
    torch.testing.assert_close(fast.weight, plain.weight)
    assert len(engine.calls) > calls + 4 and fast.frozen.grad is None
    fast.frozen.requires_grad_(), plain.frozen.requires_grad_()
    torch.testing.assert_close(grads(fast, (x,), (fast.weight, fast.frozen)), grads(plain, (x,), (plain.weight, plain.frozen)))
    assert len(plans(fast.forward)) == 2, "another set of gradients is another plan"
    fast.weight = torch.nn.Parameter(plain.weight.detach() * 2)
    plain.weight = torch.nn.Parameter(plain.weight.detach() * 2)
    torch.testing.assert_close(grads(fast, (x,), (fast.weight, fast.frozen)), grads(plain, (x,), (plain.weight, plain.frozen)))


@pytest.fixture
def pair(engine: ReferenceEngine) -> tuple[Any, Any, tuple[Tensor, Tensor]]:
    fast, args = ak.autokernel(rms_norm), (leaf(6, 16), leaf(16))
    fast(*args)
    assert len(plans(fast)) == 1, fast.untrained
    return fast, rms_norm, args


def test_expanded_and_turned_gradients(pair: Any) -> None:
    fast, plain, args = pair
    for given in (torch.ones(()).expand(6, 16), torch.randn(16, 6).t(), torch.randn(6, 32)[:, ::2]):
        mine, theirs = (torch.autograd.grad(f(*args), args, given) for f in (fast, plain))
        torch.testing.assert_close(mine, theirs)


def test_second_derivatives(pair: Any) -> None:
    fast, plain, args = pair
    found = []
    for f in (fast, plain):
        first = torch.autograd.grad(f(*args).square().sum(), args, create_graph=True)
        found.append([*first, *torch.autograd.grad(sum(g.square().sum() for g in first), args)])
    torch.testing.assert_close(*found, rtol=2e-5, atol=2e-4)
    x, w = (a.detach().double().requires_grad_() for a in args)
    assert torch.autograd.gradgradcheck(fast, (x, w))


def test_second_derivatives_read_what_was_there(engine: ReferenceEngine) -> None:
    """An input that the first gradient does not read may change; what would read it, the second derivative, is an error then."""
    fast, args = ak.autokernel(residual), [leaf(6, 16), leaf(6, 16) * 2, leaf(16)]
    fast(*args)
    assert len(plans(fast)) == 1
    for create in (False, True):
        args[1] = leaf(6, 16) * 2
        out = fast(*args)
        with torch.no_grad():
            args[1].mul_(2)
        first = torch.autograd.grad(out.sum(), args, create_graph=create)
        if create:
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                torch.autograd.grad(first[0].sum(), args)


def test_second_derivatives_of_what_was_changed_before(engine: ReferenceEngine) -> None:
    fast, args = ak.autokernel(residual), (leaf(6, 16), leaf(6, 16, needs=False), leaf(16))
    fast(*args)
    assert len(plans(fast)) == 1
    args[1].add_(1)
    found = []
    for f in (fast, residual):
        first = torch.autograd.grad(f(*args).square().sum(), args[::2], create_graph=True)
        found.append(torch.autograd.grad(sum(g.square().sum() for g in first), args[::2]))
    torch.testing.assert_close(*found, rtol=2e-5, atol=2e-4)


def test_a_changed_input_is_an_error_as_in_eager(pair: Any) -> None:
    for f in pair[:2]:
        x, w = leaf(6, 16).clone(), leaf(16)
        out = f(x, w)
        with torch.no_grad():
            x.mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            out.sum().backward()


@pytest.mark.parametrize("function", [
    lambda x, w: torch.tanh(x) + w, lambda x, w: torch.sigmoid(x) * 2 + w, lambda x, w: torch.softmax(x, -1) * w,
    lambda x, w: F.silu(x * 2 + w), lambda x, w: x.exp() * 2 + w, lambda x, w: F.layer_norm(x * 2, (16,)) + w,
], ids=["tanh", "sigmoid", "softmax", "silu", "exp", "norm"])  # fmt: skip
def test_what_eager_does_not_save_may_change(function: Any, engine: ReferenceEngine) -> None:
    fast, w = ak.autokernel(function), leaf(16)
    fast(leaf(6, 16), w)
    assert len(plans(fast)) == 1, fast.untrained
    start = leaf(6, 16)
    found = []
    for f in (fast, function):
        x = start * 1
        out = f(x, w)
        with torch.no_grad():
            x.add_(1)
        found.append(torch.autograd.grad(out.square().sum(), (start, w)))
    torch.testing.assert_close(*found)
    found = []
    for f in (fast, function):  # a residual stream that is added to in place
        h = start * 1
        for _ in range(3):
            h += f(h, w)
        found.append(torch.autograd.grad(h.square().sum(), (start, w)))
    torch.testing.assert_close(*found)


def test_a_result_that_eager_does_not_save_may_change(engine: ReferenceEngine) -> None:
    function = lambda x: torch.sigmoid(x) * torch.ones(())  # noqa: E731
    fast, x = ak.autokernel(function), leaf(6, 16)
    fast(x)
    assert len(plans(fast)) == 1, fast.untrained
    mine, theirs = (torch.autograd.grad(f(x).add_(1).square().sum(), x) for f in (fast, function))
    torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("function", [lambda x, w: x + w, lambda x, w: torch.relu(x) * w, lambda x, w: torch.tanh(x) + w])
@pytest.mark.parametrize("backward", [True, False])
def test_nothing_is_held(function: Any, backward: bool, engine: ReferenceEngine) -> None:
    fast, w, gone = ak.autokernel(function), leaf(16), []
    fast(leaf(6, 16), w)
    assert len(plans(fast)) == 1, fast.untrained
    for _ in range(3):
        h = leaf(6, 16) * 2
        h = h.clone()
        gone.append(weakref.ref(h))
        h += fast(h, w)
        if backward:
            h.sum().backward()
        del h
    gc.collect()
    assert [ref() for ref in gone] == [None] * 3


@pytest.mark.parametrize("backward", [True, False])
def test_a_result_that_is_saved_is_not_held(backward: bool, engine: ReferenceEngine) -> None:
    fast, gone = ak.autokernel(lambda x: torch.sigmoid(x * 2)), []
    for _ in range(3):
        x = leaf(6, 16)
        out = fast(x)
        gone += [weakref.ref(x), weakref.ref(out), weakref.ref(out.untyped_storage())]
        if backward:
            out.sum().backward()
        del x, out
    gc.collect()
    assert [ref() for ref in gone] == [None] * 9 and len(plans(fast)) == 1


def test_gradients_that_a_trial_asks_for_are_not_noticed(engine: ReferenceEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "timed", True)
    monkeypatch.setattr(direct_training, "SMALL", 1e9)
    monkeypatch.setattr(trial, "_samples", lambda calls: [c() for c in calls.values()] and (lambda one, other: Ratio(2, 2, 2)))
    fast, start, w = ak.autokernel(rms_norm), leaf(6, 16), leaf(16)
    x = start * 1
    x.retain_grad()
    out = fast(x, w)
    assert x.grad is None and start.grad is None and w.grad is None
    torch.autograd.grad(out.sum(), x)
    state = torch.get_rng_state()
    [leaf(6, 16), leaf(6, 16), leaf(16)]
    after = torch.get_rng_state()
    torch.set_rng_state(state)
    ak.autokernel(residual)(leaf(6, 16), leaf(6, 16), leaf(16))
    assert torch.equal(after, torch.get_rng_state())


def test_a_trial_leaves_the_users_graph_alone(engine: ReferenceEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "timed", True)
    monkeypatch.setattr(direct_training, "SMALL", 1e9)
    monkeypatch.setattr(trial, "_samples", lambda calls: [c() for c in calls.values()] and (lambda one, other: Ratio(2, 2, 2)))
    plain, model = (lambda m: (m, ak.autokernel(copy.deepcopy(m))))(Scaled())
    x, found = torch.randn(6, 16), []
    for m in (plain, model):
        h = m(x)
        h = m(m(h))
        h.square().sum().backward()
        found.append(m.weight.grad)
    torch.testing.assert_close(*found)
    assert len(plans(model.forward)) == 2, model.forward.untrained


def test_going_back_as_often_as_eager_allows(engine: ReferenceEngine) -> None:
    function = lambda x, w: x + w  # noqa: E731
    fast, x, w = ak.autokernel(function), leaf(6, 16) * 2, leaf(16)
    y = fast(x, w)
    assert len(plans(fast)) == 1, fast.untrained
    first = torch.autograd.grad(y.sum(), w)
    torch.testing.assert_close(torch.autograd.grad((y * 2).sum(), w)[0], 2 * first[0])
    torch.testing.assert_close(torch.autograd.grad((y * 2).square().sum(), w, create_graph=True)[0], (8 * y).sum(0))


@pytest.mark.parametrize("function", [lambda x, w: torch.tanh(x) + w, lambda x, w: torch.softmax(x, -1) * w])
def test_gradients_to_be_differentiated_after_a_change(function: Any, engine: ReferenceEngine) -> None:
    fast, w = ak.autokernel(function), leaf(16)
    fast(leaf(6, 16), w)
    assert len(plans(fast)) == 1, fast.untrained
    start, found = leaf(6, 16), []
    for f in (fast, function):
        h = start * 1
        h += f(h, w)
        found.append(torch.autograd.grad(h.square().sum(), (start, w), create_graph=True))
    torch.testing.assert_close(*found)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        found[0][1].sum().backward()


def test_first_calls_in_several_threads(engine: ReferenceEngine) -> None:
    fast, args, results = ak.autokernel(rms_norm), (leaf(6, 16), leaf(16)), list[Any]()

    def call() -> None:
        results.extend(grads(fast, args) for _ in range(3))

    threads = [threading.Thread(target=call) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(results) == 12 and len(plans(fast)) == 1
    for r in results:
        torch.testing.assert_close(r[1:], results[0][1:], rtol=1, atol=10)  # seeds are shared by threads
        torch.testing.assert_close(r[0], rms_norm(*args))


def test_tracing_and_forward_mode_with_gradients(engine: ReferenceEngine) -> None:
    import torch.autograd.forward_ad as forward_ad

    fast, x, w = ak.autokernel(rms_norm), leaf(6, 16), leaf(16)
    fast(x, w)
    tangents = torch.randn(6, 16)
    for enabled in (True, False):
        found = []
        for f in (fast, rms_norm):
            with torch.set_grad_enabled(enabled), forward_ad.dual_level():
                found.append(forward_ad.unpack_dual(f(forward_ad.make_dual(x, tangents), w)).tangent)
        torch.testing.assert_close(*found)
    traced = torch.jit.trace(lambda a, b: fast(a, b), (x, w))
    torch.testing.assert_close(traced(x, w), rms_norm(x, w))


def test_the_kernel_takes_turned_and_expanded_gradients(engine: ReferenceEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    fast = ak.autokernel(rms_norm)
    x, w = torch.randn(16, 6).t().requires_grad_(), leaf(16)
    fast(x, w)
    (plan,) = plans(fast)
    monkeypatch.setattr(direct_training._Kernels, "reference", property(lambda self: pytest.fail("the reference runs")))
    for given in (None, torch.randn(6, 16), torch.randn(16, 6).t()):
        mine, theirs = (torch.autograd.grad(f(x, w).sum() if given is None else f(x, w), (x, w), given) for f in (fast, rms_norm))
        torch.testing.assert_close(mine, theirs)


def test_replaced_parameters_leave_no_plans(engine: ReferenceEngine) -> None:
    model = ak.autokernel(Scaled())
    x, gone = leaf(6, 16), []
    for _ in range(6):
        gone.append(weakref.ref(model.weight))
        model(x).sum().backward()
        assert len(plans(model.forward)) == 1, model.forward.untrained
        model.weight = torch.nn.Parameter(torch.randn(16))
    model(x)
    gc.collect()
    assert [ref() for ref in gone] == [None] * 6


def test_inference_tensors(pair: Any) -> None:
    fast, plain, (_x, w) = pair
    with torch.inference_mode():
        x = torch.randn(6, 16)
    function = lambda x, w: torch.tanh(x) * w  # noqa: E731
    other = ak.autokernel(function)
    other(torch.randn(6, 16), w)
    assert len(plans(other)) == 1, other.untrained
    torch.testing.assert_close(other(x, w), function(x, w))


def test_vmap_over_gradients(pair: Any) -> None:
    fast, plain, args = pair
    given = torch.randn(3, 6, 16)
    mine, theirs = (torch.autograd.grad(f(*args), args, given, is_grads_batched=True) for f in (fast, plain))
    torch.testing.assert_close(mine, theirs)


def test_functorch_and_forward_mode(pair: Any) -> None:
    fast, plain, (x, w) = pair
    x, w = x.detach(), w.detach()
    total = lambda f: lambda a, b: f(a, b).sum()
    torch.testing.assert_close(torch.func.grad(total(fast))(x, w), torch.func.grad(total(plain))(x, w))
    tangents = (torch.randn_like(x), torch.randn_like(w))
    torch.testing.assert_close(torch.func.jvp(fast, (x, w), tangents), torch.func.jvp(plain, (x, w), tangents))


def test_hooks_retained_graphs_and_threads(pair: Any) -> None:
    fast, plain, (x, w) = pair
    seen: list[Tensor] = []
    out = fast(x, w)
    out.register_hook(lambda g: seen.append(g) or 2 * g)
    given = torch.randn_like(out)
    found: dict[int, Any] = {}

    def again(k: int) -> None:
        found[k] = torch.autograd.grad(out, (x, w), given, retain_graph=True)

    threads = [threading.Thread(target=again, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    expected = torch.autograd.grad(plain(x, w), (x, w), 2 * given)
    assert len(seen) == 4
    for k in range(4):
        torch.testing.assert_close(found[k], expected)


def test_checkpointing(pair: Any) -> None:
    from torch.utils.checkpoint import checkpoint

    fast, plain, args = pair
    mine, theirs = (grads(lambda *a, f=f: checkpoint(f, *a, use_reentrant=False), args) for f in (fast, plain))
    torch.testing.assert_close(mine, theirs)


def test_other_kinds_of_calls_get_their_own_answer(pair: Any, engine: ReferenceEngine) -> None:
    fast, plain, (x, w) = pair
    for args in ((leaf(3, 16), w), (x.detach(), w), (x.detach().double().requires_grad_(), w.detach().double().requires_grad_())):
        torch.testing.assert_close(grads(fast, args), grads(plain, args))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(grads(fast, (x, w)), grads(plain, (x, w)))
    with torch.no_grad():
        assert not fast(x, w).requires_grad


@pytest.mark.parametrize("function, reason", [
    (lambda x: x.detach() * 2, "no gradient"), (lambda x: (x.exp(), x.shape[0]), "not one result"), (lambda x: x, "input"),
    (lambda x: x.view(-1), "input"), (lambda x: F.dropout(x, 0.5), "not among"), (lambda x: x.mul_(2), "traced"),
    (lambda x: (x.exp(), x.argmax(-1)), "not one result"), (lambda x: (x.exp(), x * 2), "not one result"), (lambda x: x @ x.t() @ x, "products"),
])  # fmt: skip
def test_what_gets_no_plan(function: Callable[..., Any], reason: str) -> None:
    with pytest.raises(CaptureError, match=reason):
        direct_training.halves(function, (leaf(6, 16),), None)


def test_large_calls_are_for_torch_compile(engine: ReferenceEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct_training, "_MOST_ELEMENTS", 100)
    fast = ak.autokernel(rms_norm)
    args = leaf(6, 16), leaf(16)
    torch.testing.assert_close(grads(fast, args), grads(rms_norm, args))
    assert not plans(fast) and list(fast.untrained.values()) == ["it is large"]


def test_a_kernel_with_a_wrong_gradient_gets_no_plan(engine: ReferenceEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    load, seen = engine.load, []

    def wrong(entry: Any) -> Any:
        kernel = load(entry)
        seen.append(entry)
        return kernel if len(seen) != 2 else lambda *tensors: tuple(2 * t for t in kernel(*tensors))

    monkeypatch.setattr(engine, "load", wrong)
    fast, args = ak.autokernel(rms_norm), (leaf(6, 16), leaf(16))
    torch.testing.assert_close(grads(fast, args), grads(rms_norm, args))
    assert not plans(fast) and "differ" in next(iter(fast.untrained.values()))


def test_the_recorder_is_used(pair: Any, request: pytest.FixtureRequest) -> None:
    fast, _plain, args = pair
    expected = "AutokernelBackward" if "C++" in request.node.name else "_DifferentiableBackward"
    assert fast(*args).grad_fn.name() == expected


def test_compiled_autograd(pair: Any) -> None:
    fast, plain, args = pair
    found = []
    for f in (fast, plain):
        for a in args:
            a.grad = None
        for _ in range(2):
            out = f(*args).square().sum()
            with torch._dynamo.compiled_autograd._enable(torch.compile(backend="eager")):
                out.backward()
        found.append([a.grad.clone() for a in args])
    torch.testing.assert_close(*found)


def test_hooks_on_what_is_saved(pair: Any) -> None:
    fast, plain, args = pair
    found, seen = [], []
    for f in (fast, plain):
        with torch.autograd.graph.saved_tensors_hooks(lambda t: seen.append(t) or t * 2, lambda t: t / 2):
            found.append(grads(f, args))
    torch.testing.assert_close(*found)
    assert seen
    with torch.autograd.graph.save_on_cpu(), torch.autograd.detect_anomaly(check_nan=False):
        torch.testing.assert_close(grads(fast, args), found[0])


def test_whoever_looks_on_sees_the_gradient(pair: Any, engine: ReferenceEngine) -> None:
    from torch.utils._python_dispatch import TorchDispatchMode

    class Sees(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            names.append(str(function))
            return function(*args, **(kwargs or {}))

    fast, plain, args = pair
    out, names = fast(*args), []
    given, calls = torch.randn_like(out), len(engine.calls)
    with Sees():
        mine = torch.autograd.grad(out, args, given)
    assert any("mul" in n for n in names) and len(engine.calls) == calls, "a kernel cannot be seen"
    torch.testing.assert_close(mine, torch.autograd.grad(plain(*args), args, given))


def test_going_back_twice_is_an_error_as_in_eager(pair: Any) -> None:
    fast, _plain, args = pair
    out = fast(*args)
    out.sum().backward()
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        out.sum().backward()


def test_what_is_kept_goes_with_the_backward_pass(engine: ReferenceEngine) -> None:
    """Though the result is still there: what the gradient reads, and what only second derivatives would read."""
    fast, args = ak.autokernel(residual), (leaf(6, 16), leaf(6, 16, needs=False), leaf(16))
    held = [torch._C._storage_Use_Count(a.untyped_storage()._cdata) for a in args]
    for keep in (True, False):
        out = fast(*args)
        out.sum().backward(retain_graph=keep)
        now = [torch._C._storage_Use_Count(a.untyped_storage()._cdata) for a in args]
        assert (now == held) is not keep
    assert len(plans(fast)) == 1 and out.requires_grad


def test_a_gradient_that_nobody_gives(pair: Any) -> None:
    fast, _plain, (x, w) = pair

    class First(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
            ctx.set_materialize_grads(False)
            return a + b

        @staticmethod
        def backward(ctx: Any, given: Tensor) -> Any:
            return given, None

    other = leaf(6, 16)
    First.apply(other, fast(x, w)).sum().backward()
    assert other.grad is not None and (x.grad is None or not x.grad.any())


def test_what_a_kernel_raises_is_raised(engine: ReferenceEngine) -> None:
    """But for tensors that it does not take."""
    loads, broken = engine.load, [False]

    def load(entry: Any) -> Any:
        call = loads(entry)

        def loaded(*tensors: Any) -> Any:
            if broken[0]:
                raise ZeroDivisionError("in the kernel")
            return call(*tensors)

        return loaded

    engine.load = load  # type: ignore[method-assign]
    fast, args = ak.autokernel(rms_norm), (leaf(6, 16), leaf(16))
    out = fast(*args)
    assert len(plans(fast)) == 1
    broken[0] = True
    with pytest.raises(ZeroDivisionError, match="in the kernel"):
        out.sum().backward()
    with pytest.raises(ZeroDivisionError, match="in the kernel"):
        fast(*args)


def test_a_graph_outlives_the_function(engine: ReferenceEngine) -> None:
    fast, args = ak.autokernel(rms_norm), (leaf(6, 16), leaf(16))
    out, gone = fast(*args), weakref.ref(fast)
    expected = torch.autograd.grad(rms_norm(*args).sum(), args)
    del fast
    gc.collect()
    torch._dynamo.reset()
    torch.testing.assert_close(torch.autograd.grad(out.sum(), args), expected)
    del out
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("kept", [True, False])
def test_a_module_and_its_plans_are_freed(kept: bool, engine: ReferenceEngine) -> None:
    """Also where it keeps its own result, whose graph holds the kernels."""
    fast, x = ak.autokernel(Scaled()), leaf(6, 16)
    out = fast(x)
    expected = torch.autograd.grad(Scaled.forward(fast, x).sum(), x)
    assert len(plans(fast.forward)) == 1
    gone = weakref.ref(fast)
    if kept:
        fast.last = out
        fast.last.sum().backward(retain_graph=True)
    del fast
    torch._dynamo.reset()
    if kept:
        del out
    gc.collect()
    assert gone() is None
    if not kept:
        torch.testing.assert_close(torch.autograd.grad(out.sum(), x, retain_graph=True), expected)
        with pytest.raises(RuntimeError, match="a module that is gone"):
            torch.autograd.grad(out.sum(), x, create_graph=True)


def test_it_is_built_where_the_budget_allows_and_kept(tmp_path: Any, recorder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorded, "_loaded", {})
    builds: list[float] = []
    monkeypatch.setattr(recorded, "_built", lambda compiler, seconds: builds.append(seconds))
    store = Store(tmp_path)
    assert recorded.recorder(store, Config(on_miss="fallback")) is None
    assert recorded.recorder(store, Config(on_miss="generate", max_seconds=recorded.SECONDS - 1)) is None
    assert not builds and not recorded._loaded, "it may be tried later"
    for _ in range(2):
        assert recorded.recorder(store, Config(on_miss="generate")) is None
    assert len(builds) == 1, "a build that failed is not tried again"
    monkeypatch.setattr(recorded, "_loaded", {})
    monkeypatch.setattr(recorded, "_built", lambda compiler, seconds: b"no object")
    assert recorded.recorder(store, Config(on_miss="generate")) is None, "what cannot be loaded is none"
    monkeypatch.setattr(recorded, "_loaded", {})
    assert recorded.recorder(store, Config(on_miss="fallback")) is None, "and was kept"


def test_no_object_without_headers(recorder: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    compiler = recorded.find_compiler()
    assert not isinstance(compiler, str)
    monkeypatch.setattr("torch.utils.cpp_extension.include_paths", list)
    with caplog.at_level("INFO", "torch_autokernel"):
        assert recorded._built(compiler, 60) is None
    assert "recorded in Python" in caplog.text and "torch/csrc" in caplog.text
    assert recorded._safely(lambda: recorded._built(compiler, 1e-3)) is None
