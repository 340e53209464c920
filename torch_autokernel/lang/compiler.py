"""The C++ compiler of this machine: which one, whether it works, and what of it can change a binary."""

from __future__ import annotations

import functools
import hashlib
import os
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from torch_autokernel.core.types import digest

INCLUDE = Path(__file__).parent / "include"
NAMES = ("g++", "c++", "clang++")
# No flag may let the compiler assume away NaN or infinity, or regroup sums: the author decides the order of operations.
FLAGS = ("-O3", "-march=native", "-std=c++17", "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast",
         "-fPIC", "-fvisibility=hidden")  # fmt: skip
INSTALL = "install g++ (Debian/Ubuntu: apt install g++; Fedora: dnf install gcc-c++) or set CXX"
PROBE_SECONDS = 30


@dataclass(frozen=True)
class Compiler:
    """`command` starts it; `identity` is a digest of its version, target, predefined macros and of the C library."""

    command: tuple[str, ...]
    version: str
    identity: str


def environment() -> dict[str, str]:
    """What a compiler sees of the environment: where programs are, and nothing else of the user's."""
    return {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LC_ALL": "C", "TMPDIR": os.environ.get("TMPDIR", "/tmp")}


def find_compiler() -> Compiler | str:
    """The compiler ($CXX, else g++, c++, clang++), or the reason why there is none that works."""
    if wanted := os.environ.get("CXX", "").strip():
        command = tuple(shlex.split(wanted))
        path = shutil.which(command[0])
        return _probe((path, *command[1:])) if path else f"CXX={wanted!r} is not a program on PATH; correct or unset CXX"
    for name in NAMES:
        if path := shutil.which(name):
            return _probe((path,))
    return f"no C++ compiler on PATH (looked for {', '.join(NAMES)}); {INSTALL}"


@functools.lru_cache(maxsize=8)
def _probe(command: tuple[str, ...]) -> Compiler | str:
    """Ask for the macros that the flags and this machine predefine; that needs the standard library's headers too."""
    run = functools.partial(subprocess.run, capture_output=True, text=True, env=environment(), timeout=PROBE_SECONDS)
    try:
        version = run([*command, "--version"]).stdout.partition("\n")[0].strip()
        found = run([*command, *FLAGS, "-dM", "-E", "-x", "c++", "-"], input="#include <cstdint>\n#include <cmath>\n")
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{command[0]} cannot be run: {error}; {INSTALL}"
    if found.returncode:
        said = found.stderr.strip().splitlines() or [f"it ended with code {found.returncode}"]
        return f"{command[0]} does not work: {said[-1][:200]}; {INSTALL}"
    macros = sorted(found.stdout.splitlines())
    if not any(line.startswith("#define _OPENMP ") for line in macros):
        return f"{command[0]} has no OpenMP; {INSTALL}"
    # the path stands before the version in some compilers' first line
    words = version.split(maxsplit=1)
    return Compiler(command, version, digest([words[-1:], macros, _c_library()]))


def _c_library() -> str:
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (ValueError, OSError):
        return ""


@functools.lru_cache(maxsize=1)
def headers_digest() -> str:
    """sha256 over names and contents of the shipped headers."""
    found = hashlib.sha256()
    for path in sorted(INCLUDE.rglob("*.h")):
        found.update(f"{path.relative_to(INCLUDE)}\0{path.stat().st_size}\0".encode() + path.read_bytes())
    return found.hexdigest()
