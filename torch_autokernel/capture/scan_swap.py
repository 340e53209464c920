"""Scans and unrolled loops in the graphs of `torch.compile`, each replaced by a kernel before Inductor sees the graph."""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import fx

from torch_autokernel.capture import operators
from torch_autokernel.capture.ambient import ordinary_torch
from torch_autokernel.capture.gathering import rejoin
from torch_autokernel.capture.partition import Left
from torch_autokernel.capture.record import Record, note
from torch_autokernel.capture.scan import Scan, capture_scan, is_scan
from torch_autokernel.capture.signature import Captured
from torch_autokernel.capture.swap import swap
from torch_autokernel.capture.unrolled import may_hold_loops, unrolled_loops
from torch_autokernel.core.config import Config
from torch_autokernel.core.errors import CaptureError
from torch_autokernel.engine import Decision, Engine

log = logging.getLogger(__name__)


def swap_loops(gm: fx.GraphModule, phase: str, engine: Engine, config: Config) -> Sequence[Decision]:
    """Put kernels in the place of the graph's scans and unrolled loops, where there are some; what was decided for each."""
    scans, left = _scans(gm, phase)
    graph, loops = gm.graph, list[Captured]()
    if may_hold_loops(gm.graph):
        graph = copy.deepcopy(gm.graph)  # where no loop is replaced, the graph stays as it is
        loops, kept = unrolled_loops(graph, phase)
        left += kept
    for what in left:
        log.info("a loop stays as it is: %s", what.reason)
    if not scans and not loops and not left:
        return ()
    with ordinary_torch():
        decisions = engine.resolve([*(s.region for s in scans.values()), *(c.region for c in loops)], config)
    made = dict(zip([*scans, *range(len(loops))], map(partial(_operator, engine), decisions), strict=True))
    for node, scan in scans.items():
        if made[node] is not None:
            swap(gm.graph, [(_captured(node, scan), made[node])])
    if any(made[k] is not None for k in range(len(loops))):
        swap(graph, [(c, made[k]) for k, c in enumerate(loops) if made[k] is not None])
        rejoin(graph)
        gm.graph = graph
    for node in [n for n in gm.graph.nodes if n.op == "get_attr" and not n.users]:
        gm.graph.erase_node(node)
    gm.recompile()
    note(Record(phase, tuple(decisions), tuple(left), sum(o is not None for o in made.values())))
    return decisions


def _operator(engine: Engine, decision: Decision) -> Any:
    """The operator that takes a region's place, or None."""
    if decision.entry is None or not operators.callable_as_operator(decision.entry.signature):
        return None
    operator = operators.ensure(decision.entry, engine.load)
    if (problem := operator.load()) is not None:
        log.warning("%s", problem)
        return None
    return operator.overload


def _scans(gm: fx.GraphModule, phase: str) -> tuple[dict[fx.Node, Scan], list[Left]]:
    found: dict[fx.Node, Scan] = {}
    left: list[Left] = []
    for node in [n for n in gm.graph.nodes if is_scan(n)]:
        try:
            _refuse_symbols(node)
            scan = capture_scan(node, getattr(gm, node.args[0].target))
            found[node] = dataclasses.replace(scan, region=dataclasses.replace(scan.region, phase=phase, nodes=(node.name,)))
        except CaptureError as error:
            left.append(Left((node.name,), error.message))
    return found, left


def _refuse_symbols(node: fx.Node) -> None:
    for n in node.all_input_nodes:
        value: Any = n.meta.get("val")
        if isinstance(value, torch.Tensor) and any(isinstance(s, torch.SymInt) for s in (*value.shape, *value.stride())):
            raise CaptureError("a scan over sizes that are not known")


def _captured(node: fx.Node, scan: Scan) -> Captured:
    """The scan as a group of nodes to replace: itself, and what takes its results apart."""
    outputs: dict[int, fx.Node] = {}
    for result, k in scan.results.items():
        if k in outputs:
            result.replace_all_uses_with(outputs[k])
        outputs.setdefault(k, result)
    taken = [*node.users, *scan.results]
    members = [n for n in node.graph.nodes if n is node or n in taken]
    return Captured(scan.region, scan.inputs, tuple(outputs[k] for k in sorted(outputs)), tuple(members))
