"""`options={"rest": "eager"}`: kernels swapped in, everything else runs as plain ATen; Inductor is not used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from torch import fx

from torch_autokernel.capture.decompositions import inductor_table

if TYPE_CHECKING:
    from torch_autokernel.capture.backend import Session


def compile_eager(gm: fx.GraphModule, example_inputs: Sequence[Any], session: Session | None) -> Callable[..., Any]:
    """AOTAutograd's graphs with kernels in the place of regions. Without a session the graph itself."""
    if session is None:
        return gm.forward
    from functorch.compile import make_boxed_func
    from torch._dynamo.backends.common import aot_autograd

    def compiler(graph_module: fx.GraphModule, inputs: Sequence[Any]) -> Any:
        session.prepare_safely(graph_module.graph)
        session.replace(graph_module.graph)
        graph_module.recompile()
        return make_boxed_func(graph_module.forward)

    return aot_autograd(fw_compiler=compiler, bw_compiler=compiler, decompositions=inductor_table())(gm, example_inputs)
