"""A loop within something larger: dynamo would unroll it, so the graph is cut around it.

What is decorated and loops over time runs between two graphs, as it would outside any; every other decorated function is just
its text there. Of a decorated model those parts are decorated too that loop, where they have kernels.
"""

from __future__ import annotations

import dis
import inspect
import types
from collections.abc import Callable
from typing import Any

import torch
from torch._C._dynamo import eval_frame

from torch_autokernel.capture.arguments import identity
from torch_autokernel.capture.holder import nested
from torch_autokernel.capture.purity import of_torch, reached, watch

_MOST_KINDS = 8  # of calls in which parts look for kernels: each is a call as it is
_SKIP = eval_frame._FrameAction.SKIP


def goes_over_time(function: Callable[..., Any], module: torch.nn.Module | None = None) -> bool:
    """Whether the text of a function, of plain functions that it calls, or of its module's own methods, loops over something
    made of local values: over time, as a rule, where a loop over an attribute goes over layers."""
    attributes = lambda n: [] if module is None else [inspect.getattr_static(type(module), n, None)]
    start = [] if of_torch(function) else [function]
    return any(_over_locals(f) for f in reached(start, attributes))


class Parts:
    """The submodules of a decorated module that loop over time. `decorate(part)` gives what stands in place of a forward."""

    def __init__(self, module: torch.nn.Module | None, decorate: Callable[[torch.nn.Module], Any]) -> None:
        inner = [] if module is None else [m for m in module.modules() if m is not module]
        own = (m for m in inner if type(m).__module__.split(".")[0] != "torch" and "forward" not in m.__dict__)
        self.found = [m for m in own if goes_over_time(type(m).forward, m)]
        self.decorate = decorate
        self.settled: set[Any] = set()  # kinds of calls for which it is known which parts have kernels

    def unsettled(self, kind: Any) -> bool:
        """Whether calls of a new kind may find a kernel for a part that has none."""
        if kind in self.settled or len(self.settled) >= _MOST_KINDS:
            return False
        return any("forward" not in m.__dict__ for m in self.found)

    def settling(self, kind: Any, call: Callable[[], Any]) -> Any:
        """The result of a call as it is, in which each part looks for its kernel. Those that have one stay decorated."""
        self.settled.add(kind)
        tried = [(m, self.decorate(m)) for m in self.found if "forward" not in m.__dict__]
        try:
            for m, accelerated in tried:
                m.__dict__["forward"] = accelerated
            return call()
        finally:
            for m, accelerated in tried:
                accelerated.tries = False
                if not accelerated.has_kernels and m.__dict__.get("forward") is accelerated:
                    del m.__dict__["forward"]


class Undo:
    """What a call may change, so that it can be made again: random numbers and buffers. `function` is the module's forward."""

    def __init__(self, function: Callable[..., Any], module: torch.nn.Module, args: tuple[Any, ...]) -> None:
        given = [a for a in args if isinstance(a, torch.Tensor)]
        tensors = [*given, *module.parameters(), *module.buffers()]
        understood = identity(args) is not None and not nested(args)
        self.possible = understood and not any(t.is_inference() for t in tensors) and watch(function, module).reason is None
        if self.possible:
            self.random = torch.get_rng_state()
            # values, for batch norm changes its statistics without a word
            self.buffers = [(b, b.detach().clone()) for b in module.buffers()]
            self.given = [(t, t.detach().clone()) for t in given]
            self.versions = [(t, t._version) for t in tensors[: len(tensors) - len(self.buffers)]]

    def __call__(self) -> bool:
        """Whether it is as if the call had not been."""
        if not self.possible or any(t._version != version for t, version in self.versions):
            return False
        if not all(torch.equal(t, value) for t, value in self.given):
            return False
        torch.set_rng_state(self.random)
        with torch.no_grad():
            for buffer, value in self.buffers:
                if not torch.equal(buffer, value):
                    buffer.copy_(value)
        return True


def _over_locals(function: types.FunctionType) -> bool:
    """Whether a `for` goes over an expression with local names but a method's object. Comprehensions carry no state."""
    owner = function.__qualname__.rpartition(".")[0]
    of_class = owner and not owner.endswith("<locals>")
    own = {".0", *function.__code__.co_varnames[: 1 if of_class else 0]}
    line: list[dis.Instruction] = []
    for instruction in dis.get_instructions(function):
        if instruction.starts_line:
            line = []
        if instruction.opname == "FOR_ITER" and any(_local_names(i) - own for i in line):
            return True
        line.append(instruction)
    return False


def _local_names(instruction: dis.Instruction) -> set[str]:
    if not instruction.opname.startswith(("LOAD_FAST", "LOAD_DEREF")):
        return set()
    return set(instruction.argval) if isinstance(instruction.argval, tuple) else {instruction.argval}


def may_be_cut() -> bool:
    """For dynamo while it traces: whether the graph at hand need not be whole (`fullgraph=True`)."""
    from torch._dynamo.symbolic_convert import InstructionTranslator

    translator = InstructionTranslator.current_tx()
    return not (translator.one_graph or translator.error_on_graph_break)


may_be_cut._dynamo_marked_constant = True  # type: ignore[attr-defined]  # torch._dynamo.assume_constant_result, without dynamo


def outside(call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The call, between two graphs."""
    return call(*args, **kwargs)


# What torch.compiler.disable does, without importing dynamo here: a graph that is being traced ends before the call, and
# frames within it are not looked at. A compiled function that is called there compiles as ever.
outside._torchdynamo_disable = True  # type: ignore[attr-defined]
eval_frame.set_code_exec_strategy(outside.__code__, eval_frame._FrameExecStrategy(_SKIP, _SKIP))
