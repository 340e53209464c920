"""Scans in the graphs of `torch.compile`, each replaced by a kernel before Inductor sees the graph."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from torch_autokernel.capture import operators
from torch_autokernel.capture.ambient import ordinary_torch
from torch_autokernel.capture.partition import Left
from torch_autokernel.capture.record import Record, note
from torch_autokernel.capture.scan import Scan, capture_scan, is_scan
from torch_autokernel.capture.signature import Captured
from torch_autokernel.capture.swap import swap
from torch_autokernel.core.config import Config
from torch_autokernel.core.errors import CaptureError
from torch_autokernel.engine import Decision, Engine

log = logging.getLogger(__name__)


def swap_scans(gm: fx.GraphModule, phase: str, engine: Engine, config: Config) -> Sequence[Decision]:
    """Put kernels in the place of the graph's scans, where there are some; what was decided for each."""
    found: dict[fx.Node, Scan] = {}
    left: list[Left] = []
    for node in [n for n in gm.graph.nodes if is_scan(n)]:
        try:
            _refuse_symbols(node)
            found[node] = capture_scan(node, getattr(gm, node.args[0].target))
        except CaptureError as error:
            left.append(Left((node.name,), error.message))
            log.info("a scan stays as it is: %s", error.message)
    if not found and not left:
        return ()
    regions = [dataclasses.replace(s.region, phase=phase, nodes=(n.name,)) for n, s in found.items()]
    with ordinary_torch():
        decisions = engine.resolve(regions, config)
    swapped = 0
    for (node, scan), decision in zip(found.items(), decisions, strict=True):
        if decision.entry is None or not operators.callable_as_operator(decision.entry.signature):
            continue
        operator = operators.ensure(decision.entry, engine.load)
        if (problem := operator.load()) is not None:
            log.warning("%s", problem)
            continue
        swap(gm.graph, [(_captured(node, scan), operator.overload)])
        swapped += 1
    for node in [n for n in gm.graph.nodes if n.op == "get_attr" and not n.users]:
        gm.graph.erase_node(node)
    gm.recompile()
    note(Record(phase, tuple(decisions), tuple(left), swapped))
    return decisions


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
