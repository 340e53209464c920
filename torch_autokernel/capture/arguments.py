"""What can be told of a call by its arguments alone."""

from __future__ import annotations

import types
from collections.abc import Iterable, Sequence
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


def without_numbers(identity: Any) -> Any:
    """A description of `identity` with any number in the place of those that a call is given."""
    if type(identity) is not tuple:
        return identity
    if len(identity) == 2 and identity[0] in (int, float):
        return identity[:1]
    return tuple([without_numbers(part) for part in identity])


def shapes(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """What plans are looked up by. Sizes must be equal: the Python that was traced may have branched on them."""
    return tuple([
        a.shape if type(a) in _PLAIN else a if type(a) in _SCALARS else (shapes(a),) if type(a) is tuple else None for a in args
    ])


def positions(function: Any, given: int, names: Sequence[str]) -> list[tuple[str, int | None]] | None:
    """The parameters that follow the first `given` ones up to the last of `names`, and of those with a default its number: what
    a call with these keywords passes, in order. None where the function takes one of them by keyword alone, or not at all, or
    where what it takes is not known."""
    function = getattr(function, "__func__", function)
    if not isinstance(function, types.FunctionType):
        return None
    code, defaults = function.__code__, function.__defaults__ or ()
    taken = code.co_varnames[: code.co_argcount]  # what a signature says need not be so
    following = taken[given:]
    if not set(names) <= set(following[max(0, code.co_posonlyargcount - given) :]):
        return None
    found = following[: 1 + max(map(following.index, names))]
    first = len(taken) - len(defaults)
    numbers = [None if (at := taken.index(n) - first) < 0 else at for n in found]
    if any(n not in names and number is None for n, number in zip(found, numbers, strict=True)):
        return None
    return list(zip(found, numbers, strict=True))
