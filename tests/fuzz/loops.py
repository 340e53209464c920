"""Random forwards with a loop over time, and whether rolling one up is faithful: `python -m tests.fuzz.loops 200 [seed]`.

A loop has one to three states and one or two sequences, read at this step, the one before, or from the end; its step is a random
chain of operations, some of them with the step's number or with a constant that changes; results are all steps', the last
step's, or both. Rolled up, it must give what it gives unrolled, at several lengths, or be refused; and so must its gradients,
those of a random part of its inputs.
"""

from __future__ import annotations

import functools
import random
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch.utils import _pytree as pytree

from torch_autokernel.capture.loop_function import LoopKernels
from torch_autokernel.capture.loop_plan import TrainingPlan, loop_operands, structure
from torch_autokernel.capture.loop_region import Loop
from torch_autokernel.capture.loop_training import differentiate
from torch_autokernel.capture.operators import run_reference
from torch_autokernel.capture.purity import Watched
from torch_autokernel.capture.recurrence import capture_recurrence
from torch_autokernel.capture.reference import load_reference
from torch_autokernel.core import dims
from torch_autokernel.core.errors import CaptureError

Tensor = torch.Tensor
SIZE = 6
_UNARY: list[Callable[[Tensor], Tensor]] = [torch.tanh, torch.sigmoid, torch.sin, torch.relu, lambda x: x * 0.5, lambda x: 1 - x]
_BINARY: list[Callable[[Tensor, Tensor], Tensor]] = [torch.add, torch.mul, torch.maximum, torch.sub, lambda a, b: a + 0.5 * b]


def program(rng: random.Random) -> Callable[..., Any]:
    """A forward over (x, y [B, T, N], w [N, N], three states [B, N])."""
    count = rng.randint(1, 3)
    start = rng.choice((0, 0, 0, 1))
    back = start == 0 and rng.random() < 0.25
    stride = 2 if rng.random() < 0.05 else 1
    reads = [(rng.randrange(2), rng.choice((0, 0, -1) if start else (0,))) for _ in range(rng.randint(1, 3))]
    chain = [(rng.randrange(6), rng.randrange(64), rng.randrange(64), rng.randrange(64)) for _ in range(rng.randint(2, 7))]
    wanted, dim = rng.choice(("all", "last", "both")), rng.choice((0, 1, 2))
    swap = count > 1 and rng.random() < 0.3
    first_alike = rng.random() < 0.4

    def forward(x: Tensor, y: Tensor, w: Tensor, *given: Tensor) -> Any:
        states = list(given[:count])
        if first_alike:
            states = [torch.zeros_like(s) for s in states]
        ys = []
        steps = list(range(start, x.shape[1], stride))
        for t in reversed(steps) if back else steps:
            pool = [*states, *((x, y)[which][:, t + shift] for which, shift in reads)]
            for kind, a, b, f in chain:
                one, two = pool[a % len(pool)], pool[b % len(pool)]
                if kind == 0:
                    pool.append(torch.tanh(one @ w))
                elif kind == 1 and f == 0:
                    pool.append(one * (0.1 * t))
                elif kind < 4:
                    pool.append(_UNARY[f % len(_UNARY)](one))
                else:
                    pool.append(torch.tanh(_BINARY[f % len(_BINARY)](one, two)))
            fresh = pool[-count:]
            states = fresh[::-1] if swap else fresh
            ys.append(pool[-1] * 2 + states[0])
        every = torch.stack(ys, dim)
        return {"all": every, "last": states[-1] + 1, "both": (every, states[0] * 1)}[wanted]

    return forward


def inputs(length: int) -> list[Tensor]:
    return [torch.randn(3, length, SIZE), torch.randn(3, length, SIZE), torch.randn(SIZE, SIZE) * 0.4, *(torch.randn(3, SIZE) for _ in range(3))]


def check(seed: int) -> str:
    """`same`, or why it was refused; raises AssertionError where the loop is another one than the original."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    forward = program(rng)
    try:
        whole = capture_recurrence(forward, inputs(31))
    except CaptureError as refused:
        return refused.message
    function = load_reference(whole.captured.region.reference)
    least = whole.captured.region.signature.guards.get("s0", 1)
    for length in (31, *(n for n in (2, 3, 8, 50) if n >= least)):
        args = inputs(length)
        want = forward(*args)
        want = want if isinstance(want, tuple) else (want,)
        got = function(*(args[i] for i in whole.order), length)
        for k, o in enumerate(whole.outputs):
            torch.testing.assert_close(got[o], want[k], rtol=1e-4, atol=1e-4, msg=f"seed {seed}, length {length}, result {k}")
    return "same"


def check_gradients(seed: int) -> str:
    """`same`, or why it was refused; raises AssertionError where a gradient is another one than the original's."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    forward = program(rng)
    chosen = [rng.random() < 0.6 for _ in range(6)]
    if not any(chosen):
        return "no gradient is wanted"
    try:
        plan = training_plan(forward, _leaves(31, chosen))
    except CaptureError as refused:
        return refused.message
    for length in (31, 1, 2, 3, 50):
        leaves = _leaves(length, chosen)
        here = plan if length == 31 else plan.at_length(tuple(leaves), plan.watched, None)
        if here is None:
            continue
        wanted = [t for t, c in zip(leaves, chosen, strict=True) if c]
        got, want = here.run(leaves), forward(*leaves)
        ends = [(g, w) for g, w in zip(pytree.tree_leaves(got), pytree.tree_leaves(want), strict=True)]
        assert [g.requires_grad for g, _w in ends] == [w.requires_grad for _g, w in ends], f"seed {seed}, length {length}"
        used = [(g, w, torch.randn_like(w)) for g, w in ends if w.requires_grad and (len(ends) == 1 or rng.random() < 0.7)]
        if not used:
            continue
        mine = torch.autograd.grad([g for g, _w, _r in used], wanted, [r for *_, r in used], allow_unused=True)
        theirs = torch.autograd.grad([w for _g, w, _r in used], wanted, [r for *_, r in used], allow_unused=True)
        assert [g is None for g in mine] == [g is None for g in theirs], f"seed {seed}, length {length}: None"
        for k, (g, w) in enumerate(zip(mine, theirs, strict=True)):
            if g is not None:
                torch.testing.assert_close(g, w, rtol=1e-3, atol=1e-3 * float(w.abs().max()) + 1e-5,
                                           msg=lambda m, k=k, n=length: f"seed {seed}, length {n}, gradient {k}: {m}")  # fmt: skip
    return "same"


def _leaves(length: int, chosen: list[bool]) -> list[Tensor]:
    return [t.requires_grad_(c) for t, c in zip(inputs(length), chosen, strict=True)]


def training_plan(forward: Callable[..., Any], args: list[Tensor]) -> TrainingPlan:
    """A plan whose kernels are the printed references."""
    whole = capture_recurrence(forward, args, None, structure())
    loop = Loop.of(whole.captured.region.signature)
    call, length = loop.call(), args[0].shape[1]
    operands = loop_operands(whole, call, tuple(args), [], length)
    wanted = tuple(t.requires_grad for t in operands)
    if not any(wanted):
        raise CaptureError("no gradient flows through the loop")
    training = differentiate(loop, [t.detach() for t in operands], wanted, length)
    regions = training.forward, training.backward
    kernels = [functools.partial(run_reference, r.signature, load_reference(r.reference)) for r in regions]
    steps = dims.evaluate(training.steps, {"s0": length})
    made = LoopKernels(
        training, lambda *t: kernels[0](t), lambda *t: kernels[1](t), wanted, length, steps, training.reached(steps),
        load_reference(training.plainly),
    )  # fmt: skip
    return TrainingPlan(whole, call, made, tuple(args), Watched(), None)


def main(count: int, seed: int) -> int:
    told: dict[str, int] = {}
    for k in range(count):
        for outcome in (check(seed + k), f"gradients: {check_gradients(seed + k)}"):
            told[outcome] = told.get(outcome, 0) + 1
    for outcome, times in sorted(told.items(), key=lambda kv: -kv[1]):
        print(f"{times:5d} {outcome}")
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else random.SystemRandom().randrange(1 << 30)))
