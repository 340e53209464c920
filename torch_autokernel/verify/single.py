"""One kernel that somebody wrote, judged: text in, verdict out."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

from torch_autokernel.core import points
from torch_autokernel.core.errors import ToolchainError
from torch_autokernel.core.types import Arch, Artifact, Candidate, Case, Finding, Region, Source, Status, Verdict
from torch_autokernel.verify import sanitize
from torch_autokernel.verify.judge import Judge


def judge_text(region: Region, text: str, language: str, arch: Arch, level: str = "full", seed: int | None = None) -> Verdict:
    """The verdict on a kernel's text, with the smallest failing case and, for a crash, the source line. The same `seed` and
    `level` give the same cases. Raises ToolchainError without a compiler."""
    toolchain = points.languages.get(language)()
    if reason := toolchain.missing(arch):
        raise ToolchainError(f"nothing can be compiled: {reason}", hint="run `autokernel doctor`")
    candidate = Candidate(region.signature.digest, Source(language, text), "user")
    with tempfile.TemporaryDirectory(prefix="autokernel-") as folder:
        (artifact,) = toolchain.compile([candidate], region.signature, arch, Path(folder))
        judge = Judge(arch, level=level, seed=seed, shrink=True)
        try:
            verdict = judge.judge(region, artifact)
            findings = [located(judge, region, artifact, f) for f in verdict.findings]
        finally:
            judge.close()
    return dataclasses.replace(verdict, findings=tuple(findings))


def located(judge: Judge, region: Region, artifact: Artifact, finding: Finding) -> Finding:
    """The finding with the source line of a crash, where a build with debug information crashes on the same case."""
    case: Any = finding.evidence.get("case")
    if finding.status is not Status.FAIL or finding.check not in ("runs", "bounds") or not case or judge.null:
        return finding
    prepared = judge.prepared(region, Case.from_json(case))
    where = sanitize.crash_line(region, artifact, prepared, judge.seed) if prepared else ""
    return dataclasses.replace(finding, evidence={**finding.evidence, "source": where}) if where else finding
