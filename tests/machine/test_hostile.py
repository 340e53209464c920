"""Two hundred hostile jobs at once with honest ones: each gets its class, and nothing else on the machine notices."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.machine.test_worker import alive, job, result, workers_of
from torch_autokernel.machine.worker import Limits, Outcome, Pool

JOBS = 200
# what the job does -> what must become of it: the outcome's kind, or "ok" where the deed fails and the call returns
DEEDS = {
    "fork_storm": "forbidden", "endless": "timeout", "memory": "ok", "touch_memory": "ok", "flood": "ok", "write_file": "ok",
    "socket": "forbidden", "kill_parent": "forbidden", "kill_all": "forbidden", "read_parent": "forbidden", "read_proc": "ok",
    "null": "signal", "exit0": "exit", "abort": "signal", "recursion": "signal", "garble": "garbled", "threads": "ok or timeout",
    "mkdir": "ok", "ptrace": "forbidden", "plain": "ok",
}  # fmt: skip


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("g++") is None:
        pytest.skip("no g++")
    path = tmp_path_factory.mktemp("hostile") / "hostile.so"
    source = Path(__file__).with_name("hostile.cpp")
    subprocess.run(["g++", "-O1", "-w", "-fopenmp", "-shared", "-fPIC", str(source), "-o", str(path)], check=True)
    return path


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """A process of the same user that has nothing to do with the pool."""
    process = subprocess.Popen(["sleep", "600"])
    yield process
    process.kill()
    process.wait()


def test_two_hundred_hostile_jobs(hostile: Path, bystander: subprocess.Popen[bytes], tmp_path: Path) -> None:
    treasure = tmp_path / "treasure"
    treasure.write_text("untouched")
    before, names = set(os.listdir("/tmp")), [list(DEEDS)[i % len(DEEDS)] for i in range(JOBS)]
    ended: list[int] = []
    previous = signal.signal(signal.SIGTERM, lambda number, _: ended.append(number))
    try:
        with Pool(Limits(seconds=1.0, memory_bytes=1 << 28)) as pool:
            if pool.layers()["seccomp"] != "on" or not pool.layers()["landlock"].startswith("on"):
                pytest.skip("the classes are those of a machine with seccomp and Landlock")
            start = time.monotonic()
            with ThreadPoolExecutor(4) as threads:
                outcomes = list(threads.map(lambda name: _run(pool, hostile, name), names))
            spent = time.monotonic() - start
            assert not workers_of(pool)
            with pool.open(hostile, "ak_entry") as session:
                assert result(session.run(job("plain"))) == 42
            zygote = pool._zygote.pid if pool._zygote else 0  # noqa: SLF001
    finally:
        signal.signal(signal.SIGTERM, previous)
    wrong = [(n, o.kind, o.reason) for n, o in zip(names, outcomes, strict=True) if o.kind not in DEEDS[n].split(" or ")]
    assert not wrong
    for name, outcome in zip(names, outcomes, strict=True):
        if name == "plain":
            assert result(outcome) == 42
        assert len(outcome.log) <= 1 << 16
    assert bystander.poll() is None and not ended and treasure.read_text() == "untouched"
    assert not alive(zygote)
    assert {n for n in set(os.listdir("/tmp")) - before if n.startswith("autokernel-hostile")} == set()
    print(f"{JOBS} jobs in {spent:.1f} s")


def _run(pool: Pool, path: Path, name: str) -> Outcome:
    with pool.open(path, "ak_entry") as session:
        return session.run(job(name))
