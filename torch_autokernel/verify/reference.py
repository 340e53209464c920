"""Reference text as Python."""

from __future__ import annotations

import math
from typing import Any

import torch


def functions(text: str) -> dict[str, Any]:
    """The namespace after running reference text, which a region printed or its user gave."""
    if "prims._low_memory" in text:
        from torch._inductor import inductor_prims  # noqa: F401
    space: dict[str, Any] = {
        "torch": torch, "aten": torch.ops.aten, "prims": torch.ops.prims, "inf": math.inf, "nan": math.nan, "math": math,
    }  # fmt: skip
    exec(compile(text, "<reference>", "exec"), space)
    return space
