"""A graph is run with and without its kernels before any of them is swapped in for good.

A kernel that beats Inductor on its region alone can lose within a graph: an operator is a fusion barrier, and what Inductor
would have read once for the region and its neighbours is then read twice. So both graphs are compiled and timed,
interleaved, on inputs of the graph's shapes; kernels under which the graph is slower are left out. What was found is kept in
the store, so a graph is rehearsed once for each set of kernels.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from torch_autokernel.capture import ops
from torch_autokernel.capture.ambient import ordinary_torch
from torch_autokernel.capture.sizes import hint
from torch_autokernel.core.errors import CaptureError
from torch_autokernel.core.types import CacheKey, Refusal, digest
from torch_autokernel.engine import Decision, Engine

if TYPE_CHECKING:
    from torch_autokernel.verify.statistics import Ratio

log = logging.getLogger(__name__)

GRAPH = "+graph"  # an ABI's ending: the refusal is about a whole graph
VERSION = "2"
ROUNDS = 60
SECONDS = 4.0  # of one interleaved run
MOST_GROUPS = 6  # kernels tried one by one where all together lose

Kernels = frozenset[str]  # signatures' digests
Run = Callable[[], Any]


@dataclass(frozen=True)
class Outcome:
    """Which kernels stay, and why in one sentence."""

    kept: Kernels
    reason: str


# ---------------------------------------------------------------------- what is kept of it
def key_of(graph: fx.Graph, engine: Engine) -> CacheKey:
    """By what the graph computes, on what sizes, with how many threads."""
    number = {node: i for i, node in enumerate(graph.nodes)}
    told = [
        [node.op, ops.name_of(node.target) if node.op == "call_function" else "",
         str(fx.node.map_arg((node.args, node.kwargs), lambda n: f"#{number[n]}")), _layout(node.meta.get("val"))]
        for node in graph.nodes
    ]  # fmt: skip
    return CacheKey(digest([told, torch.get_num_threads()]), engine.arch.key, engine.abi + GRAPH)


def _layout(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"{value.dtype} {[_size(s) for s in value.shape]} {[_size(s) for s in value.stride()]}"
    return str(_size(value)) if isinstance(value, (int, torch.SymInt)) else ""


def _size(size: Any) -> int:
    try:
        return hint(size)
    except CaptureError:
        return -1


def kernels_of(decisions: Sequence[Decision]) -> dict[str, str]:
    """Signature and candidate of every kernel that was found."""
    return {d.region.signature.digest: d.entry.candidate.id for d in decisions if d.entry is not None}


def _conditions(kernels: Mapping[str, str]) -> str:
    return f"{VERSION} {digest(sorted(kernels.items()))}"


def recall(key: CacheKey, kernels: Mapping[str, str], engine: Engine) -> Outcome | None:
    """What an earlier rehearsal of the same graph with the same kernels said."""
    for found in engine.store.lookup(key).refusals:
        if found.conditions == _conditions(kernels):
            return Outcome(frozenset(kernels) - frozenset(found.signatures), found.reason)
    return None


def remember(key: CacheKey, kernels: Mapping[str, str], outcome: Outcome, engine: Engine) -> None:
    """Keep the outcome; raises StoreError where the disk refuses."""
    lost = tuple(sorted(frozenset(kernels) - outcome.kept))
    engine.store.refuse(Refusal(key, outcome.reason, _conditions(kernels), {}, time.time(), lost))


# ---------------------------------------------------------------------- whether there is anything to find out
def stands_alone(graph: fx.Graph, taken: Collection[str]) -> bool:
    """Whether nothing but the one region computes, so that its own timing was the graph's. `taken`: its nodes' names."""
    others = (n for n in graph.nodes if n.op == "call_function" and n.name not in taken)
    return all(ops.kind(ops.name_of(n.target)) in ("view", "source", ops.GETITEM) for n in others)


# ---------------------------------------------------------------------- the choice
Measure = Callable[[Sequence[Kernels]], "list[Ratio]"]


def choose(groups: Sequence[str], measure: Measure) -> Outcome:
    """The kernels with which the graph is not slower than without. `measure` gives, for sets of kernels, how many times faster
    the graph is with them. All together first; where that loses, each alone, then the winners together."""
    everything = frozenset(groups)
    (whole,) = measure([everything])
    told = f"the graph with all {len(everything)} kernels runs at {_text(whole)} of the graph without"
    if whole.median >= 1:
        return Outcome(everything, told)
    if len(groups) < 2:
        return Outcome(frozenset(), told)
    singles = [frozenset({g}) for g in groups[:MOST_GROUPS]]
    alone = dict(zip(singles, measure(singles), strict=True))
    winners = sorted((s for s in singles if alone[s].median >= 1), key=lambda s: -alone[s].median)
    if not winners:
        return Outcome(frozenset(), told)
    if len(winners) > 1:
        together = frozenset().union(*winners)
        if together != everything and (found := measure([together])[0]).median >= max(1.0, alone[winners[0]].median):
            return Outcome(together, f"{told}; with {len(together)} of them at {_text(found)}")
    return Outcome(winners[0], f"{told}; with the best one alone at {_text(alone[winners[0]])}")


def _text(found: Ratio) -> str:
    return f"{found.median:.3f}x ({found.low:.3f} to {found.high:.3f})"


def measurer(compiled: Callable[[Kernels], Callable[[list[Any]], Any]], inputs: list[Any]) -> Measure:
    """Measures by compiling the graph under each set and running all of them, and the graph without kernels, in turns."""
    from torch_autokernel.verify.statistics import interleave, paired_ratio  # imported here: a warm cache loads no `verify`

    runs: dict[Kernels, Run] = {}

    def run_of(kernels: Kernels) -> Run:
        if kernels not in runs:
            call = compiled(kernels)
            runs[kernels] = lambda: call(list(inputs))
        return runs[kernels]

    def measure(sets: Sequence[Kernels]) -> list[Ratio]:
        none: Kernels = frozenset()
        contenders = {",".join(sorted(s)): run_of(s) for s in (none, *sets)}
        with ordinary_torch(), torch.random.fork_rng(devices=[]):
            samples = interleave(contenders, SECONDS * len(contenders) / 2, ROUNDS)
        return [paired_ratio(samples[",".join(sorted(s))], samples[""]) for s in sets]

    return measure
