"""Whether a loop's kernel stands for the original at the real length: the original is run once, counted and compared.

The loop was read off short lengths; Python that looks at the length may do something else at the one at hand.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from torch_autokernel.capture.ambient import ordinary_torch
from torch_autokernel.capture.loop_signature import T
from torch_autokernel.capture.recurrence import LENGTHS, resized
from torch_autokernel.capture.whole import Whole, plain_forward
from torch_autokernel.core.errors import CaptureError


class _Count(TorchDispatchMode):
    """Counts operations with their constants."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: Counter[Any] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        flat = [a for a in pytree.tree_leaves((args, kwargs or {})) if isinstance(a, (float, bool, torch.dtype))]
        self.seen[(str(func), *map(str, flat))] += 1
        return func(*args, **(kwargs or {}))


def _counted(function: Callable[..., Any], args: Sequence[Any], module: torch.nn.Module | None) -> tuple[Counter[Any], Any]:
    counter = _Count()
    with torch.no_grad(), ordinary_torch(), plain_forward(module, function), counter:
        out = function(*args) if module is None else function(module, *args)
    return counter.seen, out


def witness(whole: Whole, function: Callable[..., Any], args: Sequence[Any], module: torch.nn.Module | None) -> list[Any]:
    """The original's results (leaves) at the real length. Raises CaptureError where its operations are not those of the short
    lengths, extended: Python that looks at the length would show there."""
    length = whole.captured.region.sizes[T]
    assert whole.where is not None
    counts = {n: _counted(function, resized(args, whole.where, n), module)[0] for n in LENGTHS[:2]}
    (a, short), (b, longer) = counts.items()
    real, out = _counted(function, args, module)
    for key in short.keys() | longer.keys() | real.keys():
        if (real[key] - short[key]) * (b - a) != (longer[key] - short[key]) * (length - a):
            raise CaptureError(
                f"at length {length} the function runs {key[0]} {real[key]} times, which is not as at short lengths"
            )
    return pytree.tree_leaves(out)


def agree(mine: Sequence[Any], theirs: Sequence[Any]) -> bool:
    """Whether the kernel's results are the original's but for rounding: by the ratio of root mean squares, as recurrences are
    compared."""
    if len(mine) != len(theirs):
        return False
    for x, y in zip(mine, theirs, strict=True):
        if not isinstance(y, torch.Tensor):
            if x != y:
                return False
            continue
        if x.shape != y.shape or x.dtype != y.dtype or _steps(x) != _steps(y) or not near(x, y):
            return False
    return True


def _steps(x: torch.Tensor) -> list[int]:
    """The strides that mean something."""
    return [s for s, n in zip(x.stride(), x.shape, strict=True) if n > 1] if x.numel() > 1 else []


def near(x: torch.Tensor, y: torch.Tensor) -> bool:
    """Whether two tensors of one shape differ by rounding alone."""
    usual = y.isfinite()
    if not torch.equal(usual, x.isfinite()):
        return False
    error, size = (x - y).double()[usual].square().mean().sqrt(), y.double()[usual].square().mean().sqrt()
    return not usual.any() or bool(error <= _RATIO[y.dtype] * size)


_RATIO = {torch.float32: 2e-3, torch.float64: 1e-6, torch.bfloat16: 5e-2, torch.float16: 1e-2}
