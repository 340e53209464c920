"""Check `imports`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from torch_autokernel.core.types import Finding, Status
from torch_autokernel.lang.elf import read_elf

_MATHS = (
    "acos acosh asin asinh atan atan2 atanh cbrt ceil copysign cos cosh erf erfc exp exp2 exp10 expm1 fabs fdim floor fma "
    "fmax fmin fmod frexp hypot ilogb ldexp lgamma llrint llround log log10 log1p log2 logb lrint lround modf nan nearbyint "
    "nextafter pow remainder remquo rint round roundeven scalbln scalbn sin sincos sinh sqrt tan tanh tgamma trunc"
).split()
_PLAIN = frozenset(
    [name + suffix for name in _MATHS for suffix in ("", "f", "l")]
    + "memcpy memmove memset memcmp __memcpy_chk __memmove_chk __memset_chk __stack_chk_fail __tls_get_addr".split()
    + "__cxa_finalize __gmon_start__ _ITM_deregisterTMCloneTable _ITM_registerTMCloneTable __gxx_personality_v0".split()
    + "_Unwind_Resume __cxa_guard_acquire __cxa_guard_release __cxa_guard_abort __extendhfsf2 __truncsfhf2 __truncdfhf2".split()
    + "omp_get_thread_num omp_get_num_threads omp_get_max_threads omp_in_parallel omp_get_num_procs omp_get_level".split()
)
# OpenMP's run time as compilers call it, and vectorised maths (libmvec)
_PATTERNS = re.compile(
    r"GOMP_(?!offload|target|alloc|free)\w+|__kmpc_(?!omp_target|alloc|free|omp_alloc)\w+|_ZGV[a-z][NM]\d+v+_\w+|__(exp|log|pow|sin|cos|sincos)f?_finite"
)
_LIBRARIES = re.compile(
    r"(libc|libm|libmvec|libgomp|libgomp-[0-9a-f]+|libomp|libiomp5|libgcc_s|libstdc\+\+|ld-linux[\w-]*)\.so(\.[\w.]*)?"
)


def refused(symbols: tuple[str, ...]) -> list[str]:
    """The symbols that a kernel may not import."""
    bare = (name.split("@")[0] for name in symbols)
    return [name for name in bare if name and name not in _PLAIN and not _PATTERNS.fullmatch(name)]


class Imports:
    """The object asks for nothing but mathematics, memory copies and OpenMP.

    What it checks: the undefined dynamic symbols and needed libraries, read from the file itself (from its sections and
    from what the loader reads), against an allow-list; the entry must be exported.
    Why it matters: what is not imported cannot be called: files, sockets, clocks, allocation, threads of its own, torch.
    What it misses: system calls made by assembly (see `instructions`); code that only looks like mathematics.
    Example: `fopen`, `malloc`, `fork`, `pthread_create`, `clock_gettime`, `fesetround`, `at::softmax`.
    """

    name = "imports"

    def run(self, trial: Any) -> Finding:
        try:
            found = read_elf(Path(trial.artifact.path).read_bytes())
        except (OSError, ValueError) as error:
            return Finding(self.name, Status.FAIL, str(error))
        if bad := refused(found.imports):
            return Finding(self.name, Status.FAIL, f"it imports {', '.join(bad[:8])}", {"symbols": bad})
        if bad := [lib for lib in found.needed if not _LIBRARIES.fullmatch(lib)]:
            return Finding(self.name, Status.FAIL, f"it needs {', '.join(bad[:8])}", {"libraries": bad})
        if trial.artifact.entry not in found.exports:
            return Finding(self.name, Status.FAIL, f"it has no entry named {trial.artifact.entry!r}")
        return Finding(self.name, Status.PASS, "", {"symbols": len(found.imports)})
