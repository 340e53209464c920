"""Wrong kernels are rejected for the named reason, honest ones accepted, and every check is needed."""

from __future__ import annotations

import dataclasses
import platform
from pathlib import Path

import pytest

from tests.verify.build import names, specimen
from torch_autokernel.core.types import Status
from torch_autokernel.verify import judge as judging
from torch_autokernel.verify.judge import Judge

WRONG, HONEST = names("wrong"), names("honest")

# A kernel that no other check rejects.
ONLY = {
    "compiles": "looks_at_clock",  # exchanged after it was compiled
    "imports": "looks_at_clock",
    "runs": "raw_print",
    "loading": "ifunc",
    "instructions": "reads_clock",
    "bounds": "behind_page_start",
    "inputs_unchanged": "undone_write",
    "control_state": "flushes_denormals",
    "stale": "skips_when_done",
    "addresses": "aligned_alike",
    "state": "millionth_call",
    "uninitialised": "workspace_times_zero_alone",
    "numerics": "wrong_far_out",
    "special_values": "nan_swallowed",
    "repeatable": "needs_threads",
}
# Checks of which another one would see the same kernel first.
BESIDES = {"compiles": {"imports"}, "runs": {"instructions"}}


def check_platform(text: str) -> None:
    if "asm volatile" in text and platform.machine() != "x86_64":
        pytest.skip("written for x86-64")


@pytest.mark.parametrize("name", WRONG)
def test_wrong_kernel_is_rejected_for_its_reason(name: str, judge: Judge, objects: Path) -> None:
    found = specimen("wrong", name)
    check_platform(found.text)
    verdict = judge.judge(found.region, found.build(objects))
    assert not verdict.accepted
    assert verdict.why.partition(":")[0] in found.checks, f"{verdict.why}; seed {verdict.seed}"


@pytest.mark.parametrize("name", HONEST)
def test_honest_kernel_is_accepted(name: str, judge: Judge, objects: Path) -> None:
    found = specimen("honest", name)
    verdict = judge.judge(found.region, found.build(objects))
    assert verdict.accepted, f"{verdict.why}; seed {verdict.seed}"
    assert {f.check for f in verdict.findings} == {*judging.REQUIRED, *judging.FURTHER["standard"]}


def test_zoo_is_large_enough() -> None:
    assert len(WRONG) >= 60 and len(HONEST) >= 60
    for kind, found in (("wrong", WRONG), ("honest", HONEST)):
        assert len({specimen(kind, n).region.signature.digest for n in found}) >= 8
    assert {c for n in WRONG for c in specimen("wrong", n).checks} == {*judging.REQUIRED, *judging.FURTHER["standard"]}


@pytest.mark.parametrize("check", judging.REQUIRED)
def test_check_is_needed(check: str, judge: Judge, objects: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the check, a kernel that it rejects is accepted, or rejected for another reason."""
    if check == "writes_all":  # numerics would see the poison: the check only names the reason
        name, accepted = "writes_nothing", False
    else:
        name, accepted = ONLY[check], True
    found = specimen("wrong", name)
    check_platform(found.text)
    artifact = found.build(objects)
    rest = tuple(c for c in judging.REQUIRED if c != check and c not in BESIDES.get(check, ()))
    if check == "compiles":
        artifact = dataclasses.replace(artifact, sha256="0" * 64)
        monkeypatch.setattr(judge, "required", ("compiles", *rest))
        assert judge.judge(found.region, artifact).why.startswith("compiles")
    monkeypatch.setattr(judge, "required", rest)
    verdict = judge.judge(found.region, artifact)
    assert verdict.accepted is accepted, f"{verdict.why}; seed {verdict.seed}"
    assert check not in {f.check for f in verdict.findings if f.status is Status.FAIL}
