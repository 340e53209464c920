"""Tasks for authors outside, on the null device: written, checked, submitted, and safe against an edited folder."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.app.conftest import SOFTMAX, Run
from tests.integration.child import GenerousClock
from torch_autokernel.core.config import config

Go = Callable[..., Run]
Write = Callable[[str, str], Path]


@pytest.fixture
def null(run: Go, monkeypatch: pytest.MonkeyPatch) -> Iterator[Go]:
    monkeypatch.setattr("torch_autokernel.search.loop.Stopwatch", GenerousClock)
    monkeypatch.setattr("torch_autokernel.search.gates.refusal", lambda region, arch: None)
    with config.patch(arch="null", proposers=("null",), rest="eager"):
        torch._dynamo.reset()
        yield run
        torch._dynamo.reset()


@pytest.fixture
def task(null: Go, write: Write) -> Path:
    ran = null("task", "new", write("soft.py", SOFTMAX), "--out", "t")
    assert ran.code == 0, ran.err
    return Path("t")


def test_a_folder_tells_all_that_an_author_needs(task: Path) -> None:
    assert {p.name for p in task.iterdir()} == {"README.md", "reference.py", "prototype.txt", "task.json"}
    told = json.loads((task / "task.json").read_text())
    assert told["name"] == "soft" and told["region"]["sizes"] and told["arch"]["key"] == "null"
    assert "def reference(" in (task / "reference.py").read_text() and "autokernel task submit t" in (task / "README.md").read_text()


def test_right_and_wrong_kernels(null: Go, task: Path) -> None:
    right = (task / "reference.py").read_text()
    kernel = task / "kernel.txt"
    kernel.write_text(right.replace("return (", "return (0 * "))
    for words in ((), ("--check",)):
        ran = null("task", "submit", task, *words, "--json")
        assert ran.code == 1 and ran.json["accepted"] is False and "numerics" in ran.json["why"]
    kernel.write_text("def reference(:")
    assert null("task", "submit", task).code == 1
    kernel.write_text(right)
    assert null("task", "submit", task, "--check").code == 0
    assert null("cache", "ls", "--json").json["entries"] == []
    ran = null("task", "submit", task, "--json")
    assert ran.code == 0 and ran.json["kept"], ran.err
    (entry,) = null("cache", "ls", "--json").json["entries"]
    assert entry["arch"] == "null"
    explained = null("explain", "soft.py", "--json").json["targets"][0]
    assert [r["outcome"] for r in explained["regions"]] == ["hit"]


def test_an_edited_folder_changes_nothing_but_itself(null: Go, task: Path) -> None:
    (task / "reference.py").write_text("def reference(*a):\n    return (a[0] * 0,)\n")
    told = json.loads((task / "task.json").read_text())
    told["region"]["reference"] = "import os\nos.mkdir('broken_in')\ndef reference(*a):\n    return (a[0] * 0,)\n"
    (task / "task.json").write_text(json.dumps(told))
    (task / "kernel.txt").write_text("def reference(*a):\n    return (a[0] * 0,)\n")
    ran = null("task", "submit", task, "--json")
    assert ran.code == 1 and not ran.json["kept"] and not Path("broken_in").exists()


@pytest.mark.parametrize("ident", ["../../../etc/passwd", "0123456789abcdef", 7, None])
def test_a_task_that_is_not_known(null: Go, task: Path, ident: Any) -> None:
    (task / "task.json").write_text(json.dumps({"task": ident}))
    ran = null("task", "submit", task)
    assert ran.code == 2 and "hint: " in ran.err and "Traceback" not in ran.err


@pytest.mark.parametrize(
    ("words", "told"),
    [(("submit", "nowhere"), "not a task's folder"), (("submit", "t", "--out", "x"), "does not take --out"),
     (("new", "soft.py", "--check"), "does not take --check"), (("new", "soft.py", "--region", "9"), "has no region 9")],
)  # fmt: skip
def test_mistakes_are_told(null: Go, task: Path, words: tuple[str, ...], told: str) -> None:
    ran = null("task", *words)
    assert ran.code == 2 and told in ran.err


def test_without_a_kernel_there_is_nothing_to_judge(null: Go, task: Path) -> None:
    ran = null("task", "submit", task)
    assert ran.code == 2 and "kernel.txt" in ran.err


@pytest.mark.slow
def test_over_mcp_with_its_own_client(tmp_path: Path) -> None:
    from mcp import Client, StdioServerParameters
    from mcp.client.stdio import stdio_client

    problem = tmp_path / "soft.py"
    problem.write_text(SOFTMAX + "\nprint('a user prints')\n")
    env = {"TORCH_AUTOKERNEL_ARCH": "null", "TORCH_AUTOKERNEL_CACHE_DIR": str(tmp_path / "cache")}
    server = StdioServerParameters(command=sys.executable, args=["-m", "torch_autokernel", "serve-mcp"], env=env, cwd=tmp_path)

    async def talk() -> None:
        async with Client(stdio_client(server)) as client:
            tools = {t.name for t in (await client.list_tools()).tools}
            assert tools == {"task_new", "task_check", "task_submit", "kernels"}

            async def call(name: str, **arguments: Any) -> Any:
                result = await client.call_tool(name, arguments)
                assert not result.is_error, result
                return json.loads(result.content[0].text)

            made = await call("task_new", target=str(problem), folder=str(tmp_path / "t"))
            assert made["ok"] and made["prototype"] and (tmp_path / "t" / "reference.py").exists()
            good = await call("task_check", folder=str(tmp_path / "t"), kernel=made["reference"])
            assert good["ok"] and good["accepted"]
            bad = await call("task_check", folder=str(tmp_path / "t"), kernel=made["reference"].replace("return (", "return (0 * "))
            assert not bad["ok"] and "numerics" in bad["why"]
            assert (await call("kernels"))["kernels"] == []
            lost = await call("task_check", folder=str(tmp_path / "elsewhere"))
            assert not lost["ok"] and "not a task's folder" in lost["error"] and lost["hint"]

    asyncio.run(talk())
