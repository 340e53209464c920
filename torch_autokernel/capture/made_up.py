"""A graph run on made-up inputs: what they are, and when that had better be left alone.

Numbers are small and random; integers are 0, which is a valid index anywhere as long as nothing is computed from it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx
from torch._prims_common import compute_required_storage_length

from torch_autokernel.capture import ops
from torch_autokernel.capture.nodes import ancestors, writes
from torch_autokernel.capture.sizes import hint

MEMORY_SHARE = 0.25  # of what is available, that the inputs may take

_PURE = ("aten", "prims", "mkldnn", "quantized", "quantized_decomposed", "inductor")  # torch's own namespaces
_DIVIDES = ("aten.div", "aten.floor_divide", "aten.remainder", "aten.fmod", "aten.gcd", "prims.div")
_INDEXES = (
    "aten.gather", "aten.index", "aten._unsafe_index", "aten._unsafe_masked_index", "aten.embedding", "aten._embedding_bag",
    "aten.scatter", "aten.take", "aten.put", "aten.nll_loss", "aten.bincount", "aten.max_unpool",
    "aten.max_pool2d_with_indices_backward", "prims._low_memory_max_pool",
)  # fmt: skip
_MOVES = (
    "aten.where", "aten.cat", "aten.constant_pad_nd", "aten.clone", "aten.alias", "aten.copy", "aten.slice_scatter",
    "aten.flip", "aten.clamp", "aten.masked_fill", "aten.gather", "aten.index.", "prims.convert_element_type",
)  # fmt: skip


def may_run(graph: fx.Graph) -> bool:
    """Whether the graph only computes, and made-up integers cannot end the process."""
    return all(n.op in ("placeholder", "output", "get_attr") or _is_safe(n) for n in graph.nodes)


def _is_safe(node: fx.Node) -> bool:
    """Not so: operations that are not torch's own may do anything; integers that are written back grow from run to run; a
    division by 0 is a signal; an index that is computed from integers, or from floats, may lie anywhere."""
    if node.op != "call_function" or not _computes(node.target):
        return False
    name, integers = ops.name_of(node.target), [a for a in node.all_input_nodes if _is_integer(a)]
    return not (
        (integers and writes(node) and not _counts(node))
        or (_is_integer(node) and name.startswith(_DIVIDES))
        or (name.startswith(_INDEXES) and any(_is_computed(a) for a in integers))
    )


def _counts(node: fx.Node) -> bool:
    """Whether the node counts: an argument becomes itself and a number, and nothing else reads it. So batch norm counts."""
    if ops.name_of(node.target) != "aten.copy_.default" or len(node.args) != 2:
        return False
    counter, more = node.args
    if not (isinstance(counter, fx.Node) and counter.op == "placeholder" and isinstance(more, fx.Node)):
        return False
    adds = ops.name_of(more.target).startswith("aten.add.")
    counted = adds and more.args[0] is counter and not isinstance(more.args[1], fx.Node)
    return counted and set(counter.users) <= {node, more} and all(u is node or u.op == "output" for u in more.users)


def _computes(target: Any) -> bool:
    if isinstance(target, torch._ops.OpOverload):
        return target.namespace in _PURE
    return not isinstance(target, torch._ops.OperatorBase)


def _is_integer(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and not value.is_floating_point() and value.dtype != torch.bool


def _is_computed(index: fx.Node) -> bool:
    """Whether arithmetic leads from made-up values to the index; of iotas and constants it is the same as ever."""
    back = ancestors(index, _is_integer)
    integers = [n for n in back if _is_integer(n)]
    floats = any(isinstance(v := a.meta.get("val"), torch.Tensor) and v.is_floating_point() for a in back)
    given = any(n.op == "placeholder" for n in integers)
    return floats or (given and any(n.op == "call_function" and not _is_moved(n) for n in integers))


def _is_moved(node: fx.Node) -> bool:
    """Whether the node's elements are those of its operands, or constants."""
    name = ops.name_of(node.target)
    return name.startswith(_MOVES) or ops.kind(name) in ("view", "source")


def inputs_like(values: Sequence[Any]) -> list[Any] | None:
    """Tensors of these (fake) tensors' sizes and strides: small random numbers, integers 0, which is a valid index anywhere.
    None where they cannot be made or would take too much memory."""
    if not all(isinstance(v, (torch.Tensor, int, torch.SymInt, float, bool)) for v in values):
        return None
    tensors = [v for v in values if isinstance(v, torch.Tensor)]
    if any(t.device.type != "cpu" or t.layout is not torch.strided for t in tensors):
        return None
    if sum(_bytes(t) for t in tensors) > MEMORY_SHARE * _available_bytes():
        return None
    generator = torch.Generator().manual_seed(0)
    return [_made(v, generator) for v in values]


def _bytes(t: torch.Tensor) -> int:
    return t.element_size() * compute_required_storage_length([hint(s) for s in t.shape], [hint(s) for s in t.stride()], 0)


def _available_bytes() -> float:
    try:
        with open("/proc/meminfo") as file:
            facts = dict(line.split(":", 1) for line in file)
        return int(facts["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return math.inf


def _made(like: Any, generator: torch.Generator) -> Any:
    if not isinstance(like, torch.Tensor):
        return hint(like) if isinstance(like, torch.SymInt) else like
    shape, stride = [hint(s) for s in like.shape], [hint(s) for s in like.stride()]
    storage = torch.zeros(compute_required_storage_length(shape, stride, 0), dtype=like.dtype)
    if like.dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        scale = 2 / math.sqrt(max(4, shape[-1])) if len(shape) > 1 else 1.0
        storage.copy_(torch.randn(storage.shape, generator=generator) * scale)
    return storage.as_strided(shape, stride)
