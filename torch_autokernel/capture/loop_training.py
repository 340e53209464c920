"""A forward with a loop over time, for training: a region for the loop, one for its gradient, and torch for the rest.

What stands before and behind the loop runs as it is, and autograd records it. Besides its results the loop gives what its
gradient reads of each step (`loop_saving.py`). The gradient is a loop too, from the last step to the first; its states are the
gradients of the states.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from torch_autokernel.capture import ops
from torch_autokernel.capture.loop_saving import choose, stacked_along, write
from torch_autokernel.capture.loop_signature import T, input_spec
from torch_autokernel.capture.reference import load_reference, print_around, print_reference
from torch_autokernel.capture.step_gradient import Body, Needs, Spec, edges, trace_step
from torch_autokernel.core import dims
from torch_autokernel.core.dims import Dim
from torch_autokernel.core.errors import CaptureError
from torch_autokernel.core.types import Const, Op, Ref, Region, Signature, TensorSpec

Tensor = torch.Tensor


@dataclass(frozen=True)
class Finish:
    """What is done with a result of the gradient's loop: it is the gradient of operand `operand` (`kind` "as it is"), that of the
    elements from `start` on along `dim` ("part"), summed over `over` ("sum"), or a factor of a product with saved value
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
    """The loop's two regions. Operands are the loop's first states, sequences and invariants, each tensor once. Forward: operands
    to `results` results, then `saved`. Backward: `inputs` names what goes in: ("state", result or None, shape, dtype) the
    gradient of a last state, ("out", result), ("saved", number) or ("operand", number). `plainly` is the loop's text as torch runs
    and differentiates it."""

    forward: Region
    backward: Region
    results: int
    inputs: list[tuple[Any, ...]]
    finish: list[Finish]
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
        return _dim(self.op.args[0])

    def call(self) -> Callable[..., Any]:
        """`f(loop, *tensors, length)`: the forward, with `loop(operands, length)` in the place of the loop."""
        return load_reference(print_around(self.signature, self.operands))


def _dim(value: Any) -> Dim:
    return dims.add(value.value) if isinstance(value, Const) else value


def _said(d: Dim) -> Any:
    return d if isinstance(d, int) else Const("dim", d)


def differentiate(loop: Loop, operands: Sequence[Tensor], wanted: Sequence[bool], length: int) -> Training:
    """The regions for a loop over these operands, some of which want gradients; raises CaptureError."""
    return _Writer(loop, operands, wanted, length).training()


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
        beyond = len(held) + 2  # by then nothing new is reached
        for step in range(min(steps, beyond)):
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
        backward, inputs, finish = self._backward(needs, results, saved)
        return Training(forward, backward, results, inputs, finish, self.reached, self._plainly())

    def _plainly(self) -> str:
        steps, _inits, _indexed, _outside, *rest = self.loop.op.args
        return print_reference(_signature(self.specs, (steps, *self._roles(), *rest), self._shapes(), {}))

    def _shapes(self) -> list[Any]:
        """The results' shapes and dtypes."""
        made = [(self._shape_of(value), how, dim) for how, value, dim, _back in self.outs]
        return [_stacked(spec, dim, self.loop.steps) if how == "all" else spec for spec, how, dim in made]

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
            shapes.append(_stacked((tuple(n.meta["val"].shape), _name(n)), dim, self.loop.steps))
        for i in self.saved.shifted:
            saved["last", i] = len(outs)
            outs.append(("last", nexts[i], 0, False))
            shapes.append(self.body.carries[i])
        args = (self.loop.op.args[0], *self._roles(), tuple(body), nexts, tuple(outs))
        guards = dict(self.loop.signature.guards)
        return _region(self.specs, args, shapes, self.length, guards), len(self.outs), saved

    def _shape_of(self, value: int) -> Any:
        """Shape and dtype of a value of the body."""
        given = [*self.body.carries, *self.body.indexed, *self.body.outside]
        return given[value] if value < len(given) else (self.body.ops[value - len(given)].shape, self.body.ops[value - len(given)].dtype)

    def _backward(self, needs: Needs, results: int, saved: dict[Any, int]) -> tuple[Region, list[tuple[Any, ...]], list[Finish]]:
        return _Backward(self, needs, results, saved).write()


def _name(n: Any) -> str:
    return str(n.meta["val"].dtype).removeprefix("torch.")


def _stacked(spec: Any, dim: int, steps: Dim) -> Any:
    shape, dtype = spec
    return (*shape[:dim], steps, *shape[dim:]), dtype


def _region(specs: Sequence[TensorSpec], args: tuple[Any, ...], shapes: Sequence[Any], length: int, guards: dict[str, int]) -> Region:
    if not any(T == d for s in specs for d in s.shape):
        raise CaptureError("no input is as long as the loop")
    signature = _signature(specs, args, shapes, guards)
    return Region(signature, print_reference(signature), {T: length}, (), "direct")


def _signature(specs: Sequence[TensorSpec], args: tuple[Any, ...], shapes: Sequence[Any], guards: dict[str, int]) -> Signature:
    """A loop over inputs, and nothing else; all its results are dense."""
    first = len(specs)
    made = [Op(ops.LOOP, args)]
    made += [Op(ops.GETITEM, (Ref(first), k), {}, shape, dtype) for k, (shape, dtype) in enumerate(shapes)]
    outputs = tuple(range(first + 1, first + 1 + len(shapes)))
    out_specs = tuple(TensorSpec.contiguous(tuple(shape), dtype) for shape, dtype in shapes)
    return Signature(tuple(made), tuple(specs), outputs, out_specs, (T,), guards)


class _Backward:
    """The gradient's loop. Its values: states, slices of this step, invariants."""

    def __init__(self, w: _Writer, needs: Needs, results: int, saved: dict[Any, int]) -> None:
        self.w, self.needs, self.results, self.saved = w, needs, results, saved
        self.low = dims.add(w.loop.steps, dims.mul(-1, T))  # steps less length
        self.tensors: dict[tuple[Any, ...], TensorSpec] = {}
        self.carries: list[tuple[Any, Any]] = []  # (input, next node)
        self.slices: list[tuple[Any, int, Dim, int]] = []
        self.outside: list[Any] = []
        self.known: dict[Any, tuple[str, int]] = {}

    def _here(self, d: Dim) -> Dim:
        """A size where the symbol is the number of steps."""
        return dims.rename(d, {T: dims.add(T, dims.mul(-1, self.low))})

    def _input(self, key: tuple[Any, ...], spec: TensorSpec) -> tuple[Any, ...]:
        self.tensors.setdefault(key, spec)
        return key

    def _slice(self, node: Any, key: Any, dim: int, start: Dim, step: int) -> None:
        self.known[node] = "slice", len(self.slices)
        self.slices.append((key, dim, start, step))

    def _states(self) -> None:
        w, joint = self.w, self.w.joint
        lasts: dict[int, list[int]] = {}
        for k, out in enumerate(w.outs):
            if k not in w.own:
                lasts.setdefault(w.nexts.index(out[1]), []).append(k)
        for i, active in enumerate(self.needs.carries):
            if not active or joint.given_next[i] is None and joint.of_carry[i] is None:
                continue
            shape, dtype = w.body.carries[i]
            key = self._input(("state", tuple(lasts.get(i, ())), i), TensorSpec.contiguous(shape, dtype))
            self.known[joint.given_next[i] or ("unread", i)] = "carry", len(self.carries)
            self.carries.append((key, joint.of_carry[i]))
        for k, given in zip(w.own, joint.given_out, strict=True):
            if w.outs[k][0] == "last" and given is not None:
                shape, dtype = w._shape_of(w.outs[k][1])
                key = self._input(("state", (k,), None), TensorSpec.contiguous(shape, dtype))
                self.known[given] = "carry", len(self.carries)
                self.carries.append((key, None))
        for i in w.saved.shifted:
            key = self._input(("saved", self.saved["last", i]), TensorSpec.contiguous(*w.body.carries[i]))
            self.known[w.joint.nexts[i]] = "carry", len(self.carries)
            self.carries.append((key, joint.carries[i]))

    def _sequences(self) -> None:
        w, joint, end = self.w, self.w.joint, dims.add(T, -1)
        for (n, dim), number in self.saved.items():
            if n != "last" and dim == 0:
                spec = TensorSpec.contiguous((T, *n.meta["val"].shape), _name(n))
                self._slice(n, self._input(("saved", number), spec), 0, end, -1)
        for k, given in zip(w.own, joint.given_out, strict=True):
            how, value, dim, back = w.outs[k]
            if how == "all" and given is not None:
                shape, dtype = _stacked(w._shape_of(value), dim, T)
                key = self._input(("out", k), TensorSpec.contiguous(shape, dtype))
                self._slice(given, key, dim, 0 if back else end, 1 if back else -1)
        for n, k, (_source, dim, start, step) in zip(joint.indexed, w.sources, w.indexed, strict=True):
            begin = dims.add(self._here(_dim(start)), dims.mul(step, end))
            self._slice(n, ("operand", k), dim, begin, -step)
        for n, k in zip(joint.outside, w.outside, strict=True):
            self.known[n] = "outside", len(self.outside)
            self.outside.append(("operand", k))

    def write(self) -> tuple[Region, list[tuple[Any, ...]], list[Finish]]:
        self._states()
        self._sequences()
        wanted, finish = self._wanted()
        roots = [n for n, _dim, _back in wanted] + [n for _key, n in self.carries if n is not None]
        self._drop_unread(roots)
        base = {"carry": 0, "slice": len(self.carries), "outside": len(self.carries) + len(self.slices)}
        known = {n: base[kind] + k for n, (kind, k) in self.known.items()}
        first = len(self.carries) + len(self.slices) + len(self.outside)
        body, number = write(self.w.joint.graph, roots, known, first)
        nexts = []
        for key, n in self.carries:
            if n is None:
                spec = self.tensors[key]
                number[n] = first + len(body)
                body.append(("aten.full.default", (spec.shape, 0), (("dtype", Const("dtype", spec.dtype)),), spec.shape, spec.dtype))
            nexts.append(number[n])
        outs, shapes = [], []
        for n, dim, back in wanted:
            spec = tuple(n.meta["val"].shape), _name(n)
            outs.append(("last", number[n], 0, False) if dim is None else ("all", number[n], dim, back))
            shapes.append(spec if dim is None else _stacked(spec, dim, T))
        if not outs:
            raise CaptureError("no gradient flows through the loop")
        return self._made(tuple(body), tuple(nexts), tuple(outs), shapes), list(self.tensors), finish

    def _made(self, body: Any, nexts: Any, outs: Any, shapes: Any) -> Region:
        for key in (*(s[0] for s in self.slices), *self.outside):
            if key[0] == "operand":
                spec = self.w.specs[key[1]]
                shape, stride = (tuple(map(self._here, d)) for d in (spec.shape, spec.stride))
                self._input(key, TensorSpec(shape, spec.dtype, stride, spec.device, spec.alignment))
        number = {key: k for k, key in enumerate(self.tensors)}
        inits = tuple(Ref(number[key]) for key, _n in self.carries)
        slices = tuple((Ref(number[key]), dim, _said(start), step) for key, dim, start, step in self.slices)
        args = (_said(T), inits, slices, tuple(Ref(number[key]) for key in self.outside), body, nexts, outs)
        steps = dims.evaluate(self.w.loop.steps, {T: self.w.length})
        return _region(list(self.tensors.values()), args, shapes, steps, {})

    def _drop_unread(self, roots: list[Any]) -> None:
        """Leave out slices and invariants that no gradient reads."""
        seen, todo = set[Any](), list(roots)
        while todo:
            n = todo.pop()
            if n not in seen:
                seen.add(n)
                todo += [] if n in self.known else n.all_input_nodes
        for kind, places in (("slice", self.slices), ("outside", self.outside)):
            keep = [n for n, (own, _k) in self.known.items() if own == kind and n in seen]
            fresh = [places[self.known[n][1]] for n in keep]
            for n in [n for n, (own, _k) in self.known.items() if own == kind]:
                del self.known[n]
            self.known |= {n: (kind, k) for k, n in enumerate(keep)}
            places[:] = fresh
        read = {s[0] for s in self.slices} | {c[0] for c in self.carries}
        self.tensors = {key: spec for key, spec in self.tensors.items() if key in read}

    def _wanted(self) -> tuple[list[tuple[Any, Any, bool]], list[Finish]]:
        """The loop's results as (node, dimension or None for the last step's, backwards), and what is done with them."""
        w, joint = self.w, self.w.joint
        wanted: dict[tuple[Any, Any, bool], int] = {}
        finish: list[Finish] = []

        def result(node: Any, dim: Any, back: bool) -> int:
            return wanted.setdefault((node, dim, back), len(wanted))

        for i, (n, k) in enumerate(zip(joint.of_carry, w.inits, strict=True)):
            if n is not None and w.wanted[k] and w.first.carries[i]:
                finish.append(Finish(k, result(n, None, False), "as it is"))
        for n, k, (_source, dim, start, step) in zip(joint.of_indexed, w.sources, w.indexed, strict=True):
            if n is not None:
                low = _dim(start) if step == 1 else dims.add(_dim(start), dims.mul(-1, w.loop.steps), 1)
                whole = low == 0 and w.specs[k].shape[dim] == w.loop.steps
                finish.append(Finish(k, result(n, dim, step == 1), "as it is" if whole else "part", dim, low))
        for use in joint.uses:
            if use.gradient is None:
                continue
            k = w.outside[use.invariant]
            if use.side is not None:
                dim = stacked_along(use)
                made = result(use.gradient, dim, True)
                finish.append(Finish(k, made, "product", other=self.saved[use.other, dim], side=use.side))
        for use in joint.uses:
            if use.side is None and use.gradient is not None:
                k = w.outside[use.invariant]
                there = next((key for key in wanted if key[0] is use.gradient and key[1] is not None), (use.gradient, 0, True))
                over = _summed(tuple(use.gradient.meta["val"].shape), w.specs[k].shape, there[1])
                finish.append(Finish(k, result(*there), "sum", over=over))
        return list(wanted), finish


def _summed(shape: tuple[int, ...], of: tuple[Dim, ...], at: int) -> tuple[int, ...]:
    """The dimensions to sum over, where the steps stand at dimension `at` among those of an expanded tensor."""
    more = len(shape) - len(of)
    own = [d for d in range(len(shape)) if d < more or of[d - more] == 1 and shape[d] != 1]
    return (at, *(d + (d >= at) for d in own))
