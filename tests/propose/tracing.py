"""Real regions for the tests: a torch function's forward and backward graphs after AOTAutograd, each one whole region."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from functorch.compile import aot_function, min_cut_rematerialization_partition, nop
from torch import fx
from torch._inductor.decomposition import select_decomp_table

from torch_autokernel.capture.pieces import take_apart
from torch_autokernel.capture.signature import Captured, capture_region


def _region(gm: fx.GraphModule, phase: str, static: frozenset[int]) -> Captured:
    for n in list(gm.graph.nodes):  # as Inductor's own passes do
        if n.target in (torch.ops.aten.alias.default, torch.ops.aten.detach.default):
            n.replace_all_uses_with(n.args[0])
            gm.graph.erase_node(n)
    take_apart(gm.graph)
    members = [n for n in gm.graph.nodes if n.op == "call_function"]
    (output,) = [n for n in gm.graph.nodes if n.op == "output"]
    made = [n for n in fx.graph.map_arg(output.args[0], lambda n: n) or () if isinstance(n, fx.Node) and n in members]
    return capture_region(members, phase=phase, outputs=list(dict.fromkeys(made)), static=static)


def trace(fn: Callable[..., Any], args: list[torch.Tensor], static: frozenset[int] = frozenset()) -> list[Captured]:
    """The forward graph, and the backward graph where an argument requires a gradient."""
    graphs: list[fx.GraphModule] = []

    def keep(gm: fx.GraphModule, _inputs: Any) -> Any:
        graphs.append(gm)
        return gm.forward

    compiled = aot_function(
        fn,
        fw_compiler=keep,
        bw_compiler=keep,
        partition_fn=min_cut_rematerialization_partition,
        decompositions=select_decomp_table(),
    )
    out = compiled(*args)
    if any(a.requires_grad for a in args):
        outs = [o for o in (out if isinstance(out, (tuple, list)) else [out]) if o.requires_grad]
        torch.autograd.backward(outs, [torch.randn_like(o) for o in outs])
    return [_region(g, phase, static) for g, phase in zip(graphs, ("forward", "backward"), strict=False)]


__all__ = ["nop", "trace"]
