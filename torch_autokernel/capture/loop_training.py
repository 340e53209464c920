"""A forward with a loop over time, for training: a region for the loop, one for its gradient, and torch for the rest.

What stands before and behind the loop runs as it is, and autograd records it. Besides its results the loop gives what its
gradient reads of each step (`loop_saving.py`). The gradient is a loop too, from the last step to the first; its states are the
gradients of the states.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from torch_autokernel.capture.loop_region import Loop, Training, dtype_of, loop_over, loop_region, stacked
from torch_autokernel.capture.loop_reverse import Reverse
from torch_autokernel.capture.loop_saving import Saved, choose, write
from torch_autokernel.capture.loop_signature import input_spec
from torch_autokernel.capture.reference import print_reference
from torch_autokernel.capture.step_gradient import Body, Needs, Spec, edges, trace_step
from torch_autokernel.core.errors import CaptureError
from torch_autokernel.core.types import Op, Ref, Region

Tensor = torch.Tensor


def differentiate(loop: Loop, operands: Sequence[Tensor], wanted: Sequence[bool], length: int) -> Training:
    """The regions for a loop over these operands, some of which want gradients; raises CaptureError."""
    return _Writer(loop, operands, wanted, length).training()


def alone(loop: Loop, operands: Sequence[Tensor], length: int) -> Region:
    """The region of a loop over these operands, without anything for a gradient; raises CaptureError."""
    return _Writer(loop, operands, [False] * len(operands), length).alone()


class _Writer:
    def __init__(self, loop: Loop, operands: Sequence[Tensor], wanted: Sequence[bool], length: int) -> None:
        self.loop, self.length, self.wanted = loop, length, list(wanted)
        _steps, inits, self.indexed, outside, body, self.nexts, self.outs = loop.op.args
        self.at = {value: k for k, value in enumerate(loop.operands)}
        self.inits = [self.at[r.index] for r in inits]
        self.sources = [self.at[s[0].index] for s in self.indexed]
        self.outside = [self.at[r.index] for r in outside]
        self.specs = [input_spec(t, loop.spec(v)[0], length) for t, v in zip(operands, loop.operands, strict=True)]
        # a result that is a last state adds to that state's gradient, and is none of the step's own
        self.own = [k for k, out in enumerate(self.outs) if out[0] == "all" or out[1] not in self.nexts]
        parts = (
            tuple(self._step(i) for i in self.inits),
            tuple(self._slice(k, s[1]) for k, s in zip(self.sources, self.indexed, strict=True)),
            tuple(self._step(k) for k in self.outside),
        )
        made = tuple(Op(t, a, dict(k), shape, dtype) for t, a, k, shape, dtype in body)
        self.body = Body(*parts, made, self.nexts, tuple(self.outs[k][1] for k in self.own))

    def _step(self, operand: int) -> Spec:
        shape, dtype = self.specs[operand].shape, self.specs[operand].dtype
        if not all(isinstance(n, int) for n in shape):
            raise CaptureError("a step reads a value that is as long as the loop")
        return shape, dtype  # type: ignore[return-value]

    def _slice(self, operand: int, dim: int) -> Spec:
        shape = self.specs[operand].shape
        if not all(isinstance(n, int) for n in shape[:dim] + shape[dim + 1 :]):
            raise CaptureError("a step reads a value that is as long as the loop")
        return shape[:dim] + shape[dim + 1 :], self.specs[operand].dtype  # type: ignore[return-value]

    # ---- what depends on what ----
    def needs(self) -> Needs:
        """Carries are those that any wanted gradient flows through."""
        first = Needs(*(tuple(self.wanted[k] for k in part) for part in (self.inits, self.sources, self.outside)))
        self.first = first
        self.edges = edges(self.body, first)
        active = {i for i, w in enumerate(first.carries) if w}
        for (kind, _k), (nexts, _outs) in self.edges.items():
            active |= nexts if kind else set()
        while more := {i for c in active for i in self.edges.get((0, c), ((), ()))[0]} - active:
            active |= more
        return Needs(tuple(i in active for i in range(len(self.inits))), first.indexed, first.outside)

    def reached(self, steps: int) -> list[set[int]]:
        """For each result of the loop, the operands that it depends on after so many steps."""
        roles = (self.inits, self.sources, self.outside)
        held = [{self.inits[i]} if w else set() for i, w in enumerate(self.first.carries)]
        found: list[set[int]] = [set() for _ in self.outs]
        seen: dict[tuple[frozenset[int], ...], int] = {}
        step, last = 0, steps
        while step < last:
            here = tuple(map(frozenset, held))
            if here in seen:  # it all comes round from here on, be it that states trade places: whole rounds change nothing
                last = step + (last - step) % (step - seen[here])
                if step == last:
                    break
            seen.setdefault(here, step)
            step += 1
            then: list[set[int]] = [set() for _ in held]
            now: list[set[int]] = [set() for _ in self.own]
            for (kind, k), (nexts, outs) in self.edges.items():
                what = held[k] if kind == 0 else {roles[kind][k]}
                for i in nexts:
                    then[i] |= what
                for i in outs:
                    now[i] |= what
            held = then
            for k, reaches in zip(self.own, now, strict=True):
                found[k] = found[k] | reaches if self.outs[k][0] == "all" else reaches
        for k, out in enumerate(self.outs):
            if k not in self.own:
                found[k] = held[self.nexts.index(out[1])]
        return found

    # ---- the two regions ----
    def training(self) -> Training:
        needs = self.needs()
        self.joint = trace_step(self.body, needs)
        self.saved = choose(self.joint)
        forward, results, saved = self._forward()
        backward, inputs, finish = Reverse(self, needs, saved).write()
        return Training(forward, backward, results, inputs, finish, self.loop.steps, self.reached, self._plainly())

    def alone(self) -> Region:
        self.joint = trace_step(self.body, self.needs())
        self.saved = Saved(set())
        return self._forward()[0]

    def _plainly(self) -> str:
        steps, _inits, _indexed, _outside, *rest = self.loop.op.args
        return print_reference(loop_over(self.specs, (steps, *self._roles(), *rest), self._shapes(), {}))

    def _shapes(self) -> list[Any]:
        """The results' shapes and dtypes."""
        made = [(self.shape_of(value), how, dim) for how, value, dim, _back in self.outs]
        return [stacked(spec, dim, self.loop.steps) if how == "all" else spec for spec, how, dim in made]

    def _roles(self) -> tuple[Any, ...]:
        """First states, slices and invariants of the loop, over its operands."""
        sources = tuple((Ref(k), s[1], s[2], s[3]) for k, s in zip(self.sources, self.indexed, strict=True))
        return tuple(map(Ref, self.inits)), sources, tuple(map(Ref, self.outside))

    def _forward(self) -> tuple[Region, int, dict[Any, int]]:
        """The loop with what its gradient reads as further results, and the numbers of those: (node, dimension), and
        ("last", state)."""
        joint = self.joint
        local = [*joint.carries, *joint.indexed, *joint.outside]
        known = {n: k for k, n in enumerate(local)}
        roots = [*joint.nexts, *joint.outs, *(n for n, _dim in self.saved.each)]
        body, number = write(joint.graph, roots, known, len(local))
        nexts = tuple(number[n] for n in joint.nexts)
        value = dict(zip((self.outs[k][1] for k in self.own), (number[n] for n in joint.outs), strict=True))
        value |= dict(zip(self.nexts, nexts, strict=True))
        outs = [(how, value[v], dim, back) for how, v, dim, back in self.outs]
        shapes = self._shapes()
        saved: dict[Any, int] = {}
        for n, dim in self.saved.each:
            saved[n, dim] = len(outs)
            outs.append(("all", number[n], dim, False))
            shapes.append(stacked((tuple(n.meta["val"].shape), dtype_of(n)), dim, self.loop.steps))
        for i in self.saved.shifted:
            saved["last", i] = len(outs)
            outs.append(("last", nexts[i], 0, False))
            shapes.append(self.body.carries[i])
        args = (self.loop.op.args[0], *self._roles(), tuple(body), nexts, tuple(outs))
        guards = dict(self.loop.signature.guards)
        return loop_region(self.specs, args, shapes, self.length, guards), len(self.outs), saved

    def shape_of(self, value: int) -> Any:
        """Shape and dtype of a value of the body."""
        given = [*self.body.carries, *self.body.indexed, *self.body.outside]
        if value < len(given):
            return given[value]
        op = self.body.ops[value - len(given)]
        return op.shape, op.dtype
