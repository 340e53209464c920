"""`options={"rest": "eager"}`: kernels swapped in, everything else runs as plain ATen; Inductor is not used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from torch import fx

if TYPE_CHECKING:
    from torch_autokernel.capture.backend import Session


def compile_eager(gm: fx.GraphModule, example_inputs: Sequence[Any], session: Session | None) -> Callable[..., Any]:
    """AOTAutograd's graphs with kernels in the place of regions. Without a session the graph itself."""
    if session is None:
        return gm.forward
    import torch._inductor.lowering  # noqa: F401  (max_pool2d's decomposition looks it up and does not import it)
    from functorch.compile import make_boxed_func
    from torch._dynamo.backends.common import aot_autograd
    from torch._inductor.decomposition import select_decomp_table

    def compiler(graph_module: fx.GraphModule, inputs: Sequence[Any]) -> Any:
        session.prepare_safely(graph_module.graph)
        session.replace(graph_module.graph)
        graph_module.recompile()
        return make_boxed_func(graph_module.forward)

    return aot_autograd(fw_compiler=compiler, bw_compiler=compiler, decompositions=select_decomp_table())(gm, example_inputs)
