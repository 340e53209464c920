"""The command `autokernel`: arguments in, a report out, exit code 0 (done), 1 (not so), 2 (could not run) or 130."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import importlib
import json
import logging
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, TextIO

from torch_autokernel import __version__
from torch_autokernel.app.progress import Progress
from torch_autokernel.app.report import COULD_NOT_RUN, DONE, INTERRUPTED, NOT_SO, Report
from torch_autokernel.core import events
from torch_autokernel.core.config import config
from torch_autokernel.core.errors import AutoKernelError, UsageError

COMMANDS = {
    "doctor": "say what works on this machine, and what to do about the rest",
    "warm": "fill the cache for a model: search now for every region that is not in it",
    "bench": "time models against eager and Inductor, interleaved, with their outputs checked",
    "verify": "judge a kernel that somebody wrote for a problem",
    "explain": "say for every region of a model why it is or is not replaced",
    "task": "a region as a folder for an author outside (new), and his kernel judged and kept (submit)",
    "serve-mcp": "offer the tasks as MCP tools over stdin and stdout",
    "cache": "look at the cache and keep it in order: ls, show, rm, gc, check",
}
STDOUT = "-"


class Parser(argparse.ArgumentParser):
    """argparse whose errors are ours, with a hint."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{self.prog}: {message}", hint=self._hint(message))

    def _hint(self, message: str) -> str:
        near = difflib.get_close_matches(_quoted(message), COMMANDS, 1) if "invalid choice" in message else []
        return f"did you mean {near[0]}?" if near else f"`{self.prog} --help` tells the arguments and gives an example"

    def unknown(self, extra: Sequence[str]) -> NoReturn:
        known = [o for a in self._actions for o in a.option_strings]
        near = difflib.get_close_matches(extra[0].partition("=")[0], known, 1)
        hint = f"did you mean {near[0]}?" if near else f"known options: {', '.join(o for o in known if o.startswith('--'))}"
        what = "option" if extra[0].startswith("-") else "argument"
        raise UsageError(f"{self.prog}: unknown {what} {extra[0]!r}", hint=hint)


def _quoted(message: str) -> str:
    return message.split("'")[1] if message.count("'") > 1 else ""


def _parser(chosen: str) -> tuple[Parser, dict[str, Parser]]:
    """The parser; only the chosen command's module is imported, so that `cache` and `--help` start without torch."""
    top = Parser("autokernel", description="Fused kernels for PyTorch models: found, verified, timed, cached and swapped in.",
                 epilog="exit codes: 0 done, 1 the thing checked is not so, 2 could not run", allow_abbrev=False)  # fmt: skip
    top.add_argument("--version", action="version", version=f"torch-autokernel {__version__}")
    rows = top.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    parsers = {}
    for name, line in COMMANDS.items():
        module = _command(name) if name == chosen else None
        epilog = f"example:\n  {module.EXAMPLE}" if module else None
        parsers[name] = rows.add_parser(name, help=line, description=_sentence(line), epilog=epilog, allow_abbrev=False,
                                        formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
        if module:
            module.arguments(parsers[name])
            _common(parsers[name])
    return top, parsers


def _command(name: str) -> Any:
    return importlib.import_module(f"torch_autokernel.app.commands.{name.replace('-', '_')}")


def _sentence(line: str) -> str:
    return line[0].upper() + line[1:] + "."


def _common(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("common options")
    group.add_argument(
        "--json", nargs="?", const=STDOUT, metavar="FILE.json", help="the result as JSON, on stdout or in a file"
    )
    group.add_argument("--cache-dir", metavar="FOLDER", help="the cache folder to use")
    group.add_argument("--max-seconds", type=float, metavar="S", help="limit for the search of one graph")
    group.add_argument("-v", "--verbose", action="count", default=0, help="log what happens on stderr; twice for details")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The arguments; raises UsageError, or SystemExit after `--help`."""
    argv = [*argv]
    chosen = argv[0] if argv and argv[0] in COMMANDS else ""
    for i, word in enumerate(argv):
        file_follows = i + 1 < len(argv) and argv[i + 1].endswith(".json")
        if word == "--json" and not file_follows:
            argv[i] = f"--json={STDOUT}"  # else argparse would take the TARGET that follows for the file to write
    top, parsers = _parser(chosen)
    args, extra = top.parse_known_args(argv)
    if extra:
        parsers[args.command].unknown(extra)
    if args.json not in (None, STDOUT) and not args.json.endswith(".json"):
        parsers[args.command].error(f"--json={args.json} does not end in .json")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Results go to stdout, all else to stderr."""
    words = list(sys.argv[1:] if argv is None else argv)
    wants_json = "--json" in words or f"--json={STDOUT}" in words
    args = None
    stdout = sys.stdout
    try:
        args = parse(words)
        with contextlib.redirect_stdout(sys.stderr):  # a user's file may print
            report = _run(args)
        _write(report, args, stdout)
        return DONE if report.ok else NOT_SO
    except SystemExit as stop:  # argparse, after --help and --version
        return int(stop.code or 0)
    except AutoKernelError as error:
        return _tell(error, stdout if wants_json and not (args and args.json != STDOUT) else None)
    except KeyboardInterrupt:
        sys.stderr.write(f"\ninterrupted; {_resuming(args)}\n")
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output went away: nobody is left to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return COULD_NOT_RUN
    except Exception:  # a fault of ours must not end with exit code 1, which is an answer
        traceback.print_exc()
        sys.stderr.write("autokernel: this is a fault in torch-autokernel\n  hint: report it with the text above\n")
        return COULD_NOT_RUN


def _run(args: argparse.Namespace) -> Report:
    options = {k: v for k, v in (("cache_dir", args.cache_dir), ("max_seconds", args.max_seconds)) if v is not None}
    progress = Progress(sys.stderr, args.verbose)
    with _logging(args.verbose), config.patch(**options), events.subscribed(progress):
        try:
            return _command(args.command).run(args, progress)  # type: ignore[no-any-return]
        finally:
            progress.close()


@contextlib.contextmanager
def _logging(verbose: int) -> Iterator[None]:
    """Our loggers on stderr while a command runs."""
    logger = logging.getLogger("torch_autokernel")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel((logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)])
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def _write(report: Report, args: argparse.Namespace, stdout: TextIO) -> None:
    text = json.dumps(report.data, indent=2, allow_nan=False)
    if args.json == STDOUT:
        stdout.write(text + "\n")
    else:
        stdout.write(report.text.rstrip("\n") + "\n")
        if args.json:
            try:
                Path(args.json).write_text(text + "\n")
            except OSError as error:
                raise UsageError(
                    f"{args.json} cannot be written: {error.strerror}", hint="name a file in a folder that is there"
                ) from error
    stdout.flush()


def _tell(error: AutoKernelError, stdout: TextIO | None) -> int:
    """The error on stderr, and as JSON on stdout where that was asked for."""
    sys.stderr.write(f"error: {error}\n")
    if stdout is not None:
        stdout.write(
            json.dumps({"error": {"kind": type(error).__name__, "message": error.message, "hint": error.hint}}, indent=2) + "\n"
        )
    return COULD_NOT_RUN


def _resuming(args: argparse.Namespace | None) -> str:
    if args is not None and args.command == "bench":
        return "add --resume to go on after the problems that are in --out" if args.out else "give --out to be able to resume"
    return "what was found is in the cache: the same command goes on from there"
