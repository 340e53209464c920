"""A child process: runs kernels on buffers that each end where an inaccessible page begins. No torch."""

from __future__ import annotations

import ctypes
import json
import mmap
import sys
from pathlib import Path

from torch_autokernel.core import dims
from torch_autokernel.core.types import Signature

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
PAGE = mmap.PAGESIZE


def guarded(size: int, align: int = 1) -> int:
    """Address of `size` zero bytes that end (up to `align`) at a page without access."""
    pages = -(-max(size, 1) // PAGE) + 1
    base = libc.mmap(None, (pages + 1) * PAGE, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
    edge = base + pages * PAGE
    if libc.mprotect(edge, PAGE, 0):
        raise OSError("mprotect failed")
    return int((edge - size) // align * align)


def main(folder: Path, names: list[str]) -> None:
    library = ctypes.CDLL(str(folder / "all.so"))
    for name in names:
        data, workspace = json.loads((folder / f"{name}.json").read_text())
        signature = Signature.from_json(data)
        for n in (1, 3, 16, 17, 33, 70):
            print(name, n, flush=True)
            sizes = dict.fromkeys(signature.symbols, n)
            args = [
                ctypes.c_void_p(guarded(spec.concrete(sizes).storage_elements() * spec.itemsize))
                for spec in (*signature.inputs, *signature.output_specs)
            ]
            extra = [ctypes.c_void_p(guarded(dims.evaluate(workspace, sizes), 64))] if workspace else []
            getattr(library, name)(*args, *[ctypes.c_int64(sizes[s]) for s in signature.symbols], *extra)


if __name__ == "__main__":
    if sys.argv[1] == "--planted":
        ctypes.memset(guarded(10) + 8, 1, 3)
    else:
        main(Path(sys.argv[1]), sys.argv[2:])
