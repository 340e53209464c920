"""The call cache: which of the known calls is this one, and may it be made? Asked in C, by data that is made here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from torch_autokernel import _launcher
from torch_autokernel.core.errors import GuardMiss, ToolchainError
from torch_autokernel.lang.launch import DLPACK, TYPES, exchange

CallCache = _launcher.CallCache
DTYPES = frozenset(getattr(torch, name) for name in DLPACK)  # of which exact forms can be compared
MOST_ARGUMENTS = 16
Form = tuple[Any, ...]
_NO_DTYPE = (255, 0)


def form(args: Sequence[Any], exact: bool = False) -> Form:
    """The arguments without their tensors' elements. An `exact` one fits only tensors of the same dtypes and strides, on the
    CPU, that require gradients as these do; else sizes are compared, and no tensor may require a gradient that is recorded."""
    return tuple(_form(a, exact) if isinstance(a, torch.Tensor) else (a,) for a in args)


def _form(tensor: torch.Tensor, exact: bool) -> Form:
    code, bits = DLPACK.get(str(tensor.dtype).removeprefix("torch."), _NO_DTYPE)
    return tuple(tensor.shape), tensor.stride() if exact else None, code, bits, exact and tensor.requires_grad


@dataclass(frozen=True)
class Route:
    """What to do for calls of one form.

    `plain`, for exact forms, is the call as the user makes it: `call(*args)` where gradients are recorded as `gradients` says,
    `parameters` need them as `needs` has it, and the world is as it was.
    Otherwise `call` is given arguments and, from their number on, `parameters`, as `order` has them, and `finish` what it
    returns (None: the first item is the result). Not where gradients of them are recorded (with `needs`: where they are not, or
    others are, exact forms of the arguments and these flags of the parameters say which), where a result of `world` (callable,
    arguments, expected) is true though None is expected or is not the expected object, where a value of `values` (dict, key,
    value) or `cells` (cell, contents) is another object, or where a dict of `empty` is not empty.
    """

    args: Form
    call: Callable[..., Any]
    plain: bool = False
    gradients: bool = False
    order: tuple[int, ...] = ()
    parameters: Sequence[torch.Tensor] = ()
    needs: Sequence[bool] | None = None
    finish: Callable[[Any], Any] | None = None
    world: Sequence[tuple[Callable[..., Any], tuple[Any, ...], Any]] = ()
    values: Sequence[tuple[dict[str, Any], str, Any]] = ()
    cells: Sequence[tuple[Any, Any]] = ()
    empty: Sequence[dict[Any, Any]] = ()


def call_cache(routes: Sequence[Route], miss: object) -> CallCache:
    """`cache(args)`: what the first route that is for these arguments gives, or `miss`. It raises what the route's call raises,
    but for GuardMiss, after which the next route is tried. Raises ToolchainError for what the extension cannot watch."""
    rows = tuple(map(_row, routes))
    try:
        return CallCache(rows, types=TYPES, recording=torch.is_grad_enabled, miss=miss, missed=GuardMiss, exchange=exchange())
    except (ValueError, TypeError, RuntimeError) as error:
        raise ToolchainError(f"the calls cannot be found in C: {error}", "none: they are found in Python") from error


def _row(r: Route) -> tuple[Any, ...]:
    needs = None if r.needs is None else tuple(r.needs)
    recording = r.gradients if r.plain else None if needs is None else True
    watched = tuple(r.world), tuple(r.values), tuple(r.cells), tuple(r.empty)
    return (r.args, recording, needs, *watched, None if r.plain else r.order, tuple(r.parameters), r.call, r.finish)
