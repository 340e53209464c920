"""`autokernel doctor`."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import logging
import os
import platform
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from torch_autokernel.app.progress import Progress
from torch_autokernel.app.report import Report, duration, size
from torch_autokernel.core import points
from torch_autokernel.core.config import config
from torch_autokernel.core.errors import AutoKernelError
from torch_autokernel.core.types import Arch, Candidate, Op, Ref, Signature, Source, TensorSpec
from torch_autokernel.engine import find_arch
from torch_autokernel.lang.batch import has_ninja
from torch_autokernel.lang.compiler import find_compiler
from torch_autokernel.machine.worker import Pool
from torch_autokernel.store import Store

log = logging.getLogger(__name__)

EXAMPLE = "autokernel doctor"
OLDEST_TORCH = (2, 10)
OPTIONAL = {"transformers": "the example with a language model", "httpx": "the LLM proposer", "mcp": "serve-mcp"}

NO_COMPILER = "until then models run in Inductor (which needs a compiler too) or, with options={'rest': 'eager'}, in eager mode"
TRIVIAL = """#include <cstdint>
extern "C" void kernel(const float* x, float* y, int64_t n) { for (int64_t i = 0; i < n; ++i) y[i] = -x[i]; }
"""


@dataclass(frozen=True)
class Line:
    """One thing looked at. `status`: ok, warn or fail; only what is essential fails."""

    name: str
    status: str
    text: str
    remedy: str = ""


def arguments(parser: argparse.ArgumentParser) -> None:
    del parser


def run(args: argparse.Namespace, progress: Progress) -> Report:
    lines = []
    for look in LOOKS:
        progress.status(f"looking at {look.__name__}")
        lines += _looked(look)
    failed = [line for line in lines if line.status == "fail"]
    text = [
        f"{line.status:5} {line.name:12} {line.text}" + (f"\n{'':19}-> {line.remedy}" if line.remedy else "") for line in lines
    ]
    text.append(
        f"{len(failed)} essential things do not work: {', '.join(f.name for f in failed)}"
        if failed
        else "all essential things work"
    )
    return Report(not failed, {"ok": not failed, "lines": [asdict(line) for line in lines]}, "\n".join(text))


def _looked(look: Callable[[], Iterator[Line]]) -> list[Line]:
    """The lines of one look. An error in it, whichever, is its answer: this command is for broken machines."""
    try:
        return list(look())
    except AutoKernelError as error:
        return [Line(look.__name__, "fail", error.message, error.hint)]
    except Exception as error:
        log.debug("looking at %s failed", look.__name__, exc_info=True)
        return [Line(look.__name__, "fail", f"{type(error).__name__}: {error}", "`autokernel doctor -vv` tells where")]


# ------------------------------------------------------------------------------------------- what is looked at
def python() -> Iterator[Line]:
    yield Line("python", "ok", f"{platform.python_version()} at {sys.executable}, {platform.platform()}")


def torch() -> Iterator[Line]:
    try:
        module = importlib.import_module("torch")
    except ImportError as error:
        yield Line(
            "torch",
            "fail",
            f"cannot be imported: {error}",
            "install torch; on a machine without a GPU from the CPU index of pytorch.org",
        )
        return
    version = tuple(int(n) for n in re.findall(r"\d+", module.__version__)[:2])
    text = f"{module.__version__}, {module.get_num_threads()} threads, {module.backends.cpu.get_cpu_capability()}"
    if version < OLDEST_TORCH:
        yield Line("torch", "fail", text, f"install torch {'.'.join(map(str, OLDEST_TORCH))} or later")
    else:
        yield Line("torch", "ok", text)
    if hasattr(module.Tensor, "__dlpack_c_exchange_api__"):
        yield Line("dlpack", "ok", "tensors are read through DLPack's C exchange API")
    else:
        yield Line("dlpack", "fail", "this torch has no __dlpack_c_exchange_api__", "install torch 2.10 or later")


def launcher() -> Iterator[Line]:
    try:
        module = importlib.import_module("torch_autokernel._launcher")
        yield Line("launcher", "ok", str(module.__file__))
    except ImportError as error:
        yield Line("launcher", "fail", f"the extension cannot be imported: {error}", "install the package again: pip install .")


def arch() -> Iterator[Line]:
    found = find_arch(config.arch)
    limits = found.limits
    caches = ", ".join(f"{n[:-6].upper()} {size(limits[n])}" for n in ("l1_bytes", "l2_bytes", "l3_bytes") if limits.get(n))
    yield Line("arch", "ok", f"{found.key}: {found.name or 'unnamed'}, {limits.get('threads', '?')} threads, {caches}")


def compiler() -> Iterator[Line]:
    here = find_arch(config.arch)
    if here.key == "null":
        yield Line("compiler", "ok", "none is needed for the arch 'null'")
        return
    found = find_compiler()
    if isinstance(found, str):
        yield Line("compiler", "fail", found, NO_COMPILER)
        return
    yield Line("compiler", "ok", f"{found.version}, {found.command[0]}")
    language = points.languages.get("cpp")()
    if reason := language.missing(here):
        yield Line("toolchain", "fail", reason, NO_COMPILER)
        return
    yield Line("toolchain", "ok", language.fingerprint(here))
    yield from _trivial(language, here)


def _trivial(language: object, here: Arch) -> Iterator[Line]:
    """Compile, load and call the smallest kernel: negation."""
    spec = TensorSpec(("s0",), "float32", (1,), alignment=4)
    signature = Signature((Op("aten.neg.default", (Ref(0),), {}, ("s0",), "float32"),), (spec,), (1,), (spec,), ("s0",))
    candidate = Candidate(signature.digest, Source("cpp", TRIVIAL), "doctor")
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="autokernel-") as folder:
        (artifact,) = language.compile([candidate], signature, here, Path(folder))  # type: ignore[attr-defined]
        if not artifact.ok:
            yield Line(
                "compiles",
                "fail",
                f"a trivial kernel was refused: {artifact.log.strip().splitlines()[-1:]}",
                "try the compiler by hand",
            )
            return
        yield Line("compiles", "ok", f"a trivial kernel in {duration(time.perf_counter() - start)}")
        tensor = importlib.import_module("torch").arange(5.0)
        (result,) = language.load(artifact, signature)(tensor)  # type: ignore[attr-defined]
        good = bool((result == -tensor).all())
    yield Line("runs", "ok" if good else "fail", "and its result is right" if good else f"its result is wrong: {result}")


def ninja() -> Iterator[Line]:
    if reason := has_ninja():
        yield Line("ninja", "fail", reason, "pip install ninja")
    else:
        yield Line("ninja", "ok", "candidates are compiled in batches")


def openmp() -> Iterator[Line]:
    """Whether a kernel that links libgomp.so.1 shares the runtime that torch has loaded."""
    importlib.import_module("torch")
    with open("/proc/self/maps") as maps:
        loaded = {line.split()[-1] for line in maps if re.search(r"/lib[a-z]*omp[^/]*\.so", line)}
    names = {os.path.basename(path) for path in loaded}
    told = ", ".join(sorted(loaded)) or "none"
    if "libgomp.so.1" in names and len(names) == 1:
        yield Line("openmp", "ok", f"kernels share torch's runtime, {told}")
    else:
        yield Line("openmp", "warn", f"kernels bring a second OpenMP runtime; torch has loaded: {told}",
                   "threads of both compete; set OMP_NUM_THREADS, or use a torch whose wheel has libgomp.so.1")  # fmt: skip


def cache() -> Iterator[Line]:
    root = config.resolve().cache_path
    store = Store(root)
    if problem := store.problem:
        yield Line("cache", "fail", problem, "give --cache-dir with a folder of yours; without a cache nothing is replaced")
        return
    items = store.items()
    free = shutil.disk_usage(root).free
    held = f"{len(store.entries())} kernels, {len(store.refusals())} refusals, {size(sum(i.bytes for i in items))}"
    text = f"{root}: {held}; {size(free)} free"
    low = free < 100 << 20
    yield Line("cache", "warn" if low else "ok", text, "less than 100 MiB are free on its disk" if low else "")


def sandbox() -> Iterator[Line]:
    with Pool() as pool:
        layers = pool.layers()
    off = {name: why for name, why in layers.items() if not why.startswith("on")}
    on = [name for name in layers if name not in off]
    text = f"on: {', '.join(on) or 'nothing'}" + "".join(f"; {name}: {why}" for name, why in off.items())
    yield Line(
        "sandbox",
        "warn" if off else "ok",
        text,
        "candidates run in a process of their own in any case; the missing layers lie with the system" if off else "",
    )


def llm() -> Iterator[Line]:
    if config.llm_model:
        key = "with a key" if config.llm_api_key else "without a key"
        yield Line("llm", "ok", f"{config.llm_model} at {config.llm_base_url or 'the default address'}, {key} (not contacted)")
    else:
        yield Line("llm", "ok", "none configured; none is needed")


def optional() -> Iterator[Line]:
    for name, purpose in OPTIONAL.items():
        there = importlib.util.find_spec(name) is not None
        yield Line(
            name,
            "ok" if there else "warn",
            f"{'installed' if there else 'not installed'}; it serves {purpose}",
            "" if there else f"pip install {name}",
        )


LOOKS = (python, torch, launcher, arch, ninja, compiler, openmp, cache, sandbox, llm, optional)
