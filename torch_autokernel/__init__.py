"""torch-autokernel: fused kernels for pieces of PyTorch models, found, verified, timed, cached and swapped in.

Importing this package is cheap: torch is imported when something of it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from torch_autokernel.core.config import config
from torch_autokernel.core.errors import AutoKernelError

if TYPE_CHECKING:
    from torch_autokernel.capture.api import Explanation, WarmReport, explain, verify, warm
    from torch_autokernel.capture.decorator import autokernel, restore

__version__ = "0.1.0"

_LAZY = {
    "autokernel": "torch_autokernel.capture.decorator",
    "restore": "torch_autokernel.capture.decorator",
    "explain": "torch_autokernel.capture.api",
    "warm": "torch_autokernel.capture.api",
    "verify": "torch_autokernel.capture.api",
    "Explanation": "torch_autokernel.capture.api",
    "WarmReport": "torch_autokernel.capture.api",
}

__all__ = ["AutoKernelError", "Explanation", "WarmReport", "autokernel", "config", "explain", "restore", "verify", "warm"]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'torch_autokernel' has no attribute {name!r}")
    value = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
