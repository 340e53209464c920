"""Workers: what comes back, what becomes of hostile code, and that nothing of it stays."""

from __future__ import annotations

import errno
import mmap
import os
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from torch_autokernel.core.errors import WorkerError
from torch_autokernel.machine import sandbox
from torch_autokernel.machine.worker import Limits, Outcome, Pool
from torch_autokernel.machine.worker_memory import Buffer, Job, Stray, fill, lay_out, strays

CALLS = {
    "plain": 0, "write_beside": 1, "read_beside": 2, "endless": 3, "null": 4, "abort": 5, "exit0": 6, "exit3": 7, "recursion": 8,
    "fork": 9, "exec": 10, "socket": 11, "kill_parent": 12, "ptrace": 13, "write_file": 14, "read_file": 15, "read_proc": 16,
    "memory": 17, "threads": 18, "flood": 19, "omp_max": 20, "omp_count": 21, "count": 22, "address": 23, "workspace": 24,
    "forge": 25, "garble": 26, "hang_up": 27, "shrink": 28, "raise_limit": 29, "read_parent": 30, "mkdir": 31, "environment": 32,
    "outlive": 33, "fork_storm": 34, "touch_memory": 35, "kill_all": 36,
}  # fmt: skip


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("g++") is None:
        pytest.skip("no g++")
    path = tmp_path_factory.mktemp("hostile") / "hostile.so"
    source = Path(__file__).with_name("hostile.cpp")
    subprocess.run(["g++", "-O1", "-w", "-fopenmp", "-shared", "-fPIC", str(source), "-o", str(path)], check=True)
    return path


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with Pool(Limits(seconds=1.0, memory_bytes=1 << 30)) as pool:
        yield pool


def job(name: str, extra: int = 0, edge: str = "end", threads: int = 0, value: int = 41) -> Job:
    buffers = (Buffer(struct.pack("q", value), 8), Buffer(b"\xff" * 8, 8))
    return Job(buffers, (CALLS[name], extra), None, edge, threads)


def call(pool: Pool, path: Path, name: str, extra: int = 0, edge: str = "end") -> Outcome:
    with pool.open(path, "ak_entry") as session:
        return session.run(job(name, extra, edge))


def result(outcome: Outcome) -> int:
    assert outcome.ok, outcome
    return int(struct.unpack("q", outcome.contents[1])[0])


def test_plain_call(pool: Pool, hostile: Path) -> None:
    outcome = call(pool, hostile, "plain")
    assert result(outcome) == 42
    assert bytes(outcome.contents[0]) == struct.pack("q", 41)
    assert 0 < outcome.inside_ns[0] <= outcome.outside_ns and not outcome.strays and not outcome.log


def test_state_lives_as_long_as_a_session(pool: Pool, hostile: Path) -> None:
    with pool.open(hostile, "ak_entry") as session:
        assert [result(session.run(job("count"))) for _ in range(3)] == [1, 2, 3]
        assert result(session.bench([job("count")], calls=5, samples=2, warmup=1)) == 14
    assert result(call(pool, hostile, "count")) == 1


def test_bench_goes_round_the_jobs(pool: Pool, hostile: Path) -> None:
    with pool.open(hostile, "ak_entry") as session:
        outcome = session.bench([job("plain", value=1), job("count")], calls=4, samples=3)
        assert len(outcome.inside_ns) == 3 and sum(outcome.inside_ns) <= outcome.outside_ns
        assert result(outcome) == 2
        assert result(session.run(job("count"))) == 7


def test_equal_layouts_have_equal_addresses(pool: Pool, hostile: Path) -> None:
    with pool.open(hostile, "ak_entry") as session:
        seen = {edge: {result(session.run(job("address", edge=edge))) for _ in range(4)} for edge in ("end", "start")}
    assert len(seen["end"]) == len(seen["start"]) == 1
    assert seen["start"].pop() % 4096 == 0 and seen["end"].pop() % 4096 == 4096 - 8


@pytest.mark.parametrize(("edge", "extra", "buffer", "offset", "access"), [
    ("end", 1, 1, 8, "write"), ("start", -1, 1, -8, "write"), ("end", 600, 1, 4800, "write"),
])  # fmt: skip
def test_guard_names_the_buffer(
    pool: Pool, hostile: Path, edge: str, extra: int, buffer: int, offset: int, access: str
) -> None:
    outcome = call(pool, hostile, "write_beside", extra, edge)
    assert outcome.kind == "signal" and "SIGSEGV" in outcome.reason
    if os.uname().machine == "x86_64":
        fault = outcome.fault
        assert fault is not None and (fault.buffer, fault.offset, fault.access) == (buffer, offset, access)


def test_guard_sees_reads(pool: Pool, hostile: Path) -> None:
    for edge, extra in (("end", 1), ("start", -1)):
        outcome = call(pool, hostile, "read_beside", extra, edge)
        assert outcome.kind == "signal" and "SIGSEGV" in outcome.reason


@pytest.mark.parametrize(("edge", "extra", "offset"), [("start", 1, 8), ("end", -1, -1)])
def test_canary_sees_writes_between_buffer_and_guard(pool: Pool, hostile: Path, edge: str, extra: int, offset: int) -> None:
    outcome = call(pool, hostile, "write_beside", extra, edge)
    assert outcome.ok and [(s.buffer, s.offset) for s in outcome.strays] == [(1, offset)]


def test_what_lies_beside_one_buffer_does_not_lie_beside_another() -> None:
    """A kernel that runs on past the end of both copies it from the input to the output."""
    work = Job((Buffer(b"\1" * 40, 4), Buffer(b"\2" * 40, 4)), edge="start", canary=bytes((0xF1, 0x7F)) + bytes(range(1, 199)))
    ((one, other),) = places = lay_out([work])
    memory = mmap.mmap(-1, other.start + other.length)
    fill(memory, work, places[0])
    assert strays(memory, places[0], work.canary) == ()
    memory[other.start + 40 : other.start + 44] = memory[one.start + 40 : one.start + 44]
    assert strays(memory, places[0], work.canary) == (Stray(1, 40),)


def test_alignment_is_kept_and_the_gap_watched(pool: Pool, hostile: Path) -> None:
    aligned = Job((Buffer(struct.pack("q", 1), 8), Buffer(b"\xff" * 8, 64)), (CALLS["write_beside"], 1))
    with pool.open(hostile, "ak_entry") as session:
        assert [(s.buffer, s.offset) for s in session.run(aligned).strays] == [(1, 8)]


def test_workspace_is_passed_and_returned(pool: Pool, hostile: Path) -> None:
    with_space = Job(job("workspace").buffers, (CALLS["workspace"], 0), Buffer(struct.pack("q", 77), 64))
    with pool.open(hostile, "ak_entry") as session:
        outcome = session.run(with_space)
        assert result(outcome) == 77 and len(outcome.contents) == 3
        assert result(session.run(job("workspace"))) == -1


def test_threads_are_set_per_call(pool: Pool, hostile: Path) -> None:
    with pool.open(hostile, "ak_entry") as session:
        for threads in (1, 3, 2):
            assert result(session.run(job("omp_max", threads=threads))) == threads
            assert result(session.run(job("omp_count", threads=threads))) == threads


KINDS = [
    ("endless", "timeout", "1 s"), ("null", "signal", "SIGSEGV"), ("abort", "signal", "SIGABRT"), ("exit0", "exit", "code 0"),
    ("exit3", "exit", "code 3"), ("recursion", "signal", "SIGSEGV"), ("garble", "garbled", "JSON"),
    ("forge", "garbled", "not asked"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "kind", "reason"), KINDS)
def test_end_is_told_by_kind(pool: Pool, hostile: Path, name: str, kind: str, reason: str) -> None:
    outcome = call(pool, hostile, name)
    assert outcome.kind == kind and reason in outcome.reason and not outcome.contents


FORBIDDEN = ["fork", "exec", "socket", "kill_parent", "ptrace", "read_parent"]


@pytest.mark.parametrize("name", FORBIDDEN)
def test_hostile_system_call_ends_the_worker(pool: Pool, hostile: Path, name: str) -> None:
    if pool.layers()["seccomp"] != "on":
        pytest.skip("no seccomp here")
    assert call(pool, hostile, name).kind == "forbidden"
    assert result(call(pool, hostile, "plain")) == 42


@pytest.mark.parametrize("name", ["write_file", "read_file", "read_proc", "mkdir", "raise_limit", "outlive"])
def test_files_and_limits_are_out_of_reach(pool: Pool, hostile: Path, name: str) -> None:
    assert result(call(pool, hostile, name)) in (-errno.EACCES, -errno.EPERM)


def test_memory_is_limited(pool: Pool, hostile: Path) -> None:
    assert result(call(pool, hostile, "memory")) == -errno.ENOMEM


def test_buffers_beyond_the_limit_are_told_as_memory(hostile: Path) -> None:
    with Pool(Limits(memory_bytes=64 << 20)) as small, small.open(hostile, "ak_entry") as session:
        assert session.run(Job((Buffer(bytes(128 << 20)), Buffer(bytes(8))), (0, 0))).kind == "memory"


def test_threads_are_limited(hostile: Path) -> None:
    with Pool(Limits(seconds=30.0)) as pool:  # they all want the processor, so this takes as long as the machine is busy
        assert result(call(pool, hostile, "threads")) < 2000


def test_output_is_limited_and_kept_apart(pool: Pool, hostile: Path) -> None:
    outcome = call(pool, hostile, "flood")
    assert result(outcome) == 1 and 0 < len(outcome.log) <= 1 << 16 and set(outcome.log) == {ord("x")}


def test_shared_memory_cannot_be_taken_away(pool: Pool, hostile: Path) -> None:
    assert result(call(pool, hostile, "shrink")) == -errno.EPERM


def test_environment_is_not_handed_on(hostile: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOKERNEL_TEST_SECRET", "1")
    with Pool() as pool:
        assert result(call(pool, hostile, "environment")) == 0


def test_closed_channel_ends_the_worker(hostile: Path) -> None:
    with Pool(Limits(seconds=1.0)) as pool:
        outcome = call(pool, hostile, "hang_up")
        assert outcome.kind == "garbled"
        assert not workers_of(pool)


def test_unloadable_object(pool: Pool, hostile: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.so"
    broken.write_bytes(b"\x7fELF")
    for path, entry in ((broken, "ak_entry"), (tmp_path / "none.so", "ak_entry"), (hostile, "no_such_entry")):
        with pool.open(path, entry) as session:
            assert session.loaded is not None and session.loaded.kind == "load"
            with pytest.raises(WorkerError):
                session.run(job("plain"))


def test_other_objects_in_the_folder_are_not_seen(pool: Pool, hostile: Path) -> None:
    if not pool.layers()["landlock"].startswith("on"):
        pytest.skip("no Landlock here")
    session = pool._session(hostile)  # noqa: SLF001
    with session:
        other = hostile.with_name("other.so")
        shutil.copy(hostile, other)
        assert session.load(other, "ak_entry").kind == "load"


def test_sessions_from_several_threads(pool: Pool, hostile: Path) -> None:
    wrong: list[object] = []

    def work(number: int) -> None:
        for i in range(6):
            with pool.open(hostile, "ak_entry") as session:
                value = result(session.run(job("plain", value=100 * number + i)))
                if value != 100 * number + i + 1 or call(pool, hostile, "null").kind != "signal":
                    wrong.append((number, i, value))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# --------------------------------------------------------------------------------------------- life and death
def workers_of(pool: Pool) -> list[int]:
    assert pool._zygote is not None  # noqa: SLF001
    pid = pool._zygote.pid  # noqa: SLF001
    for _ in range(50):
        children = [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        if not children:
            return []
        time.sleep(0.02)
    return children


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_no_worker_stays(hostile: Path) -> None:
    with Pool(Limits(seconds=0.3)) as pool:
        for name in ("plain", "endless", "null", "fork", "threads"):
            call(pool, hostile, name)
        assert not workers_of(pool)


@pytest.mark.parametrize("names", [("namespaces",), ("seccomp",), ("landlock", "namespaces"), sandbox.LAYERS])
def test_fewer_layers_still_work(hostile: Path, names: tuple[str, ...]) -> None:
    with Pool(Limits(seconds=0.5), leave_out=names) as pool:
        assert {n for n, held in pool.layers().items() if not held.startswith("on")} >= set(names)
        assert result(call(pool, hostile, "plain")) == 42
        assert call(pool, hostile, "endless").kind == "timeout"
        assert not workers_of(pool)


def test_orphans_end_without_seccomp(hostile: Path) -> None:
    """The fork bomb's child is endless; killing the worker must end it too."""
    with Pool(Limits(seconds=0.5), leave_out=("seccomp",)) as pool:
        with pool.open(hostile, "ak_entry") as session:
            session.run(job("fork"))
        assert not workers_of(pool)


def test_dead_zygote_is_replaced(hostile: Path) -> None:
    with Pool(Limits(seconds=1.0)) as pool:
        with pool.open(hostile, "ak_entry") as session:
            assert pool._zygote is not None  # noqa: SLF001
            pool._zygote.kill()  # noqa: SLF001
            pool._zygote.wait()  # noqa: SLF001
            with pytest.raises(WorkerError):
                for _ in range(3):
                    session.run(job("endless"))
        assert result(call(pool, hostile, "plain")) == 42


def test_workers_die_with_the_parent(hostile: Path) -> None:
    script = (
        "import sys, time, threading\n"
        "from tests.machine.test_worker import *\n"
        "pool = Pool(Limits(seconds=60))\n"
        f"session = pool.open({str(hostile)!r}, 'ak_entry')\n"
        "threading.Thread(target=session.run, args=(job('endless'),), daemon=True).start()\n"
        "time.sleep(0.3)\n"
        "zygote = pool._zygote.pid\n"
        "print(zygote, Path(f'/proc/{zygote}/task/{zygote}/children').read_text(), flush=True)\n"
        "time.sleep(60)\n"
    )
    root = Path(__file__).parents[2]
    child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=root)
    assert child.stdout is not None
    pids = [int(p) for p in child.stdout.readline().split()]
    assert len(pids) == 2 and all(alive(p) for p in pids)
    child.send_signal(signal.SIGKILL)
    child.wait()
    end = time.monotonic() + 5
    while time.monotonic() < end and any(alive(p) for p in pids):
        time.sleep(0.02)
    assert not any(alive(p) for p in pids)


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that every user may read, all the way down."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


def test_works_for_an_unprivileged_user(hostile: Path, public: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("runs as an unprivileged user anyway")
    package = Path(__file__).parents[2] / "torch_autokernel"
    for room in ("core", "machine"):
        shutil.copytree(package / room, public / room, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(hostile, public / "hostile.so")
    for path in public.rglob("*"):
        os.chmod(path, 0o755)
    script = (
        "import sys, types\n"
        "for name in ('torch_autokernel', 'torch_autokernel.core'):\n"  # this interpreter may lack what the package needs
        "    sys.modules[name] = types.ModuleType(name)\n"
        f"    sys.modules[name].__path__ = [{str(public)!r} + name.removeprefix('torch_autokernel').replace('.', '/')]\n"
        "from torch_autokernel.machine.worker import Limits, Pool\n"
        "from torch_autokernel.machine.worker_memory import Buffer, Job\n"
        "with Pool(Limits(seconds=10.0)) as pool:\n"
        f"    with pool.open('{public}/hostile.so', 'ak_entry') as session:\n"
        "        assert session.loaded.ok, session.loaded\n"
        "        job = lambda n: Job((Buffer(bytes(8)), Buffer(bytes(8))), (n, 0))\n"
        "        assert session.run(job(0)).contents[1][0] == 1\n"
        "        assert session.run(job(4)).kind == 'signal'\n"
        "    print(pool.layers())\n"
    )
    for python in (sys.executable, "/usr/bin/python3"):
        try:
            done = subprocess.run([python, "-B", "-c", script], cwd="/", user=65534, group=65534, capture_output=True, text=True)
        except OSError:
            continue  # not for that user
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("'on") >= 5, done.stdout
        return
    pytest.skip("no interpreter that another user may run")
