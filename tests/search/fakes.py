"""Parts for searches without compiler, worker or clock. A candidate's text is its speed and its faults."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch_autokernel.core import deadline
from torch_autokernel.core.config import Config
from torch_autokernel.core.types import (
    Arch,
    Artifact,
    Attempt,
    Candidate,
    Case,
    Cost,
    Finding,
    Op,
    Ref,
    Region,
    Signature,
    Source,
    Status,
    TensorSpec,
    Timing,
    Verdict,
)
from torch_autokernel.search.loop import Searcher

ARCH = Arch("null")
BASELINE_NS = 100_000.0


def region(rows: int = 1024, columns: int = 1024, target: str = "aten.exp.default") -> Region:
    spec = TensorSpec.contiguous(("s0", "s1"), "float32")
    name = target.split(".")[1]
    text = f"def reference(x0, s0, s1):\n    v1 = aten.{name}.default(x0)\n    return (v1,)\n"
    signature = Signature((Op(target, (Ref(0),), {}, ("s0", "s1"), "float32"),), (spec,), (1,), (spec,), ("s0", "s1"))
    return Region(signature, text, {"s0": rows, "s1": columns})


class FakeProposer:
    """Gives the texts it was made with, `n` at a time, never the same twice for the same parents."""

    def __init__(self, *texts: str, name: str = "fake", reason: str | None = None, cost: Cost = Cost()) -> None:  # noqa: B008
        self.texts, self.name, self.reason, self.cost = texts, name, reason, cost
        self.asked: list[int] = []

    def propose(self, region: Region, arch: Arch, parents: Sequence[Attempt], n: int) -> list[Candidate]:
        self.asked.append(len(parents))
        known = {p.candidate.source.text for p in parents}
        digest = region.signature.digest
        return [Candidate(digest, Source("fake", t), self.name, cost=self.cost) for t in self.texts if t not in known][:n]

    def refuses(self, region: Region, arch: Arch) -> str | None:
        return self.reason


class FakeLanguage:
    """Compiles every text that does not hold `broken`."""

    name, suffix = "fake", ".fake"

    def __init__(self) -> None:
        self.batches: list[int] = []

    def prototype(self, signature: Signature) -> str:
        return "a number of nanoseconds"

    def compile(self, candidates: Sequence[Candidate], signature: Signature, arch: Arch, folder: Path) -> list[Artifact]:
        self.batches.append(len(candidates))
        return [self._one(c, folder) for c in candidates]

    def _one(self, candidate: Candidate, folder: Path) -> Artifact:
        if "broken" in candidate.source.text:
            return Artifact(candidate, "", "", "kernel", log="\nerror: broken\nmore")
        path = folder / candidate.id
        path.write_text(candidate.source.text)
        return Artifact(candidate, str(path), candidate.id * 2, "kernel")


def speed(artifact: Artifact) -> float:
    """Nanoseconds, the first word of the text."""
    return float(artifact.candidate.source.text.split()[0])


class FakeJudge:
    """Accepts every text without `wrong`; ranks by the texts' own figures; a text with `crash` does not run."""

    def __init__(self, error: Exception | None = None) -> None:
        self.judged: list[str] = []
        self.closed = False
        self.error = error

    def screen(self, region: Region, artifacts: Sequence[Artifact], seconds: float) -> list[float | None]:
        return [None if "crash" in a.candidate.source.text else speed(a) for a in artifacts]

    def judge(self, region: Region, artifact: Artifact) -> Verdict:
        if self.error:
            raise self.error
        deadline.check()
        text = artifact.candidate.source.text
        self.judged.append(text)
        finding = Finding("numerics", Status.FAIL, "planted") if "wrong" in text else Finding("numerics", Status.PASS)
        return Verdict(artifact.candidate.id, "null", (finding,), ("numerics",))

    def judge_cases(self, region: Region, artifact: Artifact, cases: Sequence[Case]) -> Verdict:
        """A text with `subtle` fails on the case that it names by its first size."""
        bad = any(f"subtle {c.sizes['s0']}" in artifact.candidate.source.text for c in cases)
        finding = Finding("numerics", Status.FAIL, "subtle") if bad else Finding("numerics", Status.PASS)
        return Verdict(artifact.candidate.id, "null", (finding,), ("numerics",))

    def vectors(self, region: Region, artifact: Artifact) -> bytes:
        return b"vectors"

    def close(self) -> None:
        self.closed = True


class FakeStopwatch:
    """Times by the texts' own figures. `second` gives what the second timing finds instead."""

    def __init__(self, answer: Timing | str | None = None, second: float | None = None) -> None:
        self.calls: list[tuple[str, bool]] = []
        self.prepared: list[Region] = []
        self.forgotten: list[Region] = []
        self.answer, self.second, self.closed = answer, second, False

    def prepare(self, region: Region) -> None:
        if region not in self.prepared:
            self.prepared.append(region)

    def forget(self, region: Region) -> None:
        self.forgotten.append(region)

    def time(
        self, region: Region, artifacts: Sequence[Artifact], budget_seconds: float, fresh: bool = False
    ) -> list[Timing | str]:
        (artifact,) = artifacts
        self.calls.append((artifact.candidate.source.text, fresh))
        if self.answer is not None:
            return [self.answer]
        ns = self.second if fresh and self.second else speed(artifact)
        ratio = BASELINE_NS / ns
        return [Timing((ns,) * 8, (BASELINE_NS,) * 8, "inductor", ratio, ratio * 0.99, ratio * 1.01, "fake")]

    def close(self) -> None:
        self.closed = True


def searcher(folder: Path, *texts: str, **parts: Any) -> Searcher:
    """A searcher made of fakes; any part can be given."""
    parts.setdefault("proposers", [FakeProposer(*texts)])
    parts.setdefault("language", FakeLanguage())
    parts.setdefault("judge", FakeJudge())
    parts.setdefault("stopwatch", FakeStopwatch())
    return Searcher(ARCH, Config(), folder=folder, **parts)
