"""The launcher: what it takes, what it refuses and why, what it allocates."""

from __future__ import annotations

import gc
import random
import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import torch_autokernel as ak
from tests.lang.conftest import add_signature
from torch_autokernel.core.errors import ConfigError, GuardMiss
from torch_autokernel.core.types import Op, Ref, Signature, TensorSpec
from torch_autokernel.lang import launch

Entry = Callable[[str], int]


def signature_of(
    *inputs: TensorSpec, outputs: tuple[TensorSpec, ...] = (), symbols: tuple[str, ...] = (), **more: Any
) -> Signature:
    op = Op("aten.clone.default", (Ref(0),))
    return Signature(
        (op,) * len(outputs), inputs, tuple(range(len(inputs), len(inputs) + len(outputs))), outputs, symbols, **more
    )


@pytest.fixture
def add(entry: Entry) -> Any:
    return launch.launcher(entry("nothing"), add_signature())


# ------------------------------------------------------------------------------------------ where outputs lie
def in_huge_pages(tensor: torch.Tensor) -> bool:
    """Whether the kernel is advised to back the middle of the tensor's memory with huge pages."""
    at, inside = tensor.data_ptr() + tensor.nbytes // 2, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if found := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(found[1], 16) <= at < int(found[2], 16)
        elif inside and line.startswith("VmFlags:"):
            return "hg" in line.split()
    return False


@pytest.mark.skipif(not Path("/sys/kernel/mm/transparent_hugepage/enabled").exists(), reason="no huge pages in this kernel")
def test_large_outputs_are_in_huge_pages(entry: Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = TensorSpec.contiguous(("s0", 1024), "float32")
    made = launch.launcher(entry("nothing"), signature_of(spec, outputs=(spec,), symbols=("s0",)))
    (large,), (small,) = made(torch.empty(9000, 1024)), made(torch.empty(8000, 1024))
    assert in_huge_pages(large) and not in_huge_pages(small)
    monkeypatch.setenv("TORCH_AUTOKERNEL_HUGE_PAGES", "0")
    ak.config.reload()
    made = launch.launcher(entry("nothing"), signature_of(spec, outputs=(spec,), symbols=("s0",)))
    (large,) = made(torch.empty(20000, 1024))
    assert not in_huge_pages(large)
    monkeypatch.undo()
    ak.config.reload()
    launch.launcher(entry("nothing"), signature_of(spec, outputs=(spec,), symbols=("s0",)))  # as it was
    with pytest.raises(ConfigError, match="whole process"):
        ak.autokernel(torch.sin, huge_pages=False)


# ------------------------------------------------------------------------------------------ what does not fit
class Sub(torch.Tensor):
    pass


def quantized() -> torch.Tensor:
    return torch.quantize_per_tensor(torch.ones(3, 5), 1.0, 0, torch.qint8)


MISFITS: dict[str, tuple[Callable[[], Any], str]] = {
    "none": (lambda: None, "input 1 is of type NoneType where a plain torch.Tensor was expected"),
    "int": (lambda: 3, "type int"),
    "numpy": (lambda: torch.ones(3, 5).numpy(), "type ndarray"),
    "type": (lambda: torch.Tensor, "type _TensorMeta"),
    "subclass": (lambda: torch.ones(3, 5).as_subclass(Sub), "type Sub"),
    "lazy parameter": (torch.nn.UninitializedParameter, "type UninitializedParameter"),
    "meta": (lambda: torch.empty(3, 5, device="meta"), "cannot be read: .*meta"),
    "sparse": (lambda: torch.ones(3, 5).to_sparse(), "cannot be read: .*storage"),
    "csr": (lambda: torch.ones(3, 5).to_sparse_csr(), "cannot be read"),
    "mkldnn": (lambda: torch.ones(3, 5).to_mkldnn(), "cannot be read"),
    "nested": (lambda: torch.nested.nested_tensor([torch.ones(5)] * 3), "cannot be read"),
    "quantized": (quantized, "cannot be read"),
    "functional": (lambda: torch._to_functional_tensor(torch.ones(3, 5)), "input 1 has no memory"),
    "all zero": (lambda: torch._efficientzerotensor((3, 5)), "input 1 has no memory"),
    "complex": (lambda: torch.ones(3, 5, dtype=torch.complex64), "dtype another dtype where float32"),
    "float8": (lambda: torch.zeros(3, 5, dtype=torch.float8_e4m3fn), "dtype another dtype"),
    "double": (lambda: torch.ones(3, 5).double(), "dtype float64 where float32 was expected"),
    "bfloat16": (lambda: torch.ones(3, 5).bfloat16(), "dtype bfloat16 where float32"),
    "bool": (lambda: torch.ones(3, 5).bool(), "dtype bool where float32"),
    "negative": (lambda: torch._neg_view(torch.ones(3, 5)), "lazily negated view"),
    "negative imaginary": (lambda: torch.ones(3, 5, dtype=torch.complex64).conj().imag, "lazily negated view"),
    "rank 1": (lambda: torch.ones(15), "has 1 dimensions where 2 were expected"),
    "rank 65": (lambda: torch.ones([1] * 65), "has 65 dimensions"),
    "size": (lambda: torch.ones(4, 5), "has size 4 in dimension 0 where s0 = 3 was expected"),
    "empty": (lambda: torch.ones(0, 5), "has size 0 in dimension 0"),
    "transposed": (lambda: torch.ones(5, 3).t(), "has stride 1 in dimension 0 where s1 = 5 was expected"),
    "expanded": (lambda: torch.ones(5).expand(3, 5), "has stride 0 in dimension 0 where s1 = 5"),
    "misaligned": (
        lambda: torch.frombuffer(bytearray(64), dtype=torch.float32, count=15, offset=1).view(3, 5),
        "at address 0x[0-9a-f]+ where a multiple of 4 was expected",
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", MISFITS)
def test_misfits_are_refused_with_the_reason(add: Any, kind: str) -> None:
    make, reason = MISFITS[kind]
    x, odd = torch.ones(3, 5), make()
    with pytest.raises(GuardMiss, match=reason) as miss:
        add(x, odd)
    assert add.check(x, odd) == miss.value.message
    assert add.check(x, x) is None


@pytest.mark.parametrize("count", [0, 1, 3, 300])
def test_the_number_of_tensors_is_checked(add: Any, count: int) -> None:
    with pytest.raises(GuardMiss, match=f"{count} tensors were given where 2 were expected"):
        add(*[torch.ones(3, 5)] * count)


def test_no_keyword_arguments(add: Any) -> None:
    with pytest.raises(TypeError, match="no keyword"):
        add(torch.ones(3, 5), w=torch.ones(3, 5))


@pytest.mark.parametrize(
    "fit",
    [
        lambda: torch.nn.Parameter(torch.ones(3, 5)),
        lambda: torch.ones(3, 5, requires_grad=True),
        lambda: torch.nn.Buffer(torch.ones(3, 5)),
        lambda: torch.ones(4, 5)[1:],
        lambda: torch._lazy_clone(torch.ones(3, 5)),
    ],
)
def test_plain_tensors_of_all_kinds_fit(add: Any, fit: Callable[[], torch.Tensor]) -> None:
    (out,) = add(fit(), torch.ones(3, 5))
    assert type(out) is torch.Tensor and not out.requires_grad and out.grad_fn is None


def test_function_transforms_and_fakes_do_not_reach_memory(add: Any) -> None:
    seen: list[str | None] = []

    def look(x: torch.Tensor) -> torch.Tensor:
        seen.append(add.check(x, x))
        return x.sum()

    torch.vmap(look)(torch.ones(2, 3, 5))
    torch.func.grad(look)(torch.ones(3, 5))
    torch.func.jvp(look, (torch.ones(3, 5),), (torch.ones(3, 5),))
    with torch._subclasses.fake_tensor.FakeTensorMode():
        look(torch.empty(3, 5))
    assert len(seen) == 4 and all(seen), seen


def test_least_values() -> None:
    spec = TensorSpec.contiguous(("s0",), "float32")
    at_least = launch.launcher(1, signature_of(spec, symbols=("s0",), guards={"s0": 4}))
    assert at_least.check(torch.ones(4)) is None
    assert at_least.check(torch.ones(3)) == "s0 = 3 where at least 4 was expected"
    assert launch.launcher(1, signature_of(spec, symbols=("s0",))).check(torch.ones(0)) is not None


# ------------------------------------------------------------------------------------------ sizes and strides
def test_polynomials_are_checked() -> None:
    x, y = TensorSpec.contiguous(("s0", "s1"), "float32"), TensorSpec.contiguous(("2*s0*s1 + s1 + 3",), "float32")
    guard = launch.launcher(1, signature_of(x, y, symbols=("s0", "s1")))
    for a, b in [(1, 1), (4, 7), (9, 2)]:
        assert guard.check(torch.ones(a, b), torch.ones(2 * a * b + b + 3)) is None
        assert "where 2*s0*s1 + s1 + 3 =" in (guard.check(torch.ones(a, b), torch.ones(2 * a * b + b + 4)) or "")


def test_overflow_is_a_miss() -> None:
    """Expanded tensors have huge sizes without memory."""
    x, y = TensorSpec(("s0", "s0"), "float32", (0, 0)), TensorSpec(("s0*s0*s0",), "float32", (1,))
    guard = launch.launcher(1, signature_of(x, y, symbols=("s0",)))
    assert "overflows" in (guard.check(torch.ones(1).expand(2**31, 2**31), torch.ones(5)) or "")


def test_strides_of_single_dimensions_are_free(entry: Entry) -> None:
    spec = TensorSpec(("s0", "s1"), "float32", ("s2", 1))
    out = TensorSpec((3,), "int64", (1,))
    run = launch.launcher(entry("sizes2"), signature_of(spec, outputs=(out,), symbols=("s0", "s1", "s2")))
    assert run(torch.ones(4, 9)[:, :5])[0][:2].tolist() == [4, 5]
    assert run.check(torch.ones(4, 9)[::2, :5]) is None
    for single in (
        torch.ones(1, 9)[:, :5],
        torch.ones(5).expand(1, 5),
        torch.ones(5, 1).t(),
        torch.ones(1, 1).expand(4, 1)[:1],
    ):
        assert run.check(single) is None, single.stride()
    assert run.check(torch.ones(5).expand(4, 5)) == "s2 = 0 where at least 1 was expected"
    assert "stride 2" in (run.check(torch.ones(4, 10)[:, ::2]) or "")


def test_one_symbol_in_two_strides() -> None:
    spec = TensorSpec(("s0", "s1"), "float32", ("s2", 1))
    guard = launch.launcher(
        1, signature_of(spec, TensorSpec(("s3", "s1"), "float32", ("s2", 1)), symbols=("s0", "s1", "s2", "s3"))
    )
    assert guard.check(torch.ones(4, 9)[:, :5], torch.ones(2, 9)[:, :5]) is None
    assert "where s2 = 9" in (guard.check(torch.ones(4, 9)[:, :5], torch.ones(2, 8)[:, :5]) or "")
    assert guard.check(torch.ones(1, 7)[:, :5], torch.ones(2, 9)[:, :5]) is None, "the single row's stride does not count"


def test_binding_agrees_with_the_signature(entry: Entry) -> None:
    """The launcher and `Signature.bind` give the kernel the same sizes, for tensors without single dimensions."""
    seed = random.randrange(2**32)
    print("seed", seed)
    rng = random.Random(seed)
    out = TensorSpec((3,), "int64", (1,))
    for _ in range(100):
        a, b = rng.randint(2, 9), rng.randint(2, 9)
        spec = rng.choice(
            [
                TensorSpec(("s0", "s1"), "float32", ("s1", 1)),
                TensorSpec(("s0", 5), "float32", ("s1", 1)),
                TensorSpec(("s0", "s1"), "float32", (1, "s0")),
                TensorSpec(("2*s0", "s1", "s0"), "float32", ("s0*s1", "s0", 1)),
            ]
        )
        signature = signature_of(spec, outputs=(out,), symbols=("s0", "s1"))
        concrete = spec.concrete({"s0": a, "s1": b})
        if concrete.stride[0] < 5 == concrete.shape[1]:
            continue
        x = torch.empty_strided(concrete.shape, concrete.stride)
        sizes = signature.bind((tuple(x.shape),), (x.stride(),))
        assert launch.launcher(entry("sizes2"), signature)(x)[0][:2].tolist() == [sizes["s0"], sizes["s1"]] == [a, b]


# ------------------------------------------------------------------------------------------ outputs and workspace
def test_outputs_are_ordinary_tensors_with_the_demanded_strides(entry: Entry) -> None:
    x = TensorSpec.contiguous(("s0", "s1"), "float32")
    outputs = (
        TensorSpec(("s0", "s1"), "bfloat16", (1, "s0")),
        TensorSpec(("s1", 1, "s0 + 1"), "int64", ("s0 + 1", 0, 1)),
        TensorSpec((), "bool", ()),
        TensorSpec((4, 1), "float64", (1, 0)),
    )
    run = launch.launcher(entry("nothing"), signature_of(x, outputs=outputs, symbols=("s0", "s1")))
    for a, b in [(3, 5), (1, 2), (3, 5), (7, 1)]:
        found = run(torch.ones(a, b))
        assert [(tuple(t.shape), t.stride(), t.dtype) for t in found] == [
            ((a, b), (1, a), torch.bfloat16),
            ((b, 1, a + 1), (a + 1, a + 1, 1), torch.int64),
            ((), (), torch.bool),
            ((4, 1), (1, 1), torch.float64),
        ]
        assert all(t.data_ptr() % 64 == 0 and t.is_leaf and t._base is None and t._version == 0 for t in found)
    found[0].resize_(100).fill_(1)
    with torch.inference_mode():
        assert run(torch.ones(3, 5))[0].is_inference()


def test_results_do_not_share_memory(entry: Entry) -> None:
    spec = TensorSpec.contiguous(("s0",), "float32")
    run = launch.launcher(entry("copy"), signature_of(spec, outputs=(spec,), symbols=("s0",)))
    first, second = run(torch.full((7,), 1.0))[0], run(torch.full((7,), 2.0))[0]
    assert first.tolist() == [1.0] * 7 and second.tolist() == [2.0] * 7


def test_the_allocator_without_torchs_private_one(entry: Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch._C._dynamo.guards", None)
    spec = TensorSpec(("s0", "s1"), "float32", (1, "s0"))
    x = torch.ones(5, 3).t()
    with torch.device("meta"):
        (out,) = launch.launcher(entry("nothing"), signature_of(spec, outputs=(spec,), symbols=("s0", "s1")))(x)
    assert out.stride() == (1, 3) and out.device.type == "cpu"


def test_workspace_is_aligned_grows_and_belongs_to_the_thread(entry: Entry) -> None:
    spec = TensorSpec.contiguous(("s0", "s1"), "float32")
    signature = signature_of(spec, outputs=(TensorSpec((3,), "int64", (1,)),), symbols=("s0", "s1"))
    run = launch.launcher(entry("sizes2"), signature, "16*s0*s1")
    address = lambda n: int(run(torch.ones(n, 3))[0][2])
    first = address(100)
    assert first and first % 64 == 0 and address(50) == first, "kept while it is large enough"
    assert address(10**5) % 64 == 0
    others: list[int] = []
    here = address(10)
    thread = threading.Thread(target=lambda: others.append(address(10)))
    thread.start()
    thread.join()
    assert others and others[0] and others[0] != here
    assert int(launch.launcher(entry("sizes2"), signature, 0)(torch.ones(2, 3))[0][2]) == 0, "none asked for, none given"


def test_workspace_is_real_in_many_threads(entry: Entry) -> None:
    spec = TensorSpec(("s0",), "float32", (0,))
    run = launch.launcher(entry("fill"), signature_of(spec, outputs=(TensorSpec((), "int64", ()),), symbols=("s0",)), "s0")
    bad: list[int] = []

    def work(seed: int) -> None:
        rng = random.Random(seed)
        for n in [rng.randint(1, 100_000) for _ in range(50)]:
            if int(run(torch.ones(1).expand(n))[0]) != 255 * n:
                bad.append(n)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert not bad


def test_impossible_sizes_are_errors_not_crashes(entry: Entry) -> None:
    spec = TensorSpec(("s0",), "float32", (0,))
    huge = torch.ones(1).expand(2**40)
    with pytest.raises(MemoryError):
        launch.launcher(entry("nothing"), signature_of(spec, symbols=("s0",)), "4000*s0")(huge)
    with pytest.raises(OverflowError):
        launch.launcher(entry("nothing"), signature_of(spec, symbols=("s0",)), "s0*s0")(huge)
    with pytest.raises(OverflowError, match=r"workspace size 5 - s0"):
        launch.launcher(entry("nothing"), signature_of(spec, symbols=("s0",)), "5 - s0")(huge)
    with pytest.raises(RuntimeError):
        out = TensorSpec.contiguous(("s0", "s0"), "float32")
        launch.launcher(entry("nothing"), signature_of(spec, outputs=(out,), symbols=("s0",)))(huge)


# ------------------------------------------------------------------------------------------ life and plans
def test_the_gil_is_released(entry: Entry) -> None:
    """A call that waits for another Python thread ends only if that thread can run."""
    import ctypes

    done = threading.Event()
    wait = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
    entered = threading.Event()

    def slow(*_: object) -> None:
        entered.set()
        assert done.wait(20)

    hook = wait(slow)
    run = launch.launcher(
        ctypes.cast(hook, ctypes.c_void_p).value or 0, signature_of(TensorSpec((), "float32", ())), owner=hook
    )
    thread = threading.Thread(target=run, args=(torch.ones(()),))
    thread.start()
    assert entered.wait(20)
    done.set()
    thread.join(20)
    assert not thread.is_alive()


def test_nothing_leaks(entry: Entry) -> None:
    spec = TensorSpec.contiguous(("s0",), "float32")
    signature = signature_of(spec, outputs=(spec,), symbols=("s0",))
    x, owner = torch.ones(1000), object()
    gc.collect()  # what earlier tests left behind must not go in between
    before = [sys.getrefcount(o) for o in (x, owner, GuardMiss, torch.float32, torch.Tensor)]
    for i in range(300):
        run = launch.launcher(entry("copy"), signature, "s0", owner)
        run(x), run(x[: 1 + i % 7]), run.check(None), run.check(x.double())
        with pytest.raises(GuardMiss):
            run(x.double())
    del run
    gc.collect()
    after = [sys.getrefcount(o) for o in (x, owner, GuardMiss, torch.float32, torch.Tensor)]
    assert all(abs(a - b) < 20 for a, b in zip(after, before, strict=True)), (before, after)


def test_memory_stays_the_same(entry: Entry) -> None:
    spec = TensorSpec.contiguous(("s0",), "float32")
    run = launch.launcher(entry("copy"), signature_of(spec, outputs=(spec,), symbols=("s0",)))
    resident = lambda: int(open("/proc/self/statm").read().split()[1]) * 4096
    xs = [torch.ones(n) for n in range(1, 60)]
    for _ in range(100):
        [run(x) for x in xs]
    start = resident()
    for _ in range(1000):
        [(run(x), run.check(x, x)) for x in xs]
    assert resident() - start < 4 << 20


def test_the_owner_lives_as_long_as_the_launcher() -> None:
    import weakref

    class Owner:
        pass

    owner = Owner()
    dead = weakref.ref(owner)
    run = launch.launcher(1, signature_of(TensorSpec((), "float32", ())), owner=owner)
    del owner
    gc.collect()
    assert dead() is not None
    del run
    gc.collect()
    assert dead() is None


def test_cycles_are_collected() -> None:
    import weakref

    class Owner:
        run: Any

    owner = Owner()
    dead = weakref.ref(owner)
    owner.run = launch.launcher(1, signature_of(TensorSpec((), "float32", ())), owner=owner)
    del owner
    gc.collect()
    assert dead() is None


GOOD = {
    "symbols": (("s0", 1, 9),),
    "inputs": ((2, 32, 4, (("s0", ((1, (0,)),)),), (("1", ((1, ()),)),)),),
    "outputs": (),
    "workspace": ("0", ()),
    "types": (torch.Tensor,),
    "empty": len,
    "is_neg": len,
    "miss": GuardMiss,
    "owner": None,
}


def test_upper_bounds() -> None:
    plan: dict[str, Any] = {**GOOD, "exchange": torch.Tensor.__dlpack_c_exchange_api__, "is_neg": torch.Tensor.is_neg}
    bounded = launch.Launcher(1, **plan)
    assert bounded.check(torch.ones(9)) is None
    assert bounded.check(torch.ones(10)) == "s0 = 10 where at most 9 was expected"


BAD: list[tuple[str, Any]] = [
    ("symbols", None),
    ("symbols", (1,)),
    ("symbols", (("s0",),)),
    ("symbols", (("s0", -1, 5),)),
    ("symbols", (("s0", 2**80, 5),)),
    ("symbols", (("a", 1, 2),) * 200),
    ("inputs", [1]),
    ("inputs", (1,)),
    ("inputs", ((2, 32, 0, (), ()),)),
    ("inputs", ((2, 32, 4, (("s0", ((1, (1,)),)),), (("1", ((1, ()),)),)),)),
    ("inputs", ((2, 32, 4, (("x", ()),), ()),)),
    ("inputs", ((2, 32, 4, (("x", ((1, (-1,)),)),), (("x", ()),)),)),
    ("inputs", ((2, 32, 4, (("x", ()),) * 65, (("x", ()),) * 65),)),
    ("inputs", GOOD["inputs"] * 200),
    ("outputs", (1,)),
    ("outputs", ((torch.float32, (("x", ()),), ()),)),
    ("workspace", 5),
    ("workspace", ("x", 1)),
    ("workspace", ("x", ((1,),))),
    ("types", ()),
    ("types", None),
    ("empty", 5),
    ("is_neg", 5),
    ("miss", 5),
    ("miss", int),
    ("exchange", None),
    ("entry", 0),
    ("entry", "a"),
]


@pytest.mark.parametrize(("field", "value"), BAD, ids=range(len(BAD)))
def test_bad_plans_are_refused(field: str, value: Any) -> None:
    plan: dict[str, Any] = {"entry": 1, **GOOD, "exchange": torch.Tensor.__dlpack_c_exchange_api__}
    launch.Launcher(plan.pop("entry"), **plan)
    plan = {"entry": 1, **plan, field: value}
    with pytest.raises((ValueError, TypeError, OverflowError)):
        launch.Launcher(plan.pop("entry"), **plan)


def test_torch_without_the_exchange_is_a_toolchain_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch_autokernel.core.errors import ToolchainError

    monkeypatch.delattr(torch.Tensor, "__dlpack_c_exchange_api__")
    with pytest.raises(ToolchainError, match=r"torch 2.10 or later"):
        launch.launcher(1, add_signature())
