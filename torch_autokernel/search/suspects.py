"""Cases that testers suspect: tried on candidates that the judge has accepted without them. They can reject, never accept.

A case that rejects a kernel which had passed everything else, or a mutant of the best one, has proved itself: it is kept beside
the region's signature and tried in every later search for it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch_autokernel.core.types import Arch, Artifact, Case, Finding, Region, Status, Verdict
from torch_autokernel.verify.bank import Bank
from torch_autokernel.verify.cases import largest, work
from torch_autokernel.verify.inputs import SPECIAL
from torch_autokernel.verify.judge import Judge

log = logging.getLogger(__name__)

KNOWN = ("normal", "shifted", "small", "large", "rows", "wide", "grid", *SPECIAL)
MOST_ELEMENTS = 1 << 20
MOST_WORK = 1 << 24
MOST_KEPT = 32
CHECK = "suspected_case"


def possible(region: Region, cases: Iterable[Case]) -> tuple[Case, ...]:
    """Those that are small enough to be tried."""
    signature = region.signature
    return tuple(c for c in cases if largest(signature, c.sizes) <= MOST_ELEMENTS and work(signature, c.sizes) <= MOST_WORK)


class _Given(Bank):
    """A bank that has the cases it is given, and no others."""

    given: tuple[Case, ...] = ()

    def cases(self, region: Region) -> list[Case]:
        return list(self.given)


class SecondJudge(Judge):
    """The judge's checks on given cases alone."""

    def __init__(self, arch: Arch) -> None:
        super().__init__(arch)
        self._bank: _Given = _Given(self.level, self.seed)

    def judge_cases(self, region: Region, artifact: Artifact, cases: Sequence[Case]) -> Verdict:
        self._bank.given = tuple(cases)
        return self.judge(region, artifact)


def second_opinion(
    judge: Any, region: Region, artifact: Artifact, verdict: Verdict, cases: Sequence[Case]
) -> tuple[Verdict, list[Case]]:
    """The verdict of an accepted candidate after the suspected cases, each tried alone, and those that reject it. Only failures
    count: what a check cannot say of a single case says nothing."""
    killers: list[Case] = []
    for case in cases:
        second: Verdict = judge.judge_cases(region, artifact, (case,))
        failed = next((f for f in second.findings if f.status is Status.FAIL), None)
        if failed is not None:
            killers.append(case)
            evidence = {**failed.evidence, "case": case.to_json()}
            finding = Finding(CHECK, Status.FAIL, f"{failed.check}: {failed.reason}", evidence, failed.seconds)
            verdict = replace(verdict, findings=(*verdict.findings, finding))
    return verdict, killers


class Shelf:
    """The cases that have proved themselves, a file for each signature in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, region: Region) -> tuple[Case, ...]:
        """Whatever the file holds, nothing worse than too few cases comes of it."""
        try:
            rows = json.loads(self._path(region).read_text())
            return possible(region, [c for c in map(Case.from_json, rows) if set(c.sizes) == set(region.signature.symbols)])
        except FileNotFoundError:
            return ()
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("the kept cases %s are passed over: %s", self._path(region), error)
            return ()

    def keep(self, region: Region, cases: Sequence[Case]) -> None:
        known = list(self.read(region))
        new = [c for c in cases if c not in known]
        if not new:
            return
        path = self._path(region)
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            fresh = path.with_suffix(".new")
            fresh.write_text(json.dumps([c.to_json() for c in [*known, *new][-MOST_KEPT:]]))
            fresh.replace(path)
        except OSError as error:
            log.warning("the cases %s cannot be kept: %s", path, error)

    def _path(self, region: Region) -> Path:
        return self.folder / f"{region.signature.digest}.json"
