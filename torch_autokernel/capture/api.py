"""`explain`, `warm` and `verify`: the engine for people and programs that ask, instead of for a model that runs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch._functorch import config as functorch_config
from torch.utils import _pytree as pytree

from torch_autokernel.capture.decorator import Accelerated
from torch_autokernel.capture.record import Record, recording
from torch_autokernel.core import events, points
from torch_autokernel.core.bill import Bill
from torch_autokernel.core.config import config
from torch_autokernel.core.errors import ConfigError, ToolchainError, UsageError
from torch_autokernel.core.types import Budget, Json, Verdict
from torch_autokernel.engine import find_arch

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RegionReport(Json):
    """One region, or one group of nodes that is none. `outcome`: hit, generated, refused, miss, error or left."""

    phase: str
    outcome: str
    reason: str
    ops: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    signature: str = ""
    op_name: str = ""
    speedup: float | None = None
    baseline: str = ""
    count: int = 1


@dataclass(frozen=True)
class Explanation(Json):
    """What happens to a target: every region of every graph, and what was left out."""

    target: str
    graphs: int
    regions: tuple[RegionReport, ...]
    left: tuple[RegionReport, ...] = ()

    @property
    def replaced(self) -> int:
        return sum(r.count for r in self.regions if r.op_name)

    def __str__(self) -> str:
        total = sum(r.count for r in self.regions)
        lines = [f"{self.target}: {self.graphs} graphs, {total} regions, {self.replaced} replaced"]
        for r in (*self.regions, *self.left):
            mark = "+" if r.op_name else "-"
            times = f" x{r.count}" if r.count > 1 else ""
            what = _summary(r.ops) if r.ops else ", ".join(r.nodes[:4])
            lines.append(f"  {mark} {r.phase:9} {r.outcome:9} {what}{times}: {r.reason}")
        return "\n".join(lines)


def _summary(ops: Sequence[str], most: int = 6) -> str:
    names = [o.split(".")[1] if "." in o else o for o in ops]
    return " ".join(names[:most]) + (f" ... ({len(names)} operations)" if len(names) > most else "")


@dataclass(frozen=True)
class WarmReport(Json):
    """What a pre-warming did, region by region. `bill` is what language models have cost: rows by role, model and region, their
    total, tokens (and, by the user's price table, money) for each accepted speedup; empty where none was asked."""

    target: str
    arch: str
    explanation: Explanation
    seconds: float = 0.0
    counts: dict[str, int] = field(default_factory=dict)
    bill: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        counts = ", ".join(f"{n} {k}" for k, n in sorted(self.counts.items())) or "no region"
        return f"warmed for {self.arch} in {self.seconds:.1f} s: {counts}\n{self.explanation}"


def report(target: str, records: Sequence[Record]) -> Explanation:
    """Records to a report; equal regions of one phase are told once, with their count."""
    rows: dict[Any, RegionReport] = {}
    left: dict[Any, RegionReport] = {}
    for record in records:
        for d in record.decisions:
            timing = d.entry.verdict.timing if d.entry else None
            row = RegionReport(
                phase=record.phase,
                outcome=d.outcome,
                reason=d.reason,
                ops=tuple(o.target for o in d.region.signature.ops),
                nodes=d.region.nodes,
                signature=d.region.signature.digest,
                op_name=d.entry.op_name if d.entry else "",
                speedup=timing.speedup if timing else None,
                baseline=timing.baseline if timing else "",
            )
            _count(rows, (record.phase, row.signature, tuple(d.region.sizes.items())), row)
        for item in record.left:
            _count(
                left, (record.phase, item.nodes, item.reason), RegionReport(record.phase, "left", item.reason, (), item.nodes)
            )
    return Explanation(target, len(records), tuple(rows.values()), tuple(left.values()))


def _count(rows: dict[Any, RegionReport], key: Any, row: RegionReport) -> None:
    import dataclasses

    rows[key] = dataclasses.replace(rows[key], count=rows[key].count + 1) if key in rows else row


def _name(target: Any) -> str:
    return getattr(target, "__qualname__", None) or type(target).__qualname__


def _run(
    target: Callable[..., Any], inputs: Sequence[Any], kwargs: dict[str, Any], options: dict[str, Any], backward: bool
) -> list[Record]:
    """Compile and call the target once with the backend; what was decided."""
    if not callable(target):
        raise UsageError(f"{target!r} cannot be called", hint="give a function or an nn.Module")
    with recording() as records, functorch_config.patch(enable_autograd_cache=False):  # a hit there decides nothing anew
        if isinstance(target, Accelerated):
            result = target(*inputs, **kwargs)
        else:
            torch._dynamo.reset()
            result = torch.compile(target, backend="autokernel", options=options)(*inputs, **kwargs)
        if backward:
            leaves = [t for t in pytree.tree_leaves(result) if isinstance(t, torch.Tensor) and t.requires_grad]
            if not leaves:
                raise UsageError(
                    "nothing in the result requires a gradient",
                    hint="leave out the backward pass, or let a parameter require one",
                )
            sum(t.sum() for t in leaves).backward()  # type: ignore[union-attr]
    return records


def explain(target: Any, *example_inputs: Any, backward: bool = False, **kwargs: Any) -> Explanation:
    """What the plugin does with a target under these inputs: every region, replaced or not, and why. Searches for nothing
    (`on_miss="fallback"`), so a region that is not in the cache is told as a miss."""
    return report(_name(target), _run(target, example_inputs, kwargs, {"on_miss": "fallback"}, backward))


def warm(target: Any, example_inputs: Sequence[Any], arch: str | None = None, budget: Budget | float | None = None,
         progress: bool = True, *, backward: bool = False, kwargs: dict[str, Any] | None = None) -> WarmReport:  # fmt: skip
    """Fill the cache for a target: search now for every region that is not in it. `budget` in seconds. Raises
    ToolchainError where nothing can be compiled."""
    import time

    here = find_arch("")
    if arch and arch != here.key:
        raise ConfigError(f"cannot warm for {arch!r} on this machine, which is {here.key!r}",
                          hint="only the CPU of this machine can be warmed for so far")  # fmt: skip
    if reason := points.languages.get("cpp")().missing(here):
        raise ToolchainError(f"nothing can be compiled: {reason}", hint="run `autokernel doctor`")
    seconds = budget.seconds if isinstance(budget, Budget) else budget
    options: dict[str, Any] = {"on_miss": "generate"} | ({} if seconds is None else {"max_seconds": float(seconds)})
    start = time.perf_counter()
    bill = Bill()
    with events.subscribed(bill):
        explanation = report(_name(target), _run(target, example_inputs, kwargs or {}, options, backward))
    counts: dict[str, int] = {}
    for r in explanation.regions:
        counts[r.outcome] = counts.get(r.outcome, 0) + r.count
    cost = bill.to_json() if bill.rows else {}
    return WarmReport(_name(target), here.key, explanation, time.perf_counter() - start, counts, cost)


def verify(reference: Any, source: str | Path, example_inputs: Sequence[Any], language: str = "cpp", arch: str | None = None,
           level: str = "full", *, static_sizes: Sequence[int] = (), seed: int | None = None) -> Verdict:  # fmt: skip
    """The verdict on a kernel that somebody else wrote for `reference` (a function or module), replayed where a seed is given.
    `source` is the text or a path. Raises CaptureError where the reference is more than one region may hold, ToolchainError
    without a compiler."""
    from torch_autokernel.capture.whole import region_of
    from torch_autokernel.verify.single import judge_text

    here = find_arch(arch or config.arch)
    text = Path(source).read_text() if isinstance(source, Path) else source
    return judge_text(region_of(reference, example_inputs, static_sizes), text, language, here, level, seed)
