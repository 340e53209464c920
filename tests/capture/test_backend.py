"""The backend against eager: what it replaces, and that it never changes a result."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from tests.capture.engines import ReferenceEngine
from torch_autokernel.capture.backend import autokernel

compile_ak = functools.partial(torch.compile, backend=autokernel)
MODES = [{"rest": "eager"}, None]


@pytest.fixture(autouse=True)
def no_fallback() -> Any:
    """A fallback warning is a failure here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="torch_autokernel fell back")
        yield


class Block(torch.nn.Module):
    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.norm = torch.nn.LayerNorm(width)
        self.gate, self.up = torch.nn.Linear(width, 32), torch.nn.Linear(width, 32)
        self.down = torch.nn.Linear(32, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.norm(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


def both(
    function: Callable[..., Any], *inputs: Any, options: Any = None, dynamic: bool | None = None, **kw: Any
) -> tuple[Any, Any]:
    compiled = compile_ak(function, options=options, dynamic=dynamic, **kw)
    return function(*inputs), compiled(*inputs)


def close(a: Any, b: Any, dtype: torch.dtype = torch.float32) -> None:
    tol = {torch.float32: 2e-5, torch.float64: 1e-10, torch.bfloat16: 4e-2, torch.float16: 5e-3}[dtype]
    torch.testing.assert_close(a, b, rtol=tol, atol=tol)


@pytest.mark.parametrize("options", MODES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_inference_and_training(engine: ReferenceEngine, options: Any, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = Block().to(dtype)
    compiled = compile_ak(model, options=options)
    x = torch.randn(3, 5, 16, dtype=dtype)
    with torch.no_grad():
        close(compiled(x), model(x), dtype)
    assert engine.calls, "no kernel ran in inference"
    engine.calls.clear()
    grads = []
    for m in (model, compiled):
        model.zero_grad()
        y = x.clone().requires_grad_()
        m(y).square().mean().backward()
        grads.append([y.grad, *(p.grad.clone() for p in model.parameters())])
    for a, b in zip(*grads, strict=True):
        close(a, b, dtype)
    phases = {r.phase for r in engine.regions}
    assert {"forward", "backward"} <= phases


@pytest.mark.parametrize("options", MODES)
def test_dynamic_batch(engine: ReferenceEngine, options: Any) -> None:
    model = Block()
    compiled = compile_ak(model, options=options, dynamic=True)
    for batch in (4, 7, 2, 9):
        x = torch.randn(batch, 5, 16, requires_grad=True)
        y = x.detach().clone().requires_grad_()
        a, b = model(x), compiled(y)
        close(a, b)
        a.sum().backward()
        b.sum().backward()
        close(x.grad, y.grad)
    assert engine.calls


FUNCTIONS: dict[str, tuple[Callable[..., Any], list[tuple[int, ...]]]] = {
    "broadcast": (lambda x, y: F.silu(x) * y, [(1, 16), (5, 16)]),
    "softmax": (lambda x: F.softmax(x * 2, -1) + 1, [(6, 33)]),
    "log_softmax_dim0": (lambda x: F.log_softmax(x.exp(), 0), [(6, 33)]),
    "group_norm": (lambda x: F.silu(F.group_norm(x, 4)), [(2, 8, 5, 5)]),
    "rope": (lambda x, c: x * c.cos() + torch.cat((-x[..., 4:], x[..., :4]), -1) * c.sin(), [(2, 3, 5, 8), (5, 8)]),
    "views_between": (lambda x: (x.exp().view(4, 2, 9) * 2).transpose(0, 1).sum(1), [(8, 9)]),
    "aliased_outputs": (lambda x: (lambda y: (y, y.view(-1), x))(x.sin() + 1), [(4, 5)]),
    "output_is_input": (lambda x: (x, x + 1), [(4, 5)]),
    "zero_size": (lambda x: F.gelu(x + 1), [(0, 5)]),
    "one_element": (lambda x: F.softmax(x * 3, -1), [(1, 1)]),
    "embedding": (lambda x: F.embedding(torch.tensor([[0, 2, 1], [3, 3, 0]]), x).tanh() * 2, [(4, 6)]),
    "scalar": (lambda x: x.tanh() + 1, [()]),
    "masked": (lambda x: x.masked_fill(torch.ones(7, 7, dtype=torch.bool).triu(1), float("-inf")).softmax(-1), [(3, 7, 7)]),
    "stack_reduce": (lambda x, y: torch.stack([x.exp(), y.sin()]).mean(0), [(4, 6), (4, 6)]),
    "pad": (lambda x: F.pad(x.relu(), (1, 2)) * 2, [(4, 6)]),
    "big_view_merge": (lambda x: (x.sigmoid().reshape(-1, 6) + 1).amax(0), [(4, 5, 6)]),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(engine: ReferenceEngine, name: str) -> None:
    function, shapes = FUNCTIONS[name]
    torch.manual_seed(1)
    inputs = [torch.randn(s) for s in shapes]
    expected, got = both(function, *inputs, options={"rest": "eager"}, fullgraph=True)
    for a, b in zip(torch.utils._pytree.tree_leaves(expected), torch.utils._pytree.tree_leaves(got), strict=True):
        close(a, b)
        assert a.stride() == b.stride() or a.numel() == 0
    if name not in ("zero_size",):
        assert engine.calls, "no region was replaced"


def test_aliases_stay_aliases(engine: ReferenceEngine) -> None:
    function, _ = FUNCTIONS["aliased_outputs"]
    x = torch.randn(4, 5)
    y, flat, same = compile_ak(function)(x)
    assert flat.data_ptr() == y.data_ptr() and same is x
    flat[0] = 7
    assert y[0, 0] == 7


@pytest.mark.parametrize("options", MODES)
def test_input_mutation(engine: ReferenceEngine, options: Any) -> None:
    def function(x: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        y = (x * state).sigmoid()
        state.mul_(0.9).add_(y.mean(0))
        return y + state

    x, s1 = torch.randn(4, 5), torch.randn(5)
    s2 = s1.clone()
    compiled = compile_ak(function, options=options)
    for _ in range(3):
        close(function(x, s1), compiled(x, s2))
        close(s1, s2)


def test_batch_norm_training(engine: ReferenceEngine) -> None:
    torch.manual_seed(0)
    a = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU())
    b = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU())
    b.load_state_dict(a.state_dict())
    compiled = compile_ak(b)
    for _ in range(2):
        x = torch.randn(2, 3, 8, 8)
        a(x).square().sum().backward()
        compiled(x).square().sum().backward()
    for (n, p), q in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        close(p, q) if p.is_floating_point() else None
        assert p.shape == q.shape, n
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-3, atol=1e-3)


def test_graph_break(engine: ReferenceEngine) -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        y = F.gelu(x) + 1
        torch._dynamo.graph_break()
        return F.softmax(y, -1)

    a, b = both(function, torch.randn(4, 6))
    close(a, b)
    assert len(engine.regions) >= 2


def test_autocast(engine: ReferenceEngine) -> None:
    model = Block()
    x = torch.randn(3, 16)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        a = model(x)
        b = compile_ak(model)(x)
    assert a.dtype == b.dtype
    close(a, b, torch.bfloat16)


@pytest.mark.parametrize("make", [lambda t: t.t(), lambda t: t[:, ::2], lambda t: t[1:, 1:], lambda t: t[:1].expand(6, 8)])
def test_non_contiguous(engine: ReferenceEngine, make: Callable[[torch.Tensor], torch.Tensor]) -> None:
    x = make(torch.randn(8, 8))
    a, b = both(lambda t: F.silu(t) * 2 + t.sum(-1, keepdim=True), x)
    close(a, b)
    assert a.stride() == b.stride()
    assert engine.calls


def test_vmap(engine: ReferenceEngine) -> None:
    function = torch.vmap(lambda x: F.softmax(x * 2, -1) + 1)
    a, b = both(function, torch.randn(3, 4, 5))
    close(a, b)


def test_checkpoint(engine: ReferenceEngine) -> None:
    model = Block()

    def function(x: torch.Tensor) -> torch.Tensor:
        return checkpoint(model, x, use_reentrant=False)

    x = torch.randn(3, 16, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    function(x).sum().backward()
    compile_ak(function)(y).sum().backward()
    close(x.grad, y.grad)


def test_random_stays_random(engine: ReferenceEngine) -> None:
    model = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.GELU(), torch.nn.Dropout(0.5))
    compiled = compile_ak(model, options={"fallback_random": True})
    x = torch.randn(64, 64)
    torch.manual_seed(3)
    a = model(x)
    torch.manual_seed(3)
    b = compiled(x)
    close(a, b)


def test_an_index_out_of_range_raises_as_in_eager(engine: ReferenceEngine) -> None:
    def function(x: torch.Tensor, i: torch.Tensor) -> torch.Tensor:
        return x.log_softmax(-1).gather(1, (i + 1)[:, None]) * 2

    compiled = compile_ak(function, options={"rest": "eager"})
    x = torch.randn(4, 6)
    close(function(x, torch.tensor([0, 1, 2, 4])), compiled(x, torch.tensor([0, 1, 2, 4])))
    assert engine.calls
    engine.calls.clear()
    for bad in ([0, 1, 2, 5], [-2, 0, 0, 0]):
        with pytest.raises((IndexError, RuntimeError), match="index"):
            compiled(x, torch.tensor(bad))
    assert not engine.calls, "the kernel ran on an index out of range"


def test_unknown_option() -> None:
    with pytest.raises(Exception, match="unknown option 'on_mis'.*on_miss"):
        compile_ak(lambda x: x + 1, options={"on_mis": "generate"})(torch.randn(3))


def test_inductor_options_and_mode_pass_through(engine: ReferenceEngine) -> None:
    x = torch.randn(4, 5)
    close(compile_ak(lambda t: t.exp() + 1, options={"epilogue_fusion": False})(x), x.exp() + 1)
    torch._dynamo.reset()
    close(compile_ak(lambda t: t.exp() + 1, mode="max-autotune-no-cudagraphs")(x), x.exp() + 1)


def test_a_failure_inside_falls_back(engine: ReferenceEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "resolve", lambda *a: (_ for _ in ()).throw(ValueError("planted")))
    x = torch.randn(4, 5)
    with pytest.warns(RuntimeWarning, match="planted"):
        close(compile_ak(lambda t: t.exp() + 2)(x), x.exp() + 2)


def test_strict_raises(engine: ReferenceEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "resolve", lambda *a: (_ for _ in ()).throw(ValueError("planted")))
    with pytest.raises(Exception, match="planted"):
        compile_ak(lambda t: t.exp() + 2, options={"strict": True})(torch.randn(4, 5))


@pytest.mark.parametrize("options", MODES)
def test_what_reads_no_tensor_stays(engine: ReferenceEngine, options: Any) -> None:
    """A region of constants would be an operator without tensor arguments, which the dispatcher cannot call."""

    def positions(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        steps = torch.arange(5) * 2 + 1
        return x @ x, steps.cumsum(0) + 1

    x = torch.randn(4, 4)
    eager, ours = both(positions, x, options=options)
    close(ours, eager)
    assert all(r.signature.inputs for r in engine.regions)


def test_strides_of_length_one_are_those_of_eager(engine: ReferenceEngine) -> None:
    x = torch.randn(1, 8, 1, 4)
    eager, ours = both(lambda x: x * 2 + 1, x, options={"rest": "eager"})
    assert engine.calls and ours.stride() == eager.stride() == (32, 4, 4, 1)
    eager, ours = both(lambda i: i.abs(), torch.ones(1, 0, dtype=torch.int32), options={"rest": "eager"})
    assert ours.stride() == eager.stride() == (1, 1)


class Marked(torch.Tensor):
    """A subclass with __torch_function__ only."""


@pytest.mark.parametrize("options", MODES)
@pytest.mark.parametrize("dynamic", [None, True])
def test_a_tensor_subclass_goes_to_the_fallback(engine: ReferenceEngine, options: Any, dynamic: bool | None) -> None:
    compiled = compile_ak(lambda x: x.exp() * 2 + 1, options=options, dynamic=dynamic)
    x = torch.randn(4, 6)
    close(compiled(x), x.exp() * 2 + 1)
    assert engine.calls
    got = compiled(x.as_subclass(Marked))
    assert type(got) is Marked
    close(got.as_subclass(torch.Tensor), x.exp() * 2 + 1)


def test_a_kernel_that_is_no_operator_does_no_harm(engine: ReferenceEngine) -> None:
    """A direct call may have more tensors than an operator; its entry lies in the same cache."""
    from torch_autokernel.capture.decorator import autokernel as decorate

    many = [torch.randn(3) for _ in range(80)]
    close(decorate(lambda *xs: sum(xs) * 2.0)(*many), sum(many) * 2)
    assert any(len(e.signature.inputs) == 80 for e in engine.entries())
    x = torch.randn(4, 5)
    close(compile_ak(lambda t: t.exp() + 3)(x), x.exp() + 3)
    assert len(engine.calls) == 2


def test_a_gradient_that_inductor_cannot_compile_runs_as_it_is(engine: ReferenceEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is compiled within the user's backward(), where nobody could catch the error."""
    from torch._inductor import compile_fx
    from torch._inductor.exc import InductorError

    real = compile_fx.compile_fx_inner

    def failing(graph: Any, inputs: Any, **kwargs: Any) -> Any:
        if kwargs.get("is_backward"):
            raise InductorError(AssertionError("planted"), None)
        return real(graph, inputs, **kwargs)

    monkeypatch.setattr(compile_fx, "compile_fx_inner", failing)
    x, w = torch.randn(5, 8, requires_grad=True), torch.randn(8, 8, requires_grad=True)
    function = lambda x, w: (F.softmax(x @ w, -1) * x.sin()).sum()
    expected = torch.autograd.grad(function(x, w), (x, w))
    torch.compiler.reset()
    with pytest.warns(RuntimeWarning, match="planted"):
        found = torch.autograd.grad(compile_ak(function)(x, w), (x, w))
    for a, b in zip(found, expected, strict=True):
        close(a, b)
    torch.compiler.reset()
    with pytest.raises(InductorError, match="planted"):
        torch.autograd.grad(compile_ak(function, options={"strict": True})(x, w), (x, w))


def test_a_constant_tensor_in_the_text_is_no_obstacle(engine: ReferenceEngine) -> None:
    """A real tensor stands in the graph then, and the graph is kept a second time: for gradients, and where a call may run as it is."""
    from torch_autokernel.capture.backend import UNCOMPILED

    def f(x: torch.Tensor) -> torch.Tensor:
        return torch.minimum(x.sin(), torch.tensor(0.25)) * torch.tensor([1.0, 2.0, 3.0])

    mine, theirs = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3, requires_grad=True)
    with torch.no_grad():
        theirs.copy_(mine)
    torch.compile(f, backend="autokernel")(mine).sum().backward()
    f(theirs).sum().backward()
    torch.testing.assert_close(mine.grad, theirs.grad)
    token = UNCOMPILED.set([])
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("error")
            torch._dynamo.reset()
            torch.testing.assert_close(torch.compile(f, backend="autokernel")(mine), f(mine))
    finally:
        UNCOMPILED.reset(token)
