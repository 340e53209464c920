"""Verdicts. The judge computes what is expected and compares; candidates run in workers."""

from __future__ import annotations

import dataclasses
import logging
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from torch_autokernel.core import deadline, points
from torch_autokernel.core.types import Arch, Artifact, Case, Finding, Region, Status, Verdict
from torch_autokernel.machine.worker import Limits, Pool
from torch_autokernel.verify.bank import Bank, Prepared
from torch_autokernel.verify.oracle import one_thread
from torch_autokernel.verify.runner import Result, Runner, WorkerRunner
from torch_autokernel.verify.screen import at_large, screen
from torch_autokernel.verify.shrink import shrunk
from torch_autokernel.verify.vectors import vectors

log = logging.getLogger(__name__)

VERIFIER = "7"
# In this order: the first one that fails names the reason.
REQUIRED = (
    "compiles", "imports", "loading", "instructions", "runs", "bounds", "inputs_unchanged", "writes_all", "uninitialised",
    "numerics", "special_values", "control_state", "stale", "addresses", "state", "repeatable",
)  # fmt: skip
# Not required, for a machine may lack what they need. A race is on most days right, and on a machine with one core it is always
# right: kernels that are put to use are watched for it too.
FURTHER = {"full": ("sanitizers", "races", "task"), "standard": ("races",)}
CALL_SECONDS = 5.0  # wall time of one call, and more where eager is slow
REQUIRED_NULL = ("compiles", "runs", "inputs_unchanged", "numerics", "special_values")


@dataclass
class Trial:
    """A candidate on trial: what every check sees. Results are computed once and shared between checks."""

    region: Region
    artifact: Artifact
    arch: Arch
    bank: Bank
    runner: Runner
    layers: Mapping[str, str]
    _prepared: list[Prepared] = field(default_factory=list)
    _source: Iterator[Prepared] | None = None

    def only(self, case: Prepared) -> Trial:
        """The same trial with one case."""
        return dataclasses.replace(self, _prepared=[case], _source=iter(()))

    @property
    def cases(self) -> Iterator[Prepared]:
        """All cases, made ready as they are reached."""
        for prepared in self._prepared[:]:
            deadline.check()
            yield prepared
        if self._source is None:
            self._source = self.bank.ready(self.region)
        for prepared in self._source:
            self._prepared.append(prepared)
            deadline.check()
            yield prepared

    def twin(self, prepared: Prepared) -> Prepared | None:
        """The same case with other contents."""
        return self.bank.prepare(self.region, dataclasses.replace(prepared.case, seed=prepared.case.seed ^ 0x5DEECE66D))

    def nearly(self, prepared: Prepared, turn: int) -> Prepared | None:
        """The same case with a stretch of each input drawn anew, another one in each turn."""
        return self.bank.prepare(self.region, dataclasses.replace(prepared.case, note=f"stretch {turn} of 8"))

    def results(self) -> Iterator[tuple[Prepared, Result]]:
        """Two calls for each case: buffers at the upper guard, then at the lower one."""
        for prepared in self.cases:
            yield prepared, self.runner.run(prepared, "end")
            yield prepared, self.runner.run(prepared, "start")


class Judge:
    """Judges candidates for one architecture. One seed from OS entropy decides all cases; it is recorded in each verdict, and a
    judge with that seed and level comes to the same one. `shrink` looks for the smallest case that fails (by default at level
    `full`)."""

    def __init__(
        self, arch: Arch, *, level: str = "standard", limits: Limits | None = None, seed: int | None = None,
        shrink: bool | None = None,
    ) -> None:  # fmt: skip
        self.arch = arch
        self.level = level
        self.seed = secrets.randbits(62) if seed is None else seed
        self.shrink = level == "full" if shrink is None else shrink
        self.null = arch.key == "null"
        self.required = REQUIRED_NULL if self.null else REQUIRED
        self._bank = Bank(level, self.seed)
        self._pool = Pool(limits or Limits(seconds=CALL_SECONDS))

    def judge(self, region: Region, artifact: Artifact) -> Verdict:
        """The verdict, not timed. After the first failure the remaining checks are skipped, except at level `full`. Raises
        `deadline.Over`, and gives no verdict, where the time that was set for the work around is over."""
        findings: list[Finding] = []
        runner = self._runner(region, artifact)
        try:
            trial = Trial(region, artifact, self.arch, self._bank, runner, self.layers())
            for name in (*self.required, *(() if self.null else FURTHER.get(self.level, ()))):
                if any(f.status is Status.FAIL for f in findings) and (self.level != "full" or not artifact.ok):
                    findings.append(Finding(name, Status.SKIP, "an earlier check failed"))
                else:
                    deadline.check()
                    finding = _timed(name, trial)
                    findings.append(shrunk(trial, finding) if self.shrink and finding.status is Status.FAIL else finding)
        finally:
            runner.close()
        verdict = Verdict(artifact.candidate.id, self.arch.key, tuple(findings), self.required, None, self.seed, VERIFIER)
        log.info("candidate %s: %s, %s", verdict.candidate[:12], "accepted" if verdict.accepted else "rejected", verdict.why)
        return verdict

    def screen(self, region: Region, artifacts: Sequence[Artifact], seconds: float) -> list[float | None]:
        """Rough nanoseconds a call at the region's sizes, None for candidates that do not come back. For ranking only."""
        prepared = self._bank.prepare(region, self._bank.cases(region)[0])
        if prepared is None or not artifacts:
            return [None] * len(artifacts)
        if self.null:
            return [1.0 if artifact.ok else None for artifact in artifacts]
        speeds = screen(self._pool, region, artifacts, prepared, seconds)
        if sum(ns is not None for ns in speeds) < 2 or (large := self._bank.at_hand(region, prepared.case)) is None:
            return speeds
        return at_large(self._pool, region, artifacts, speeds, large, seconds)

    def vectors(self, region: Region, artifact: Artifact) -> bytes:
        """A small case's inputs, the kernel's outputs and what was expected, as safetensors; empty where nothing comes back."""
        ready = [p for c in self._bank.cases(region)[1:3] if (p := self._bank.prepare(region, c)) is not None]
        runner = self._runner(region, artifact)
        try:
            for prepared in sorted(ready, key=lambda p: p.nbytes):
                result = runner.run(prepared)
                if result.ok:
                    return vectors(prepared, result.outputs, self.seed)
        finally:
            runner.close()
        return b""

    def prepared(self, region: Region, case: Case) -> Prepared | None:
        """A case of a verdict, made again from its record."""
        return self._bank.prepare(region, case)

    def _runner(self, region: Region, artifact: Artifact) -> Runner:
        if self.null:
            from torch_autokernel.verify.null import NullRunner

            return NullRunner(self.arch, region, artifact)
        return WorkerRunner(self._pool, region, artifact, self.seed)

    def layers(self) -> dict[str, str]:
        """Which layers of the sandbox hold around candidates."""
        return {} if self.null else self._pool.layers()

    def close(self) -> None:
        self._pool.close()


def _timed(name: str, trial: Trial) -> Finding:
    start = time.perf_counter()
    with one_thread():
        finding: Finding = points.checks.get(name)().run(trial)
    spent = time.perf_counter() - start
    return Finding(finding.check, finding.status, finding.reason, finding.evidence, spent)
