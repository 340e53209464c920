"""A decorated loop within a larger graph: dynamo would unroll it, so the graph is cut around it.

What loops over time runs between two graphs, as it would outside any; every other decorated function is just its text there.
"""

from __future__ import annotations

import dis
import types
from collections.abc import Callable
from typing import Any

import torch
from torch._C._dynamo import eval_frame

from torch_autokernel.capture.purity import codes

_SKIP = eval_frame._FrameAction.SKIP


def goes_over_time(function: Callable[..., Any], module: torch.nn.Module | None = None) -> bool:
    """Whether the text of a function, of plain functions that it calls, or of its module's own methods, loops over something
    made of local values: over time, as a rule, where a loop over an attribute goes over layers."""
    own = type(module)
    todo: list[Any] = [function]
    seen: set[Any] = set()
    while todo:
        f = todo.pop()
        f = getattr(f, "__func__", f)
        if f in seen or not isinstance(f, types.FunctionType) or f.__module__.split(".")[0] == "torch":
            continue
        seen.add(f)
        if _over_locals(f.__code__):
            return True
        for name in (n for code in codes(f.__code__) for n in code.co_names):
            todo += [f.__globals__.get(name), getattr(own, name, None) if module is not None else None]
        todo += [cell.cell_contents for cell in f.__closure__ or () if cell != types.CellType()]
    return False


def _over_locals(code: types.CodeType) -> bool:
    """Whether a `for` statement goes over an expression with local names but `self`. Comprehensions carry no state."""
    line: list[dis.Instruction] = []
    for instruction in dis.get_instructions(code):
        if instruction.starts_line:
            line = []
        if instruction.opname == "FOR_ITER" and any(_local_names(i) - {"self", ".0"} for i in line):
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
