"""The built-in proposer: C++ kernels from a signature, ranked by an analytic cost over schedules."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace

from torch_autokernel.core import deadline
from torch_autokernel.core.products import PRODUCTS
from torch_autokernel.core.types import Arch, Attempt, Candidate, Region, Source
from torch_autokernel.propose import attention, attention_text, matmul_text
from torch_autokernel.propose.build import of_a_vector
from torch_autokernel.propose.choices import Choice, machine, schedules
from torch_autokernel.propose.index import Refused
from torch_autokernel.propose.kernel import Kernel, generate

log = logging.getLogger(__name__)

# A product that is used twice must be rounded twice: in softmax(x * w), x * w contracted with the subtraction of its own
# rounded maximum leaves the rounding error instead of 0, which is not small where x * w is huge.
FLAGS = ("-ffp-contract=off",)


class ScheduleProposer:
    """Generates kernels from the region's operations; needs neither network nor compiler."""

    name = "schedule"

    def __init__(self) -> None:
        self._refusals: dict[tuple[object, ...], str | None] = {}

    def refuses(self, region: Region, arch: Arch) -> str | None:
        """Why nothing can be generated, or None. To find out takes seconds for long regions, so it is found once; what the
        deadline ended is asked again."""
        sizes, limits = (tuple(sorted(m.items())) for m in (region.sizes, arch.limits))
        key = region.signature.digest, sizes, arch.key, arch.features, limits
        if key not in self._refusals:
            try:
                self._refusals[key] = self._refusal(region, arch)
            except deadline.Over as over:
                return str(over)
        return self._refusals[key]

    def _refusal(self, region: Region, arch: Arch) -> str | None:
        if not arch.key.startswith("cpu"):
            return f"the schedule proposer writes C++ for CPUs, not for {arch.key}"
        try:
            next(self._kernels(region, arch))
        except Refused as reason:
            return str(reason)
        except RecursionError:
            return f"{len(region.signature.ops)} operations in one region are too many"
        return None

    def propose(self, region: Region, arch: Arch, parents: Sequence[Attempt], n: int) -> list[Candidate]:
        if self.refuses(region, arch) is not None:
            return []
        seen = {p.candidate.id for p in parents}
        tried = {str(p.candidate.source.text) for p in parents}
        out: list[Candidate] = []
        try:
            for candidate in self._candidates(region, arch):
                if len(out) >= n:
                    break
                body = _body(candidate.source.text)
                if candidate.id in seen or body in {_body(t) for t in tried}:
                    continue
                seen.add(candidate.id)
                tried.add(candidate.source.text)
                out.append(candidate)
        except deadline.Over as over:
            log.debug("no more kernels: %s", over)
        return out

    def _candidates(self, region: Region, arch: Arch) -> Iterator[Candidate]:
        digest = region.signature.digest
        for schedule, kernel in self._kernels(region, arch):
            launch = {"workspace": kernel.workspace} if kernel.workspace else {}
            source = Source("cpp", kernel.text, flags=FLAGS, schedule=schedule.to_json(), launch=launch)
            yield Candidate(digest, source, self.name)

    def _kernels(self, region: Region, arch: Arch) -> Iterator[tuple[Choice, Kernel]]:
        """Kernels by choices; raises Refused where not even the first can be made."""
        products, sums = attention.count_products(region.signature), False
        if products and all(of_a_vector(op.shape) for op in region.signature.ops if op.target in PRODUCTS):
            try:
                for made in self._sweeps(region, arch):
                    sums = True
                    yield made
            except Refused as reason:
                log.debug("a vector's product is no sum: %s", reason)
        try:
            if products:
                yield from (matmul_text if products == 1 else attention_text).kernels(region, arch)
            else:
                yield from self._sweeps(region, arch)
        except Refused as reason:
            if not sums:
                raise
            log.debug("a vector's product is a sum only: %s", reason)

    def _sweeps(self, region: Region, arch: Arch) -> Iterator[tuple[Choice, Kernel]]:
        for number, schedule in enumerate(schedules(region, arch)):
            try:
                kernel = generate(region.signature, schedule, region.sizes, machine(arch).threads)
                yield schedule, kernel
                if number == 0 and "turned(" in kernel.text:  # what is small, or shared by many rows, is better read as it lies
                    other = replace(schedule, tile=0)
                    yield other, generate(region.signature, other, region.sizes, machine(arch).threads)
            except Refused as reason:
                if number == 0:
                    raise
                log.debug("schedule %s is not possible: %s", schedule, reason)


def _body(text: str) -> str:
    """The text without its comments: two schedules that print the same code are one candidate."""
    return "\n".join(line for line in text.splitlines() if not line.startswith("// schedule"))
