from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tests.app.conftest import SOFTMAX, Run
from tests.capture.engines import ReferenceEngine
from torch_autokernel.core.config import config
from torch_autokernel.engine import Engine

Go = Callable[..., Run]
Write = Callable[[str, str], Path]


@pytest.fixture
def engine(run: Go, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ReferenceEngine]:
    found = ReferenceEngine(salt=str(tmp_path))
    monkeypatch.setattr(Engine, "current", classmethod(lambda cls, config: found))
    with config.patch(rest="eager"):
        torch._dynamo.reset()
        yield found
        torch._dynamo.reset()


@pytest.mark.parametrize(("words", "phases"), [((), {"inference"}), (("--backward",), {"forward", "backward"})])
def test_explain(engine: ReferenceEngine, run: Go, write: Write, words: tuple[str, ...], phases: set[str]) -> None:
    path = write("soft.py", SOFTMAX)
    ran = run("explain", path, *words)
    assert ran.code == 0, ran.err
    assert "soft: " in ran.out and "replaced" in ran.out
    (told,) = run("explain", path, *words, "--json").json["targets"]
    assert told["problem"] == "soft" and {r["phase"] for r in told["regions"]} == phases
    assert all(r["outcome"] and r["reason"] for r in told["regions"])


def test_explain_of_a_folder_goes_on_after_an_error(engine: ReferenceEngine, run: Go, write: Write) -> None:
    folder = write("set/a.py", SOFTMAX.replace("torch.randn(4, 6)", "torch.randn(4, 5)")).parent
    write("set/b.py", SOFTMAX)
    ran = run("explain", folder, "--json")
    assert ran.code == 1
    first, second = ran.json["targets"]
    assert "calling a failed" in first["error"] and second["problem"] == "b"
    assert run("explain", folder / "a.py").code == 2


def test_warm(engine: ReferenceEngine, run: Go, write: Write) -> None:
    path = write("soft.py", SOFTMAX)
    ran = run("warm", path, "--backward")
    assert ran.code == 0, ran.err
    assert "warmed for" in ran.out
    (told,) = run("warm", path, "--json").json["targets"]
    assert told["problem"] == "soft" and sum(told["counts"].values()) == told["replaced"] == 1


def test_warm_for_another_machine(engine: ReferenceEngine, run: Go, write: Write) -> None:
    ran = run("warm", write("soft.py", SOFTMAX), "--arch", "sm_90")
    assert ran.code == 2 and "sm_90" in ran.err and "hint: " in ran.err


def test_warm_without_a_compiler(engine: ReferenceEngine, run: Go, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    for name in ("CXX", "CC"):
        monkeypatch.delenv(name, raising=False)
    ran = run("warm", write("soft.py", SOFTMAX))
    assert ran.code == 2 and "hint: " in ran.err and "Traceback" not in ran.err
