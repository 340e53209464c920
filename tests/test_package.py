"""The distribution: what it installs, what it needs, and that importing it is cheap."""

from __future__ import annotations

import pathlib
import subprocess
import sys
from importlib import metadata
from typing import Any

import pytest
import tomllib

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        return tomllib.load(file)


def fresh(script: str) -> str:
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def test_import_is_light() -> None:
    """No torch, no compiler, no network, no search: a log setting of torch's imports the package too."""
    loaded = fresh("import sys, torch_autokernel; print(*sys.modules)").split()
    for heavy in ("torch", "numpy", "subprocess", "ctypes", "socket", "ninja", "safetensors", "torch_autokernel._launcher"):
        assert heavy not in loaded, heavy
    ours = {m for m in loaded if m.startswith("torch_autokernel")}
    assert ours <= {
        "torch_autokernel",
        "torch_autokernel.core",
        "torch_autokernel.core.config",
        "torch_autokernel.core.errors",
    }, ours


def test_torch_finds_the_backend_without_an_import_of_ours() -> None:
    found = fresh("import torch; print(*torch._dynamo.list_backends()); import sys; print('torch_autokernel' in sys.modules)")
    backends, imported = found.splitlines()
    assert "autokernel" in backends.split() and imported == "False"


def test_entry_points_resolve() -> None:
    installed = metadata.distribution("torch-autokernel").entry_points
    names = {(e.group, e.name): e.value for e in installed}
    assert names["console_scripts", "autokernel"] == "torch_autokernel.app.cli:main"
    assert names["torch_dynamo_backends", "autokernel"] == "torch_autokernel.capture.backend:autokernel"
    for entry in installed:
        assert callable(entry.load())


def test_version_is_one() -> None:
    import torch_autokernel

    assert metadata.version("torch-autokernel") == torch_autokernel.__version__


def test_torch_is_no_build_requirement(project: dict[str, Any]) -> None:
    assert [r.partition(">")[0] for r in project["build-system"]["requires"]] == ["setuptools"]
    assert any(d.startswith("torch>=") for d in project["project"]["dependencies"])


def test_everything_imported_is_declared(project: dict[str, Any]) -> None:
    """What the package imports at all stands in its dependencies or extras."""
    import ast

    declared = project["project"]["dependencies"] + [d for e in project["project"]["optional-dependencies"].values() for d in e]
    known = {d.split(">")[0].split("=")[0].replace("-", "_") for d in declared} | {
        "torch_autokernel",
        "functorch",
        "sympy",
        "typing_extensions",
    }  # the last three come with torch
    for path in (ROOT / "torch_autokernel").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = (
                [a.name for a in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
            for name in (n.partition(".")[0] for n in names):
                assert name in known or name in sys.stdlib_module_names, f"{path}: {name}"


def test_the_pins_allow_what_is_required(project: dict[str, Any]) -> None:
    pins = {line.split("==")[0] for line in (ROOT / ".ci/constraints.txt").read_text().splitlines() if "==" in line}
    needed = project["project"]["dependencies"] + project["project"]["optional-dependencies"]["test"]
    assert {d.split(">")[0] for d in needed} - {"setuptools"} <= pins


def test_typed_and_shipped_files() -> None:
    import torch_autokernel

    package = pathlib.Path(torch_autokernel.__file__).parent
    assert (package / "py.typed").exists() and list((package / "lang/include/autokernel").glob("*.h"))


def test_the_extension_keeps_to_the_limited_api() -> None:
    import torch_autokernel._launcher as launcher
    from torch_autokernel.lang.elf import read_elf

    path = pathlib.Path(launcher.__file__ or "")
    assert path.name.endswith(".abi3.so")
    elf = read_elf(path.read_bytes())
    assert elf.exports == ("PyInit__launcher",)
    assert not [n for n in elf.needed if "torch" in n or "c10" in n or "python" in n], elf.needed
    stable = {
        "_Py_Dealloc",
        "_Py_NoneStruct",
        "_Py_FalseStruct",
        "_Py_TrueStruct",
        "_PyArg_ParseTuple_SizeT",
        "_PyArg_ParseTupleAndKeywords_SizeT",
    }
    assert {s for s in elf.imports if s.startswith("_Py")} <= stable


@pytest.mark.slow
def test_a_wheel_builds_and_holds_everything(tmp_path: pathlib.Path) -> None:
    import zipfile

    copy = tmp_path / "copy"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(copy)], check=True)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(copy)]
    subprocess.run(command, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert "-cp310-abi3-" in wheel.name
    names = set(zipfile.ZipFile(wheel).namelist())
    tracked = subprocess.run(
        ["git", "ls-files", "torch_autokernel"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    wanted = {n for n in tracked if n.endswith((".py", ".h", ".md", "py.typed", ".pyi", ".txt"))}
    assert wanted <= names, wanted - names
    assert not [n for n in names if n.startswith("tests")]
