"""Indices out of range never reach a kernel, and no others are turned away."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from torch_autokernel.capture import index_guard
from torch_autokernel.capture.whole import capture_whole
from torch_autokernel.core.errors import GuardMiss
from torch_autokernel.lang.launch import inside_of

INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def picked(x: torch.Tensor, i: torch.Tensor) -> torch.Tensor:
    return x.gather(1, i[:, None]) * 2


def turned(x: torch.Tensor, i: torch.Tensor) -> torch.Tensor:
    return x.exp().gather(0, i.t()) * 2


def loss(x: torch.Tensor, i: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(x, i)


def loss_sparing(x: torch.Tensor, i: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(x, i, ignore_index=3, reduction="none")


def embedded(x: torch.Tensor, i: torch.Tensor) -> torch.Tensor:
    return F.embedding(i, x) + 1


def at_pairs(x: torch.Tensor, i: torch.Tensor) -> torch.Tensor:
    return x[i, i].sin()


def at_columns(x: torch.Tensor, i: torch.Tensor) -> torch.Tensor:
    return x[:, i] * 2


def shifted(x: torch.Tensor, i: torch.Tensor) -> torch.Tensor:
    return x.gather(1, (i + 1)[:, None]) * 2


# function, indices that eager takes, indices at which it raises, whether one pass over the input tells
CASES: dict[str, tuple[Callable[..., Any], list[Any], list[Any], bool]] = {
    "gather": (picked, [[0, 5, 2, 4], [5, 5, 5, 5]], [[0, 1, 2, 6], [-1, 0, 0, 0], [2**40, 0, 0, 0], [-(2**63), 0, 0, 0]], True),
    "transposed": (turned, [[[0, 3], [1, 2]]], [[[0, 4], [1, 2]], [[0, 0], [-1, 0]]], True),
    "loss": (loss, [[0, 5, 2, 4], [-100, 1, -100, 5]], [[0, 1, 2, 6], [-99, 0, 0, 0], [-101, 0, -100, 0]], True),
    "loss sparing": (loss_sparing, [[0, 3, 3, 5]], [[0, 1, 3, 6], [-100, 3, 3, 3]], True),
    "embedding": (embedded, [[0, 3, 1, 1], [[2, 3], [0, 1]]], [[0, 4, 1, 1], [[2, 3], [0, -1]]], True),
    "pairs": (at_pairs, [[0, 3, -4, 2], [-1, -1, -1, -1]], [[0, 4, 1, 1], [0, -5, 0, 0]], False),
    "columns": (at_columns, [[0, 5, -6, 2], [[2, 3], [0, 1]]], [[0, 6, 1, 1], [[0, -7], [0, 0]]], False),
    "computed": (shifted, [[-1, 4, 0, 0]], [[5, 0, 0, 0], [-2, 0, 0, 0]], False),
}


@pytest.mark.parametrize("name", CASES)
def test_what_eager_takes_passes_and_nothing_else(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    function, good, bad, quick = CASES[name]
    printed: list[Any] = []
    real = index_guard.print_reference
    monkeypatch.setattr(index_guard, "print_reference", lambda s: printed.append(s) or real(s))
    x = torch.randn(4, 6)
    for wanted, lists in ((True, good), (False, bad)):
        for numbers in lists:
            indices = torch.tensor(numbers)
            whole = capture_whole(function, (x, torch.zeros_like(indices)))
            call = index_guard.guarded(whole.captured.region.signature, lambda *tensors: tensors)
            tensors = [(x, indices)[k] for k in whole.order]
            if wanted:
                function(x, indices)
                assert call(*tensors) == tuple(tensors)
            else:
                with pytest.raises((IndexError, RuntimeError)):
                    function(x, indices)
                with pytest.raises(GuardMiss, match="out of range"):
                    call(*tensors)
    assert bool(printed) != quick


def test_indices_that_follow_from_sizes_are_computed_once_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unfolded image's, or those of every third column; what depends on an argument's elements is computed in every call."""
    run: list[int] = []
    real = index_guard.load_reference

    def counting(text: str) -> Any:
        found = real(text)
        return lambda *values: run.append(1) or found(*values)

    monkeypatch.setattr(index_guard, "load_reference", counting)

    def every_third(x: torch.Tensor) -> torch.Tensor:
        return x[:, torch.arange(4) * 3] * 2

    signature = capture_whole(every_third, (torch.randn(5, 10),)).captured.region.signature
    call = index_guard.guarded(signature, lambda *tensors: tensors)
    for rows, columns, computed in ((5, 10, 1), (5, 10, 1), (7, 10, 2), (5, 10, 2), (7, 12, 3)):
        call(torch.randn(rows, columns))
        assert len(run) == computed
    for _ in range(2):
        with pytest.raises(GuardMiss, match="out of range"):
            call(torch.randn(5, 9))
    assert len(run) == 4
    call = index_guard.guarded(capture_whole(shifted, (torch.randn(4, 6), torch.zeros(4, dtype=torch.int64))).captured.region.signature, lambda *t: t)
    for k in (5, 6):
        call(torch.randn(4, 6), torch.zeros(4, dtype=torch.int64))
        assert len(run) == k


@given(st.data())
def test_one_pass_over_a_tensor(data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from(INTEGERS))
    info = torch.iinfo(dtype)
    limit = data.draw(st.one_of(st.integers(0, 20), st.integers(0, 2**62)))
    shape = data.draw(st.lists(st.integers(0, 9), max_size=3))
    edges = [e for e in (-1, 0, limit - 1, limit, info.min, info.max) if info.min <= e <= info.max]
    inside = [e for e in edges if 0 <= e < limit] or edges
    values = st.sampled_from(data.draw(st.sampled_from([inside, edges])))
    count = torch.Size(shape).numel()
    drawn = torch.tensor(data.draw(st.lists(values, min_size=count, max_size=count)), dtype=dtype).reshape(shape)
    spared = data.draw(st.sampled_from([None, -100, 0, limit]))
    space = torch.full([2 * n + 1 for n in shape], info.max, dtype=dtype)  # strided, with other elements between
    view = space[tuple(slice(1, None, 2) for _ in shape)].copy_(drawn)
    expected = all(0 <= v < limit or v == spared for v in drawn.flatten().tolist())
    for tensor in (drawn, view, view.mT if len(shape) > 1 else view):
        assert inside_of(lambda _tensors: limit, 0, spared)([tensor]) == expected


def test_many_indices_are_looked_at_to_the_end() -> None:
    indices = torch.zeros(5000, dtype=torch.int64)
    check = inside_of(lambda _tensors: 7, 0, None)
    assert check([indices])
    for at in (0, 4095, 4096, 4999):
        indices[at] = 7
        assert not check([indices])
        indices[at] = 6
    assert check([indices])


@pytest.mark.parametrize("tensor", [
    torch.zeros(3), torch.zeros(3, dtype=torch.bool), torch.zeros(3, dtype=torch.int64, device="meta"), torch.zeros(3).to_sparse(),
    torch._efficientzerotensor((3,), dtype=torch.int64), None,
], ids=["float", "bool", "meta", "sparse", "no memory", "none"])  # fmt: skip
def test_what_cannot_be_read_is_not_inside(tensor: Any) -> None:
    assert not inside_of(lambda _tensors: 7, 0, None)([tensor])
