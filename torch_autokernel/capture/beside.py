"""A call beside its original, forward and backward: the same results and gradients, and which of them is faster."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils import _pytree as pytree

from torch_autokernel.capture.whole import flattened, named_state
from torch_autokernel.capture.witness import agree, near

log = logging.getLogger(__name__)
Tensor = torch.Tensor
Module = torch.nn.Module | None

_ROUNDS = 5


@contextmanager
def apart() -> Iterator[None]:
    """What autograd records within the block is ours: hooks of the user on what it saves do not see it."""
    with torch.autograd.graph.saved_tensors_hooks(lambda x: x, lambda x: x), torch.enable_grad():
        yield


class Beside:
    """One call, forward and backward, by the original and by `run`, which takes the tensors of the arguments and the module's
    state: on leaves of its own, from equal gradients."""

    def __init__(self, run: Callable[[list[Tensor]], Any], function: Callable[..., Any], args: tuple[Any, ...],
                 module: Module) -> None:  # fmt: skip
        self.run, self.function, self.args, self.module = run, function, args, module
        self.given: list[Tensor] | None = None

    def original(self, dtype: torch.dtype | None = None) -> tuple[list[Any], list[Any]]:
        call, _spec = flattened(self.function, self.args, self.module)
        return self._both(lambda tensors: call(*tensors), dtype)

    def planned(self) -> tuple[list[Any], list[Any]]:
        return self._both(self.run, None)

    def _both(self, run: Callable[[list[Tensor]], Any], dtype: torch.dtype | None) -> tuple[list[Any], list[Any]]:
        """Results and gradients."""
        tensors = [*(a for a in self.args if isinstance(a, Tensor)), *named_state(self.module)]
        leaves = [_cast(t.detach(), dtype).requires_grad_(t.requires_grad) for t in tensors]
        results = pytree.tree_leaves(run(leaves))
        ends = [r for r in results if isinstance(r, Tensor) and r.requires_grad]
        if self.given is None:
            numbers = torch.Generator().manual_seed(len(ends))
            self.given = [torch.randn(r.shape, generator=numbers).to(r.dtype) for r in ends]
        given = [_cast(g, dtype) for g in self.given]
        grads = torch.autograd.grad(ends, [t for t in leaves if t.requires_grad], given, allow_unused=True)
        return results, list(grads)

    def faster(self) -> bool:
        """Whether the plan is no slower, both ways together, by the medians of runs in turns."""
        took: dict[str, list[int]] = {"original": [], "planned": []}
        for _ in range(_ROUNDS):
            for name, times in took.items():
                begin = time.perf_counter_ns()
                getattr(self, name)()
                times.append(time.perf_counter_ns() - begin)
        log.debug("forward and backward: %s", took)
        return statistics.median(took["planned"]) <= statistics.median(took["original"])


def _cast(t: Tensor, dtype: torch.dtype | None) -> Tensor:
    return t if dtype is None or not t.is_floating_point() else t.to(dtype)


def refuted(beside: Beside) -> str:
    """Why `run` must not stand for the original, or nothing."""
    theirs, mine = beside.original(), beside.planned()
    if not agree(_without_history(mine[0]), _without_history(theirs[0])):
        return "the kernel and the original differ"
    if [_tells(x) for x in mine[0]] != [_tells(x) for x in theirs[0]] or not _same_gradients(mine[1], theirs[1], beside):
        return "the gradient's kernel and the original differ"
    return ""


def _without_history(results: Sequence[Any]) -> list[Any]:
    return [r.detach() if isinstance(r, Tensor) else r for r in results]


def _tells(x: Any) -> Any:
    return isinstance(x, Tensor) and x.requires_grad


def _same_gradients(mine: Sequence[Any], theirs: Sequence[Any], beside: Beside) -> bool:
    """Equal but for rounding; where they are not, no farther from the original in double precision than the original is."""
    if [g is None for g in mine] != [g is None for g in theirs]:
        return False
    pairs = [(k, x, y) for k, (x, y) in enumerate(zip(mine, theirs, strict=True)) if y is not None]
    if any(x.shape != y.shape or x.dtype != y.dtype for _k, x, y in pairs):
        return False
    far = [(k, x, y) for k, x, y in pairs if not near(x, y)]
    if not far:
        return True
    exact = beside.original(torch.float64)[1]
    return all(_error(x, exact[k]) <= 2 * _error(y, exact[k]) for k, x, y in far)


def _error(x: Tensor, exact: Tensor) -> float:
    return float((x.double() - exact).square().mean())
