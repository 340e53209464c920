"""The cache over several processes, with a real search: what is found is found again without searching, and damage is a miss."""

from __future__ import annotations

import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
from typing import Any

import pytest

from torch_autokernel.core import points

pytestmark = pytest.mark.slow
ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def _compiler() -> None:
    arch = points.archs.get("cpu")().probe()
    if reason := points.languages.get("cpp")().missing(arch):
        pytest.skip(reason)


def run(
    folder: pathlib.Path,
    kind: str = "inference",
    *,
    inductor: str = "inductor",
    env: dict[str, str] | None = None,
    **options: Any,
) -> dict[str, Any]:
    environment = {
        **os.environ, "TORCH_AUTOKERNEL_CACHE_DIR": str(folder / "cache"), "TORCHINDUCTOR_CACHE_DIR": str(folder / inductor), **(env or {}),
    }  # fmt: skip
    done = subprocess.run([sys.executable, "-m", "tests.integration.child", json.dumps(options), kind], cwd=ROOT, env=environment,
                          capture_output=True, text=True, timeout=580)  # fmt: skip
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    assert done.returncode == 0 and lines, done.stdout + done.stderr
    out: dict[str, Any] = json.loads(lines[0].removeprefix("RESULT "))
    assert out["error"] < 1e-4, out
    out["stderr"] = done.stderr
    return out


@pytest.fixture(scope="module")
def warmed(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A cache filled by a first process (which must have generated a kernel)."""
    folder = tmp_path_factory.mktemp("warmed")
    first = run(folder, "training", generous=True)
    assert first["counters"].get("generated", 0) >= 1, first
    assert any(m.startswith("torch_autokernel.search") for m in first["loaded"])
    return folder


def copy_of(folder: pathlib.Path, to: pathlib.Path) -> pathlib.Path:
    shutil.copytree(folder, to, dirs_exist_ok=True, symlinks=True)
    return to


def test_second_process_only_looks_up(warmed: pathlib.Path, tmp_path: pathlib.Path) -> None:
    folder = copy_of(warmed, tmp_path)
    second = run(folder, "training")
    assert second["counters"]["hit"] >= 1 and "generated" not in second["counters"] and "miss" not in second["counters"]
    assert second["counters"]["swapped"] >= 1
    assert second["loaded"] == [], "a warm cache loaded the search"
    third = run(folder, "training")
    assert third["inductor"].get("fxgraph_cache_hit", 0) + third["aot"].get("autograd_cache_hit", 0) >= 1
    assert third["loaded"] == []


def test_a_warm_inductor_cache_runs_the_kernels_without_the_pass(warmed: pathlib.Path, tmp_path: pathlib.Path) -> None:
    folder = copy_of(warmed, tmp_path)
    run(folder, "training"), run(folder, "training")
    third = run(folder, "training")
    assert third["aot"].get("autograd_cache_hit", 0) == 1, third["aot"]
    assert "swapped" not in third["counters"], "the pass ran"


def test_no_kernels_no_stale_graph(warmed: pathlib.Path, tmp_path: pathlib.Path) -> None:
    folder = copy_of(warmed, tmp_path)
    run(folder, "training"), run(folder, "training")
    shutil.rmtree(folder / "cache")
    again = run(folder, "training", on_miss="fallback")
    assert "hit" not in again["counters"] and again["counters"]["miss"] >= 1


@pytest.mark.parametrize("seed", range(3))
def test_damage_is_a_miss_with_a_reason(warmed: pathlib.Path, tmp_path: pathlib.Path, seed: int) -> None:
    folder = copy_of(warmed, tmp_path)
    rng = random.Random(seed)
    files = sorted(p for p in (folder / "cache" / "v1").rglob("*") if p.is_file() and p.parent.joinpath("entry.json").exists())
    assert files
    for entry in {p.parent for p in files}:
        victim = rng.choice([p for p in files if p.parent == entry])
        data = bytearray(victim.read_bytes())
        how = rng.choice(["delete", "truncate", "flip"])
        if how == "delete":
            victim.unlink()
        elif how == "truncate":
            victim.write_bytes(data[: rng.randrange(len(data))])
        else:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            victim.write_bytes(data)
    out = run(folder, "training", on_miss="fallback")
    assert "hit" not in out["counters"] and "swapped" not in {k for k, v in out["counters"].items() if v}, out
    assert any("miss" in line for line in out["log"])


@pytest.mark.parametrize("rest", ["inductor", "eager"])
@pytest.mark.parametrize("kind", ["training", "decorated"])
def test_no_compiler_falls_back(tmp_path: pathlib.Path, rest: str, kind: str) -> None:
    """Where Inductor, which needs one too, would raise, the graph runs as plain ATen."""
    out = run(tmp_path, kind, env={"CXX": "/nonexistent", "PATH": os.path.dirname(sys.executable)}, rest=rest)
    assert "generated" not in out["counters"] and "hit" not in out["counters"]
    assert "CXX='/nonexistent' is not a program" in out["stderr"] + " ".join(out["log"])


def test_read_only_cache_falls_back(tmp_path: pathlib.Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    out = run(tmp_path, rest="eager")
    assert "generated" not in out["counters"]
    assert "RuntimeWarning" in out["stderr"] and "the cache cannot be written" in out["stderr"]


def test_decorated_function_starts_from_the_cache(tmp_path: pathlib.Path) -> None:
    first = run(tmp_path, "decorated", generous=True)
    assert first["counters"].get("generated") == 1, first
    second = run(tmp_path, "decorated", on_miss="fallback")
    assert second["counters"].get("hit") == 1 and second["loaded"] == []
    assert not second["inductor"], "Inductor was used although everything was replaced"
