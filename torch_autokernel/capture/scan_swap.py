"""Scans and unrolled loops in the graphs of `torch.compile`, each replaced by a kernel before Inductor sees the graph."""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections.abc import Sequence
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
from torch_autokernel.core.types import Region
from torch_autokernel.engine import Decision, Engine

log = logging.getLogger(__name__)


def swap_loops(gm: fx.GraphModule, phase: str, engine: Engine, config: Config) -> Sequence[Decision]:
    """Put kernels in the place of the graph's scans and unrolled loops, where there are some; what was decided for each."""
    decisions = _swap_scans(gm, phase, engine, config)
    if not may_hold_loops(gm.graph):
        return decisions
    graph = copy.deepcopy(gm.graph)  # where no loop is replaced, the graph stays as it is
    loops, left = unrolled_loops(graph, phase)
    made, found = _resolved([c.region for c in loops], left, phase, engine, config)
    if any(o is not None for o in made):
        swap(graph, [(c, o) for c, o in zip(loops, made, strict=True) if o is not None])
        rejoin(graph)
        gm.graph = graph
        gm.recompile()
    return [*decisions, *found]


def _swap_scans(gm: fx.GraphModule, phase: str, engine: Engine, config: Config) -> Sequence[Decision]:
    scans: dict[fx.Node, Scan] = {}
    left: list[Left] = []
    for node in [n for n in gm.graph.nodes if is_scan(n)]:
        try:
            _refuse_symbols(node)
            scans[node] = capture_scan(node, getattr(gm, node.args[0].target))
        except CaptureError as error:
            left.append(Left((node.name,), error.message))
    regions = [dataclasses.replace(s.region, phase=phase, nodes=(n.name,)) for n, s in scans.items()]
    made, decisions = _resolved(regions, left, phase, engine, config)
    for (node, scan), overload in zip(scans.items(), made, strict=True):
        if overload is not None:
            swap(gm.graph, [(_captured(node, scan), overload)])
    if scans:
        for node in [n for n in gm.graph.nodes if n.op == "get_attr" and not n.users]:
            gm.graph.erase_node(node)
        gm.recompile()
    return decisions


def _resolved(
    regions: Sequence[Region], left: Sequence[Left], phase: str, engine: Engine, config: Config
) -> tuple[list[Any], list[Decision]]:
    """For each region the operator that takes its place, or None; and what was decided."""
    for what in left:
        log.info("a loop stays as it is: %s", what.reason)
    if not regions and not left:
        return [], []
    with ordinary_torch():
        decisions = engine.resolve(regions, config)
    made = [_operator(engine, d) for d in decisions]
    note(Record(phase, tuple(decisions), tuple(left), sum(o is not None for o in made)))
    return made, decisions


def _operator(engine: Engine, decision: Decision) -> Any:
    """The operator that takes a region's place, or None."""
    if decision.entry is None or not operators.callable_as_operator(decision.entry.signature):
        return None
    operator = operators.ensure(decision.entry, engine.load)
    if (problem := operator.load()) is not None:
        log.warning("%s", problem)
        return None
    return operator.overload


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
