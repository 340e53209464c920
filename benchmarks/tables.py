"""Results for people: a table in Markdown, and plots."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.cases import Case
from benchmarks.result import (
    ALGORITHMIC,
    TIMED,
    Interval,
    Result,
    best,
    best_name,
    configurations,
    geometric_mean,
    label,
    met,
    shares,
)  # fmt: skip
from torch_autokernel.app.contest import OURS
from torch_autokernel.app.report import duration, table
from torch_autokernel.core.errors import ToolchainError, UsageError
from torch_autokernel.verify.statistics import Ratio

HEADER = ("row", "outputs", "replaced", OURS, "best baseline", "x best [95%]", "x eager", "x floor", "bound by", "of copy",
          "of peak", "of gemm", "goal")  # fmt: skip
INSTALL = "pip install 'torch-autokernel[plots]'"


def write(data: Mapping[str, Any], results: Sequence[Result], out: Path) -> None:
    """The table beside the results."""
    path = out.with_suffix(".md")
    part = path.with_name(path.name + ".part")
    try:
        part.write_text(markdown(data, results))
        os.replace(part, path)
    except OSError as error:
        hint = "give --out in a folder you may write to"
        raise UsageError(f"{path} cannot be written: {error.strerror}", hint) from error


def markdown(data: Mapping[str, Any], results: Sequence[Result]) -> str:
    m, settings = data["machine"], data["settings"]
    lines = [f"# {m['name']}, {m['date']}", "",
             f"torch {m['torch']}, commit {m.get('commit') or 'unknown'}, {m['arch']}, load {m['load']} at the start. "
             f"Ours by {settings['via']}; {settings['seconds']:g} s a timing.", ""]  # fmt: skip
    for configuration in configurations(results):
        rows = [r for r in results if (r.dtype, r.threads, r.allocation) == configuration]
        lines += [f"## {label(configuration)}", "", *_grid([HEADER, *map(_cells, rows)]), "", *_means(rows), *_notes(rows)]
    return "\n".join(lines) + "\n"


def _grid(rows: Sequence[Sequence[str]]) -> list[str]:
    head, *body = [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows]
    return [head, "|" + "---|" * len(rows[0]), *body]


def _cells(r: Result) -> list[str]:
    name = best_name(r)
    reached, goal = shares(r), met(r)
    limits = [_percent(reached.get(limit)) for limit in ("copy", "peak", "gemm")]
    return [
        f"{r.row}{' (fb)' if r.direction == 'backward' else ''}", r.outputs, f"{r.replaced}/{r.regions}",
        _time(r, OURS), f"{name} {_time(r, name)}" if name else "-", interval(best(r)), middle(r.ratios.get("eager")),
        f"{r.floor[0]:.2f}" if r.floor_ns else "-", r.bound or "-", *limits,
        "-" if goal is None else "met" if goal else "missed",
    ]  # fmt: skip


def _time(r: Result, name: str) -> str:
    return duration(r.times_ns[name] / 1e9) if name in r.times_ns else "-"


def interval(ratio: Sequence[float] | None) -> str:
    return f"{ratio[0]:.2f} [{ratio[1]:.2f}, {ratio[2]:.2f}]" if ratio else "-"


def middle(ratio: Sequence[float] | None) -> str:
    return f"{ratio[0]:.2f}" if ratio else "-"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f}%"


def _means(rows: Sequence[Result]) -> list[str]:
    """For each set and pass; where rows have a better algorithm, also with that among the baselines."""
    lines = []
    for group, direction in dict.fromkeys((r.group, r.direction) for r in rows):
        some = [r for r in rows if (r.group, r.direction) == (group, direction)]
        if (mean := geometric_mean(some)) is None:
            continue
        timed = sum(1 for r in some if best(r))
        line = f"- {group}, {direction}: geometric mean {mean:.2f} over {timed} of {len(some)} rows"
        strict = geometric_mean(some, _strict)
        algorithms = any(r.algorithmic for r in some)
        lines.append(line + (f"; {strict:.2f} with better algorithms among the baselines" if algorithms else ""))
    return [*lines, ""]


def _strict(result: Result) -> Ratio | None:
    return best(result, result.ratios)


def _notes(rows: Sequence[Result]) -> list[str]:
    lines = []
    for r in rows:
        name = f"{r.row} {r.direction}"
        if r.reason:
            lines.append(f"- {name}: {r.outputs}: {r.reason}")
        lines += [f"- {name}, {who}: {state}" for who, state in r.states.items() if state != TIMED and who != OURS]
        if found := [n for n in ALGORITHMIC if n in r.ratios]:
            lines.append(_algorithmic(name, r, found))
    return [*lines, ""] if lines else []


def _algorithmic(name: str, r: Result, found: Sequence[str]) -> str:
    gain = r.times_ns[best_name(r)] / r.times_ns[best_name(r, found)]
    return (f"- {name}: algorithmic, {r.algorithmic}: that alone is {gain:.2f}x in torch; against it we are "
            f"{interval(best(r, found))}x")  # fmt: skip


def listing(cases: Sequence[Case]) -> str:
    rows = [[c.name, ",".join(c.dtypes), ",".join(c.listed), c.title] for c in cases]
    return table(("row", "dtypes", "passes", "what"), rows)


# --------------------------------------------------------------------------------------------------------- plots
def need_matplotlib() -> Any:
    try:
        import matplotlib
    except ImportError as error:
        raise ToolchainError("--plots needs matplotlib, which is not installed", hint=INSTALL) from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def plots(results: Sequence[Result], out: Path) -> list[Path]:
    """Two pictures for each configuration: against the best baseline, and above the floor."""
    pyplot = need_matplotlib()
    kinds: list[tuple[str, str, Callable[[Result], Interval | Ratio | None]]] = [
        ("best", "times faster than the best baseline", best),
        ("floor", "times the roofline floor", lambda r: r.floor if r.floor_ns else None),
    ]
    made = []
    for configuration in configurations(results):
        rows = [r for r in results if (r.dtype, r.threads, r.allocation) == configuration and best(r)]
        for kind, axis, ratio in kinds if rows else []:
            path = out.with_name(f"{out.stem}-{'-'.join(map(str, configuration))}-{kind}.png")
            _picture(pyplot, rows, ratio, f"{label(configuration)}: {axis}", path)
            made.append(path)
    return made


def _picture(pyplot: Any, rows: Sequence[Result], ratio: Callable[[Result], Any], title: str, path: Path) -> None:
    shown = [(f"{r.row}{' (fb)' if r.direction == 'backward' else ''}", found) for r in rows if (found := ratio(r))]
    figure, axes = pyplot.subplots(figsize=(8, 1.2 + 0.24 * len(shown)))
    middles = [found[0] for _, found in shown]
    spread = [[found[0] - found[1] for _, found in shown], [min(found[2], 1e6) - found[0] for _, found in shown]]
    spread = [[max(v, 0.0) for v in side] for side in spread]
    axes.errorbar(middles, range(len(shown)), xerr=spread, fmt="o", markersize=4, capsize=2)
    axes.set_yticks(range(len(shown)), [name for name, _ in shown], fontsize=7)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.grid(axis="x", which="both", linewidth=0.3)
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_title(title, fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
