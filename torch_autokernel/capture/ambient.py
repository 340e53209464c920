"""Torch as it is at the start of a process: what judging and timing need, whatever surrounds the compilation."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch._dispatch.python import no_python_dispatcher
from torch.utils._python_dispatch import _disable_current_modes


@contextmanager
def ordinary_torch() -> Iterator[None]:
    """No fake tensors or other modes, no dispatch by Python, which a compilation has (16 us an operator), no autocast, no
    gradients; float32 and the CPU are the defaults."""
    dtype = torch.get_default_dtype()
    with ExitStack() as stack:
        stack.enter_context(_disable_current_modes())
        stack.enter_context(no_python_dispatcher())
        stack.enter_context(torch._C.DisableTorchFunction())
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch.autocast("cpu", enabled=False))
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)


_TRACES = threading.local()


@contextmanager
def tracing_alone() -> Iterator[None]:
    """A trace of ours: no other thread traces or compiles meanwhile, and the compiled functions that other threads call run.

    torch keeps "a trace is going on" for the whole process and refuses to call compiled functions while it is so, unless
    it knows that a compilation does it. Two traces at once would leave the flag set for good.
    """
    from torch._dynamo.convert_frame import compile_lock  # imported here: a warm direct call never needs dynamo

    with compile_lock:
        before = torch.compiler._is_compiling_flag
        torch.compiler._is_compiling_flag = _TRACES.here = True
        try:
            yield
        finally:
            torch.compiler._is_compiling_flag, _TRACES.here = before, False


def traces_here() -> bool:
    """Whether this thread is within `tracing_alone`."""
    return getattr(_TRACES, "here", False)


def hooks_on_saved() -> bool:
    """Whether autograd records, and what it saves goes through hooks: in a checkpoint, or to be kept elsewhere."""
    return torch._C._autograd._top_saved_tensors_default_hooks(False) is not None and torch.is_grad_enabled()


_LOADING = threading.Lock()


def load_compiler() -> None:
    """Imports torch's compiler, in one thread: its modules import each other, and two threads that begin at different ends get
    half of them."""
    with _LOADING:
        import torch._dynamo
        import torch._functorch.aot_autograd
        import torch._inductor.compile_fx  # noqa: F401
