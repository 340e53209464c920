"""Kernels as operators: what Inductor's caches, dynamic shapes and changed inputs must not get wrong."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from tests.capture.engines import ReferenceEngine, entry_of
from torch_autokernel.capture import backend as backends
from torch_autokernel.capture import background, operators
from torch_autokernel.capture.whole import capture_whole
from torch_autokernel.core.config import config
from torch_autokernel.core.errors import GuardMiss, ToolchainError
from torch_autokernel.core.types import CacheEntry, Region
from torch_autokernel.engine import Decision


def region(function: Callable[..., Any], *inputs: torch.Tensor) -> Region:
    return capture_whole(function, inputs).captured.region


def scaled(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (x * 2 + y).tanh()


def make(salt: str, loader: Callable[[CacheEntry], Callable[..., Any]], *inputs: torch.Tensor) -> operators.Operator:
    return operators.ensure(entry_of(region(scaled, *(inputs or (torch.randn(4, 6), torch.randn(4, 6)))), salt), loader)


def doubled(_entry: CacheEntry) -> Callable[..., tuple[torch.Tensor, ...]]:
    """A kernel whose results nothing else gives."""
    return lambda x, y: (x * 100,)


def test_the_name_is_the_content() -> None:
    entry = entry_of(region(scaled, torch.randn(4, 6), torch.randn(4, 6)))
    other = dataclasses.replace(entry, artifact=dataclasses.replace(entry.artifact, sha256="another body"))
    abi = dataclasses.replace(entry, key=dataclasses.replace(entry.key, abi="another toolchain"))
    assert len({entry.op_name, other.op_name, abi.op_name}) == 3
    assert entry_of(region(scaled, torch.randn(8, 3), torch.randn(8, 3))).op_name == entry.op_name  # sizes are symbols


def test_registered_once_and_never_gone(tmp_path: Any) -> None:
    operator = make(str(tmp_path), doubled)
    assert make(str(tmp_path), doubled) is operator
    assert getattr(torch.ops.autokernel, operator.name).default is operator.overload


def test_an_evicted_kernel_leaves_its_reference(tmp_path: Any) -> None:
    operator = make(str(tmp_path), doubled)
    x, y = torch.randn(5, 7), torch.randn(5, 7)
    assert torch.equal(operator.overload(x, y), x * 100)
    operator.evict()
    torch.testing.assert_close(operator.overload(x, y), scaled(x, y))
    assert "evicted" in (operator.load() or "")


def test_a_kernel_that_cannot_be_loaded_is_its_reference(tmp_path: Any, caplog: pytest.LogCaptureFixture) -> None:
    def broken(_entry: CacheEntry) -> Callable[..., Any]:
        raise ToolchainError("the file is another")

    operator = make(str(tmp_path), broken)
    x, y = torch.randn(5, 7), torch.randn(5, 7)
    torch.testing.assert_close(operator.overload(x, y), scaled(x, y))
    assert "the file is another" in caplog.text


def test_a_guard_miss_runs_the_reference(tmp_path: Any, caplog: pytest.LogCaptureFixture) -> None:
    def picky(_entry: CacheEntry) -> Callable[..., Any]:
        def call(*_tensors: torch.Tensor) -> Any:
            raise GuardMiss("strides (1, 5) where (7, 1) was expected")

        return call

    operator = make(str(tmp_path), picky)
    x, y = torch.randn(7, 5).t(), torch.randn(5, 7)
    torch.testing.assert_close(operator.overload(x, y), scaled(x, y))
    torch.testing.assert_close(operator.overload(x, y), scaled(x, y))
    assert caplog.text.count("strides (1, 5)") == 1  # told once


@pytest.mark.parametrize("other", [lambda: torch.randn(1, 6).expand(4, 6), lambda: torch.randn(6, 4).t(), lambda: torch.randn(1, 6),
                                   lambda: torch.randn(4, 6).double(), lambda: torch.randn(8, 6)[::2]])  # fmt: skip
def test_other_strides_shapes_or_dtypes_are_other_signatures(other: Callable[[], torch.Tensor]) -> None:
    plain = region(scaled, torch.randn(4, 6), torch.randn(4, 6)).signature.digest
    assert region(scaled, torch.randn(4, 6), other()).signature.digest != plain


def test_fakes_take_symbolic_sizes(tmp_path: Any) -> None:
    operator = make(str(tmp_path), doubled)
    mode = FakeTensorMode(shape_env=ShapeEnv())
    x = torch.randn(9, 11)
    torch._dynamo.mark_dynamic(x, 0)
    fake = mode.from_tensor(x)
    with mode:
        out = operator.overload(fake, fake)
    assert isinstance(out.shape[0], torch.SymInt) and out.shape[0] == fake.shape[0] and out.dtype == torch.float32
    assert not mode.shape_env.guards, "the fake pinned a size"  # type: ignore[union-attr]


def test_operators_do_not_alias_and_have_no_out_overload(tmp_path: Any) -> None:
    operator = make(str(tmp_path), doubled)
    schema = operator.overload._schema
    assert not schema.is_mutable and all(r.alias_info is None for r in schema.returns)
    assert all(torch.Tag.out not in getattr(torch.ops.autokernel, operator.name).__getattr__(o).tags
               for o in getattr(torch.ops.autokernel, operator.name).overloads())  # fmt: skip


def test_opcheck(tmp_path: Any) -> None:
    """Torch's own tests of a custom operator: schema, fake, and AOT dispatch with dynamic shapes."""

    def right(entry: CacheEntry) -> Callable[..., Any]:
        return lambda x, y: (scaled(x, y),)

    operator = make(str(tmp_path), right)
    tests = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
    torch.library.opcheck(operator.overload, (torch.randn(4, 6), torch.randn(4, 6)), test_utils=tests)


def test_the_pass_has_a_uuid_that_follows_the_kernels(engine: ReferenceEngine) -> None:
    """A pass without one makes Inductor bypass its cache; one that stays the same serves stale graphs."""
    session = backends.Session(config.resolve({}))
    first = backends._pass_class()(session).uuid()
    assert first and first == session.uuid()
    entry = entry_of(region(scaled, torch.randn(4, 6), torch.randn(4, 6)))
    engine.store.entries["x"] = entry
    second = session.uuid()
    engine.store.entries["x"] = dataclasses.replace(entry, artifact=dataclasses.replace(entry.artifact, sha256="other"))
    assert len({first, second, session.uuid()}) == 3
    assert backends.Session(config.resolve({"on_miss": "fallback"})).uuid() != session.uuid()


def test_all_kernels_are_registered_before_inductor_starts(engine: ReferenceEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a warm Inductor cache the pass never runs, but the graph calls the operators."""
    entry = entry_of(region(scaled, torch.randn(4, 6), torch.randn(4, 6)), "manifest")
    engine.store.entries["x"] = entry
    import torch._inductor.compile_fx as compile_fx

    seen: list[bool] = []

    def record(gm: Any, inputs: Any, **kwargs: Any) -> Any:
        seen.append(hasattr(torch.ops.autokernel, entry.op_name) and entry.op_name in operators.registered())
        return gm.forward

    monkeypatch.setattr(compile_fx, "compile_fx", record)
    torch.compile(lambda x: x + 1, backend=backends.autokernel)(torch.randn(3))
    assert seen == [True]


def test_dynamic_shapes_with_several_outputs(engine: ReferenceEngine) -> None:
    def two(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = F.silu(x)
        return y * y.mean(-1, keepdim=True), y.sum(-1)

    compiled = torch.compile(two, backend=backends.autokernel, dynamic=True, fullgraph=True)
    for rows in (3, 5, 2):
        x = torch.randn(rows, 16)
        for a, b in zip(compiled(x), two(x), strict=True):
            torch.testing.assert_close(a, b)
    assert engine.calls


class Deferred(ReferenceEngine):
    """Finds nothing until `ready`, as while a search in the background runs."""

    ready = False

    def resolve(self, regions: Any, config: Any) -> list[Decision]:
        return super().resolve(regions, config) if self.ready else [Decision(r, "miss", "not in the cache") for r in regions]

    def work_folder(self) -> str:
        return ""


def test_background_runs_the_fallback_then_swaps(monkeypatch: pytest.MonkeyPatch, engine: ReferenceEngine) -> None:
    """The search itself is another process (see tests/integration); here it ends when the test says so."""
    found = Deferred(salt="background")
    monkeypatch.setattr(backends.Engine, "current", classmethod(lambda cls, config: found))
    asked: list[int] = []

    class Search:
        def __init__(self, regions: Any, *_: Any) -> None:
            asked.append(len(regions))

        def over(self) -> bool:
            return found.ready

    monkeypatch.setattr(backends, "Search", Search)
    assert background.Swapping is backends.Swapping
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="torch_autokernel fell back")
        compiled = torch.compile(scaled, backend=backends.autokernel, options={"on_miss": "background"})
        x, y = torch.randn(4, 6), torch.randn(4, 6)
        torch.testing.assert_close(compiled(x, y), scaled(x, y))
        assert asked == [1] and not found.calls
        found.ready = True
        for _ in range(3):
            torch.testing.assert_close(compiled(x, y), scaled(x, y))
        assert len(found.calls) == 3
