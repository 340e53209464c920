"""The gradient's loop, from the last step to the first: its states are the gradients of the states."""

from __future__ import annotations

from typing import Any, Protocol

from torch_autokernel.capture.loop_ops import said
from torch_autokernel.capture.loop_region import Finish, Loop, dim_of, dtype_of, loop_region, stacked
from torch_autokernel.capture.loop_saving import Saved, stacked_along, write
from torch_autokernel.capture.loop_signature import T
from torch_autokernel.capture.step_gradient import Body, Joint, Needs
from torch_autokernel.core import dims
from torch_autokernel.core.dims import Dim
from torch_autokernel.core.errors import CaptureError
from torch_autokernel.core.types import Const, Ref, Region, TensorSpec


class Forward(Protocol):
    """The loop forward. `inits`, `sources` and `outside` are operands by their roles; `own` are the results that are no last
    state; `wanted` and `first` say which operands want gradients."""

    loop: Loop
    body: Body
    joint: Joint
    saved: Saved
    specs: list[TensorSpec]
    length: int
    inits: list[int]
    sources: list[int]
    outside: list[int]
    indexed: Any
    nexts: Any
    outs: Any
    own: list[int]
    wanted: list[bool]
    first: Needs

    def shape_of(self, value: int) -> Any: ...


class Reverse:
    """The gradient's loop. Its values: states, slices of this step, invariants."""

    def __init__(self, w: Forward, needs: Needs, saved: dict[Any, int]) -> None:
        self.w, self.needs, self.saved = w, needs, saved
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
                shape, dtype = w.shape_of(w.outs[k][1])
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
                spec = TensorSpec.contiguous((T, *n.meta["val"].shape), dtype_of(n))
                self._slice(n, self._input(("saved", number), spec), 0, end, -1)
        for k, given in zip(w.own, joint.given_out, strict=True):
            how, value, dim, back = w.outs[k]
            if how == "all" and given is not None:
                shape, dtype = stacked(w.shape_of(value), dim, T)
                key = self._input(("out", k), TensorSpec.contiguous(shape, dtype))
                self._slice(given, key, dim, 0 if back else end, 1 if back else -1)
        for n, k, (_source, dim, start, step) in zip(joint.indexed, w.sources, w.indexed, strict=True):
            begin = dims.add(self._here(dim_of(start)), dims.mul(step, end))
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
                state = self.tensors[key]
                nexts.append(first + len(body))
                zeros = (state.shape, 0), (("dtype", Const("dtype", state.dtype)),)
                body.append(("aten.full.default", *zeros, state.shape, state.dtype))
            else:
                nexts.append(number[n])
        outs, shapes = [], []
        for n, dim, back in wanted:
            spec = tuple(n.meta["val"].shape), dtype_of(n)
            outs.append(("last", number[n], 0, False) if dim is None else ("all", number[n], dim, back))
            shapes.append(spec if dim is None else stacked(spec, dim, T))
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
        slices = tuple((Ref(number[key]), dim, said(start), step) for key, dim, start, step in self.slices)
        args = (said(T), inits, slices, tuple(Ref(number[key]) for key in self.outside), body, nexts, outs)
        steps = dims.evaluate(self.w.loop.steps, {T: self.w.length})
        return loop_region(list(self.tensors.values()), args, shapes, steps, {})

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
                low = dim_of(start) if step == 1 else dims.add(dim_of(start), dims.mul(-1, w.loop.steps), 1)
                whole = low == 0 and w.specs[k].shape[dim] == w.loop.steps
                finish.append(Finish(k, result(n, dim, step == 1), "as it is" if whole else "part", dim, low))
        for use in joint.uses:
            if use.gradient is None:
                continue
            k = w.outside[use.invariant]
            if use.side is not None:
                dim = stacked_along(use)
                if (use.other, dim) not in self.saved:
                    raise CaptureError("a factor of a product that is not kept")
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
