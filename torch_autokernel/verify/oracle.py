"""What a region must give, and how far an honest kernel may be from it. Never runs in a process that loaded a candidate.

For each float output, with o the reference in float64 on the same inputs, e eager's own result, m_1..m_n float64 runs with
simulated rounding (`verify/rounding.py`), u the unit roundoff of the output's dtype:

    deviation   D = root mean square of m_j - o over j, the larger one of two designs (where only a further right answer is
                finite, that stands for o here), at least u|o|, and at least what is typical of the row: the median of D over
                the row, and |o| times the median of D/|o| over the quarter of its elements that is largest (the small ones
                are often ill-conditioned and would excuse everything); so no element has a small budget by luck
    eager       f = max(1, rms(|e - o| / D)), at most 16: where eager errs more than the model says, others may too

`verify/compare.py` says what is done with them. Integer and boolean outputs keep all m_j: they differ from o only at ties.
float64: o is eager's result, the noise is that of float64, the budget is the same.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from torch_autokernel.core.errors import UsageError
from torch_autokernel.core.types import Case, Region
from torch_autokernel.verify import bias
from torch_autokernel.verify import inputs as making
from torch_autokernel.verify.reference import functions
from torch_autokernel.verify.rounding import LEAST, UNIT, Exact, Native, Noise

EAGER_CAP = 16.0
FIT = 0.75  # least share of finite results for an ordinary case
FIT_MASKED = 0.01  # the same where all others are infinite
TYPICAL = 64  # elements of a row whose median says something
_FLOAT_UNIT = UNIT[torch.float32]

Reference = Callable[..., tuple[torch.Tensor, ...]]


@dataclass(frozen=True)
class Target:
    """One output: `exact` is o, `eager` e, `deviation` f D (float outputs). `others` are further right answers: the m_j for
    other outputs; for float outputs of cases with NaN or infinities, o as `Exact` gives it when it is `plain`. `brim` is o
    where intermediate results that just about fit overflow: what is not finite there may be so in the kernel."""

    exact: torch.Tensor
    eager: torch.Tensor
    deviation: torch.Tensor | None = None
    others: tuple[torch.Tensor, ...] = ()
    brim: torch.Tensor | None = None
    eager_factor: float = 1.0
    amplified: float = 0.0  # the largest deviation by the largest value, in units of u
    bias: float = math.inf  # the largest that errors may have (`verify/bias.py`)

    @property
    def nbytes(self) -> int:
        kept = (self.exact, self.eager, self.deviation, self.brim, *self.others)
        return sum(t.nbytes for t in kept if t is not None)


@dataclass(frozen=True)
class Expected:
    targets: tuple[Target, ...]
    eager_seconds: float
    finite: float  # share of eager's float results that are finite
    defined: float = 1.0  # share that is not NaN

    @property
    def fit(self) -> bool:
        """Whether the case says enough about a kernel: mostly finite results, or, as in a mask of 0 and -inf, no NaN and some
        finite ones."""
        return self.finite >= FIT or self.defined == 1.0 and self.finite >= FIT_MASKED


def load(text: str) -> Reference:
    """The function `reference` of a region's text, which our own printer or the user wrote."""
    return functions(text)["reference"]  # type: ignore[no-any-return]


_QUIET = threading.Lock()
_quiet_depth = 0
_threads_before = 1


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch computes on one thread inside: hundreds of tiny operations spend their time in barriers otherwise, most of all
    where the cores are shared with compilers and workers."""
    global _quiet_depth, _threads_before
    with _QUIET:
        if _quiet_depth == 0:
            _threads_before = torch.get_num_threads()
            torch.set_num_threads(1)
        _quiet_depth += 1
    try:
        yield
    finally:
        with _QUIET:
            _quiet_depth -= 1
            if _quiet_depth == 0:
                torch.set_num_threads(_threads_before)


def expect(region: Region, case: Case, inputs: list[torch.Tensor], runs: int) -> Expected:
    """Results and budgets for these inputs, from `runs` noisy runs (a power of two) under each of two designs. Raises what
    eager raises."""
    function = load(region.reference)
    sizes = [int(case.sizes[s]) for s in region.signature.symbols]
    with torch.no_grad(), one_thread():
        recorder = Native()
        start = time.perf_counter()
        with recorder:
            eager = [t.clone() for t in function(*inputs, *sizes)]
        seconds = time.perf_counter() - start
        _check_form(region, case, eager)
        double = [_double(t) for t in inputs]
        with (once := Exact(recorder.dtypes)):
            exact = [t.clone() for t in function(*double, *sizes)]
        noisy: list[list[list[torch.Tensor]]] = []  # results by design and run
        pool = Noise.pool(case.seed + 1, max((t.numel() for t in (*inputs, *eager)), default=1))
        for design in range(2):
            noisy.append([])
            for run in range(runs):
                noise = Noise(pool, run, runs, design)
                pairs = [
                    (d, noise.relative(d, _input_unit(t))) for t, d in zip(inputs, double, strict=True) if t.is_floating_point()
                ]
                coherent = case.distribution.startswith(making.COHERENT)
                with Exact(recorder.dtypes, noise, coherent=coherent, disturbed=pairs):
                    noisy[-1].append([t.clone() for t in function(*double, *sizes)])
        with Exact(recorder.dtypes, plain=True):
            plain = [t.clone() for t in function(*double, *sizes)] if case.distribution in ("nan", "inf") else exact
        brim = exact
        if once.overflowed:
            with Exact(recorder.dtypes, brim=True):
                brim = [t.clone() for t in function(*double, *sizes)]
        each = enumerate(zip(eager, exact, plain, brim, strict=True))
        targets = tuple(_target(e, o, p, b, [[m[i] for m in runs] for runs in noisy]) for i, (e, o, p, b) in each)
    floats = [e for e in eager if e.is_floating_point() and e.numel()]
    finite = min((float(e.isfinite().double().mean()) for e in floats), default=1.0)
    defined = min((1.0 - float(e.isnan().double().mean()) for e in floats), default=1.0)
    return Expected(targets, seconds, finite, defined)


def _check_form(region: Region, case: Case, eager: list[torch.Tensor]) -> None:
    """Raise UsageError where the reference does not give what the signature says: a kernel would be given other memory."""
    for i, (tensor, spec) in enumerate(zip(eager, region.signature.output_specs, strict=True)):
        have = tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")
        want = tuple(spec.concrete(case.sizes).shape), spec.dtype
        if have != want:
            raise UsageError(f"output {i} of the reference is {have} under {dict(case.sizes)}; the signature says {want}",
                             hint="the region must be captured again, with these sizes fixed")  # fmt: skip


def _double(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


def _input_unit(tensor: torch.Tensor) -> float:
    """Inputs are exact; the noise stands for rearranged arithmetic on them, in fp32 or better."""
    return min(UNIT[tensor.dtype], _FLOAT_UNIT)


def _target(
    eager: torch.Tensor, exact: torch.Tensor, plain: torch.Tensor, brim: torch.Tensor, noisy: list[list[torch.Tensor]]
) -> Target:
    if not eager.is_floating_point():
        return Target(exact.to(eager.dtype), eager, others=tuple(m.to(eager.dtype) for runs in noisy for m in runs))
    centre = exact if plain is exact else torch.where(exact.isfinite(), exact, plain)
    spread = torch.zeros_like(exact)
    for runs in noisy:
        one = torch.zeros_like(exact)
        for m in runs:
            one += (m - centre).nan_to_num_(0, 0, 0).square_()
        spread = torch.maximum(spread, one.div_(len(runs)).sqrt_())
    amplified = _amplified(spread, centre) / UNIT[eager.dtype]
    deviation = _at_least_typical(spread, centre, UNIT[eager.dtype]) + LEAST[eager.dtype]
    factor = _eager_factor(eager, exact, deviation)
    others = () if plain is exact else (plain.to(eager.dtype).double(),)
    fits = bool((brim.isfinite() | ~exact.isfinite()).all())
    return Target(
        exact, eager, deviation * factor, others, brim=None if fits else brim, eager_factor=factor, amplified=amplified,
        bias=bias.allowed(eager, exact, deviation * factor, (m for runs in noisy for m in runs)),
    )  # fmt: skip


def _amplified(spread: torch.Tensor, exact: torch.Tensor) -> float:
    size = exact.abs().nan_to_num(0, 0, 0)
    return float(spread.max() / size.max()) if exact.numel() and float(size.max()) > 0 else 0.0


def _at_least_typical(spread: torch.Tensor, exact: torch.Tensor, unit: float) -> torch.Tensor:
    """D: see above. A row is the last dimension, or the whole tensor where that is short: where half of all elements are
    saturated (a gate's, say), 11 of 16 are so in one row of ten, and their median is typical of nothing; 44 of 64 are so in one
    row of five hundred."""
    size = exact.abs().nan_to_num(0, 0, 0)
    spread = torch.maximum(spread, size * unit)
    if exact.numel() < 2:
        return spread
    shape = (-1, exact.shape[-1]) if exact.dim() > 1 and exact.shape[-1] >= TYPICAL else (1, -1)
    rows, sizes = spread.reshape(shape), size.reshape(shape)
    large = sizes >= _quantile(sizes, 0.75)
    relative = torch.where(large & (sizes > 0), rows / sizes.clamp_min(1e-300), math.nan)
    floor = sizes * _quantile(relative, 0.5).nan_to_num(0.0)
    return torch.maximum(torch.maximum(rows, _quantile(rows, 0.5)), floor).reshape(exact.shape)


def _quantile(rows: torch.Tensor, q: float) -> torch.Tensor:
    """That quantile of each row, of about 256 of its elements, NaN left out; always one of the elements."""
    step = max(1, rows.shape[1] // 256)
    return rows[:, ::step].nanquantile(q, dim=1, keepdim=True, interpolation="lower")


def _eager_factor(eager: torch.Tensor, exact: torch.Tensor, deviation: torch.Tensor) -> float:
    ratio = ((eager.double() - exact).abs() / deviation).nan_to_num(0, 0, 0).clamp_max(1e6)
    ordinary = ratio[ratio <= ratio.flatten()[:: max(1, ratio.numel() // 4096)].quantile(0.99)] if ratio.numel() else ratio
    if not ordinary.numel():
        return 1.0
    return float(min(EAGER_CAP, max(1.0, float(ordinary.square().mean().sqrt()))))
