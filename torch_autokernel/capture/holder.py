"""A function that names modules, and arguments within tuples, brought to the form that is traced: tensors and one module."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from torch_autokernel.capture.purity import modules_of


class Holder(torch.nn.Module):
    """The modules that a function names, as one."""

    def __init__(self, modules: Sequence[torch.nn.Module]) -> None:
        super().__init__()
        self.held = torch.nn.ModuleList(modules)


def held(function: Callable[..., Any]) -> Holder | None:
    """The modules that the function names; None where there are none."""
    modules = modules_of(function)
    if not modules:
        return None
    holder = Holder(modules)
    holder.training = False
    return holder


def without_self(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as a forward of its holder."""

    def forward(_holder: Any, *args: Any) -> Any:
        return function(*args)

    return forward


def nested(args: Sequence[Any]) -> bool:
    return any(type(a) is tuple for a in args)


def flat(args: Sequence[Any]) -> tuple[Any, ...]:
    """The arguments with the members of tuples in their places."""
    out: list[Any] = []
    for a in args:
        if type(a) is tuple:
            out += flat(a)
        else:
            out.append(a)
    return tuple(out)


def regrouped(function: Callable[..., Any], args: Sequence[Any], skip: int) -> Callable[..., Any]:
    """The function over `flat(args)`, behind `skip` arguments that are passed on."""

    def over_flat(*given: Any) -> Any:
        rest = iter(given[skip:])
        return function(*given[:skip], *_like(args, rest))

    return over_flat


def _like(args: Sequence[Any], rest: Any) -> tuple[Any, ...]:
    return tuple(_like(a, rest) if type(a) is tuple else next(rest) for a in args)
