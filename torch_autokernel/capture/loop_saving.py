"""Which values of a forward step its gradient reads, kept or computed again; and graph nodes as a loop's operations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from torch_autokernel.capture import ops
from torch_autokernel.capture.loop_ops import name_in_loop, static_op
from torch_autokernel.capture.signature import dtype_name
from torch_autokernel.capture.step_gradient import Joint
from torch_autokernel.core.errors import CaptureError
from torch_autokernel.core.types import Op

_COSTLY = frozenset(
    f"aten.{name}.default"
    for name in "exp exp2 expm1 log log2 log10 log1p sigmoid tanh erf erfc sin cos tan silu gelu sqrt rsqrt".split()
) | {"aten.pow.Tensor_Scalar", "aten.pow.Tensor_Tensor"}
_FORMS = frozenset(f"aten.{name}" for name in (
    "view.default", "_unsafe_view.default", "reshape.default", "permute.default", "squeeze.dim", "squeeze.dims",
    "unsqueeze.default",
))  # fmt: skip


@dataclass
class Saved:
    """`each` are values that the forward loop gives for every step, with the dimension along which they are stacked.
    `shifted` are the states whose value after a step is read and also the one before it: the former is the latter of the
    step that came later, which the gradient's loop has just read."""

    late: set[fx.Node]
    each: dict[tuple[fx.Node, int], None] = field(default_factory=dict)
    shifted: list[int] = field(default_factory=list)

    def kept(self) -> list[fx.Node]:
        return [n for n, dim in self.each if dim == 0]


def choose(joint: Joint) -> Saved:
    """What to keep: products and costly functions that follow from a state, states, and cheap values whose own operands would
    have to be kept. What follows from the loop's inputs alone, or from what is kept, is computed again."""
    late: set[fx.Node] = {n for n in (*joint.given_next, *joint.given_out) if n is not None}
    for n in joint.graph.nodes:
        if n.op == "call_function" and any(a in late for a in n.all_input_nodes):
            late.add(n)
    chooser = _Chooser(joint, late)
    for n in _frontier(joint, late):
        chooser.consider(n)
    saved = Saved(late, dict.fromkeys((_as_read(n), 0) for n in chooser.kept))
    for use in joint.uses:
        if use.side is not None and use.gradient is not None:
            saved.each[use.other, stacked_along(use)] = None
    for n in chooser.rest:
        if not chooser.available(n, set(saved.kept())):
            saved.each[_as_read(n), 0] = None
    for i, (before, after) in enumerate(zip(joint.carries, joint.nexts, strict=True)):
        if (before, 0) in saved.each and (after, 0) in saved.each and before is not after and i not in saved.shifted:
            if after not in [joint.nexts[k] for k in saved.shifted]:
                saved.shifted.append(i)
                del saved.each[after, 0]
    for n, _dim in saved.each:
        if dtype_name(n.meta["val"].dtype) not in ops.FLOATS:
            raise CaptureError(f"the gradient reads a value of {n.meta['val'].dtype}")
    return saved


def _as_read(n: fx.Node) -> fx.Node:
    """The value in the only form in which it is read, so that dimensions that a product joined stand apart again."""
    while len(n.users) == 1:
        (user,) = n.users
        if user.op != "call_function" or ops.name_of(user.target) not in _FORMS:
            break
        n = user
    return n


def stacked_along(use: Any) -> int:
    """Where the steps go among the dimensions of a product's factor and its gradient, so that all steps' are one product."""
    batch = use.other.meta["val"].dim() - 2
    return int(batch + (0 if use.side == 1 else 1))


def _frontier(joint: Joint, late: set[fx.Node]) -> list[fx.Node]:
    """The forward's values that the gradient reads, in the order of the graph."""
    roots = [n for n in (*joint.of_carry, *joint.of_indexed, *(u.gradient for u in joint.uses)) if n is not None]
    read = {n for n in roots if n not in late}
    todo, seen = [n for n in roots if n in late], set[fx.Node]()
    while todo:
        n = todo.pop()
        if n in seen:
            continue
        seen.add(n)
        for a in n.all_input_nodes:
            (todo.append if a in late else read.add)(a)
    return [n for n in joint.graph.nodes if n in read]


class _Chooser:
    def __init__(self, joint: Joint, late: set[fx.Node]) -> None:
        self.carries, self.operands = set(joint.carries), {*joint.indexed, *joint.outside}
        self.kept: dict[fx.Node, None] = {}
        self.rest: dict[fx.Node, None] = {}
        self._free: dict[fx.Node, bool] = {}

    def free(self, n: fx.Node) -> bool:
        """Whether a value follows from the loop's inputs of this step alone, without products."""
        if n not in self._free:
            own = n in self.operands or n.op == "call_function" and not _heavy(n)
            self._free[n] = own and n not in self.carries and all(map(self.free, n.all_input_nodes))
        return self._free[n]

    def consider(self, n: fx.Node) -> None:
        if self.free(n):
            return
        name = ops.name_of(n.target)
        value = n.meta["val"]
        several = isinstance(value, (tuple, list))
        view = several or name in ops.VIEWS or name == ops.GETITEM or name.startswith(("aten.split", "aten.unbind"))
        if n.op == "call_function" and (view or value.dtype not in _KEPT):
            for a in n.all_input_nodes:
                self.consider(a)
        elif n in self.carries or _heavy(n) or name in _COSTLY:
            self.kept[n] = None
        else:
            self.rest[n] = None

    def available(self, n: fx.Node, kept: set[fx.Node]) -> bool:
        """Whether a value can be computed again cheaply."""
        if n in kept or n in self.operands:
            return True
        if n in self.carries or _heavy(n) or ops.name_of(n.target) in _COSTLY and not self.free(n):
            return False
        return all(self.available(a, kept) for a in n.all_input_nodes)


_UNLIKE = ops.UNLIKE_LOOPS - {"aten.embedding.default", "prims.iota.default"}
_KEPT = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def _heavy(n: fx.Node) -> bool:
    name = ops.name_of(n.target)
    return name == "aten.mv.default" or ops.kind(name) in ("product", "attention", "reduction", "scan")


# ---- nodes as operations ----
def closure(roots: Iterable[fx.Node], known: Mapping[fx.Node, Any]) -> set[fx.Node]:
    """The operations that lead from the known values to the roots."""
    todo, seen = list(roots), set[fx.Node]()
    while todo:
        n = todo.pop()
        if n in known or n in seen:
            continue
        if n.op != "call_function":
            raise CaptureError("the gradient reads a value that is not kept")
        seen.add(n)
        todo += n.all_input_nodes
    return seen


def write(
    graph: fx.Graph, roots: Iterable[fx.Node], known: Mapping[fx.Node, int], first: int
) -> tuple[list[Any], dict[fx.Node, int]]:
    """The operations of a loop's body from the known values (by number) to the roots, numbered from `first` on, and all values'
    numbers."""
    number, body = dict(known), list[Any]()
    needed = closure(roots, known)
    for n in graph.nodes:
        if n in needed:
            op = _op(n, number)
            number[n] = first + len(body)
            body.append((op.target, op.args, tuple(sorted(op.kwargs.items())), op.shape, op.dtype))
    return body, number


def _op(n: fx.Node, number: Mapping[fx.Node, int]) -> Op:
    name = name_in_loop(n)
    if ops.kind(name) is None and name not in ops.IN_LOOPS or name in _UNLIKE:
        raise CaptureError(f"the gradient holds {name}, which is not among the operations that a loop may hold")
    return static_op(n, number)
