"""The rows of the suite: problem files in KernelBench's form that say a little more.

Beside `Model`, `get_inputs` and `get_init_inputs` a file may define:

    ROWS            name -> sizes, the arguments of the functions here; without it one row named like the file
    PASSES          name -> passes that its table lists: "forward" (the default), "backward" (forward and backward), or both
    GOALS           name (or "name backward") -> ratio to reach against the best baseline, or {"best": ratio, "eager": ratio}
    SMALL           sizes for tests
    DTYPES          those in which it makes sense (default: float32 and bfloat16)
    GRADIENTS       False where nobody would train through it
    flop(...)       operations that the forward pass needs at least, for the floor
    BACKWARD_FLOP   forward and backward in forwards (default 3)
    untouched(model, *inputs)   bytes of the arguments that need not be read
    Rewritten, REWRITTEN        the same by a better algorithm, and what that is: gains of that kind are labelled
    STEP            the method that is one step of a loop; it is compiled alone as one more baseline
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from torch_autokernel.app.problem import Problem, user_code
from torch_autokernel.app.problems import expand, import_file
from torch_autokernel.core.errors import UsageError

HERE = Path(__file__).parent
SETS = ("headline", "table", "robust", "models", "problems")
DEFAULT_SETS = SETS[:4]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
FORWARD, BACKWARD = "forward", "backward"
GOAL = {"headline": 1.0, "robust": 0.97, "models": 0.97, "problems": 0.97}  # where the file has none
SEED = 0


@dataclass(frozen=True)
class Case:
    """One row. `sizes` are complete: the file's defaults and, over them, the row's."""

    name: str
    module: ModuleType
    path: Path
    sizes: Mapping[str, Any]

    @property
    def title(self) -> str:
        return (self.module.__doc__ or self.name).strip().splitlines()[0].rstrip(".")

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.path.read_bytes()).hexdigest()

    @property
    def _row(self) -> str:
        return self.name.partition("/")[2]

    @property
    def listed(self) -> tuple[str, ...]:
        return tuple(self.said("PASSES", {}).get(self._row, (FORWARD,)))

    @property
    def dtypes(self) -> tuple[str, ...]:
        known = self.said("DTYPES", ("float32", "bfloat16"))
        return tuple(short for short, dtype in DTYPES.items() if str(dtype).removeprefix("torch.") in known)

    def said(self, name: str, default: Any) -> Any:
        return getattr(self.module, name, default)

    def goal(self, backward: bool) -> dict[str, float]:
        found = self.said("GOALS", {}).get(self._row + (" backward" if backward else ""))
        found = GOAL.get(self.name.partition("/")[0]) if found is None else found
        return dict(found) if isinstance(found, dict) else {} if found is None else {"best": float(found)}

    def flop(self, backward: bool) -> float:
        forward = float(_call(self.module.flop, self.sizes)) if hasattr(self.module, "flop") else 0.0
        return forward * (self.said("BACKWARD_FLOP", 3.0) if backward else 1.0)

    def problem(self, dtype: str, backward: bool, model: str = "Model") -> Problem:
        """Model and inputs under a fixed seed, in the dtype; `model` may be `Rewritten`, which gets the same weights."""

        def cast(value: Any) -> Any:
            if not isinstance(value, torch.Tensor):
                return value
            wanted = DTYPES[dtype] if value.dtype == torch.float32 else value.dtype
            return value.detach().to(wanted).requires_grad_(value.requires_grad and backward)

        with torch.random.fork_rng(devices=[]), user_code(f"making {self.name}", self.path):
            torch.manual_seed(SEED)
            init = _call(getattr(self.module, "get_init_inputs", _none), self.sizes)
            made = self.module.Model(*init)
            inputs = tuple(map(cast, _call(self.module.get_inputs, self.sizes)))
            if model != "Model":
                plain, made = made, getattr(self.module, model)(*init)
                made.load_state_dict(plain.state_dict())
        if isinstance(made, nn.Module):
            made.train(backward).to(DTYPES[dtype])
        problem = Problem(self.name, made, inputs, "suite", path=self.path)
        return problem.training() if backward else problem

    def small(self) -> Case:
        return replace(self, sizes={**self.sizes, **self.said("SMALL", {})})


def _none() -> list[Any]:
    return []


def _call(function: Callable[..., Any], sizes: Mapping[str, Any]) -> Any:
    """The function with those of the sizes that it takes."""
    return function(**{k: sizes[k] for k in inspect.signature(function).parameters if k in sizes})


def _defaults(*functions: Callable[..., Any]) -> dict[str, Any]:
    found = (p for f in functions for p in inspect.signature(f).parameters.values())
    return {p.name: p.default for p in found if p.default is not inspect.Parameter.empty}


@cache
def cases(group: str) -> tuple[Case, ...]:
    """The rows of a set, in the order of their names."""
    found = [case for path in expand([str(HERE / group)]) for case in _cases(group, Path(path))]
    return tuple(sorted(found, key=lambda c: c.name))


def _cases(group: str, path: Path) -> Iterator[Case]:
    module = import_file(path)
    sizes = _defaults(module.get_inputs, getattr(module, "get_init_inputs", _none))
    for row, given in getattr(module, "ROWS", {path.stem: {}}).items():
        yield Case(f"{group}/{row}", module, path, {**sizes, **given})


def find(name: str) -> Case:
    return next(c for c in cases(name.partition("/")[0]) if c.name == name)


def choose(wanted: str) -> list[Case]:
    """The rows of a comma-separated list of sets, rows or patterns; raises UsageError for one that meets nothing."""
    if not wanted:
        return [case for group in DEFAULT_SETS for case in cases(group)]
    usual, every = ([case for group in groups for case in cases(group)] for groups in (DEFAULT_SETS, SETS))
    chosen: dict[str, Case] = {}
    for word in filter(None, map(str.strip, wanted.split(","))):
        met = {c.name: c for c in usual if _meets(c.name, word)} or {c.name: c for c in every if _meets(c.name, word)}
        if not met:
            raise UsageError(f"no row named {word!r}; sets: {', '.join(SETS)}",
                             hint="--list shows all rows; a pattern is written like 'headline/0*' or '*softmax*'")  # fmt: skip
        chosen |= met
    if not chosen:
        raise UsageError(f"--rows {wanted!r} names no row", hint="--list shows all rows")
    return list(chosen.values())


def _meets(name: str, word: str) -> bool:
    group, _, row = name.partition("/")
    return word in (name, group, row) or word.isdigit() and row.startswith(f"{int(word):02d}_") or fnmatch(name, word)
