"""Compiles generated kernels with g++ and runs them through ctypes on torch tensors; the fp64 oracle."""

from __future__ import annotations

import ctypes
import json
import math
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from torch_autokernel.core import dims
from torch_autokernel.core.types import Region, Signature
from torch_autokernel.lang.compiler import FLAGS as SHIPPED
from torch_autokernel.lang.compiler import INCLUDE
from torch_autokernel.machine.cpu import arch_of
from torch_autokernel.propose.kernel import Kernel
from torch_autokernel.propose.schedule import FLAGS as PROPOSED

# Those of the kernels that users get; tests choose the machine, and call a kernel by its own name.
FLAGS = [f for f in (*SHIPPED, *PROPOSED, "-w") if not f.startswith(("-march=", "-fvisibility="))]
GUARDED = [sys.executable, str(Path(__file__).with_name("guarded.py"))]
AVX2 = arch_of("x86_64", {"flags": "avx avx2 fma", "model name": ""}, 2, {"l1_bytes": 32768, "l2_bytes": 1 << 20})
LOW = {torch.float32, torch.bfloat16, torch.float16}


def compile_all(kernels: Mapping[str, str], folder: Path, march: str = "native") -> ctypes.CDLL:
    """One library; the kernel of each name is exported under that name."""

    def one(item: tuple[str, str]) -> str:
        name, text = item
        source, target = folder / f"{name}.cpp", folder / f"{name}.o"
        source.write_text(text)
        command = [
            "g++",
            *FLAGS,
            f"-march={march}",
            f"-I{INCLUDE}",
            f"-Dkernel={name}",
            "-c",
            str(source),
            "-o",
            str(target),
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, f"{name}\n{text}\n{done.stderr[:3000]}"
        return str(target)

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(one, kernels.items()))
    library = folder / "all.so"
    subprocess.run(["g++", "-shared", "-fopenmp", *objects, "-o", str(library)], check=True)
    return ctypes.CDLL(str(library))


def check_at(regions: Mapping[str, Region], kernels: Mapping[str, Kernel], library: ctypes.CDLL, sizes: Sequence[int]) -> None:
    """Every kernel at its region's own sizes and with each of these for every symbol, against oracle and eager; all that is wrong is
    told at once."""
    wrong = []
    for name, kernel in kernels.items():
        region = regions[name]
        signature = region.signature
        for bound in (dict(region.sizes), *(dict.fromkeys(signature.symbols, n) for n in sizes)):
            inputs = random_inputs(signature, bound)
            try:
                compare(region, inputs, run(getattr(library, name), kernel, signature, inputs), f"{name} {bound}")
            except AssertionError as e:
                wrong.append(str(e))
    assert not wrong, "\n".join(wrong)


def check_guarded(regions: Mapping[str, Region], kernels: Mapping[str, Kernel], folder: Path) -> None:
    """Runs the kernels, whose library lies in the folder, in a child where every buffer ends at an unreadable page: a byte too far
    kills it."""
    for name, kernel in kernels.items():
        (folder / f"{name}.json").write_text(json.dumps([regions[name].signature.to_json(), kernel.workspace]))
    done = subprocess.run([*GUARDED, str(folder), *kernels], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, f"killed at {done.stdout.splitlines()[-1:]}: {done.stderr[-500:]}"


def allocate(signature: Signature, sizes: Mapping[str, int]) -> list[torch.Tensor]:
    """Outputs with the strides that the signature names, poisoned."""
    out = []
    for spec in signature.output_specs:
        c = spec.concrete(sizes)
        shape, stride = [int(s) for s in c.shape], [int(s) for s in c.stride]
        stride = [s if n != 1 else 1 for n, s in zip(shape, stride, strict=True)]
        t = torch.empty_strided(shape, stride, dtype=getattr(torch, spec.dtype))
        out.append(t.fill_(float("nan")) if t.is_floating_point() else t.fill_(1))
    return out


def run(entry: Any, kernel: Kernel, signature: Signature, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    sizes = signature.bind(tuple(tuple(t.shape) for t in inputs), tuple(t.stride() for t in inputs))
    outputs = allocate(signature, sizes)
    call(entry, kernel, signature, inputs, outputs, sizes)
    return outputs


def call(entry: Any, kernel: Kernel, signature: Signature, inputs: Sequence[torch.Tensor], outputs: Sequence[torch.Tensor],
         sizes: Mapping[str, int]) -> None:  # fmt: skip
    arguments: list[Any] = [ctypes.c_void_p(t.data_ptr()) for t in (*inputs, *outputs)]
    arguments += [ctypes.c_int64(sizes[s]) for s in signature.symbols]
    if kernel.workspace:
        count = dims.evaluate(kernel.workspace, sizes)
        space = torch.full((count + 192,), 0xFF, dtype=torch.uint8)  # NaN in every float
        start = space.data_ptr() + (-space.data_ptr()) % 64
        arguments.append(ctypes.c_void_p(start))
        space[start - space.data_ptr() + count :] = 0x55
        entry(*arguments)
        assert (space[start - space.data_ptr() + count :] == 0x55).all(), "wrote behind the workspace"
        return
    entry(*arguments)


class _Upcast(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        wide = lambda a: torch.float64 if isinstance(a, torch.dtype) and a in LOW else a  # noqa: E731
        return func(*map(wide, args), **{k: wide(v) for k, v in (kwargs or {}).items()})


def reference(region: Region, inputs: Sequence[torch.Tensor], exact: bool) -> list[torch.Tensor]:
    """The region's own text on these inputs; `exact` computes in float64."""
    signature = region.signature
    sizes = signature.bind(tuple(tuple(t.shape) for t in inputs), tuple(t.stride() for t in inputs))
    space: dict[str, Any] = {
        "torch": torch,
        "aten": torch.ops.aten,
        "prims": torch.ops.prims,
        "math": math,
        "inf": math.inf,
        "nan": math.nan,
    }
    exec(region.reference, space)
    if not exact:
        return list(space["reference"](*inputs, *[sizes[s] for s in signature.symbols]))
    wide = [t.double() if t.dtype in LOW else t for t in inputs]
    with _Upcast():
        return list(space["reference"](*wide, *[sizes[s] for s in signature.symbols]))


EPS = {torch.float32: 2**-24, torch.bfloat16: 2**-9, torch.float16: 2**-12, torch.float64: 2**-53}


def compare(region: Region, inputs: Sequence[torch.Tensor], got: Sequence[torch.Tensor], what: str = "") -> None:
    """No further from the fp64 result than three times eager, or a few roundings of the largest value."""
    exact, eager = reference(region, inputs, True), reference(region, inputs, False)
    for k, (g, o, e) in enumerate(zip(got, exact, eager, strict=True)):
        assert g.shape == e.shape and g.dtype == e.dtype, (
            f"{what} output {k}: {g.shape} {g.dtype}, expected {e.shape} {e.dtype}"
        )
        if not g.is_floating_point():
            assert torch.equal(g, e), f"{what} output {k} differs"
            continue
        special = ~torch.isfinite(e)
        assert torch.equal(torch.nan_to_num(g[special]), torch.nan_to_num(e[special])), f"{what} output {k}: special values"
        fine = torch.isfinite(e) & torch.isfinite(o)
        if not fine.any():
            continue
        mine, theirs = (g.double() - o.double())[fine].abs(), (e.double() - o.double())[fine].abs()
        scale = o[fine].abs().double()
        limit = torch.maximum(3 * theirs.max(), 6 * EPS[g.dtype] * scale.max().clamp(min=0.1))
        assert mine.max() <= limit, (
            f"{what} output {k}: error {mine.max():.3g}, eager {theirs.max():.3g}, largest {scale.max():.3g}"
        )


def random_inputs(signature: Signature, sizes: Mapping[str, int], scale: float = 1.0) -> list[torch.Tensor]:
    """Inputs of the signature's shapes and strides; integers are valid indices everywhere."""
    out = []
    limit = min([5, *sizes.values()])
    for spec in signature.inputs:
        c = spec.concrete(sizes)
        shape = [int(n) for n in c.shape]
        stride = [int(s) if n != 1 else 1 for s, n in zip(c.stride, shape, strict=True)]
        count, dtype = max(1, c.storage_elements()), getattr(torch, spec.dtype)
        if dtype.is_floating_point:
            flat = (torch.randn(count, dtype=torch.float64) * scale).to(dtype)
        else:
            flat = torch.randint(0, 2 if dtype == torch.bool else limit, (count,)).to(dtype)
        out.append(torch.as_strided(flat, shape, stride))
    return out
