"""The one error tree.

AutoKernelError            base; carries `hint`: what to do
├── ConfigError            an option, environment variable or argument is not of its form
├── UsageError             a file, target or problem is missing or not of its form
├── UnknownName            a registry has no such name
├── ToolchainError         no compiler, or one that cannot be run
├── StoreError             the cache cannot be read or written
├── WorkerError            the isolated process could not do its work (infrastructure, not the candidate)
├── CaptureError           a graph or region cannot be captured faithfully
├── GuardMiss              a kernel was called with tensors it was not built for
└── Rejected               a candidate was not accepted where the caller demanded acceptance

Expected outcomes (a wrong kernel, a compiler's refusal) are values with reasons, not exceptions.
"""

from __future__ import annotations

from typing import Any


class AutoKernelError(Exception):
    """Base of all errors raised on purpose. `str()` gives what happened and what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.message, self.hint)


class ConfigError(AutoKernelError, RuntimeError):
    """An option is not known or not of its form (a RuntimeError too, as Inductor raises for unknown options)."""


class UsageError(AutoKernelError):
    """What the caller named is missing or not of its form."""


class UnknownName(AutoKernelError, LookupError):
    """A registry has no such name."""


class ToolchainError(AutoKernelError):
    """No compiler, or one that cannot be run."""


class StoreError(AutoKernelError):
    """The cache cannot be read or written."""


class WorkerError(AutoKernelError):
    """The isolated process could not do its work."""


class CaptureError(AutoKernelError):
    """A graph or region cannot be captured faithfully."""


class GuardMiss(AutoKernelError):
    """A kernel was called with tensors it was not built for."""


class Rejected(AutoKernelError):
    """A candidate was not accepted where acceptance was demanded."""
