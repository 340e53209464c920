"""The call cache: each guard alone, and what it does with data that are none."""

from __future__ import annotations

import gc
import types
import weakref
from typing import Any

import pytest
import torch

from torch_autokernel import _launcher
from torch_autokernel.core.errors import GuardMiss, ToolchainError
from torch_autokernel.lang.call_cache import MOST_ARGUMENTS, Route, call_cache, form
from torch_autokernel.lang.launch import TYPES, exchange

MISS = object()
X, W = torch.randn(3, 4), torch.nn.Parameter(torch.randn(4), requires_grad=False)


def kernel(*tensors: torch.Tensor) -> tuple[Any, ...]:
    return ("kernel", *tensors)


def of(*args: Any, **more: Any) -> Any:
    return call_cache([Route(form(args), more.pop("call", kernel), **more)], MISS)


def cell(value: Any) -> Any:
    return types.CellType(value)


def test_the_order_of_operands_and_the_first_item() -> None:
    y = torch.randn(3, 4)
    cache = of(X, 2.0, y, order=(2, 3, 0), parameters=(W,), finish=lambda results: results)
    name, *tensors = cache((X, 2.0, y))
    assert name == "kernel" and [t is u for t, u in zip(tensors, (y, W, X), strict=True)] == [True] * 3
    assert of(X)((X,)) == "kernel", "the first item is the result"


@pytest.mark.parametrize("other", [
    torch.randn(3, 5), torch.randn(3), torch.randn(3, 4, 1), torch.randn(4, 3), X.numpy(), None, (X,), [X],
    torch.randn(3, 4).to_sparse(), torch.empty(3, 4, device="meta").as_subclass(type("Sub", (torch.Tensor,), {})),
], ids=["size", "rank", "more dims", "turned", "numpy", "none", "tuple", "list", "sparse", "subclass"])  # fmt: skip
def test_other_tensors_miss(other: Any) -> None:
    cache = of(X, order=(0,))
    assert cache((torch.randn(3, 4),)) == "kernel"
    assert cache((other,)) is MISS
    assert cache(()) is MISS and cache((X, X)) is MISS


@pytest.mark.parametrize("value, others", [
    (1, (True, 1.0, 2, "1", None)), (0.0, (-0.0, 0, False, float("nan"))), (-0.0, (0.0,)), (True, (1, False)), ("a", ("b", None)),
    (None, (0, False, "")), (2.5, (2.5000001, X)),
])  # fmt: skip
def test_values_are_compared_with_their_type_and_sign(value: Any, others: tuple[Any, ...]) -> None:
    cache = of(value)
    assert cache((value,)) == "kernel"
    assert all(cache((o,)) is MISS for o in others)


def test_what_records_gradients_misses() -> None:
    needs = torch.randn(3, 4, requires_grad=True)
    cache = of(X, order=(0, 1), parameters=(W,))
    assert cache((X,)) == "kernel" and cache((needs,)) is MISS
    with torch.no_grad():
        assert cache((needs,)) == "kernel"
    frozen = torch.nn.Parameter(torch.randn(4))
    cache = of(X, parameters=(frozen,))
    assert cache((X,)) is MISS
    frozen.requires_grad_(False)
    assert cache((X,)) == "kernel"


def test_what_is_watched() -> None:
    space, one, dead = {"a": X, "none": None}, cell(X), {}
    state = {"mode": 0, "dtype": torch.float32}
    cache = of(X, world=[(lambda key: state[key], ("mode",), None), (lambda: state["dtype"], (), torch.float32)],
               values=[(space, "a", X), (space, "none", None)], cells=[(one, X)], empty=[dead])  # fmt: skip
    assert cache((X,)) == "kernel"
    for change, back in (
        (lambda: state.update(mode=1), lambda: state.update(mode=0)),
        (lambda: state.update(dtype=torch.float64), lambda: state.update(dtype=torch.float32)),
        (lambda: space.update(a=X.clone()), lambda: space.update(a=X)),
        (lambda: space.pop("a"), lambda: space.update(a=X)),
        (lambda: setattr(one, "cell_contents", X.clone()), lambda: setattr(one, "cell_contents", X)),
        (lambda: dead.update(hook=1), dead.clear),
    ):
        change()
        assert cache((X,)) is MISS
        back()
        assert cache((X,)) == "kernel"
    del one.cell_contents  # an error while asking is a miss
    assert cache((X,)) is MISS


def test_errors_of_the_kernel() -> None:
    def fails(*tensors: torch.Tensor) -> Any:
        raise ZeroDivisionError

    def refuses(*tensors: torch.Tensor) -> Any:
        raise GuardMiss("not these")

    with pytest.raises(ZeroDivisionError):
        of(X, call=fails)((X,))
    assert of(X, call=refuses)((X,)) is MISS
    second = call_cache([Route(form((X,)), refuses), Route(form((X,)), kernel)], MISS)
    assert second((X,)) == "kernel", "after a miss the next route is tried"


def test_the_plain_call_is_for_exact_forms() -> None:
    like = torch.randn(3, 4)
    cache = call_cache([Route(form((like, 1), exact=True), lambda *args: args, plain=True, gradients=True)], MISS)
    assert cache((X, 1))[0] is X
    needs = torch.randn(3, 4, requires_grad=True)
    for other in (X.double(), torch.randn(4, 3).t(), X.bfloat16(), X.to(torch.complex64), needs, X[:2]):
        assert cache((other, 1)) is MISS
    with torch.no_grad():
        assert cache((X, 1)) is MISS
    cache = call_cache([Route(form((needs,), exact=True), lambda a: a, plain=True, gradients=True)], MISS)
    assert cache((needs,)) is needs and cache((X,)) is MISS


def test_a_recorded_call_is_for_the_same_gradients() -> None:
    x, y, w = torch.randn(3, 4, requires_grad=True), torch.randn(3, 4), torch.nn.Parameter(torch.randn(4))
    route = Route(form((x, y), exact=True), kernel, order=(0, 1, 2, 3), parameters=(w, W), needs=(True, False))
    cache = call_cache([route], MISS)
    assert cache((x, y)) == "kernel"
    assert cache((y, y)) is MISS and cache((x, x)) is MISS and cache((x.double(), y)) is MISS and cache((x, y.t())) is MISS
    with torch.no_grad():
        assert cache((x, y)) is MISS
    w.requires_grad_(False)
    assert cache((x, y)) is MISS
    w.requires_grad_(), W.requires_grad_()
    assert cache((x, y)) is MISS
    W.requires_grad_(False)
    assert cache((x, y)) == "kernel"


def test_no_tensor_is_kept() -> None:
    x = torch.randn(3, 4)
    gone = weakref.ref(x)
    cache = call_cache([Route(form((x,)), kernel), Route(form((x,), exact=True), kernel, plain=True)], MISS)
    del x
    gc.collect()
    assert gone() is None and cache((X,)) == "kernel"


def test_a_cache_in_a_cycle_is_collected() -> None:
    class Owner:
        pass

    owner: Any = Owner()
    owner.cache = of(X, values=[(owner.__dict__, "x", owner)])
    gone = weakref.ref(owner)
    del owner
    gc.collect()
    assert gone() is None


GOOD: tuple[Any, ...] = (form((X,)), None, None, (), (), (), (), (0,), (), kernel, None)


@pytest.mark.parametrize("at, value", [
    (0, [1]), (0, (3,)), (0, (((3, 4), (4,), 2, 32, False),)), (0, (((3, "a"), None, 2, 32, False),)), (0, ((1,),) * (MOST_ARGUMENTS + 1)),
    (1, 3), (2, 3), (2, (True,)), (3, ((len, ()),)), (3, ((len, None, 1),)), (4, (([], "a", 1),)), (4, (({}, "a"),)),
    (5, ((1,),)), (6, ([],)), (7, (1,)), (7, (-1,)), (7, ("a",)), (9, 3), (10, 3),
])  # fmt: skip
def test_bad_data_are_an_error(at: int, value: Any) -> None:
    make = lambda row: _launcher.CallCache((row,), types=TYPES, recording=torch.is_grad_enabled, miss=MISS, missed=GuardMiss,
                                           exchange=exchange())  # fmt: skip
    assert make(GOOD)((X,)) == "kernel"
    with pytest.raises((ValueError, TypeError)):
        make((*GOOD[:at], value, *GOOD[at + 1 :]))


def test_what_cannot_be_watched_is_said() -> None:
    with pytest.raises(ToolchainError, match="dict"):
        of(X, values=[(types.MappingProxyType({}), "a", X)])
