from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import compare
from benchmarks.compare import changes, quotient
from benchmarks.result import Result, Settings

MACHINE = {"name": "m", "arch": "a", "torch": "2.13.0", "cpus": 2}


def row(ratio: tuple[float, float, float], **more: Any) -> Result:
    return replace(Result("table/softmax", "fp32", 1, "forward", "default", "ok", digest="d"),
                   wide={"eager": ratio, "inductor": (1.0, 0.9, 1.1)}, **more)  # fmt: skip


STEADY = row((2.0, 1.9, 2.1))


@pytest.mark.parametrize(
    ("after", "verdict"),
    [
        (row((3.0, 2.8, 3.2)), compare.FASTER),
        (row((1.5, 1.4, 1.6)), compare.SLOWER),
        (row((1.8, 1.5, 2.2)), compare.SAME),
        (row((2.3, 2.05, 2.5)), compare.SAME),
        (row((1.85, 1.8, 1.895)), compare.SLOWER),
        (row((1.85, 1.8, 1.905)), compare.SAME),
        (replace(STEADY, outputs="wrong", wide={}), compare.BROKEN),
        (replace(STEADY, wide={}), compare.UNTIMED),
    ],
)
def test_verdicts(after: Result, verdict: str) -> None:
    (change,) = changes([STEADY], [after], "eager")
    assert change.verdict == verdict
    assert change.row == "table/softmax forward fp32 1t default"


def test_rows_that_are_in_one_run_only_or_right_again() -> None:
    other = replace(STEADY, threads=2)
    assert [c.verdict for c in changes([STEADY], [other], "eager")] == [compare.GONE, compare.NEW]
    assert changes([replace(STEADY, outputs="crash")], [STEADY], "eager")[0].verdict == compare.MENDED


def test_a_changed_row_is_told() -> None:
    (change,) = changes([STEADY], [replace(STEADY, digest="e")], "eager")
    assert change.verdict == compare.SAME and "changed" in change.note


def test_another_contender_may_be_the_measure() -> None:
    assert changes([STEADY], [row((9.0, 8.0, 9.5))], "inductor")[0].verdict == compare.SAME


def test_the_quotient_holds_for_all_that_the_intervals_hold() -> None:
    found = quotient((3.0, 2.0, 4.0), (2.0, 1.0, 2.5))
    assert found == (1.5, 0.8, 4.0)
    assert quotient((3.0, 2.0, 4.0), (2.0, 0.0, 2.5)).high == float("inf")


def kept(path: Path, rows: list[Result], machine: dict[str, Any] = MACHINE, via: str = "decorator") -> str:
    data = {"settings": Settings(via=via).to_json(), "machine": machine, "rows": [r.to_json() for r in rows]}
    path.write_text(json.dumps(data))
    return str(path)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = kept(tmp_path / "a.json", [STEADY, replace(STEADY, threads=2)])
    b = kept(tmp_path / "b.json", [row((3.0, 2.8, 3.2)), replace(STEADY, threads=2)], {**MACHINE, "torch": "2.14.0"})
    assert compare.main([a, b]) == 0
    told = capsys.readouterr().out
    assert "1.50 [1.33, 1.68]" in told and "1 faster, 1 same within noise" in told
    assert "torch: 2.13.0 before, 2.14.0 after" in told
    assert compare.main([b, a]) == 1
    assert "slower beyond noise, or broken:\n  table/softmax forward fp32 1t default: slower" in capsys.readouterr().out
    assert compare.main([b, a, "--json"]) == 1
    assert [c["verdict"] for c in json.loads(capsys.readouterr().out)] == [compare.SLOWER, compare.SAME]


@pytest.mark.parametrize(
    ("text", "said"),
    [(None, "cannot be read"), ("{", "no result"), ('{"settings": {"x": 1}, "rows": []}', "no result"), ("[]", "no result")],
)
def test_a_file_that_is_none_of_ours(tmp_path: Path, text: str | None, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    a = kept(tmp_path / "a.json", [STEADY])
    if text is not None:
        (tmp_path / "b.json").write_text(text)
    assert compare.main([a, str(tmp_path / "b.json")]) == 2
    told = capsys.readouterr().err
    assert said in told and "hint" in told and "Traceback" not in told


def test_what_cannot_be_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = kept(tmp_path / "a.json", [STEADY]), kept(tmp_path / "b.json", [STEADY], via="compile")
    assert compare.main([a, b]) == 2 and "--via" in capsys.readouterr().err
    assert compare.main([a]) == 2
    assert compare.main([a, a, "--against", "luck"]) == 2
