"""Compilations that torch's own caches do not answer.

A graph that AOTAutograd or Inductor serves from its cache never reaches the backend: no region is seen, none is searched and
none can be told of. Commands that report on regions therefore compile anew. Ordinary programs do not.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def fresh_compilation() -> Iterator[None]:
    """Within the block every graph is compiled; what dynamo holds in memory is forgotten first."""
    from torch._functorch import config as functorch_config
    from torch._inductor import config as inductor_config

    torch._dynamo.reset()
    with inductor_config.patch(fx_graph_cache=False), functorch_config.patch(enable_autograd_cache=False):
        yield
