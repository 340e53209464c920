"""Inductor's table of decompositions, complete in any process."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch


def inductor_table() -> dict[Any, Callable[..., Any]]:
    """How Inductor takes operations apart. That of max-pooling looks `torch._inductor.lowering` up and does not import it: the
    import takes seconds, and comes with the first pooling."""
    from torch._inductor.decomposition import select_decomp_table

    table = select_decomp_table()
    pools = (torch.ops.aten.max_pool2d_with_indices.default, torch.ops.aten.max_pool3d_with_indices.default)
    return {**_resizing(), **table, **{op: _with_lowering(table[op]) for op in pools if op in table}}


def _resizing() -> dict[Any, Callable[..., Any]]:
    """Images that are resized, in terms of what is read: torch.compile takes them apart before it asks for the table."""
    from torch._decomp import decomposition_table as rules

    names = ("upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d", "upsample_bicubic2d")
    return {op: rules[op] for name in names if (op := getattr(torch.ops.aten, name).default) in rules}


def _with_lowering(rule: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(rule)
    def run(*args: Any, **kwargs: Any) -> Any:
        import torch._inductor.lowering  # noqa: F401

        return rule(*args, **kwargs)

    return run
