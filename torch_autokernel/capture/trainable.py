"""What both ways to train a call by kernels share: whether it may be at all, and the kernels for forward and backward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from torch_autokernel.capture import purity
from torch_autokernel.capture.ambient import ordinary_torch
from torch_autokernel.capture.arguments import unusual
from torch_autokernel.capture.record import Record, note
from torch_autokernel.core.config import Config
from torch_autokernel.core.types import Region
from torch_autokernel.engine import Decision, Engine


def watched_for_training(
    function: Callable[..., Any], module: torch.nn.Module | None, tensors: Sequence[torch.Tensor]
) -> purity.Watched | str:
    """What a recorded call of these tensors (arguments and state) depends on, or why no kernels may stand for it."""
    if unusual(tensors):
        return "a tensor is not a plain one on the CPU"
    watched = purity.watch(function, module)
    if watched.reason is not None:
        return watched.reason
    if told := sorted(watched.names & purity.TELLS):
        return f"the function speaks of gradients itself ({told[0]})"
    return watched


def both_decided(regions: Sequence[Region], engine: Engine, config: Config) -> list[Decision] | str:
    """The decisions for forward and backward, noted; where one has no kernel, why."""
    with ordinary_torch():
        decisions = engine.resolve(regions, config)
    complete = all(d.entry is not None for d in decisions)
    for phase, decision in zip(("forward", "backward"), decisions, strict=True):
        note(Record(phase, (decision,), (), int(complete)))
        if decision.entry is None:
            return f"{phase}: {decision.reason}"
    return decisions
