"""The stopwatch for real: a zygote, two peers, Inductor. What it reports is well formed; how fast it was is not asked."""

from __future__ import annotations

import dataclasses
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from torch_autokernel.core.types import Arch, Artifact, Candidate, Op, Ref, Region, Signature, Source, TensorSpec, Timing
from torch_autokernel.lang.null import Null
from torch_autokernel.verify.peer import Server, _rotate
from torch_autokernel.verify.timing import GLANCE_TOLERANCE, Stopwatch, Suspect, relative_error

ARCH = Arch("null", limits={"threads": 1})
GOOD = "def reference(x0, x1, s0, s1):\n    return (aten.sigmoid.default(aten.mul.Tensor(x0, x1)),)\n"
# Right on what it has seen, and much faster: it knows inputs again by their place.
MEMO = """KEPT = {}
def reference(x0, x1, s0, s1):
    place = x0.data_ptr()
    if place not in KEPT:
        KEPT[place] = aten.sigmoid.default(aten.mul.Tensor(x0, x1))
    return (aten.clone.default(KEPT[place]),)
"""


def region() -> Region:
    spec = TensorSpec.contiguous(("s0", "s1"), "float32")
    ops = (
        Op("aten.mul.Tensor", (Ref(0), Ref(1)), {}, ("s0", "s1"), "float32"),
        Op("aten.sigmoid.default", (Ref(2),), {}, ("s0", "s1"), "float32"),
    )
    return Region(Signature(ops, (spec, spec), (3,), (spec,), ("s0", "s1")), GOOD, {"s0": 64, "s1": 200}, edge_bytes=4096)


def artifact(text: str, folder: Path) -> Artifact:
    signature = region().signature
    (made,) = Null().compile([Candidate(signature.digest, Source("null", text), "test")], signature, ARCH, folder)
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all tests, so that Inductor builds each thing once."""
    return tmp_path_factory.mktemp("timing")


@pytest.fixture
def stopwatch(folder: Path) -> Iterator[Stopwatch]:
    made = Stopwatch(ARCH, threads=1, folder=folder)
    yield made
    made.close()


def timed(stopwatch: Stopwatch, of: Region, artifacts: list[Artifact], seconds: float, fresh: bool = False) -> list[Timing | str]:
    """Timings, asked for up to four times while a busy machine makes the clocks disagree, which is right of it."""
    for _ in range(4):
        results = stopwatch.time(of, artifacts, seconds, fresh)
        if not any(isinstance(r, str) and r.startswith("clocks disagree") for r in results):
            break
    return results


@pytest.mark.slow
def test_a_region_against_eager_and_inductor(stopwatch: Stopwatch, tmp_path: Path) -> None:
    texts = [GOOD, GOOD.replace("mul", "add"), "raise ValueError('planted')", MEMO]
    results = timed(stopwatch, region(), [artifact(t, tmp_path) for t in texts], 120)
    good, wrong, broken, remembered = results
    assert isinstance(remembered, Suspect) and "output 0 of a timed call is wrong" in remembered
    assert isinstance(good, Timing), good
    cold = {f"{n}, cold caches" for n in ("eager", "inductor", "kernel")}
    assert set(good.others) == {"eager", "inductor", "edge", "kernel"} | (cold & set(good.others))
    assert "kernel, cold caches" in good.others and all(t > 0 for t in good.others.values())
    assert len(good.samples_ns) == len(good.baseline_ns) >= 8 and good.low <= good.speedup <= good.high
    assert good.sizes == {"s0": 64, "s1": 200} and "1 threads" in good.method
    assert isinstance(wrong, Suspect) and "output 0 of a timed call is wrong" in wrong
    assert broken == "ValueError: planted"
    again = timed(stopwatch, region(), [artifact(GOOD, tmp_path)], 60, fresh=True)
    assert isinstance(again[0], Timing) and "seed" in again[0].method and again[0].method != good.method


@pytest.mark.slow
def test_direct_calls_against_a_whole_call_of_torch_compile(stopwatch: Stopwatch, tmp_path: Path) -> None:
    called = dataclasses.replace(region(), phase="direct", edge_bytes=0)
    results = timed(stopwatch, called, [artifact(GOOD, tmp_path), artifact(GOOD.replace("mul", "add"), tmp_path)], 120)
    good, wrong = results
    assert isinstance(good, Timing), good
    assert {"eager", "inductor", "kernel", "kernel, cold caches"} <= set(good.others) and "direct calls against torch.compile" in good.method
    assert isinstance(wrong, Suspect)


@pytest.mark.slow
def test_what_inductor_cannot_compile_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/nonexistent/compiler")
    stopwatch = Stopwatch(ARCH, threads=1, folder=tmp_path / "timing")
    try:
        (result,) = timed(stopwatch, region(), [artifact(GOOD, tmp_path)], 120)
    finally:
        stopwatch.close()
    assert isinstance(result, Timing), result
    assert result.baseline == "eager" and "Inductor could not compile inductor" in result.method


@pytest.mark.slow
def test_a_peer_that_dies_is_a_reason_and_the_next_one_lives(stopwatch: Stopwatch, tmp_path: Path) -> None:
    deadly = "import os, torch\ndef reference(*xs):\n    os._exit(3)\n"
    (result,) = timed(stopwatch, region(), [artifact(deadly, tmp_path)], 120)
    assert isinstance(result, str) and "the timing broke off: the peer is gone" in result
    (result,) = timed(stopwatch, region(), [artifact(GOOD, tmp_path)], 120)
    assert isinstance(result, Timing), result


@pytest.mark.slow
def test_close_leaves_no_process(tmp_path: Path) -> None:
    stopwatch = Stopwatch(ARCH, threads=1)
    stopwatch.prepare(region())
    assert stopwatch._zygote is not None
    stopwatch._zygote.settle(next(iter(stopwatch._baselines.values())).peer, 120)
    pids = [next(iter(stopwatch._baselines.values())).peer.pid, stopwatch._zygote._process.pid]
    stopwatch.close()
    deadline = time.monotonic() + 10
    while any(_alive(p) for p in pids if p) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(_alive(p) for p in pids if p)
    assert not stopwatch._folder.exists()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] != "Z"


def test_a_peer_counts_calls_and_takes_inputs_in_turn(tmp_path: Path) -> None:
    seen: list[float] = []
    server = Server(str(tmp_path / "lock"))
    order = {"region": region().to_json(), "seed": 11, "sets": 3, "threads": 1, "distribution": "normal"}
    reply = server.answer({"do": "candidates", **order, "artifacts": {"k0": artifact(GOOD, tmp_path).to_json()}})
    assert reply == {"problems": {}}
    call, inputs = server.contenders["k0"]
    server.contenders["k0"] = (lambda xs: (seen.append(float(xs[0].sum())), call(xs))[1], inputs)
    assert server.answer({"do": "run", "name": "k0", "calls": 7})["ns"] > 0
    assert len(seen) == 7 and len(set(seen)) == 3 and seen[:3] == seen[3:6]
    glance = server.answer({"do": "glance", "name": "k0", "seed": 5})
    assert glance["set"] == 0 and len(glance["values"][0]) == 512
    assert server.answer({"do": "glance", "name": "k0", "seed": 5, "set": 0}) == glance
    assert server.answer({"do": "glance", "name": "k0", "seed": 5, "set": 1})["values"] != glance["values"]


def test_contents_change_alike_on_both_sides(tmp_path: Path) -> None:
    """A kernel that remembers results by the place of their inputs is right until they change."""
    order = {"region": region().to_json(), "seed": 11, "sets": 2, "threads": 1, "distribution": "normal"}
    servers = {}
    for name, text in (("good", GOOD), ("memo", MEMO)):
        servers[name] = Server(str(tmp_path / "lock"))
        assert servers[name].answer({"do": "candidates", **order, "artifacts": {"k0": artifact(text, tmp_path).to_json()}})

    def values(name: str, number: int) -> list[list[float]]:
        found: list[list[float]] = servers[name].answer({"do": "glance", "name": "k0", "seed": 5, "set": number})["values"]
        return found

    for server in servers.values():
        server.answer({"do": "run", "name": "k0", "calls": 4})
    before = [values("good", k) for k in range(2)]
    assert before == [values("memo", k) for k in range(2)]
    for server in servers.values():
        server.answer({"do": "refresh", "set": 1, "seed": 77})
    assert values("good", 0) == before[0] == values("memo", 0)
    assert values("good", 1) != before[1] == values("memo", 1)
    assert relative_error(values("memo", 1)[0], values("good", 1)[0]) > GLANCE_TOLERANCE


@pytest.mark.parametrize(("shape", "stride"), [((4, 5), (5, 1)), ((1, 5), (5, 1)), ((4, 5), (0, 1)), ((4, 5), (1, 0)), ((), ())])
def test_rotation_keeps_values_and_layout(shape: tuple[int, ...], stride: tuple[int, ...]) -> None:
    tensor = torch.arange(24.0)[:20].as_strided(shape, stride)
    before = tensor.clone()
    _rotate(tensor, random.Random(1))
    assert tensor.flatten().sort().values.equal(before.flatten().sort().values)
    assert tensor.numel() == 1 or not tensor.equal(before)
