"""The layout shows the architecture: a module imports only from lower floors, function-level imports included."""

from __future__ import annotations

import ast
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).parent.parent / "torch_autokernel"
FLOORS = {
    "core": 0,
    "machine": 1,
    "store": 1,
    "lang": 2,
    "propose": 3,
    "verify": 3,
    "search": 4,
    "engine": 5,
    "capture": 6,
    "app": 7,
}
REFUSES = {
    "core": {"torch"},
    "machine": {"torch"},
    "store": {"torch", "ctypes"},
    "search": {"torch"},
    "propose": {"subprocess", "ctypes"},
}
MODULES = sorted(PACKAGE.rglob("*.py"))


def room(path: pathlib.Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: pathlib.Path) -> list[tuple[str, int]]:
    """Absolute names of everything imported anywhere in a file."""
    out = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            out += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            out += [(f"{node.module}.{alias.name}", node.lineno) for alias in node.names]
    return out


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down(path: pathlib.Path) -> None:
    here = room(path)
    if here in ("__init__", "__main__"):
        return
    for name, line in imports(path):
        parts = name.split(".")
        if parts[0] in REFUSES.get(here, ()):
            pytest.fail(f"{path}:{line}: {here} refuses {parts[0]}")
        if parts[0] != "torch_autokernel" or len(parts) < 2 or parts[1].startswith("_") or parts[1] == here:
            continue
        assert FLOORS[parts[1]] < FLOORS[here], f"{path}:{line}: {here} (floor {FLOORS[here]}) imports {name}"


def test_every_room_has_a_floor() -> None:
    assert {room(p) for p in MODULES} - {"__init__", "__main__"} <= set(FLOORS)


def test_the_check_can_fail(tmp_path: pathlib.Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text("def f():\n    from torch_autokernel.verify import judge\n")
    assert imports(bad) == [("torch_autokernel.verify.judge", 2)]


def test_only_app_prints() -> None:
    for path in MODULES:
        if room(path) in ("app", "__main__"):
            continue
        calls = [
            n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "print"
        ]
        assert not calls, f"{path}:{calls[0].lineno} prints"


def test_only_config_reads_our_environment() -> None:
    for path in MODULES:
        if path.name != "config.py":
            reads = [line for line in path.read_text().splitlines() if "TORCH_AUTOKERNEL_" in line and "env" in line.lower()]
            assert not reads, f"{path} touches TORCH_AUTOKERNEL_*: {reads[0]}"


def test_the_engine_stays_small() -> None:
    assert len((PACKAGE / "engine.py").read_text().splitlines()) <= 200
