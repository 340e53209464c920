"""A loop by itself: its operands, the regions over them, and what training one takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch_autokernel.capture import ops
from torch_autokernel.capture.loop_signature import T
from torch_autokernel.capture.reference import load_reference, print_around, print_reference
from torch_autokernel.core import dims
from torch_autokernel.core.dims import Dim
from torch_autokernel.core.errors import CaptureError
from torch_autokernel.core.types import Const, Op, Ref, Region, Signature, TensorSpec


@dataclass(frozen=True)
class Finish:
    """What is done with a result of the gradient's loop: it is the gradient of operand `operand` (`kind` "as it is"), that of
    the elements from `start` on along `dim` ("part"), summed over `over` ("sum"), or a factor of a product with saved value
    `other`, the operand's side being `side` ("product")."""

    operand: int
    result: int
    kind: str
    dim: int = 0
    start: Dim = 0
    over: tuple[int, ...] = ()
    other: int = 0
    side: int = 0


@dataclass
class Training:
    """The loop's two regions. Operands are the loop's first states, sequences and invariants, each tensor once. Forward: from
    operands to `results` results and what is kept. Backward: `inputs` names what goes in, ("state", results) the gradient of
    a last state, which is the sum of these results', ("out", result) that of a result, ("saved", number) a kept one, or
    ("operand", number). `reached(steps)` tells on which operands each result depends. `plainly` is the loop's text as torch
    runs and differentiates it."""

    forward: Region
    backward: Region
    results: int
    inputs: list[tuple[Any, ...]]
    finish: list[Finish]
    steps: Dim
    reached: Callable[[int], list[set[int]]]
    plainly: str


@dataclass
class Loop:
    """The only loop of a signature, with its operands."""

    signature: Signature
    op: Op
    operands: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, signature: Signature) -> Loop:
        (op,) = [o for o in signature.ops if o.target == ops.LOOP]
        _steps, inits, indexed, outside, *_ = op.args
        order = [r.index for r in inits] + [s[0].index for s in indexed] + [r.index for r in outside]
        return cls(signature, op, list(dict.fromkeys(order)))

    def spec(self, value: int) -> tuple[tuple[Dim, ...], str]:
        made = [(s.shape, s.dtype) for s in self.signature.inputs] + [(o.shape, o.dtype) for o in self.signature.ops]
        return made[value]

    @property
    def steps(self) -> Dim:
        return dim_of(self.op.args[0])

    def call(self) -> Callable[..., Any]:
        """`f(loop, *tensors, length)`: the forward, with `loop(operands, length)` in the place of the loop."""
        return load_reference(print_around(self.signature, self.operands))


def dim_of(value: Any) -> Dim:
    return dims.add(value.value) if isinstance(value, Const) else value


def dtype_of(n: Any) -> str:
    return str(n.meta["val"].dtype).removeprefix("torch.")


def stacked(spec: Any, dim: int, steps: Dim) -> Any:
    shape, dtype = spec
    return (*shape[:dim], steps, *shape[dim:]), dtype


def loop_region(
    specs: Sequence[TensorSpec], args: tuple[Any, ...], shapes: Sequence[Any], length: int, guards: dict[str, int]
) -> Region:
    if not any(T == d for s in specs for d in s.shape):
        raise CaptureError("no input is as long as the loop")
    signature = loop_over(specs, args, shapes, guards)
    return Region(signature, print_reference(signature), {T: length}, (), "direct")


def loop_over(specs: Sequence[TensorSpec], args: tuple[Any, ...], shapes: Sequence[Any], guards: dict[str, int]) -> Signature:
    """A loop over inputs, and nothing else; all its results are dense."""
    first = len(specs)
    made = [Op(ops.LOOP, args)]
    made += [Op(ops.GETITEM, (Ref(first), k), {}, shape, dtype) for k, (shape, dtype) in enumerate(shapes)]
    outputs = tuple(range(first + 1, first + 1 + len(shapes)))
    out_specs = tuple(TensorSpec.contiguous(tuple(shape), dtype) for shape, dtype in shapes)
    return Signature(tuple(made), tuple(specs), outputs, out_specs, (T,), guards)
