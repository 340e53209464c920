"""A signature as runnable PyTorch: the one text that verifier, prompt, report and dataset share.

    def reference(x0, x1, s0):
        v2 = aten.add.Tensor(x0, x1)
        return (v2,)

Tensors come first, then the symbols as ints. The text is exact: what cannot be printed so that it computes the same thing
raises CaptureError.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from torch_autokernel.core.errors import CaptureError
from torch_autokernel.core.types import Const, Op, Ref, Signature


def print_reference(signature: Signature) -> str:
    """PyTorch source of the signature's computation."""
    count = len(signature.inputs)
    names = [f"x{i}" for i in range(count)] + [f"v{count + i}" for i in range(len(signature.ops))]
    lines = [f"def reference({', '.join([*names[:count], *signature.symbols])}):"]
    for i, op in enumerate(signature.ops):
        if op.target == "loop":
            lines += _loop(op, names, names[count + i])
            continue
        lines.append(f"    {names[count + i]} = {_call(op, names)}")
    lines.append(f"    return ({', '.join(names[o] for o in signature.outputs)},)")
    return "\n".join(lines) + "\n"


def print_around(signature: Signature, operands: Sequence[int]) -> str:
    """What stands around the signature's only loop: a function `reference(loop, x0, ..., s0)` in which `loop([operands], s0)`
    gives the loop's results."""
    count = len(signature.inputs)
    names = [f"x{i}" for i in range(count)] + [f"v{count + i}" for i in range(len(signature.ops))]
    lines = [f"def reference({', '.join(['loop', *names[:count], *signature.symbols])}):"]
    for i, op in enumerate(signature.ops):
        given = f"loop([{', '.join(names[k] for k in operands)}], {', '.join(signature.symbols)})"
        lines.append(f"    {names[count + i]} = {given if op.target == 'loop' else _call(op, names)}")
    lines.append(f"    return ({', '.join(names[o] for o in signature.outputs)},)")
    return "\n".join(lines) + "\n"


def _loop(op: Op, names: list[str], name: str) -> list[str]:
    """The lines of a loop. Its values are numbered: carries, slices of this step, values from outside, operations."""
    steps, inits, indexed, outside, body, nexts, outs = op.args
    carries = [f"c{k}" for k in range(len(inits))]
    local = [*carries, *(f"i{k}" for k in range(len(indexed))), *(names[r.index] for r in outside)]
    first = len(local)
    local += [f"b{first + k}" for k in range(len(body))]
    lines = [f"{', '.join(carries)} = {', '.join(names[r.index] for r in inits)}"] if carries else []
    lines += [f"o{k} = []" for k, out in enumerate(outs) if out[0] == "all"]
    lines.append(f"for t in range({_text(steps, names)}):")
    for k, (source, dim, start, step) in enumerate(indexed):
        where = f"{_text(start, names)} {'+' if step > 0 else '-'} t"
        lines.append(f"    i{k} = aten.select.int({names[source.index]}, {dim}, {where})")
    for k, (target, args, kwargs, shape, dtype) in enumerate(body):
        lines.append(f"    {local[first + k]} = {_call(Op(target, args, dict(kwargs), shape, dtype), local)}")
    lines += [f"    o{k}.append({local[out[1]]})" for k, out in enumerate(outs) if out[0] == "all"]
    lines += [f"    o{k} = {local[out[1]]}" for k, out in enumerate(outs) if out[0] == "last"]
    if carries:
        lines.append(f"    {', '.join(carries)} = {', '.join(local[n] for n in nexts)}")
    made = [f"o{k}" for k in range(len(outs))]
    for k, (how, _value, dim, back) in enumerate(outs):
        if how == "all":
            made[k] = f"aten.stack.default(o{k}{'[::-1]' if back else ''}, {dim})"
    return [f"    {line}" for line in (*lines, f"{name} = ({', '.join(made)},)")]


def _call(op: Op, names: list[str]) -> str:
    if op.target == "getitem":
        return f"{_text(op.args[0], names)}[{op.args[1]}]"
    if not op.target.startswith(("aten.", "prims.")):
        raise CaptureError(f"{op.target} cannot be printed")
    parts = [_text(a, names) for a in op.args] + [f"{k}={_text(v, names)}" for k, v in op.kwargs.items()]
    if op.target == "prims.iota.default":
        parts += ['device="cpu"', "requires_grad=False"]
    return f"{op.target}({', '.join(parts)})"


def _text(value: Any, names: list[str]) -> str:
    if isinstance(value, Ref):
        return names[value.index]
    if isinstance(value, Const):
        if value.kind == "dtype":
            return f"torch.{value.value}"
        return value.value if value.kind == "dim" else f"torch.{value.value}"
    if isinstance(value, tuple):
        return "[" + ", ".join(_text(v, names) for v in value) + "]"
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else ("inf" if value > 0 else "-inf")
    return repr(value)


def load_reference(text: str) -> Callable[..., tuple[torch.Tensor, ...]]:
    """The function `reference` of a printed text. Only for text that this module printed or that a user gave as their own."""
    if "prims._low_memory" in text:
        from torch._inductor import inductor_prims  # noqa: F401
    space: dict[str, Any] = {"torch": torch, "aten": torch.ops.aten, "prims": torch.ops.prims, "inf": math.inf, "nan": math.nan}
    exec(compile(text, "<reference>", "exec"), space)
    return space["reference"]  # type: ignore[no-any-return]
