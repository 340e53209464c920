"""Random tensor programs as data: printed, run, and shrunk.

A program has inputs, steps and outputs; values are numbered, inputs first. What a step does stands in `steps.STEPS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

LAYOUTS = ("plain", "transposed", "strided", "expanded", "offset", "channels_last")


@dataclass(frozen=True)
class Given:
    """One input. Integers are drawn from [0, `below`)."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    layout: str = "plain"
    grad: bool = False
    below: int = 4


@dataclass(frozen=True)
class Step:
    name: str
    args: tuple[int, ...]
    params: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Program:
    inputs: tuple[Given, ...]
    steps: tuple[Step, ...]
    outputs: tuple[int, ...]

    def __str__(self) -> str:
        lines = [f"v{i} = {g}" for i, g in enumerate(self.inputs)]
        for i, s in enumerate(self.steps, len(self.inputs)):
            lines.append(f"v{i} = {s.name}({', '.join([*(f'v{a}' for a in s.args), *map(repr, s.params)])})")
        return "\n".join([*lines, f"return {', '.join(f'v{o}' for o in self.outputs)}"])


def make(given: Given, generator: torch.Generator) -> torch.Tensor:
    """A tensor of this description."""

    def fill(shape: Sequence[int]) -> torch.Tensor:
        if given.dtype.is_floating_point:
            return torch.randn(shape, generator=generator, dtype=torch.float64).to(given.dtype)
        below = 2 if given.dtype == torch.bool else given.below
        return torch.randint(0, below, shape, generator=generator).to(given.dtype)

    shape = given.shape
    if given.layout == "transposed" and len(shape) > 1:
        out = fill((*shape[:-2], shape[-1], shape[-2])).transpose(-1, -2)
    elif given.layout == "strided" and shape:
        out = fill((*shape[:-1], shape[-1] * 2))[..., ::2]
    elif given.layout == "expanded" and shape:
        out = fill((1, *shape[1:])).expand(shape)
    elif given.layout == "offset" and shape:
        out = fill((shape[0] + 1, *shape[1:]))[1:]
    elif given.layout == "channels_last" and len(shape) == 4:
        out = fill(shape).to(memory_format=torch.channels_last)
    else:
        out = fill(shape)
    return out.requires_grad_(given.grad and given.dtype.is_floating_point)


def function(program: Program, steps: dict[str, Callable[..., Any]]) -> Callable[..., tuple[torch.Tensor, ...]]:
    """The program as a Python function of its inputs."""

    def run(*inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        values = list(inputs)
        for s in program.steps:
            values.append(steps[s.name](*[values[a] for a in s.args], *s.params))
        return tuple([values[o] for o in program.outputs])

    return run


def without_dead(program: Program) -> Program:
    """Only what the outputs need, numbered anew."""
    count = len(program.inputs)
    needed, todo = set(), list(program.outputs)
    while todo:
        v = todo.pop()
        if v not in needed:
            needed.add(v)
            todo += program.steps[v - count].args if v >= count else ()
    order = sorted(needed)
    number = {v: i for i, v in enumerate(order)}
    steps = [replace(s, args=tuple(number[a] for a in s.args)) for v in order if v >= count for s in [program.steps[v - count]]]
    return Program(
        tuple(program.inputs[v] for v in order if v < count), tuple(steps), tuple(number[o] for o in program.outputs)
    )


def cut(program: Program, at: int, given: Given) -> Program:
    """The program with the step that makes value `at` replaced by an input."""
    count = len(program.inputs)
    total = count + len(program.steps)
    number = {v: v if v < count else count if v == at else v + 1 if v < at else v for v in range(total)}
    steps = [replace(s, args=tuple(number[a] for a in s.args)) for v, s in enumerate(program.steps, count) if v != at]
    return without_dead(Program((*program.inputs, given), tuple(steps), tuple(number[o] for o in program.outputs)))


def shrink(program: Program, fails: Callable[[Program], bool], values: Callable[[Program], list[torch.Tensor]]) -> Program:
    """A smaller program that still fails: fewer outputs, steps turned into inputs or into their own operands, plain inputs."""
    while True:
        for smaller in _smaller(program, values):
            if fails(smaller):
                program = smaller
                break
        else:
            return program


def _smaller(program: Program, values: Callable[[Program], list[torch.Tensor]]) -> Any:
    if len(program.outputs) > 1:
        for o in program.outputs:
            yield without_dead(replace(program, outputs=(o,)))
        for o in set(program.outputs):
            yield without_dead(replace(program, outputs=tuple(p for p in program.outputs if p != o)))
    count = len(program.inputs)
    made = values(program)
    for v in reversed(range(count, count + len(program.steps))):
        t = made[v]
        below = max(1, int(t.max()) + 1) if t.numel() and not t.is_floating_point() else 1
        yield cut(program, v, Given(tuple(t.shape), t.dtype, "plain", t.requires_grad, below))
    for v in range(count, count + len(program.steps)):
        if v in program.outputs:
            for a in program.steps[v - count].args:
                yield without_dead(replace(program, outputs=tuple(a if o == v else o for o in program.outputs)))
    for i, g in enumerate(program.inputs):
        for change in ({"layout": "plain"}, {"grad": False}):
            simpler = replace(g, **change)  # type: ignore[arg-type]
            if simpler != g:
                yield replace(program, inputs=(*program.inputs[:i], simpler, *program.inputs[i + 1 :]))
