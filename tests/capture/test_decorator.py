"""The decorator: direct calls where the whole forward is one region, torch.compile everywhere else, eager's results always."""

from __future__ import annotations

import copy
import gc
import inspect
import pickle
import threading
import time
import weakref
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import torch_autokernel as ak
from tests.capture.engines import ReferenceEngine
from torch_autokernel.capture.arguments import positions
from torch_autokernel.capture.decorator import Accelerated
from torch_autokernel.core import deadline
from torch_autokernel.core.errors import ConfigError, UsageError

SCALE = 2.0
FLAGS = {"on": True}


def swiglu(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return F.silu(x) * y


def scaled(x: torch.Tensor) -> torch.Tensor:
    return x.exp() * SCALE


def branchy(x: torch.Tensor) -> torch.Tensor:
    return x.sin() + 1 if x.shape[0] > 4 else x.cos() - 1


class RMSNorm(torch.nn.Module):
    def __init__(self, n: int = 16) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(n))
        self.eps = 1e-6

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


def direct_plans(target: Any) -> int:
    return len(target.plans)


def test_function_is_called_directly(engine: ReferenceEngine) -> None:
    f = ak.autokernel(swiglu)
    x, y = torch.randn(4, 8), torch.randn(4, 8)
    for _ in range(3):
        torch.testing.assert_close(f(x, y), swiglu(x, y))
    assert direct_plans(f) == 1 and len(engine.calls) == 3
    assert f._compiled is None, "torch.compile was used"
    assert f.__name__ == "swiglu" and ak.restore(f) is swiglu


class Chosen(torch.nn.Module):
    """A module that keeps functions, as many do with their activation."""

    def __init__(self, *functions: Any) -> None:
        super().__init__()
        self.first, self.second = functions

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x) * 2)


def test_functions_that_a_module_keeps(engine: ReferenceEngine) -> None:
    f, x = ak.autokernel(Chosen(F.silu, torch.exp)), torch.randn(4, 8)
    own = ak.autokernel(Chosen(torch.relu, lambda y: y + SCALE))
    opaque = ak.autokernel(Chosen(torch.relu, print))
    with torch.no_grad():
        torch.testing.assert_close(f(x), torch.exp(F.silu(x) * 2))
        torch.testing.assert_close(own(x), torch.relu(x) * 2 + SCALE)
        assert direct_plans(f.forward) == direct_plans(own.forward) == 1, (f.forward.reason, own.forward.reason)
        f.first = torch.relu
        torch.testing.assert_close(f(x), torch.exp(torch.relu(x) * 2))
        assert opaque(x) is None and not direct_plans(opaque.forward)


def test_known_calls_are_found_in_c(engine: ReferenceEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    f, g = ak.autokernel(swiglu), ak.autokernel(RMSNorm())
    x, y = torch.randn(4, 8), torch.randn(4, 16)
    first = torch.no_grad()(lambda: (f(x, x), g(y)))()
    calls = len(engine.calls)

    def asked(*args: Any) -> Any:
        raise AssertionError("Python looked for the plan")

    monkeypatch.setattr("torch_autokernel.capture.direct.plain_world", asked)
    with torch.no_grad():
        torch.testing.assert_close((f(x, x), g(y)), first, rtol=0, atol=0)
        assert len(engine.calls) == calls + 2
        for other in (x.double(), x[:2], x.t()):
            with pytest.raises(AssertionError, match="looked"):
                f(other, other)
        g.weight = torch.nn.Parameter(torch.zeros(16))
        with pytest.raises(AssertionError, match="looked"):
            g(y)
    with pytest.raises(AssertionError, match="looked"):
        f(x.requires_grad_(), x)


def test_a_call_that_runs_as_it_is_is_found_in_c(engine: ReferenceEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    f = ak.autokernel(swiglu)
    x = torch.randn(4, 8)
    f.settled[(True, False, (x.shape, x.shape))] = True
    monkeypatch.setattr("torch_autokernel.capture.direct.make_plan", lambda *a, **k: "none is wanted")
    expected = [f(x, x) for _ in range(2)]
    monkeypatch.setattr(f, "settled", None)
    torch.testing.assert_close(f(x, x), expected[0], rtol=0, atol=0)
    with pytest.raises(AttributeError):  # what is not known looks into `settled`
        f(x.double(), x.double())
    assert not engine.calls


def test_what_a_plain_call_takes_is_not_kept(engine: ReferenceEngine) -> None:
    f = ak.autokernel(lambda x, y: x * 2 if y is None or isinstance(y, list) else x + y.to_dense())
    x = torch.randn(4, 8)
    kinds = [None, [torch.randn(3)], torch.eye(4, 8).to_sparse_csr(), torch.eye(4, 8).to_sparse(), x.to(torch.complex64)]
    for y in (None, x):
        f.settled[(True, False, (x.shape, y if y is None else y.shape))] = True
    gone = []
    for _ in range(20):
        for y in kinds:
            f(x, y)
        mine = [torch.randn(3)]
        gone.append(weakref.ref(mine[0]))
        f(x, mine)
        del mine
    gc.collect()
    assert [ref() for ref in gone] == [None] * 20
    assert len(f._settled_routes) <= 2


def test_autocast_is_seen(engine: ReferenceEngine) -> None:
    function = lambda x, w: torch.relu(x @ w)  # noqa: E731
    f, x, w = ak.autokernel(function), torch.randn(4, 8), torch.randn(8, 6)
    f(x, w)
    assert direct_plans(f) == 1, f.reason
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert f(x, w).dtype == function(x, w).dtype == torch.bfloat16
    assert f(x, w).dtype == torch.float32


def test_python_that_branches_on_sizes(engine: ReferenceEngine) -> None:
    f = ak.autokernel(branchy)
    for n in (3, 8, 4, 5):
        x = torch.randn(n, 6)
        torch.testing.assert_close(f(x), branchy(x))


def test_a_changed_global_is_seen(engine: ReferenceEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    f = ak.autokernel(scaled)
    x = torch.randn(4, 8)
    torch.testing.assert_close(f(x), scaled(x))
    monkeypatch.setitem(globals(), "SCALE", 5.0)
    torch.testing.assert_close(f(x), x.exp() * 5.0)


def test_mutable_globals_are_refused(engine: ReferenceEngine) -> None:
    @ak.autokernel
    def f(x: torch.Tensor) -> torch.Tensor:
        return x.exp() + 1 if FLAGS["on"] else x.exp() - 1

    x = torch.randn(4)
    torch.testing.assert_close(f(x), x.exp() + 1)
    assert direct_plans(f) == 0 and "FLAGS" in f.reason
    FLAGS["on"] = False
    torch.testing.assert_close(f(x), x.exp() - 1)
    FLAGS["on"] = True


def test_side_effects_are_kept(engine: ReferenceEngine) -> None:
    seen = []

    @ak.autokernel
    def f(x: torch.Tensor) -> torch.Tensor:
        seen.append(1)
        return x.exp() + 1

    f(torch.randn(3)), f(torch.randn(3))
    assert len(seen) == 2


def test_module_instance(engine: ReferenceEngine) -> None:
    m = RMSNorm()
    plain = copy.deepcopy(m)
    assert ak.autokernel(m) is m
    x = torch.randn(4, 16)
    with torch.no_grad():
        torch.testing.assert_close(m(x), plain(x))
        assert direct_plans(m.forward) == 1
        m.weight.mul_(2)
        torch.testing.assert_close(m(x), 2 * plain(x))
        m.eps = 1.0
        plain.eps = 1.0
        torch.testing.assert_close(m(x), 2 * plain(x))
        m.weight = torch.nn.Parameter(plain.weight.clone())
        torch.testing.assert_close(m(x), plain(x))
    y = x.clone().requires_grad_()
    z = x.clone().requires_grad_()
    m(y).sum().backward()
    plain(z).sum().backward()
    torch.testing.assert_close(y.grad, z.grad)
    torch.testing.assert_close(m.weight.grad, plain.weight.grad)
    assert ak.restore(m) is m and "forward" not in m.__dict__


def test_module_hooks_still_run(engine: ReferenceEngine) -> None:
    m = ak.autokernel(RMSNorm())
    seen = []
    x = torch.randn(4, 16)
    with torch.no_grad():
        m(x)
        m.register_forward_hook(lambda *a: seen.append(1))
        m(x)
    assert seen == [1]


def test_module_class_and_method(engine: ReferenceEngine) -> None:
    @ak.autokernel
    class Norm(RMSNorm):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight

    class Other(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.k = 3.0

        @ak.autokernel
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.tanh() * self.k

    a, b, o = Norm(), Norm(), Other()
    x = torch.randn(4, 16)
    with torch.no_grad():
        for m in (a, b):
            torch.testing.assert_close(m(x), RMSNorm.forward(m, x))
        torch.testing.assert_close(o(x), x.tanh() * 3.0)
        o.k = 4.0
        torch.testing.assert_close(o(x), x.tanh() * 4.0)
    assert engine.calls


def test_deepcopy_and_pickle(engine: ReferenceEngine) -> None:
    m = ak.autokernel(RMSNorm())
    x = torch.randn(4, 16)
    with torch.no_grad():
        m(x)
        other = copy.deepcopy(m)
        other.weight.zero_()
        assert other(x).abs().max() == 0
        assert m(x).abs().max() > 0
        again = pickle.loads(pickle.dumps(m))
        torch.testing.assert_close(again(x), m(x))


def test_outputs_of_many_kinds(engine: ReferenceEngine) -> None:
    @ak.autokernel
    def f(x: torch.Tensor, k: float) -> Any:
        return {"a": x * k, "b": (x.sum(-1), None, k)}

    x = torch.randn(4, 8)
    for k in (2.0, 3.0):
        got = f(x, k)
        torch.testing.assert_close(got["a"], x * k)
        assert got["b"][1] is None and got["b"][2] == k
    assert direct_plans(f) == 2


@pytest.mark.parametrize("case", ["alias", "mutation", "kwargs", "vmap", "autocast", "grad", "strided", "empty", "one"])
def test_what_is_not_plain(engine: ReferenceEngine, case: str) -> None:
    def plain(x: torch.Tensor) -> torch.Tensor:
        if case == "alias":
            return x.view(-1)
        if case == "mutation":
            x.add_(1)
        return x.sigmoid() * 2

    f = ak.autokernel(plain)
    x = torch.randn({"empty": (0, 3), "one": (1, 1)}.get(case, (4, 6)))
    if case == "strided":
        x = x.t()
    x1, x2 = x.clone(memory_format=torch.preserve_format), x.clone(memory_format=torch.preserve_format)
    if case == "kwargs":
        torch.testing.assert_close(f(x=x1), plain(x=x2))
    elif case == "vmap":
        torch.testing.assert_close(torch.vmap(f)(x1), torch.vmap(plain)(x2))
    elif case == "autocast":
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert f(x1).dtype == plain(x2).dtype
    elif case == "grad":
        x1.requires_grad_(), x2.requires_grad_()
        f(x1).sum().backward(), plain(x2).sum().backward()
        torch.testing.assert_close(x1.grad, x2.grad)
    else:
        a, b = f(x1), plain(x2)
        torch.testing.assert_close(a, b)
        assert a.stride() == b.stride()
    if case == "alias":
        assert f(x1).data_ptr() == x1.data_ptr()
    torch.testing.assert_close(x1, x2)


def allowances(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that each search is given; each takes some."""
    given, resolve = list[float](), ReferenceEngine.resolve

    def searching(self: Any, regions: Any, options: Any) -> Any:
        with deadline.from_purse(options.max_seconds) as seconds:
            given.append(seconds)
            time.sleep(0.05)
            return resolve(self, regions, options)

    monkeypatch.setattr(ReferenceEngine, "resolve", searching)
    return given


def test_one_allowance_for_a_first_call(engine: ReferenceEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The search for a plan and, where none is found, the one for the graph's regions; the next call begins anew."""
    given, found = allowances(monkeypatch), list[str]()
    engine.wanted = lambda region: found.append(region.phase) or False
    f = ak.autokernel(max_seconds=5.0)(swiglu)
    for rows in (3, 7):
        f(torch.randn(rows, 4), torch.randn(rows, 4))
    assert found[:2] == ["direct", "inference"] and found[2] == "direct"
    assert given[0] == given[2] == 5.0 and given[1] < 4.96


def test_errors() -> None:
    with pytest.raises(ConfigError, match="unknown option 'max_second'.*max_seconds"):
        ak.autokernel(max_second=3)
    with pytest.raises(UsageError, match="cannot decorate a int"):
        ak.autokernel(3)
    with pytest.raises(ConfigError, match="on_miss='sometimes'"):
        ak.autokernel(swiglu, on_miss="sometimes")


def test_options_reach_the_engine(engine: ReferenceEngine) -> None:
    f = ak.autokernel(disable=True)(swiglu)
    x = torch.randn(3, 4)
    torch.testing.assert_close(f(x, x), swiglu(x, x))
    assert isinstance(f, Accelerated) and not engine.calls


def test_threads_that_trace_leave_each_other_alone(engine: ReferenceEngine) -> None:
    """While one thread traces, others call compiled functions; none raises, and torch can compile afterwards."""
    function = ak.autokernel(lambda x: (x.exp() * 2).sum(-1), rest="eager")
    compiled = torch.compile(lambda x: x.sin() * 2, backend="eager")
    compiled(torch.randn(3, 3))
    errors: list[Exception] = []

    def call(number: int) -> None:
        try:
            for k in range(2, 8):
                x = torch.randn(number + 2, k)
                torch.testing.assert_close(function(x), (x.exp() * 2).sum(-1))
                compiled(torch.randn(3, 3))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=call, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, errors[0]
    assert not torch.fx._symbolic_trace._is_fx_tracing_flag and not torch.compiler.is_compiling()


def test_a_compiled_function_runs_while_another_thread_traces(engine: ReferenceEngine) -> None:
    from torch_autokernel.capture.whole import trace

    compiled = torch.compile(lambda x: x.sin() * 2, backend="eager")
    x = torch.randn(3, 3)
    compiled(x)
    failed: list[Exception] = []

    def call() -> None:
        try:
            compiled(x)
        except Exception as error:
            failed.append(error)

    def slow(x: torch.Tensor) -> torch.Tensor:
        thread = threading.Thread(target=call)
        thread.start()
        thread.join()
        return x + 1

    trace(slow, [x])
    assert not failed, failed[0]


def test_numbers_that_are_equal_and_not_the_same(engine: ReferenceEngine) -> None:
    function = ak.autokernel(lambda x, k: x * k, rest="eager")
    x = torch.ones(4)
    for k in (0.0, -0.0, 0, False, 1, True, 1.0, 0.0):
        got, want = function(x, k), x * k
        assert got.dtype == want.dtype and torch.equal(torch.signbit(got), torch.signbit(want)) and torch.equal(got, want), k
    before = len(engine.regions)
    for _ in range(3):
        assert function(x, float("nan")).isnan().all()
    assert len(function.plans) <= 8 and len(engine.regions) <= before + 1, "a NaN makes a plan at every call"


COUNTS = [0]


def counting() -> Any:
    count = 0

    def counted(x: torch.Tensor) -> torch.Tensor:
        nonlocal count
        count += 1
        COUNTS[0] = count
        return x.exp() + 1

    return counted


def with_a_generator(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    shift = x.cos()
    first, second = (shift * t + y for t in (x, y))
    return first - second


def gives_a_generator(x: torch.Tensor) -> Any:
    return (t + 1 for t in (x, x))


def test_values_that_an_inner_function_reads_are_local(engine: ReferenceEngine) -> None:
    f, x, y = ak.autokernel(with_a_generator), torch.randn(4, 8), torch.randn(4, 8)
    for _ in range(2):
        torch.testing.assert_close(f(x, y), with_a_generator(x, y))
    assert direct_plans(f) == 1


def test_a_value_of_an_outer_function_that_is_written_is_no_local_one(engine: ReferenceEngine) -> None:
    f, x = ak.autokernel(counting()), torch.randn(4, 8)
    for _ in range(3):
        torch.testing.assert_close(f(x), x.exp() + 1)
    assert not direct_plans(f) and COUNTS[0] >= 3, f.reason


def test_a_generator_is_no_result_of_a_kernel(engine: ReferenceEngine) -> None:
    f, x = ak.autokernel(gives_a_generator), torch.randn(4, 8)
    for _ in range(2):
        assert [torch.equal(t, x + 1) for t in f(x)] == [True, True]
    assert not direct_plans(f)


def weighted(x: torch.Tensor, y: torch.Tensor | None = None, factor: float = 2.0, *, last: float = 1.0) -> torch.Tensor:
    return (x if y is None else x * y).sigmoid() * factor * last


@pytest.mark.parametrize("as_module", [False, True])
def test_keyword_arguments_take_their_places(engine: ReferenceEngine, as_module: bool) -> None:
    """However a call is written it has the same kernel; what it takes by keyword alone has none."""

    class Weighted(torch.nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor | None = None, factor: float = 2.0) -> torch.Tensor:
            return weighted(x, y, factor)

    f: Any = ak.autokernel(Weighted() if as_module else weighted)
    plans = lambda: direct_plans(f.forward if as_module else f)
    x, y = torch.randn(4, 6), torch.randn(4, 6)
    for _ in range(2):
        torch.testing.assert_close(f(x, y=y), weighted(x, y))
        torch.testing.assert_close(f(y=y, x=x), weighted(x, y))
    assert plans() == 1
    torch.testing.assert_close(f(x, factor=3.0), weighted(x, None, 3.0))  # the default between is passed
    torch.testing.assert_close(f(x, None, 3.0), weighted(x, None, 3.0))
    assert plans() == 2
    if not as_module:
        torch.testing.assert_close(f(x, y, last=3.0), weighted(x, y, last=3.0))
        assert plans() == 2
    for wrong in ({"z": y}, {"x": x}):
        with pytest.raises(TypeError, match=r"unexpected keyword argument 'z'|multiple values for argument 'x'"):
            f(x, **wrong)


def disguised(*args: Any, **kwargs: Any) -> Any:
    return weighted(args[0]) * kwargs.pop("factor", 1.0)


disguised.__signature__ = inspect.signature(weighted)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "function, given, names, wanted",
    [
        (weighted, 1, ["factor"], [("y", 0), ("factor", 1)]),
        (weighted, 0, ["y", "x"], [("x", None), ("y", 0)]),
        (weighted, 1, ["last"], None),
        (weighted, 0, ["y"], None),
        (weighted, 2, ["y"], None),
        (disguised, 1, ["factor"], None),
        (lambda x, /, y: None, 0, ["x", "y"], None),
        (lambda x, /, y: None, 1, ["y"], [("y", None)]),
        (lambda x, y=1, /, z=2: None, 1, ["z"], [("y", 0), ("z", 1)]),
        (torch.relu, 0, ["input"], None),
    ],
)
def test_positions(function: Any, given: int, names: list[str], wanted: Any) -> None:
    assert positions(function, given, names) == wanted


def test_defaults_are_those_of_the_call(engine: ReferenceEngine) -> None:
    def plain(x: torch.Tensor, a: float = 1.0, b: float = 1.0) -> torch.Tensor:
        return x.exp() * a + b

    f, x = ak.autokernel(plain), torch.randn(4)
    torch.testing.assert_close(f(x, b=2.0), x.exp() + 2)
    plain.__defaults__ = (5.0, 1.0)
    torch.testing.assert_close(f(x, b=2.0), x.exp() * 5 + 2)


@ak.autokernel
class Base(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x) + 1


@ak.autokernel
class Derived(Base):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return super().forward(x) * 2


def test_a_base_class_may_be_decorated_too(engine: ReferenceEngine) -> None:
    module, x = Derived(), torch.ones(4)
    for n in range(1, 4):
        assert torch.equal(module(x), torch.full((4,), 4.0)) and module.calls == n


def test_an_instance_of_a_decorated_class_can_be_saved(engine: ReferenceEngine) -> None:
    module, x = Derived(), torch.ones(4)
    module(x)
    for again in (pickle.loads(pickle.dumps(module)), copy.deepcopy(module)):
        assert again.calls == 1 and torch.equal(again(x), module(x)) and again.calls == 2
        module.calls = 1


class Static:
    @ak.autokernel
    @staticmethod
    def twice(x: torch.Tensor, factor: float = 2.0) -> torch.Tensor:
        return x.exp() * factor

    @ak.autokernel
    @classmethod
    def named(cls, x: torch.Tensor) -> torch.Tensor:
        return x.exp() * len(cls.__name__)


def test_static_and_class_methods(engine: ReferenceEngine) -> None:
    x = torch.randn(4)
    for owner in (Static, Static()):
        torch.testing.assert_close(owner.twice(x, factor=3.0), x.exp() * 3)
        torch.testing.assert_close(owner.named(x), x.exp() * 6)


t = [1, 2]  # has the name of a method that `turned_sum` calls


def turned_sum(x: torch.Tensor) -> torch.Tensor:
    return x.t().exp().sum(-1)


def test_a_global_may_have_the_name_of_a_method(engine: ReferenceEngine, caplog: pytest.LogCaptureFixture) -> None:
    f, x = ak.autokernel(turned_sum), torch.randn(4, 5)
    torch.testing.assert_close(f(x), turned_sum(x))
    assert "unhashable" not in caplog.text


@pytest.mark.parametrize("found", [True, False])
def test_a_number_that_varies_is_not_searched_for_each_value(engine: ReferenceEngine, found: bool) -> None:
    asked: list[Any] = []
    engine.wanted = lambda region: asked.append(region) or found
    f, x = ak.autokernel(scaled_by), torch.randn(4, 6)
    for k in range(8):
        torch.testing.assert_close(f(x, k / 7), scaled_by(x, k / 7))
        torch.testing.assert_close(f(x, k / 7), scaled_by(x, k / 7))
    direct_ones = [r for r in asked if r.phase == "direct"]
    assert len(direct_ones) == 3 and direct_plans(f) == (3 if found else 0)


def scaled_by(x: torch.Tensor, k: float) -> torch.Tensor:
    return x.sigmoid() * k + x.tanh()


class Ordinary:
    def shifted(self, x: torch.Tensor | None = None, y: float = 1.0, z: float = 0.0) -> torch.Tensor:
        return torch.ones(3) * 100 if x is None else x.exp() * y + z

    @classmethod
    def named(cls, x: torch.Tensor | None = None, y: float = 1.0) -> torch.Tensor:
        return torch.ones(3) if x is None else x.exp() * y


def test_keywords_of_bound_methods(engine: ReferenceEngine) -> None:
    x = torch.randn(3)
    torch.testing.assert_close(ak.autokernel(Ordinary().shifted)(x, z=2.0), x.exp() + 2)
    torch.testing.assert_close(ak.autokernel(Ordinary().shifted)(x=x, y=2.0), x.exp() * 2)
    torch.testing.assert_close(ak.autokernel(Ordinary.named)(x, y=2.0), x.exp() * 2)


def test_what_is_decorated_within_has_an_allowance_of_its_own(engine: ReferenceEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    given = allowances(monkeypatch)
    inner = ak.autokernel(max_seconds=5.0)(swiglu)
    with deadline.one_purse():
        with deadline.from_purse(5.0):
            time.sleep(0.05)
        inner(torch.randn(3, 4), torch.randn(3, 4))
    assert given[0] == 5.0
