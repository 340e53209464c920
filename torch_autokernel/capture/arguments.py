"""What can be told of a call by its arguments alone."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

_SCALARS = (int, float, bool, str, type(None))
_PLAIN = (torch.Tensor, torch.nn.Parameter)


def records(args: tuple[Any, ...]) -> bool:
    """Whether autograd records what is done to these arguments: that is for torch.compile, so nothing else need be asked."""
    return torch.is_grad_enabled() and any(type(a) in _PLAIN and a.requires_grad for a in args)


def unusual(tensors: Iterable[torch.Tensor]) -> bool:
    """Whether one of them is not plain memory of the CPU."""
    return any(t.device.type != "cpu" or t.is_conj() or t.is_neg() or t.layout is not torch.strided for t in tensors)


def identity(args: tuple[Any, ...]) -> Any:
    """A hashable description of what a plan depends on; None for arguments that no plan takes."""
    parts: list[Any] = [torch.is_grad_enabled()]
    for a in args:
        if type(a) in _PLAIN:
            if a.layout is not torch.strided:
                return None
            parts.append((a.dtype, tuple(a.shape), a.stride(), a.requires_grad, a.device.type))
        elif type(a) in _SCALARS and a == a:  # a NaN is never found again
            parts.append((type(a), a))
        elif type(a) is tuple and (within := identity(a)) is not None:
            parts.append(within)
        else:
            return None
    return tuple(parts)


def shapes(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """What plans are looked up by. Sizes must be equal: the Python that was traced may have branched on them."""
    return tuple([
        a.shape if type(a) in _PLAIN else a if type(a) in _SCALARS else (shapes(a),) if type(a) is tuple else None for a in args
    ])


def positions(function: Callable[..., Any], given: int, names: Sequence[str]) -> list[tuple[str, Any]] | None:
    """The parameters that follow the first `given` ones up to the last of `names`, with their defaults: what a call with these
    keywords passes, in order. None where the function takes one of them by keyword alone, or not at all."""
    try:
        parameters = list(inspect.signature(function, follow_wrapped=False).parameters.values())
    except (TypeError, ValueError):
        return None
    places = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    following = [p.name for p in places[given:]]
    if not set(names) <= set(following):
        return None
    found = places[given : given + 1 + max(map(following.index, names))]
    if any(p.kind is p.POSITIONAL_ONLY or (p.default is p.empty and p.name not in names) for p in found):
        return None
    return [(p.name, p.default) for p in found]
