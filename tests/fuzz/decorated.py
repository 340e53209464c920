"""Random programs as decorated functions that are trained: results, gradients and second derivatives beside eager's, where a call
gets two kernels (printed references stand for them) and a node of autograd."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

import torch_autokernel as ak
from tests.capture.engines import ReferenceEngine
from tests.fuzz import graphs
from tests.fuzz.programs import Program, without_dead
from tests.fuzz.steps import STEPS, values_of

PLANNED = "planned"


def drawn(seed: int) -> Program:
    """Short programs with one result, which has a gradient if any has."""
    program, _dynamic = graphs.drawn(seed, smooth=True)
    try:
        values = values_of(program, graphs.inputs_of(program, seed))
    except (RuntimeError, IndexError, ValueError):
        return program
    count = len(program.inputs)
    graded = [v for v in range(count, count + len(program.steps)) if values[v].requires_grad and values[v].numel()]
    return without_dead(replace(program, outputs=(graded[random.Random(seed).randrange(len(graded))],))) if graded else program


def plainly(program: Program) -> Callable[..., torch.Tensor]:
    """The program as Python text: a function of tensors that reads nothing but other functions."""
    count = len(program.inputs)
    space: dict[str, Any] = {f"f{k}": STEPS[s.name] for k, s in enumerate(program.steps)}
    lines = [f"def run({', '.join(f'v{i}' for i in range(count))}):"]
    for k, s in enumerate(program.steps):
        args = ", ".join((*(f"v{a}" for a in s.args), *map(repr, s.params)))
        lines.append(f"    v{count + k} = f{k}({args})")
    exec("\n".join([*lines, f"    return v{program.outputs[0]}"]), {"torch": torch, **space}, space)
    made: Callable[..., torch.Tensor] = space["run"]
    made.__globals__.update(space)
    return made


def asked(fn: Callable[..., torch.Tensor], inputs: list[torch.Tensor], seed: int, twice: bool) -> list[Any]:
    """Result and gradients, in one of the ways in which autograd is asked; `twice` for those of the gradients, too."""
    wanted = [t for t in inputs if t.requires_grad]
    out = fn(*inputs)
    given = torch.randn(out.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(out.dtype)
    if seed % 5 == 1:
        given = given.sum().expand(out.shape)
    found = torch.autograd.grad(out, wanted, given, create_graph=twice, allow_unused=True, retain_graph=True)
    more = [g.square().sum() for g in found if g is not None and g.requires_grad and twice]
    again = torch.autograd.grad(more, wanted, allow_unused=True) if more else [None] * len(wanted)
    return [out, *found, *(torch.zeros_like(t) if a is None else a for t, a in zip(wanted, again, strict=True))]


def outcome(program: Program, seed: int) -> str:
    """The complaint, PLANNED where there is none and the calls were made by kernels, or nothing."""
    low = any(g.dtype in (torch.bfloat16, torch.float16) for g in program.inputs) or any(s.name == "convert" for s in program.steps)
    fn, inputs = plainly(program), graphs.inputs_of(program, seed)
    torch._dynamo.reset()
    with graphs.engine(ReferenceEngine()):
        fast = ak.autokernel(fn)
        for k in range(3):
            twice = k == 2 and bool(fast._training)  # torch.compile has no second derivatives
            expected, got = (asked(f, inputs, seed + k, twice) for f in (fn, fast))
            for i, (a, b) in enumerate(zip(got, expected, strict=True)):
                if not low:
                    graphs.same(a, b, f"call {k}, item {i}", False)
        return PLANNED if fast._training else ""


def run(first: int, last: int) -> int:
    """The number of complaints, which are printed."""
    failed = planned = 0
    for seed in range(first, last):
        program = drawn(seed)
        try:
            values = values_of(program, graphs.inputs_of(program, seed))
            if len(program.outputs) != 1 or not values[program.outputs[0]].requires_grad or program.outputs[0] < len(program.inputs):
                continue
        except (RuntimeError, IndexError, ValueError):
            continue
        try:
            planned += outcome(program, seed) == PLANNED
        except Exception as error:  # whatever it is, it is the finding
            failed += 1
            print(f"== seed {seed}\n{program}\n{type(error).__name__}: {str(error)[:600]}\n", flush=True)
        if seed % 100 == 99:
            print(f"up to seed {seed}: {planned} by kernels, {failed} failed", flush=True)
    print(f"{last - first} programs, {planned} by kernels, {failed} failed")
    return failed
