"""Mutants: what the engine makes, and that the judge rejects a fixed sample of them."""

from __future__ import annotations

import random
from pathlib import Path

from tests.verify import mutation
from tests.verify.build import names, specimen
from torch_autokernel.verify.mutate import mutants, sample

SEED, KERNELS = 5, ("softmax", "cross_entropy", "column_sum_critical", "swiglu")


def test_every_mutant_changes_one_line_once() -> None:
    operators = set()
    for name in names("honest"):
        text = specimen("honest", name).text
        found = list(mutants(text))
        assert len(found) > 5 and len({m.text for m in found}) == len(found)
        for mutant in found:
            changed = [(a, b) for a, b in zip(text.split("\n"), mutant.text.split("\n"), strict=True) if a != b]
            assert changed == [(mutant.before, mutant.after)]
            assert not mutant.before.startswith(("//", "#include"))
            operators.add(mutant.operator)
    assert operators >= {"comparison", "arithmetic", "accumulator", "constant", "index", "size", "operand", "type", "function",
                         "branch", "pragma", "statement"}  # fmt: skip


def test_a_sample_repeats_with_its_seed() -> None:
    text = specimen("honest", "softmax").text
    assert sample(text, 9, random.Random(1)) == sample(text, 9, random.Random(1)) != sample(text, 9, random.Random(2))


def test_a_fixed_sample_is_rejected(tmp_path: Path) -> None:
    known = mutation.explained()
    tried = mutation.run(list(KERNELS), 4, SEED, tmp_path)
    assert sum(t.outcome != "not compiled" for t in tried) >= 12
    assert [t.name for t in tried if t.outcome == "accepted" and t.name not in known] == []


def test_every_known_survivor_is_a_mutant_still() -> None:
    for name, why in mutation.explained().items():
        kernel, _, mutant = name.partition(": ")
        assert mutant in {str(m) for m in mutants(specimen("honest", kernel).text)}, name
        assert len(why) > 10
