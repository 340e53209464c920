"""Cases made ready: inputs, expected results and budgets, kept for the next candidate of the same region."""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from torch_autokernel.core.types import Case, Region, canonical
from torch_autokernel.verify import cases as planning
from torch_autokernel.verify import inputs as making
from torch_autokernel.verify.oracle import Expected, expect

log = logging.getLogger(__name__)

_KEEP_BYTES = 1 << 30
MOST_AT_HAND = 3 << 27  # bytes of inputs and outputs; what runs on them takes some times as much
_VIEWS = tuple(f"aten.{n}." for n in "view reshape expand permute unsqueeze squeeze slice select clone t transpose cat".split())
CHAOS = 2.0**12  # units of rounding: a loop's errors stay so small that what follows depends on them linearly
SHORT = 3  # steps
MAGNITUDES = ("huge", "large", "wide", "far", "above", "below")  # distributions that make a loop overflow within a few steps


@dataclass(frozen=True, eq=False)
class Inputs:
    """A case with its inputs. `sizes` are in the entry's order."""

    case: Case
    inputs: tuple[torch.Tensor, ...]

    @property
    def nbytes(self) -> int:
        return sum(t.untyped_storage().nbytes() for t in self.inputs)


@dataclass(frozen=True, eq=False)
class Prepared(Inputs):
    """A case with its inputs and what is expected."""

    expected: Expected

    @property
    def special(self) -> bool:
        return self.case.distribution.rstrip("+") in making.SPECIAL

    @property
    def nbytes(self) -> int:
        return super().nbytes + sum(t.nbytes for t in self.expected.targets)


class Bank:
    """Cases for regions under one seed. Usable from several threads."""

    def __init__(self, level: str, seed: int) -> None:
        self.level = level
        self.seed = seed
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, Prepared | None] = OrderedDict()

    def cases(self, region: Region) -> list[Case]:
        return planning.plan(region, self.level, self.seed)

    def ready(self, region: Region) -> Iterator[Prepared]:
        """The region's cases, each made ready when it is asked for; cases that eager itself refuses are left out."""
        for case in self.cases(region):
            if prepared := self.prepare(region, case):
                yield prepared

    def prepare(self, region: Region, case: Case) -> Prepared | None:
        """The case with inputs and expected results, or None where eager refuses it."""
        key = canonical([region.signature.digest, region.reference, case.to_json()])
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        prepared = self._make(region, case)
        with self._lock:
            self._kept[key] = prepared
            total = sum(p.nbytes for p in self._kept.values() if p)
            while total > _KEEP_BYTES and len(self._kept) > 1:
                _, old = self._kept.popitem(last=False)
                total -= old.nbytes if old else 0
        return prepared

    def at_hand(self, region: Region, case: Case) -> Inputs | None:
        """The case at the region's own sizes, where it was scaled down from them and they can be had: nothing is computed from
        the inputs here, so they may be larger than those of cases. For what only runs."""
        sizes = {s: int(region.sizes.get(s, 0)) for s in region.signature.symbols}
        if sizes == dict(case.sizes) or planning.steps(region.signature, sizes) > planning.MOST_STEPS:
            return None
        specs = (*region.signature.inputs, *region.signature.output_specs)
        if 0 in sizes.values() or sum(s.storage_elements(sizes) * s.itemsize for s in specs) > MOST_AT_HAND:
            return None
        case = dataclasses.replace(case, sizes=sizes, origin="at hand")
        try:
            return Inputs(case, tuple(making.make(region, case)))
        except (RuntimeError, IndexError, ValueError) as error:
            log.debug("case %s: cannot be made: %s", case, error)
            return None

    def _make(self, region: Region, case: Case) -> Prepared | None:
        """Where most results are not finite the inputs are made positive; where that does not help the case stays as it was."""
        first = self._conditioned(region, case)
        if first is None or first.special or first.expected.fit:
            return first
        positive = self._try(region, dataclasses.replace(case, distribution=case.distribution + "+"))
        return positive if positive is not None and positive.expected.finite > first.expected.finite else first

    def _conditioned(self, region: Region, case: Case) -> Prepared | None:
        """The case; of a loop that overflows, or amplifies rounding errors beyond what a budget can tell from mistakes, with
        fewer steps."""
        prepared = self._try(region, case)
        while prepared is not None and planning.steps(region.signature, case.sizes) > SHORT:
            amplified = max((t.amplified for t in prepared.expected.targets), default=0.0)
            if amplified <= CHAOS and (prepared.special or prepared.expected.finite == 1.0):
                break
            case = dataclasses.replace(case, sizes=planning.fewer_steps(region.signature, case.sizes))
            prepared = self._try(region, case)
        if planning.loop_of(region.signature) is not None and prepared is not None and case.distribution in MAGNITUDES:
            return prepared if prepared.expected.finite == 1.0 else None  # a product of states overflows in any order
        return prepared

    def _try(self, region: Region, case: Case) -> Prepared | None:
        runs = _runs(region, case)
        for tame in (False, True):
            try:
                tensors = making.make(region, case, tame)
                return Prepared(case, tuple(tensors), expect(region, case, tensors, runs))
            except (RuntimeError, IndexError, ValueError) as error:
                log.debug("case %s: eager refuses it: %s", case, error)
        return None


def _runs(region: Region, case: Case) -> int:
    """How many noisy runs under each design: a power of two, as near to the number of sources as is cheap."""
    elements = planning.largest(region.signature, case.sizes)
    if steps := planning.steps(region.signature, case.sizes):  # every step brings all sources again
        return 8 if steps <= 20 else 4
    sources = len(region.signature.inputs) + sum(not op.target.startswith(_VIEWS) for op in region.signature.ops)
    return 4 if elements > 1 << 19 else 8 if elements > 1 << 16 or sources < 12 else 16
