from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.app.conftest import SOFTMAX, Run
from torch_autokernel.app import cli
from torch_autokernel.app.report import Report
from torch_autokernel.core import events
from torch_autokernel.core.config import config
from torch_autokernel.core.errors import ToolchainError

Go = Callable[..., Run]
Write = Callable[[str, str], Path]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Any, Any], Report]], None]:
    """Puts a function in the place of a command."""

    def put(function: Callable[[Any, Any], Report]) -> None:
        module = SimpleNamespace(
            EXAMPLE="autokernel warm x.py", run=function, arguments=lambda p: p.add_argument("target", nargs="*")
        )
        monkeypatch.setattr(cli, "_command", lambda name: module)

    return put


# ------------------------------------------------------------------------------------------- help and typos
def test_help_tells_the_commands(run: Go) -> None:
    ran = run("--help")
    assert ran.code == 0
    assert all(name in ran.out for name in cli.COMMANDS)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help_with_an_example_and_the_common_options(run: Go, name: str) -> None:
    ran = run(name, "--help")
    assert ran.code == 0
    assert f"example:\n  autokernel {name}" in ran.out
    assert all(option in ran.out for option in ("--json", "--cache-dir", "--max-seconds", "--verbose"))


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_the_example_of_the_help_can_be_parsed(name: str) -> None:
    example = cli._command(name).EXAMPLE.split()
    assert example[0] == "autokernel"
    assert cli.parse(example[1:]).command == name


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "COMMAND"),
        (("cash",), "did you mean cache?"),
        (("bench", "x.py", "--agianst", "eager"), "did you mean --against?"),
        (("warm", "x.py", "--nonsense"), "known options: "),
        (("cache", "list"), "invalid choice: 'list'"),
        (("cache", "ls", "--repair"), "cache check"),
        (("cache", "gc"), "--max-size"),
        (("cache", "gc", "--max-size", "many"), "500M"),
        (("cache", "rm"), "--all"),
        (("cache", "show", "ab"), "at least 4"),
        (("warm", "nofile.py"), "no file nofile.py"),
        (("explain", "nofile"), "package.module:callable"),
        (("verify", "x.py", "nokernel.cpp"), "no file nokernel.cpp"),
        (("bench", "x.py", "--against", "jax"), "known: eager, inductor"),
        (("bench", "x.py", "--resume"), "--out"),
        (("bench", "x.py", "--json=out.txt"), "does not end in .json"),
        (("warm", "x.py", "--max-seconds", "soon"), "invalid float value"),
    ],
)
def test_typos_end_with_2_and_a_hint(run: Go, words: tuple[str, ...], told: str) -> None:
    ran = run(*words)
    assert ran.code == 2
    assert told in ran.err and "hint: " in ran.err
    assert "Traceback" not in ran.err and ran.out == ""


def test_an_error_is_json_on_stdout_where_json_is_wanted(run: Go) -> None:
    ran = run("explain", "--json", "nofile.py")
    assert ran.code == 2
    assert ran.json["error"]["kind"] == "UsageError"
    assert "nofile.py" in ran.json["error"]["message"] and ran.json["error"]["hint"]


def test_a_bad_environment_is_told(run: Go, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_AUTOKERNEL_MAX_SECONDS", "soon")
    config.reload()
    ran = run("cache", "ls")
    assert ran.code == 2
    assert "TORCH_AUTOKERNEL_max_seconds" in ran.err.replace("MAX_SECONDS", "max_seconds")


# ------------------------------------------------------------------------------------------- exit codes and streams
@pytest.mark.parametrize(("ok", "code"), [(True, 0), (False, 1)])
def test_the_report_decides_the_exit_code(run: Go, command: Any, ok: bool, code: int) -> None:
    command(lambda args, progress: Report(ok, {"a": 1}, "told"))
    ran = run("warm")
    assert (ran.code, ran.out) == (code, "told\n")
    assert run("warm", "--json").json == {"a": 1}


def test_only_json_on_stdout(run: Go, command: Any) -> None:
    def noisy(args: Any, progress: Any) -> Report:
        print("a user's file prints")
        progress.line("progress")
        return Report(True, [1], "text")

    command(noisy)
    ran = run("warm", "-v", "--json")
    assert ran.json == [1]
    assert "a user's file prints" in ran.err and "progress" in ran.err


def test_json_does_not_swallow_the_target_and_writes_a_named_file(run: Go, command: Any, tmp_path: Path) -> None:
    command(lambda args, progress: Report(True, args.target, "text"))
    assert run("warm", "--json", "x.py").json == ["x.py"]
    ran = run("warm", "x.py", "--json", tmp_path / "out.json")
    assert ran.out == "text\n"
    assert json.loads((tmp_path / "out.json").read_text()) == ["x.py"]
    assert run("warm", "--json", tmp_path / "no" / "out.json").code == 2


def test_our_errors_have_no_traceback(run: Go, command: Any) -> None:
    def fails(args: Any, progress: Any) -> Report:
        raise ToolchainError("no compiler", hint="install g++")

    command(fails)
    ran = run("warm")
    assert (ran.code, ran.err) == (2, "error: no compiler\n  hint: install g++\n")


def test_a_fault_of_ours_ends_with_2_and_a_traceback(run: Go, command: Any) -> None:
    command(lambda args, progress: {}["no"])  # type: ignore[index, return-value, arg-type]
    ran = run("warm")
    assert ran.code == 2 and "Traceback" in ran.err


def test_an_interruption_tells_how_to_resume(run: Go, command: Any) -> None:
    def stopped(args: Any, progress: Any) -> Report:
        raise KeyboardInterrupt

    command(stopped)
    ran = run("warm")
    assert ran.code == 130 and "interrupted; " in ran.err and "goes on" in ran.err


def test_options_reach_the_configuration_and_do_not_stay(run: Go, command: Any, tmp_path: Path) -> None:
    command(lambda args, progress: Report(True, [config.cache_dir, config.max_seconds], ""))
    before = config.resolve()
    assert run("warm", "--json", "--cache-dir", tmp_path, "--max-seconds", "7").json == [str(tmp_path), 7.0]
    assert config.resolve() == before


def test_events_are_told_on_stderr(run: Go, command: Any) -> None:
    def emits(args: Any, progress: Any) -> Report:
        for _ in range(2):
            events.emit("region.generated", signature="abc", reason="1.5x of eager")
        events.emit("region.hit", signature="abc", reason="quiet")
        events.emit("search.timed", signature="abc", candidate="0123456789", speedup=1.5, baseline="eager", low=1.4, high=1.6)
        return Report(True, None, "")

    command(emits)
    quiet, loud = run("warm"), run("warm", "-v")
    assert quiet.err == "region abc generated: 1.5x of eager\n"
    assert "candidate 01234567 timed: 1.50x of eager (1.40 to 1.60)" in loud.err


# ------------------------------------------------------------------------------------------- as a process
def started(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, **environment}
    return subprocess.run(
        [sys.executable, "-m", "torch_autokernel", *words], capture_output=True, text=True, env=environ, timeout=120
    )


def test_as_a_module_and_light(tmp_path: Path) -> None:
    """`cache` and `--help` must not wait for torch."""
    code = "import sys; from torch_autokernel.app.cli import main; c = main(['cache', 'ls']); print('torch' in sys.modules, c)"
    environ = {**os.environ, "TORCH_AUTOKERNEL_CACHE_DIR": str(tmp_path / "c")}
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environ, timeout=60)
    assert ran.stdout.splitlines()[-1] == "False 0", ran.stderr
    assert "torch-autokernel" in started("--version").stdout


def test_a_closed_pipe_is_no_fault(tmp_path: Path) -> None:
    line = f"{sys.executable} -m torch_autokernel cache ls | true"
    ran = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60,
                         env={**os.environ, "TORCH_AUTOKERNEL_CACHE_DIR": str(tmp_path / "c")})  # fmt: skip
    assert "Traceback" not in ran.stderr and "Exception" not in ran.stderr


def test_control_c(tmp_path: Path) -> None:
    target = tmp_path / "slow.py"
    target.write_text("import sys, time\nsys.stderr.write('started\\n'); sys.stderr.flush()\ntime.sleep(60)\n" + SOFTMAX)
    listens = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # tests that a shell put into the background ignore it
    process = subprocess.Popen(
        [sys.executable, "-m", "torch_autokernel", "explain", str(target)], stderr=subprocess.PIPE, text=True, preexec_fn=listens
    )
    assert process.stderr is not None
    assert process.stderr.readline() == "started\n"
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    assert "interrupted" in process.stderr.read()
