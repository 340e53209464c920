"""A short run of the fuzzer; `python -m tests.fuzz` makes long ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.fuzz import decorated, graphs, kernels
from tests.fuzz.programs import Given, Program, Step, shrink
from tests.fuzz.steps import random_program, values_of
from tests.propose.running import compile_all
from torch_autokernel.propose.index import Refused
from torch_autokernel.propose.kernel import generate


@pytest.mark.parametrize("first", [0, 10])
def test_the_backend_changes_nothing(first: int) -> None:
    for seed in range(first, first + 10):
        program, dynamic = graphs.drawn(seed)
        if complaint := graphs.outcome(program, seed, dynamic):
            small, complaint = graphs.smallest(program, seed, dynamic)
            pytest.fail(f"seed {seed}, dynamic={dynamic}\n{small}\n{complaint}")


def test_generated_kernels(tmp_path: Path) -> None:
    regions = {r.signature.digest: r for seed in range(1000, 1010) for r in kernels.regions_of(seed)}
    made = {}
    for k, region in enumerate(list(regions.values())[:8]):
        try:
            made[f"k{k}"] = (region, generate(region.signature, kernels.SCHEDULES[k % len(kernels.SCHEDULES)], region.sizes, 2))
        except Refused:
            continue
    assert len(made) > 4
    library = compile_all({name: kernel.text for name, (_r, kernel) in made.items()}, tmp_path)
    for name, (region, kernel) in made.items():
        complaints = kernels.wrong_results(region, kernel, getattr(library, name), 7)
        assert not complaints, "\n".join([region.reference, *complaints])


def test_decorated_programs_train_as_plain_ones() -> None:
    assert decorated.run(1600000, 1600030) == 0
    assert [decorated.outcome(decorated.drawn(seed), seed) for seed in (1600016, 1600020, 1600036)] == [decorated.PLANNED] * 3


def test_a_seed_is_always_the_same_program() -> None:
    assert random_program(5, 12) == random_program(5, 12) != random_program(6, 12)


def test_shrinking_keeps_what_fails() -> None:
    """A planted failure: any program with an exp after a sum over dimension 0."""
    steps = (Step("neg", (0,)), Step("sum", (1,), ((0,), False)), Step("exp", (2,)), Step("add", (3, 1)))
    program = Program((Given((3, 4), torch.float32),), steps, (1, 4))

    def fails(p: Program) -> bool:
        values = [*(None for _ in p.inputs), *p.steps]
        return any(s.name == "exp" and values[s.args[0]] and values[s.args[0]].name == "sum" for s in p.steps)

    small = shrink(program, fails, lambda p: values_of(p, graphs.inputs_of(p, 0)))
    assert [s.name for s in small.steps] == ["sum", "exp"] and len(small.outputs) == 1


def test_loops_over_nothing_are_not_split_for_ever() -> None:
    """A reshape to a size of 0 beside others: the search for common axes went on and on."""
    made = [kernels.generate(r.signature, kernels.SCHEDULES[0], r.sizes, 2) for r in kernels.regions_of(1400138)]
    assert len(made) == 3
