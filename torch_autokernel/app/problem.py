"""A problem: a model and the inputs to call it with; and the boundary to users' own Python."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from torch_autokernel.core.errors import AutoKernelError, UsageError


@dataclass(frozen=True)
class Problem:
    """A model with the inputs to call it with. `path` is the file it came from."""

    name: str
    model: Callable[..., Any]
    inputs: tuple[Any, ...]
    form: str
    kwargs: dict[str, Any] = field(default_factory=dict)
    path: Path | None = None
    static_sizes: tuple[int, ...] = ()

    def call(self) -> Any:
        """What the model gives in eager mode; raises UsageError where it cannot be called."""
        with user_code(f"calling {self.name}", self.path):
            return self.model(*self.inputs, **self.kwargs)

    def training(self) -> Problem:
        """The same with inputs that record gradients: those the file chose or, where it chose none, all floating ones."""
        tensors = [t for t in (*self.inputs, *self.kwargs.values()) if isinstance(t, torch.Tensor)]
        chosen = any(t.requires_grad for t in tensors)

        def leaf(value: Any) -> Any:
            if not isinstance(value, torch.Tensor):
                return value
            wanted = value.requires_grad if chosen else value.is_floating_point()
            return value.detach().requires_grad_(wanted)

        return replace(self, inputs=tuple(map(leaf, self.inputs)), kwargs={k: leaf(v) for k, v in self.kwargs.items()})


@contextmanager
def user_code(doing: str, path: Path | None = None) -> Iterator[None]:
    """What goes wrong in a user's own file becomes a UsageError that names the line. The boundary to foreign Python."""
    try:
        yield
    except AutoKernelError:
        raise
    except Exception as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if path is not None and f.filename == str(path)]
        line = error.lineno if isinstance(error, SyntaxError) else frames[-1].lineno if frames else None
        at = f" (line {line})" if line else ""
        first = (str(error).strip() or "no message").splitlines()[0]
        raise UsageError(f"{doing} failed{at}: {type(error).__name__}: {first}",
                         hint=f"correct {path}" if path else "correct the target") from error  # fmt: skip
