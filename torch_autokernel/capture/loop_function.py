"""The loop's two kernels as one differentiable function of its operands."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from torch_autokernel.capture.loop_region import Finish, Training
from torch_autokernel.capture.loop_signature import T
from torch_autokernel.capture.reference import load_reference
from torch_autokernel.core import dims
from torch_autokernel.core.errors import GuardMiss
from torch_autokernel.core.types import TensorSpec

Tensor = torch.Tensor
Kernel = Callable[..., tuple[Tensor, ...]]


@dataclass
class LoopKernels:
    """What `LoopFunction` runs. `wanted` says which operands want gradients, `reached` for each result on which operands it
    depends; `plainly` is the loop as torch runs it. The steps may be fewer than the length."""

    training: Training
    forward: Kernel
    backward: Kernel
    wanted: tuple[bool, ...]
    length: int
    steps: int
    reached: list[set[int]]
    plainly: Callable[..., tuple[Tensor, ...]]
    _reference: Kernel | None = field(default=None)

    @property
    def read(self) -> list[int]:
        """The operands that the gradient reads."""
        return [key[1] for key in self.training.inputs if key[0] == "operand"]

    def gradients(
        self, given: Sequence[Tensor | None], saved: Sequence[Tensor], operands: Sequence[Tensor | None]
    ) -> list[Tensor | None]:
        """The gradients of the operands from those of the results. `saved` are the results that are kept for it."""
        training = self.training
        signature = training.backward.signature
        tensors: list[Tensor] = []
        for key, spec in zip(training.inputs, signature.inputs, strict=True):
            if key[0] == "state":
                tensors.append(self._added([given[k] for k in key[1]], spec))
            elif key[0] == "out":
                tensors.append(self._added([given[key[1]]], spec))
            elif key[0] == "saved":
                tensors.append(saved[key[1] - training.results])
            else:
                tensor = operands[key[1]]
                assert tensor is not None
                tensors.append(tensor)
        results = self._run(tensors)
        there = set().union(*(r for r, g in zip(self.reached, given, strict=True) if g is not None))
        out: list[Tensor | None] = [None] * len(self.wanted)
        for f in training.finish:
            if f.operand in there:
                made = self._finished(f, results[f.result], saved)
                before = out[f.operand]
                out[f.operand] = made if before is None else before + made
        return out

    def _run(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The gradient's loop: the kernel's, or the reference's where the kernel does not take the tensors or where they are
        being looked at (vmap, compiled autograd, modes)."""
        if ordinary(tensors):
            try:
                return self.backward(*tensors)
            except GuardMiss:
                pass
        if self._reference is None:
            self._reference = load_reference(self.training.backward.reference)
        return self._reference(*tensors, self.steps)

    def _added(self, given: Sequence[Tensor | None], spec: TensorSpec) -> Tensor:
        """The sum of what is given, dense; zeros where nothing is."""
        out: Tensor | None = None
        for g in given:
            if g is not None:
                out = g if out is None else out + g
        if out is None:
            here = {T: self.steps}
            return torch.zeros([dims.evaluate(d, here) for d in spec.shape], dtype=getattr(torch, spec.dtype))
        return out.resolve_neg().contiguous()

    def _finished(self, f: Finish, result: Tensor, saved: Sequence[Tensor]) -> Tensor:
        spec = self.training.forward.signature.inputs[f.operand]
        here = {T: self.length}
        shape = [dims.evaluate(d, here) for d in spec.shape]
        if f.kind == "part":
            out = result.new_zeros(shape)
            out.narrow(f.dim, dims.evaluate(f.start, here), result.shape[f.dim]).copy_(result)
            return out
        if f.kind == "sum":
            return result.sum(f.over).reshape(shape)
        if f.kind == "product":
            other, at = saved[f.other - self.training.results], result.dim() - 3
            a, b = (_joined(other, at).mT, _joined(result, at)) if f.side == 1 else (_joined(result, -2), _joined(other, -2).mT)
            turned = len(shape) == 2 and [dims.evaluate(d, here) for d in spec.stride] == [1, shape[0]]
            return (b.mT @ a.mT).mT if turned else a @ b  # eager lays a matrix' gradient out as the matrix is
        return result


def _joined(t: Tensor, at: int) -> Tensor:
    """With two dimensions as one, in words that vmap knows."""
    shape = list(t.shape)
    at %= len(shape)
    return t.reshape([*shape[:at], shape[at] * shape[at + 1], *shape[at + 2 :]])


_CPU, _keys = torch._C.DispatchKey.CPU, torch._C._dispatch_keys


def ordinary(tensors: Sequence[Tensor]) -> bool:
    """Whether the tensors are memory, and nobody looks at what is done to them."""
    if torch._C._len_torch_dispatch_stack() or torch._C._functorch.peek_interpreter_stack() or torch.compiler.is_compiling():
        return False
    return all(type(t) in (Tensor, torch.nn.Parameter) and _keys(t).has(_CPU) for t in tensors)


class LoopFunction(torch.autograd.Function):
    """`apply(kernels, others, *operands)`: the loop's results. `others` are what `unread` makes of the operands."""

    @staticmethod
    def forward(ctx: Any, kernels: LoopKernels, others: Others, *operands: Tensor) -> Any:
        results = kernels.forward(*operands)
        count = kernels.training.results
        ctx.kernels, ctx.others = kernels, others
        ctx.save_for_backward(*(operands[k] for k in kernels.read), *results[count:])
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*(r for r, from_ in zip(results, kernels.reached, strict=False) if not from_))
        return results[:count]

    @staticmethod
    def backward(ctx: Any, *given: Tensor | None) -> Any:
        kernels: LoopKernels = ctx.kernels
        saved = ctx.saved_tensors
        operands: list[Any] = [None] * len(kernels.wanted)
        for k, tensor in zip(kernels.read, saved, strict=False):
            operands[k] = tensor
        if torch.is_grad_enabled():
            return None, None, *_differentiable(kernels, latest(operands, ctx.others), given)
        gradients = kernels.gradients(given, saved[len(kernels.read) :], operands)
        ctx.others = done(ctx.others)
        return None, None, *gradients


# ---- operands that only second derivatives read ----
Others = list[tuple[Tensor, int] | None]  # with the version that each had


class _Same(torch.autograd.Function):
    """A tensor with the same memory and history that does not hold the original."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return tensor.detach()

    @staticmethod
    def backward(ctx: Any, given: Tensor) -> Tensor:
        return given


def unread(tensors: Sequence[Tensor], read: Container[int]) -> Others:
    """What is kept of tensors that the gradient does not read. Not the tensors themselves: after `h += f(h)`, h would hold the
    function that holds h, and nobody would ever free them. Nor are they saved: eager would not complain of a change to them."""
    out: Others = []
    for k, t in enumerate(tensors):
        if k in read:
            out.append(None)
        elif not t.requires_grad:
            out.append((t.detach(), t._version))
        else:
            out.append((t if t.grad_fn is None else _Same.apply(t), t._version))  # type: ignore[no-untyped-call]
    return out


def done(others: Others) -> Others:
    """What is still needed of them after a backward pass that records nothing."""
    return others if torch._C._autograd._get_current_graph_task_keep_graph() else [None] * len(others)


def changed(others: Others) -> str:
    """What autograd would say of the first of them that has changed, or nothing."""
    for other in others:
        if other is not None and other[0]._version != other[1]:
            return (
                "one of the variables needed for gradient computation has been modified by an inplace operation: a tensor of "
                f"shape {tuple(other[0].shape)} is at version {other[0]._version}; expected version {other[1]} instead"
            )
    return ""


def latest(operands: Sequence[Any], others: Others) -> list[Tensor]:
    """All operands: those that autograd kept, and the others, which must not have changed."""
    if reason := changed(others):
        raise RuntimeError(reason)
    return [operand if other is None else other[0] for operand, other in zip(operands, others, strict=True)]


def _differentiable(kernels: LoopKernels, operands: Sequence[Tensor], given: Sequence[Tensor | None]) -> list[Tensor | None]:
    """The gradients as functions that autograd records (create_graph=True): by torch, step by step."""
    fresh = [t.view_as(t) if w else t for t, w in zip(operands, kernels.wanted, strict=True)]
    results = kernels.plainly(*fresh, kernels.length)
    pairs = [(r, g) for r, g in zip(results, given, strict=True) if g is not None and r.requires_grad]
    wanted = [t for t, w in zip(fresh, kernels.wanted, strict=True) if w]
    ends, grads = [r for r, _g in pairs], [g for _r, g in pairs]
    found = iter(torch.autograd.grad(ends, wanted, grads, create_graph=True, allow_unused=True))
    return [next(found) if w else None for w in kernels.wanted]
