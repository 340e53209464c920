from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.app.conftest import Run
from torch_autokernel.app.commands import doctor
from torch_autokernel.app.commands.doctor import Line
from torch_autokernel.core.errors import ToolchainError

Go = Callable[..., Run]


def names(ran: Run) -> dict[str, str]:
    return {line["name"]: line["status"] for line in ran.json["lines"]}


def test_on_this_machine(run: Go) -> None:
    ran = run("doctor", "--json")
    assert ran.code == 0, ran.out
    statuses = names(ran)
    for name in (
        "python",
        "torch",
        "dlpack",
        "launcher",
        "arch",
        "compiler",
        "toolchain",
        "compiles",
        "runs",
        "ninja",
        "openmp",
        "cache",
        "sandbox",
    ):
        assert statuses[name] in ("ok", "warn"), ran.out
    text = run("doctor")
    assert text.code == 0 and "all essential things work" in text.out


def test_without_a_compiler(run: Go, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    for name in ("CXX", "CC"):
        monkeypatch.delenv(name, raising=False)
    ran = run("doctor", "--json")
    assert ran.code == 1
    (line,) = [line for line in ran.json["lines"] if line["name"] == "compiler"]
    assert line["status"] == "fail" and line["remedy"]


def test_with_a_cache_that_cannot_be_written(run: Go, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ran = run("doctor", "--json", "--cache-dir", tmp_path / "file" / "cache")
    assert ran.code == 1 and names(ran)["cache"] == "fail"


def test_a_look_that_fails_is_its_own_answer(run: Go, monkeypatch: pytest.MonkeyPatch) -> None:
    def known() -> Iterator[Line]:
        yield Line("one", "ok", "fine")
        raise ToolchainError("it is broken", hint="mend it")

    def unknown() -> Iterator[Line]:
        raise ZeroDivisionError("oops")
        yield

    monkeypatch.setattr(doctor, "LOOKS", (known, unknown))
    ran = run("doctor")
    assert ran.code == 1
    assert "it is broken" in ran.out and "-> mend it" in ran.out and "ZeroDivisionError: oops" in ran.out
    assert "2 essential things do not work: known, unknown" in ran.out


def test_the_llm_is_not_contacted_and_its_key_not_shown(run: Go, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch_autokernel.core.config import config

    monkeypatch.setattr(doctor, "LOOKS", (doctor.llm,))
    assert "none configured" in run("doctor").out
    with config.patch(llm_model="m", llm_base_url="http://127.0.0.1:1", llm_api_key="secret"):
        ran = run("doctor")
    assert ran.code == 0 and "m at http://127.0.0.1:1, with a key" in ran.out and "secret" not in ran.out
