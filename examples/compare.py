"""Shared by the examples: run one model under eager, Inductor and autokernel, check it, and time all three interleaved."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from torch._functorch import config as functorch_config

from torch_autokernel.capture.api import report
from torch_autokernel.capture.record import recording
from torch_autokernel.verify.statistics import interleave, ratio

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 4e-2}


def arguments(description: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--seconds", type=float, default=10.0, help="time for each interleaved measurement")
    parser.add_argument("--max-seconds", type=float, default=300.0, help="limit for the search of one graph")
    parser.add_argument("--explain", action="store_true", help="say for every region why it was or was not replaced")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], nargs="*", default=["float32", "bfloat16"])
    return parser.parse_args()


Step = Callable[[], Any]


@functorch_config.patch(enable_autograd_cache=False)  # a graph out of that cache would not tell what was decided for it
def compare(
    title: str,
    make: Callable[[Callable[..., Any]], Step],
    model: Callable[..., Any],
    options: argparse.Namespace,
    dtype: torch.dtype,
    accelerate: Callable[..., Any] | None = None,
) -> None:
    """`make(callable)` gives the step to run and time, for the plain model, the Inductor one and ours. A step returns the
    tensors that must agree."""
    print(f"\n== {title}, {str(dtype).removeprefix('torch.')}", flush=True)
    ours = accelerate or (lambda m: torch.compile(m, backend="autokernel", options={"max_seconds": options.max_seconds}))
    eager = make(model)
    steps = {"eager": eager, "inductor": make(torch.compile(model))}
    start = time.perf_counter()
    with recording() as records:
        steps["autokernel"] = make(ours(model))
        got = steps["autokernel"]()
    seconds = time.perf_counter() - start
    told = report(title, records)
    total = sum(r.count for r in told.regions)
    print(f"{told.replaced} of {total} regions in {told.graphs} graphs replaced; first call took {seconds:.1f} s")
    if options.explain:
        print(told)
    worst = max(_error(g, e) for g, e in zip(got, eager(), strict=True))
    limit = TOLERANCE[dtype]
    verdict = "ok" if worst <= limit else "WRONG"
    print(f"largest error against eager {worst:.1e} of the largest value (limit {limit:.0e}): {verdict}")
    if worst > limit:
        raise SystemExit(1)
    samples = interleave(steps, seconds=options.seconds, rounds=200)
    medians = {name: sorted(times)[len(times) // 2] / 1e6 for name, times in samples.items()}
    for name in ("eager", "inductor"):
        middle, low, high = ratio(samples, "autokernel", name)
        times = f"{medians[name]:.3f} ms against {medians['autokernel']:.3f} ms"
        print(f"{middle:.2f}x of {name} (95% interval {low:.2f} to {high:.2f}); {times}")


def _error(got: torch.Tensor, want: torch.Tensor) -> float:
    if got.shape != want.shape or got.dtype != want.dtype:
        return float("inf")
    scale = want.abs().max().double().clamp_min(1e-12)
    return float((got.double() - want.double()).abs().max() / scale)
