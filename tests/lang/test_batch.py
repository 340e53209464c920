"""Commands through ninja: each one's own result, whatever the others do."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from torch_autokernel.core import deadline
from torch_autokernel.core.errors import ToolchainError
from torch_autokernel.lang import batch


def job(folder: Path, name: str, script: str) -> batch.Job:
    return batch.Job((sys.executable, "-S", "-c", script), folder / name)


def test_results_are_in_order_and_independent(tmp_path: Path) -> None:
    jobs = [
        job(tmp_path, "a", "print('out'); import sys; print('err', file=sys.stderr)"),
        job(tmp_path, "b", "raise SystemExit(3)"),
        job(tmp_path, "c", "import os; os.kill(os.getpid(), 11)"),
        job(tmp_path, "d", "import time; time.sleep(0.3); print('$HOME \"quoted\" it\\'s')"),
    ]
    a, b, c, d = batch.run(jobs, tmp_path)
    assert (a.code, sorted(a.log.split())) == (0, ["err", "out"]) and b.code == 3 and c.code not in (0, 3)
    assert d.log == '$HOME "quoted" it\'s\n' and d.seconds >= 0.3 > b.seconds


def test_first_jobs_come_first(tmp_path: Path) -> None:
    first = job(tmp_path, "first", "import time; time.sleep(0.2); open('made', 'w').write('x')")
    results = batch.run([job(tmp_path, f"j{i}", "print(open('made').read())") for i in range(3)], tmp_path, [first])
    assert [r.log for r in results] == ["x\n"] * 3


def test_folders_with_odd_names(tmp_path: Path) -> None:
    folder = tmp_path / "a b$c:d'e"
    folder.mkdir()
    (result,) = batch.run([job(folder, "a", "print(1)")], folder)
    assert (result.code, result.log) == (0, "1\n")


def test_time_limit(tmp_path: Path) -> None:
    start = time.perf_counter()
    slow, fast = batch.run([job(tmp_path, "a", "while True: pass"), job(tmp_path, "b", "print(1)")], tmp_path, seconds=1)
    assert slow.code in batch.TIMED_OUT and slow.log.startswith("the compiler was stopped after 1 s") and fast.code == 0
    assert time.perf_counter() - start < 20


def test_what_the_deadline_ends_is_a_result(tmp_path: Path) -> None:
    with deadline.within(0.7):
        done, idle = batch.run([job(tmp_path, "a", "print(1)"), job(tmp_path, "b", "import time; time.sleep(60)")], tmp_path)
    assert (done.code, done.log) == (0, "1\n") and idle.code == -1 and idle.log == deadline.ENDED and deadline.left() is None
    with deadline.within(float("inf")):
        assert deadline.left() is None and batch.run([job(tmp_path, "c", "print(1)")], tmp_path)[0].code == 0


def test_patience_ends_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "PATIENCE", 1)
    (idle,) = batch.run([job(tmp_path, "a", "import time; time.sleep(60)")], tmp_path, seconds=1)
    assert idle.log.startswith("the compiler was stopped after 1 s")


def test_memory_and_output_limits(tmp_path: Path) -> None:
    memory, output, noise = batch.run([
        job(tmp_path, "a", "x = bytearray(8 << 30); print(len(x))"),
        job(tmp_path, "b", "f = open('big', 'wb'); [f.write(bytes(1 << 20)) for _ in range(80)]"),
        job(tmp_path, "c", "print('x' * 100000)"),
    ], tmp_path)  # fmt: skip
    assert memory.code and "MemoryError" in memory.log
    assert output.code and os.path.getsize(tmp_path / "big") <= 64 << 20
    assert noise.code == 0 and len(noise.log) < 30_000


def test_the_environment_is_fixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_KEY", "hunter2")
    monkeypatch.setenv("CPLUS_INCLUDE_PATH", "/etc")
    (result,) = batch.run([job(tmp_path, "a", "import os; print(sorted(os.environ))")], tmp_path)
    assert "SECRET_KEY" not in result.log and "CPLUS_INCLUDE_PATH" not in result.log and "PATH" in result.log


def test_without_ninja(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ninja", None)
    monkeypatch.setenv("PATH", "/nonexistent")
    assert batch.has_ninja() == "ninja is not installed; pip install ninja"
    with pytest.raises(ToolchainError, match="pip install ninja"):
        batch.run([job(tmp_path, "a", "")], tmp_path)


def test_an_interrupt_ends_the_compilers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = f"sleep-{os.getpid()}-{time.time_ns()}"

    def interrupted(self: object, *args: object, **kwargs: object) -> None:
        monkeypatch.undo()
        deadline = time.monotonic() + 10
        while not running(mark) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert running(mark)
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess.Popen, "communicate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        batch.run([job(tmp_path, "a", f"import time; time.sleep(30); '{mark}'")], tmp_path)
    deadline = time.monotonic() + 5
    while running(mark) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not running(mark)


def running(mark: str) -> list[str]:
    """Processes whose command line holds the mark."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                if mark.encode() in (folder / "cmdline").read_bytes():
                    found.append(folder.name)
            except OSError:
                pass
    return found


def test_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "_run", lambda command, env: (1, "echo: I/O error"))
    with pytest.raises(ToolchainError, match="ninja failed: echo"):
        batch.run([job(tmp_path, "a", "")], tmp_path)
    monkeypatch.setattr(batch.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 100})())
    with pytest.raises(ToolchainError, match="is full"):
        batch.run([job(tmp_path, "a", "")], tmp_path)


def test_limits_are_taken(tmp_path: Path) -> None:
    """The shell takes every limit without complaint, the hard one on processor time too."""
    (result,) = batch.run([job(tmp_path, "a", "import resource; print(resource.getrlimit(resource.RLIMIT_CPU))")], tmp_path, seconds=7)
    assert result.log == "(7, 8)\n"
