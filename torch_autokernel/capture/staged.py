"""A forward with recurrent layers or scans as a program: the loops are kernels, everything else is what eager runs.

The call is traced at its real sizes, for nothing is unrolled: torch's layers are scans (`rnn.py`), and each scan is a region
whose length is a symbol (`scan.py`). The rest of the graph is printed as Python that calls torch. A region's own timing
knows nothing of the layer that it was a part of, so a program is timed against the original before it is used.
"""

from __future__ import annotations

import logging
import types
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from torch_autokernel.capture import ops
from torch_autokernel.capture.purity import codes
from torch_autokernel.capture.recurrence import functional
from torch_autokernel.capture.rnn import FUNCTIONS, as_scans
from torch_autokernel.capture.scan import Scan, capture_scan, is_scan
from torch_autokernel.capture.whole import Constant, trace
from torch_autokernel.core.errors import CaptureError

log = logging.getLogger(__name__)

MOST_SCANS = 16
_NAMES = frozenset(FUNCTIONS.values()) | {"scan", "LSTM", "GRU", "RNN"}
_EAGERLY = ("view", "product", "source", ops.GETITEM)  # nothing of these is gained by compiling
_ALIKE = frozenset(("aten.addmm.default", "aten.cat.default", "aten.stack.default", "aten.embedding.default", "aten.unbind.int",
                    "aten.zeros.default", "aten.t.default", "aten.transpose.int", "aten._unsafe_view.default"))  # fmt: skip


@dataclass(frozen=True)
class Staged:
    """`scans` are the graph's loops in order; `outputs` and `out_spec` are a Whole's, over the program's results."""

    graph: fx.Graph
    scans: dict[fx.Node, Scan]
    outputs: tuple[Any, ...]
    out_spec: pytree.TreeSpec

    @property
    def count(self) -> int:
        return sum(n.op == "placeholder" for n in self.graph.nodes)

    @property
    def fusible(self) -> bool:
        """Whether there is something around the loops that a compiler could do better than eager."""
        made = {n for s in self.scans.values() for n in s.results}
        text = _Text(self, {})
        rest = (n for n in text.needed if n.op == "call_function" and n not in self.scans and n not in made)
        return any(ops.kind(name) not in _EAGERLY and name not in _ALIKE for name in (ops.name_of(n.target) for n in rest))


def concerns(function: Callable[..., Any], module: torch.nn.Module | None) -> bool:
    """Whether a forward holds a recurrent layer of torch's, or its text names one or a scan of torch's."""
    if module is not None and any(isinstance(m, torch.nn.RNNBase) for m in module.modules()):
        return True
    todo: list[Any] = [function]
    own = [] if module is None else [m for m in module.modules() if not _torchs(type(m))]
    todo += [f for m in own for f in vars(type(m)).values() if isinstance(f, types.FunctionType)]
    attributes = {n for n in _NAMES if any(hasattr(m, n) for m in own)}
    seen: set[Any] = set()
    while todo:
        f = todo.pop()
        f = getattr(f, "__func__", f)
        if not isinstance(f, types.FunctionType) or f in seen or _torchs(f):
            continue
        seen.add(f)
        names = [n for code in codes(f.__code__) for n in code.co_names + code.co_freevars]
        closed = zip(f.__code__.co_freevars, f.__closure__ or (), strict=True)
        known = {**f.__globals__, **{n: cell.cell_contents for n, cell in closed if cell != types.CellType()}}
        if any(_torchs(known[n]) if n in known else n not in attributes for n in _NAMES.intersection(names)):
            return True
        todo += [f.__globals__.get(n) for n in names]
        todo += [cell.cell_contents for cell in f.__closure__ or () if cell != types.CellType()]
    return False


def _torchs(value: Any) -> bool:
    return (getattr(value, "__module__", None) or type(value).__module__).split(".")[0] == "torch"


# ---------------------------------------------------------------------- capture
def capture_staged(function: Callable[..., Any], args: Sequence[Any], module: torch.nn.Module | None) -> Staged:
    """The call as a program; raises CaptureError with the reason where it is none."""

    def expanded(*given: Any) -> Any:
        with as_scans():
            return function(*given)

    with _own_weights(module):
        gm, out_spec, _names = trace(expanded, args, module, {})
        gm = functional(gm)
    scans = [n for n in gm.graph.nodes if is_scan(n)]
    if not 0 < len(scans) <= MOST_SCANS:
        raise CaptureError(f"{len(scans)} loops, where 1 to {MOST_SCANS} are understood")
    _check(gm.graph, scans)
    captured = {n: capture_scan(n, getattr(gm, n.args[0].target)) for n in scans}
    (output,) = [n for n in gm.graph.nodes if n.op == "output"]
    given = list(output.args[0]) if isinstance(output.args[0], (list, tuple)) else [output.args[0]]
    results = list(dict.fromkeys(r for r in given if isinstance(r, fx.Node)))
    outputs = tuple(results.index(r) if isinstance(r, fx.Node) else Constant(r) for r in given)
    return Staged(gm.graph, captured, outputs, out_spec)


def _check(graph: fx.Graph, scans: Sequence[fx.Node]) -> None:
    bodies = {n.args[0] for n in scans}
    for node in graph.nodes:
        if node.op == "get_attr" and node not in bodies:
            raise CaptureError(f"the function reads a tensor that is not an argument ({node.name})")
        if node.op != "call_function" or node in scans or ops.name_of(node.target) == ops.GETITEM:
            continue
        if not isinstance(node.target, torch._ops.OpOverload):
            raise CaptureError(f"{ops.name_of(node.target)} beside a loop is not understood")
        if node.target._schema.is_mutable:
            raise CaptureError(f"an argument is changed by {ops.name_of(node.target)}")
        if torch.Tag.nondeterministic_seeded in node.target.tags:
            raise CaptureError(f"{ops.name_of(node.target)} draws random numbers")


@contextmanager
def _own_weights(module: torch.nn.Module | None) -> Any:
    """torch's recurrent layers keep a list of their weights, which a trace would leave full of its own tensors."""
    layers = [] if module is None else [m for m in module.modules() if isinstance(m, torch.nn.RNNBase)]
    kept = [{k: list(m.__dict__[k]) for k in ("_flat_weights", "_flat_weight_refs")} for m in layers]
    try:
        yield
    finally:
        for m, lists in zip(layers, kept, strict=True):
            m.__dict__.update(lists)


# ---------------------------------------------------------------------- the program
def program(staged: Staged, kernels: Mapping[fx.Node, Callable[..., Any]]) -> Callable[..., tuple[Any, ...]]:
    """A function from the graph's placeholders to its results, with `kernels` in the place of the scans."""
    return _Text(staged, kernels).function()


class _Text:
    """The graph as Python text; what is no literal stands in the text's namespace."""

    def __init__(self, staged: Staged, kernels: Mapping[fx.Node, Callable[..., Any]]) -> None:
        self.staged, self.kernels = staged, kernels
        self.space: dict[str, Any] = {}
        self.names: dict[fx.Node, str] = {}
        made = {n: (scan, k) for scan, s in staged.scans.items() for n, k in s.results.items()}
        self.given: dict[fx.Node, Any] = made
        self.needed = self._needed()

    def _reads(self, node: fx.Node) -> list[fx.Node]:
        if node in self.staged.scans:
            return list(self.staged.scans[node].inputs)
        return [self.given[node][0]] if node in self.given else node.all_input_nodes

    def _needed(self) -> dict[fx.Node, fx.Node]:
        """Every node that a result depends on, with the last one that reads it."""
        (output,) = [n for n in self.staged.graph.nodes if n.op == "output"]
        seen = {output}
        last: dict[fx.Node, fx.Node] = {}
        for node in reversed(self.staged.graph.nodes):
            if node in seen:
                for a in self._reads(node):
                    seen.add(a)
                    last.setdefault(a, node)
        return last

    def function(self) -> Callable[..., tuple[Any, ...]]:
        lines, arguments = [], []
        for number, node in enumerate(self.staged.graph.nodes):
            name = self.names[node] = f"v{number}"
            if node.op == "placeholder":
                arguments.append(name)
            elif node.op == "output":
                results = dict.fromkeys(r for r in pytree.tree_leaves(node.args[0]) if isinstance(r, fx.Node))
                lines.append(f"return ({' '.join(f'{self._returned(r)},' for r in results)})")
            elif node in self.needed and node.op == "call_function":
                lines.append(f"{name} = {self._call(node, number)}")
                ended = [self.names[a] for a in self._reads(node) if self.needed[a] is node and a.op != "placeholder"]
                lines += [f"del {', '.join(dict.fromkeys(ended))}"] if ended else []
        text = f"def program({', '.join(arguments)}):\n" + "".join(f"    {line}\n" for line in lines)
        exec(compile(text, "<program>", "exec"), self.space)
        return self.space["program"]  # type: ignore[no-any-return]

    def _returned(self, node: fx.Node) -> str:
        """The result. A view of what the program has made is no view to the user, who may change it in place under gradients:
        a view that was made where none are recorded would not let him."""
        base = node
        while getattr(base.target, "is_view", False) and base not in self.given:
            base = base.args[0]  # type: ignore[assignment]
        return self.names[node] + (".data" if base is not node and base.op == "call_function" else "")

    def _call(self, node: fx.Node, number: int) -> str:
        if node in self.given:
            scan, k = self.given[node]
            return f"{self.names[scan]}[{k}]"
        if node in self.staged.scans:
            self.space[f"k{number}"] = self.kernels[node]
            return f"k{number}({', '.join(self.names[a] for a in self.staged.scans[node].inputs)})"
        if ops.name_of(node.target) == ops.GETITEM:
            return f"{self.names[node.args[0]]}[{node.args[1]}]"  # type: ignore[index]
        self.space[f"f{number}"] = node.target
        parts = [self._value(a, number) for a in node.args]
        return f"f{number}({', '.join([*parts, *(f'{k}={self._value(v, number)}' for k, v in node.kwargs.items())])})"

    def _value(self, value: Any, number: int) -> str:
        if isinstance(value, fx.Node):
            return self.names[value]
        if isinstance(value, (list, tuple)):
            return "[" + ", ".join(self._value(v, number) for v in value) + "]"
        if value is None or isinstance(value, (bool, int, str)):
            return repr(value)
        name = f"c{number}_{len(self.space)}"
        self.space[name] = value
        return name
