"""The launch plan: what a signature demands, as the data that the C extension checks and allocates by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from torch_autokernel import _launcher
from torch_autokernel.core import dims
from torch_autokernel.core.config import config
from torch_autokernel.core.dims import Dim
from torch_autokernel.core.errors import GuardMiss, ToolchainError
from torch_autokernel.core.types import Signature

ABI = _launcher.ABI
Launcher = _launcher.Launcher
MOST = 2**63 - 1
TYPES = (torch.Tensor, torch.nn.Parameter)
Tensors = Sequence[torch.Tensor]

DLPACK = {
    "int8": (0, 8), "int16": (0, 16), "int32": (0, 32), "int64": (0, 64), "uint8": (1, 8),
    "float16": (2, 16), "float32": (2, 32), "float64": (2, 64), "bfloat16": (4, 16), "bool": (6, 8),
}  # fmt: skip


def launcher(address: int, signature: Signature, workspace: Dim = 0, owner: object = None) -> Launcher:
    """The entry at `address` as a callable over tensors: it returns the outputs as a tuple, or raises GuardMiss.

    `check(*tensors)` of it gives the reason why tensors do not fit, or None. `owner` is kept alive with it.
    Outputs never require grad. Shapes bind the symbols first; the stride of a dimension of size 1 is neither compared
    nor bound, and a symbol that no element's address depends on gets its least value.
    """
    _launcher.huge_pages(config.resolve().huge_pages)
    index = {name: i for i, name in enumerate(signature.symbols)}

    def size(dim: Dim) -> Any:
        return _size(dim, index)

    inputs = tuple(
        (*DLPACK[s.dtype], max(s.alignment, s.itemsize), tuple(map(size, s.shape)), tuple(map(size, s.stride)))
        for s in signature.inputs
    )
    outputs = tuple(
        (getattr(torch, s.dtype), tuple(map(size, s.shape)), tuple(map(size, s.natural_stride())))
        for s in signature.output_specs
    )
    try:
        return Launcher(
            address,
            symbols=tuple((name, max(1, signature.guards.get(name, 1)), MOST) for name in signature.symbols),
            inputs=inputs,
            outputs=outputs,
            workspace=size(workspace),
            types=TYPES,
            empty=_allocator(),
            is_neg=torch.Tensor.is_neg,
            miss=GuardMiss,
            exchange=exchange(),
            owner=owner,
        )
    except ValueError as error:  # more tensors, symbols or terms than a plan holds
        raise ToolchainError(f"the signature is too large for the launcher: {error}", "cut the region smaller") from error
    except RuntimeError as error:
        raise ToolchainError(f"this torch cannot be read by the launcher: {error}", "install torch 2.10 or later") from error


def inside_of(limit: Callable[[Tensors], int], at: int, spared: int | None) -> Callable[[Tensors], bool]:
    """Whether every element of the tensor at `at`, integers on the CPU, is an index below the limit, or the spared number;
    False for what launchers do not take."""
    api, inside = exchange(), _launcher.inside
    return lambda tensors: type(tensors[at]) in TYPES and inside(api, tensors[at], limit(tensors), spared)


def _size(dim: Dim, index: dict[str, int]) -> tuple[str, tuple[tuple[int, tuple[int, ...]], ...]]:
    return str(dim), tuple((c, tuple(index[s] for s in key)) for key, c in dims.parse(dim).items())


def exchange() -> Any:
    """Torch's DLPack C exchange API, by which the extension reads tensors."""
    try:
        return torch.Tensor.__dlpack_c_exchange_api__
    except AttributeError:
        raise ToolchainError(f"torch {torch.__version__} has no DLPack C exchange API", "install torch 2.10 or later") from None


def _allocator() -> Callable[[tuple[int, ...], tuple[int, ...], torch.dtype], torch.Tensor]:
    """`empty(size, stride, dtype)` on the CPU. Inductor's own allocator where it exists (half the time of
    `torch.empty_strided`; private to torch, so looked up at run time)."""
    try:
        from torch._C._dynamo.guards import _empty_strided_cpu  # type: ignore[attr-defined]
    except ImportError:
        return lambda size, stride, dtype: torch.empty_strided(size, stride, dtype=dtype, device="cpu")
    return _empty_strided_cpu  # type: ignore[no-any-return]
