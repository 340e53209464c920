"""Tensors for a case: values drawn from the named distribution, laid out exactly as the signature says.

A distribution name may end in `+`: the same, made positive, for regions that are undefined on negative numbers. A case whose
note is `input 2 redrawn` has the inputs of the case without it but for that one: other weights for the same activations; with
`stretch 2 of 8` it has them but for a stretch of an eighth of each, drawn anew; with `input 2 alone` that input is from the
named distribution, the others are from `normal`.
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable

import torch

from torch_autokernel.core import dims
from torch_autokernel.core.types import Case, Region, TensorSpec
from torch_autokernel.verify.indices import Range, ranges

# Errors of a sum do not walk at random there: the addends of a row are alike, or its partial sums grow before they shrink.
COHERENT = ("rows", "sorted")
SPECIAL = {
    "nan": (float("nan"),),
    "inf": (float("inf"), -float("inf")),
    "edges": (0.0, -0.0, 1e-40, -1e-40, 1.1754944e-38, 1.0, -1.0),
}


def make(region: Region, case: Case, tame: bool = False) -> list[torch.Tensor]:
    """The inputs of a case, the same for the same case. `tame` keeps every integer at 0, which is a valid index anywhere."""
    signature, out = region.signature, []
    found, other = ranges(signature), redrawn(case)
    for i, spec in enumerate(signature.inputs):
        seed = case.seed + 0x9E3779B97F4A7C15 * (i + 1) + (0x5851F42D4C957F2D if i == other else 0)
        generator = torch.Generator().manual_seed(seed & (2**63 - 1))
        spec = spec.concrete(case.sizes)
        drawn = dataclasses.replace(case, distribution="normal") if alone(case) not in (-1, i) else case
        shape = tuple(1 if stride == 0 else int(n) for n, stride in zip(spec.shape, spec.stride, strict=True))
        values = _values(shape, spec.dtype, drawn, found.get(i), generator, tame)
        if case.note.startswith("stretch"):
            values = _spliced(values, _values(shape, spec.dtype, drawn, found.get(i), generator, tame), case)
        out.append(_laid_out(values, spec, generator))
    return out


def redrawn(case: Case) -> int:
    """The number of the input that is drawn again; -1 for none."""
    words = case.note.split()
    return int(words[1]) if len(words) == 3 and words[2] == "redrawn" else -1


def alone(case: Case) -> int:
    """The number of the one input that is not `normal`; -1 where all are from the case's distribution."""
    words = case.note.split()
    return int(words[1]) if len(words) == 3 and words[2] == "alone" else -1


def _spliced(values: torch.Tensor, others: torch.Tensor, case: Case) -> torch.Tensor:
    """The values with a stretch of the others, an eighth as long; where it begins follows from the case and its note."""
    out, count = values.flatten(), values.numel()
    length = max(1, count // 8)
    start = random.Random(f"{case.seed} {case.note}").randrange(max(1, count - length + 1))
    out[start : start + length] = others.flatten()[start : start + length]
    return out.reshape(values.shape)


def _values(
    shape: tuple[int, ...], dtype: str, case: Case, span: Range | None, generator: torch.Generator, tame: bool
) -> torch.Tensor:
    kind = getattr(torch, dtype)
    if dtype == "bool":
        return torch.rand(shape, generator=generator) < 0.5
    if not kind.is_floating_point:
        return _integers(shape, kind, case, span, generator, tame)
    name = case.distribution.removesuffix("+")
    base = _DISTRIBUTIONS["normal" if name in SPECIAL else name](shape, generator)
    if kind == torch.float16:
        base = base.clamp(-200, 200)
    if case.distribution.endswith("+"):
        base = base.abs() + 0.05 * base.abs().mean().clamp_min(1e-12)
    base = base.to(kind)
    return _sprinkle(base, SPECIAL[name], generator) if name in SPECIAL else base


def _integers(
    shape: tuple[int, ...], kind: torch.dtype, case: Case, span: Range | None, generator: torch.Generator, tame: bool
) -> torch.Tensor:
    sizes = case.sizes
    if tame:
        return _within_image(torch.zeros(shape, dtype=torch.int64), span).to(kind)
    free = span is None or not (span.bounds or span.pool)
    if free and (wide := _anything(shape, kind, generator)) is not None:
        return wide
    most = min(max([2, *sizes.values()]), torch.iinfo(kind).max)
    if span is not None and span.bounds:
        most = max(1, min(dims.evaluate(b, sizes) for b in span.bounds))
    least = -most if span is not None and span.bounds and span.negative and most > 1 else 0
    values = _structured(torch.randint(0, most, shape, generator=generator), most, generator)
    if least:
        values = torch.where(torch.rand(shape, generator=generator) < 0.125, values - most, values)
    for mark in sorted(span.marks) if span is not None else ():
        every = int(torch.randint(0, 5, (), generator=generator)) == 0 and case.distribution != "normal"
        share = 1.0 if every else 0.125  # all of them are marked now and then, which leaves nothing to see
        values = torch.where(torch.rand(shape, generator=generator) < share, mark, values)
    return _within_image(values, span).to(kind)


def _anything(shape: tuple[int, ...], kind: torch.dtype, generator: torch.Generator) -> torch.Tensor | None:
    """Of integers that are no index: now and then all that the kind holds, and negative ones. Else None: small counts. What is
    narrow overflows in the first sum or product, and a wider type in which it does not is seen by its results."""
    narrow, draw = torch.iinfo(kind).bits < 32, int(torch.randint(0, 8, (), generator=generator))
    if draw >= (5 if narrow else 2):
        return None
    far = 100 if draw == 1 and not narrow else 2**40
    least, most = max(-far, torch.iinfo(kind).min), min(far, torch.iinfo(kind).max)
    return torch.randint(least, most + 1, shape, generator=generator).to(kind)


def _within_image(offsets: torch.Tensor, span: Range | None) -> torch.Tensor:
    """Places of maxima in a pool's windows, where these lie in the image: no padding is a maximum."""
    if span is None or span.pool is None:
        return offsets
    (window, size), n, place, rest = span.pool, len(span.pool[1]), torch.zeros_like(offsets), offsets
    step = 1
    for i in reversed(range(n)):
        k, s, p, d = window.kernel[i], window.stride[i], window.padding[i], window.dilation[i]
        start = torch.arange(offsets.shape[i - n]).mul(s).sub(p).reshape(-1, *(1,) * (n - 1 - i))
        first = (-start).clamp_min(0).add(d - 1).div(d, rounding_mode="floor")
        last = (size[i] - 1 - start).div(d, rounding_mode="floor").clamp_max(k - 1)
        place += step * torch.minimum(torch.maximum(rest % k, first), last)
        rest, step = rest // k, step * k
    return place


def _structured(values: torch.Tensor, most: int, generator: torch.Generator) -> torch.Tensor:
    """Half of the time as they are; else sorted, all alike, counting up, in groups of equal size, or only the extremes."""
    match int(torch.randint(0, 10, (), generator=generator)):
        case 0:
            return values.reshape(-1).sort().values.reshape(values.shape)
        case 1:
            return values[(slice(0, 1),) * values.dim()].expand(values.shape).clone()
        case 2:
            return (torch.arange(values.numel()) % most).reshape(values.shape)
        case 3:
            return (torch.arange(values.numel()) * most // max(1, values.numel())).reshape(values.shape)
        case 4:
            return (values % 2) * (most - 1)
    return values


def _sprinkle(values: torch.Tensor, specials: tuple[float, ...], generator: torch.Generator) -> torch.Tensor:
    """A few elements replaced: so few that most rows and columns stay ordinary. Among infinities, one row is all -inf, as a
    mask leaves it."""
    count = max(1 if values.numel() < 13 else 3, min(12, values.numel() // 40))
    flat = values.reshape(-1).clone()
    at = torch.randint(0, max(1, flat.numel()), (count,), generator=generator)
    pick = torch.randint(0, len(specials), (count,), generator=generator)
    if count > 2 and values.dim():
        at = _at_seams(at, values.shape[-1], flat.numel())
    if flat.numel():
        flat[at] = torch.tensor(specials, dtype=torch.float64)[pick].to(values.dtype)
    out = flat.reshape(values.shape)
    if -float("inf") in specials and out.dim() > 1 and out.numel() and out.shape[-1] < out.numel():
        rows = out.reshape(-1, out.shape[-1])
        rows[int(torch.randint(0, rows.shape[0], (), generator=generator))] = -float("inf")
    return out


def _at_seams(at: torch.Tensor, columns: int, count: int) -> torch.Tensor:
    """One at the end of a row, one at the beginning of another, where vector code has its seams; those rows have no others,
    which would hide what becomes of these two."""
    at[:2] -= at[:2] % columns
    at[0] += columns - 1
    if count < 4 * columns:
        return at
    for k in (0, 1, 0):
        clash = at // columns == at[k] // columns
        clash[k] = False
        at[clash] = (at[clash] + columns) % count
    return at


def _laid_out(values: torch.Tensor, spec: TensorSpec, generator: torch.Generator) -> torch.Tensor:
    """A strided tensor with these values. What lies between its elements is NaN, or random bits."""
    shape, stride = [int(n) for n in spec.shape], [int(s) for s in spec.stride]
    count = spec.storage_elements()
    if values.dtype.is_floating_point:
        storage = torch.full((count,), float("nan"), dtype=values.dtype)
    else:
        storage = torch.randint(0, 2, (count,), generator=generator).to(values.dtype)
    view = storage.as_strided(values.shape, stride)
    if _overlaps(values.shape, stride):
        storage.copy_(values.reshape(-1)[torch.arange(count) % max(1, values.numel())])
    else:
        view.copy_(values)
    return storage.as_strided(shape, stride)


def _overlaps(shape: torch.Size, stride: list[int]) -> bool:
    span = 1
    for step, n in sorted((s, n) for n, s in zip(shape, stride, strict=True) if n > 1):
        if step < span:
            return True
        span = step * (n - 1) + span
    return False


# --------------------------------------------------------------------------------------------- distributions
def _uniform(low: float, high: float, generator: torch.Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))


def _normal(shape: tuple[int, ...], g: torch.Generator) -> torch.Tensor:
    return torch.randn(shape, generator=g) * _uniform(0.7, 1.8, g)


def _shifted(shape: tuple[int, ...], g: torch.Generator) -> torch.Tensor:
    sign = 1 if float(torch.rand((), generator=g)) < 0.5 else -1
    return torch.randn(shape, generator=g) + sign * _uniform(2, 5, g)


def _small(shape: tuple[int, ...], g: torch.Generator) -> torch.Tensor:
    return torch.randn(shape, generator=g) * 10 ** -_uniform(2.5, 4, g)


def _large(shape: tuple[int, ...], g: torch.Generator) -> torch.Tensor:
    return torch.randn(shape, generator=g) * 10 ** _uniform(1, 2, g)


def _rows(shape: tuple[int, ...], g: torch.Generator) -> torch.Tensor:
    """Every row holds one value; half of the rows with a little noise."""
    base = torch.randn((*shape[:-1], 1), generator=g) * 2 if len(shape) > 1 else torch.randn(shape, generator=g)
    noisy = (torch.rand(base.shape, generator=g) < 0.5) * 1e-2
    return base + torch.randn(shape, generator=g) * noisy


def _wide(shape: tuple[int, ...], g: torch.Generator) -> torch.Tensor:
    return torch.randn(shape, generator=g).sign() * torch.exp2(torch.rand(shape, generator=g) * 20 - 12)


def _grid(shape: tuple[int, ...], g: torch.Generator) -> torch.Tensor:
    """Few distinct values, so that comparisons and maxima meet ties."""
    return torch.randint(-3, 4, shape, generator=g).float() / 2


def _huge(shape: tuple[int, ...], g: torch.Generator) -> torch.Tensor:
    return torch.randn(shape, generator=g).sign() * torch.exp2(torch.rand(shape, generator=g) * 22 + 8)


def _tiny(shape: tuple[int, ...], g: torch.Generator) -> torch.Tensor:
    return torch.randn(shape, generator=g).sign() * torch.exp2(-torch.rand(shape, generator=g) * 48 - 12)


def _far(shape: tuple[int, ...], g: torch.Generator) -> torch.Tensor:
    """Every row around a number of its own, far from zero, on both sides of it: what is subtracted from a row must come from
    that row."""
    base = torch.randn((*shape[:-1], 1) if len(shape) > 1 else (1,) * len(shape), generator=g)
    sign = base.sign()
    if sign.numel() > 1 and bool((sign == sign.flatten()[0]).all()):
        sign.view(-1)[-1] *= -1
    return torch.randn(shape, generator=g) + sign * torch.exp2(16 - 12 * torch.rand(base.shape, generator=g) ** 2)


def _above(shape: tuple[int, ...], g: torch.Generator) -> torch.Tensor:
    """The same with all rows above zero."""
    return _far(shape, g).abs()


def _below(shape: tuple[int, ...], g: torch.Generator) -> torch.Tensor:
    return -_far(shape, g).abs()


def _faint(shape: tuple[int, ...], g: torch.Generator) -> torch.Tensor:
    """Every row of a size of its own, from ordinary down to 2^-48: what is added to a small sum, or bounds it, shows."""
    size = torch.rand((*shape[:-1], 1) if len(shape) > 1 else (1,) * len(shape), generator=g)
    return torch.randn(shape, generator=g) * torch.exp2(-48 * size)


def _sparse(shape: tuple[int, ...], g: torch.Generator) -> torch.Tensor:
    return torch.randn(shape, generator=g) * (torch.rand(shape, generator=g) < 0.1)


def _sorted(shape: tuple[int, ...], g: torch.Generator) -> torch.Tensor:
    """Every row in order, half of the time the other way round."""
    values = torch.randn(shape, generator=g) * _uniform(0.7, 1.8, g)
    down = float(torch.rand((), generator=g)) < 0.5
    return values.sort(dim=-1, descending=down).values if shape else values


def _clustered(shape: tuple[int, ...], g: torch.Generator) -> torch.Tensor:
    """A few far centres with little spread."""
    centres = torch.randn(5, generator=g) * 6
    return centres[torch.randint(0, 5, shape, generator=g)] + torch.randn(shape, generator=g) * 0.01


def _cancelling(shape: tuple[int, ...], g: torch.Generator) -> torch.Tensor:
    """Ill-conditioned sums: the second half of a row undoes the first but for a little."""
    values = torch.randn(shape, generator=g) * 10
    if shape and shape[-1] > 1:
        half = shape[-1] // 2
        values[..., half : 2 * half] = -values[..., :half] + torch.randn((*shape[:-1], half), generator=g) * 0.1
    return values


def _weights(shape: tuple[int, ...], g: torch.Generator) -> torch.Tensor:
    """As layers are initialised: a product with a matrix of these is about as large as what it is multiplied with."""
    columns = shape[-1] if shape else 1
    return torch.randn(shape, generator=g) * (_uniform(0.5, 0.9, g) / math.sqrt(max(1, columns)))


_DISTRIBUTIONS: dict[str, Callable[[tuple[int, ...], torch.Generator], torch.Tensor]] = {
    "normal": _normal, "shifted": _shifted, "small": _small, "large": _large, "rows": _rows, "wide": _wide,
    "grid": _grid, "huge": _huge, "tiny": _tiny, "sparse": _sparse, "sorted": _sorted, "clustered": _clustered,
    "cancelling": _cancelling, "far": _far, "above": _above, "below": _below, "faint": _faint, "weights": _weights,
}  # fmt: skip
