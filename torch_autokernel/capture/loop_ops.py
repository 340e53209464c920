"""Graph nodes as operations of a region with a loop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

from torch_autokernel.capture import ops
from torch_autokernel.capture.signature import IGNORED_KWARGS, dtype_name
from torch_autokernel.core.dims import Dim
from torch_autokernel.core.errors import CaptureError
from torch_autokernel.core.types import Const, Op, Ref


def name_in_loop(node: fx.Node) -> str:
    name = ops.name_of(node.target)
    return "aten.reshape.default" if name in ("aten.view.default", "aten._unsafe_view.default") else name


def said(d: Dim) -> Any:
    """A size as an argument."""
    return d if isinstance(d, int) else Const("dim", d)


def told(x: Any) -> Any:
    """A constant as an argument; raises CaptureError where there is no word for it."""
    if isinstance(x, torch.dtype):
        return Const("dtype", dtype_name(x))
    if x is None or isinstance(x, (bool, int, float, str)):
        return x
    raise CaptureError(f"an argument of type {type(x).__name__} cannot be told: {x!r}")


def kept(kwargs: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The keyword arguments that mean something here, in order."""
    return [(k, v) for k, v in sorted(kwargs.items()) if k not in IGNORED_KWARGS]


def op_of(node: fx.Node, shape: tuple[Dim, ...], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Op:
    """The operation with its result's shape and its arguments as told."""
    name, value = name_in_loop(node), node.meta["val"]
    if isinstance(value, (tuple, list)):
        return Op(name, args, kwargs, (), "")
    dtype, sizes = dtype_name(value.dtype), tuple(map(said, shape))
    if name in ("aten.reshape.default", "aten.expand.default"):
        return Op(name, (args[0], sizes), {}, shape, dtype)
    if name in ("aten.full.default", "aten.scalar_tensor.default"):
        fill = args[1] if name == "aten.full.default" else args[0]
        return Op("aten.full.default", (sizes, fill), {"dtype": Const("dtype", dtype)}, shape, dtype)
    return Op(name, args[:1] if name == "aten.clone.default" else args, kwargs, shape, dtype)


def static_op(node: fx.Node, number: Mapping[fx.Node, int]) -> Op:
    """The operation with sizes as they are at hand."""

    def argument(x: Any) -> Any:
        if isinstance(x, fx.Node):
            return Ref(number[x])
        return tuple(map(argument, x)) if isinstance(x, (list, tuple)) else told(x)

    value = node.meta["val"]
    shape = () if isinstance(value, (tuple, list)) else tuple(map(int, value.shape))
    return op_of(node, shape, tuple(map(argument, node.args)), {k: argument(v) for k, v in kept(node.kwargs)})
