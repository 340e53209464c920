"""The regions of random programs through the C++ generator: compiled, run at several sizes, compared with float64 and eager."""

from __future__ import annotations

import random
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from tests.fuzz import graphs
from tests.propose.running import EPS, allocate, compile_all, random_inputs, reference, run
from torch_autokernel.core.types import Region
from torch_autokernel.propose.choices import Schedule
from torch_autokernel.propose.index import Refused
from torch_autokernel.propose.kernel import Kernel, generate

SCHEDULES = (
    Schedule(lanes=16), Schedule(lanes=32, columns=2, serial_below=0, blocks=3, fixed=1), Schedule(lanes=8, columns=1, park=0, stream=1, strip=64),
    Schedule(lanes=4, serial_below=0, blocks=2, strip=8), Schedule(lanes=64, park=0, serial_below=64),
    Schedule(lanes=16, apart=1, strip=24, stream=1, park=0), Schedule(lanes=8, together=3, fixed=1), Schedule(lanes=16, together=4, stream=1, park=0),
    Schedule(lanes=8, stream=1, serial_below=0, blocks=3),
)  # fmt: skip
BATCH = 32


def regions_of(seed: int) -> list[Region]:
    """What the backend cuts out of the seed's program; none where torch cannot compile it."""
    program, dynamic = graphs.drawn(seed, smooth=True)
    found: list[Region] = []
    try:
        graphs.check(program, seed, dynamic, found)
    except Exception:  # a finding of the other harness
        return []
    return found


def unknown_sizes(region: Region, seed: int) -> list[dict[str, int]]:
    """The sizes that were seen, and others that the signature allows as well."""
    rng = random.Random(seed)
    least = region.signature.guards
    others = [dict.fromkeys(region.signature.symbols, n) for n in (1, 2, 19)]
    others.append({s: rng.choice((1, 3, 5, 8, 31)) for s in region.signature.symbols})
    return [dict(region.sizes), *({s: max(n, least.get(s, 1)) for s, n in o.items()} for o in others)]


def compare(region: Region, inputs: list[torch.Tensor], got: list[torch.Tensor], what: str) -> None:
    """No further from the float64 result than three times eager, than what changing the inputs by a rounding does, or than a
    few roundings of the largest value."""
    exact, eager = reference(region, inputs, True), reference(region, inputs, False)
    moved = [reference(region, [_nudged(t) for t in inputs], True) for _ in range(3)]
    for k, (g, o, e) in enumerate(zip(got, exact, eager, strict=True)):
        assert g.shape == e.shape and g.dtype == e.dtype, f"{what} output {k}"
        if not g.is_floating_point():
            assert torch.equal(g, e), f"{what} output {k} differs"
            continue
        # of what overflows in eager's dtype alone, or is on the brink, nothing can be asked
        alike = torch.stack([_class(t) == _class(e) for t in (o, *(m[k] for m in moved))]).all(0)
        fine, special = torch.isfinite(e) & alike, ~torch.isfinite(e) & alike
        assert torch.equal(_class(g)[special], _class(e)[special]), f"{what} output {k}: special values"
        if not fine.any():
            continue
        far = lambda t: (t.double() - o.double())[fine].abs().nan_to_num(0).max()  # noqa: E731, B023
        largest = o[fine].abs().double().max().clamp(min=0.1)
        limit = max(3 * far(e), 4 * max(far(m[k]) for m in moved), 6 * EPS[g.dtype] * largest)
        assert (g[fine].isfinite()).all() and far(g) <= limit, f"{what} output {k}: error {far(g):.3g}, allowed {limit:.3g}, largest {largest:.3g}"


def _class(t: torch.Tensor) -> torch.Tensor:
    """0 for a finite value, 1 and -1 for infinities, 2 for NaN."""
    return torch.where(t.isnan(), 2, torch.where(t.isinf(), t.sign(), 0).nan_to_num(0)).to(torch.int8)


def _nudged(t: torch.Tensor) -> torch.Tensor:
    """The tensor with every element off by at most one rounding, in the same strides."""
    if not t.is_floating_point() or not t.numel():
        return t
    count = 1 + sum((n - 1) * s for n, s in zip(t.shape, t.stride(), strict=True))
    flat = t.as_strided((count,), (1,)).double()
    return (flat * (1 + 2 * EPS[t.dtype] * (2 * torch.rand(count, dtype=torch.float64) - 1))).as_strided(t.shape, t.stride())


def _overlaps(t: torch.Tensor) -> bool:
    """Whether dimensions, the closest first, are not further apart than what lies within them."""
    reach = 1
    for stride, size in sorted((s, n) for s, n in zip(t.stride(), t.shape, strict=True) if n > 1):
        if stride < reach:
            return True
        reach += stride * (size - 1)
    return False


def wrong_results(region: Region, kernel: Kernel, entry: Any, seed: int) -> list[str]:
    """Complaints, one for each set of sizes at which the kernel differs."""
    out = []
    for sizes in unknown_sizes(region, seed) if region.signature.symbols else [{}]:
        torch.manual_seed(seed)
        try:
            inputs = random_inputs(region.signature, sizes)
            reference(region, inputs, False)
            if any(map(_overlaps, allocate(region.signature, sizes))):
                continue  # strides that no output has: two elements at one place
        except (RuntimeError, IndexError, ValueError):
            continue  # the stride symbols of these sizes make no tensor, or the reference refuses them
        try:
            compare(region, inputs, run(entry, kernel, region.signature, inputs), str(sizes))
        except AssertionError as error:
            out.append(str(error))
    return out


def main(first: int, last: int) -> int:
    seen: set[str] = set()
    waiting: list[tuple[str, Region, Kernel]] = []
    refused: Counter[str] = Counter()
    failed = ran = 0
    start = time.perf_counter()
    for seed in range(first, last):
        for region in regions_of(seed):
            if region.signature.digest in seen:
                continue
            seen.add(region.signature.digest)
            schedule = SCHEDULES[len(seen) % len(SCHEDULES)]
            try:
                waiting.append((f"k{seed}_{len(seen)}", region, generate(region.signature, schedule, region.sizes, 2)))
            except Refused as why:
                refused[str(why)] += 1
            except Exception as error:
                failed += 1
                print(f"== seed {seed} {schedule}\n{region.reference}{region.signature.inputs}\n{type(error).__name__}: {error}\n", flush=True)
        if len(waiting) >= BATCH or seed == last - 1:
            ran += len(waiting)
            failed += _run_batch(waiting)
            waiting = []
            print(f"{ran} kernels up to seed {seed}, {failed} failed, {time.perf_counter() - start:.0f} s", flush=True)
    print(f"{ran} kernels, {failed} failed, {time.perf_counter() - start:.0f} s; refused:")
    for why, count in refused.most_common():
        print(f"{count:5} {why}")
    return int(failed > 0)


def _run_batch(waiting: list[tuple[str, Region, Kernel]]) -> int:
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        try:
            library = compile_all({name: k.text for name, _r, k in waiting}, Path(folder))
        except AssertionError as error:
            print(f"== does not compile\n{error}", flush=True)
            if len(waiting) == 1:
                return 1
            half = len(waiting) // 2
            return _run_batch(waiting[:half]) + _run_batch(waiting[half:])
        for name, region, kernel in waiting:
            if complaints := wrong_results(region, kernel, getattr(library, name), int(name[1:].partition("_")[0])):
                failed += 1
                specs = [(s.shape, s.dtype, s.stride) for s in region.signature.inputs]
                print(f"== {name}\n{region.reference}{specs}\n" + "\n".join(complaints), flush=True)
    return failed
