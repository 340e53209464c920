from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils import _pytree as pytree

from torch_autokernel.app.problems import load_one

FOLDER = Path(__file__).parents[2] / "benchmarks" / "problems"
FILES = sorted(FOLDER.glob("*.py"))


def test_there_are_enough() -> None:
    assert len(FILES) >= 24


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_runs_in_eager_mode_and_is_not_degenerate(path: Path) -> None:
    """A result that hardly varies, or that differs from call to call, could be met by a wrong kernel."""
    problem = load_one(str(path))
    assert problem.form == "kernelbench"
    with torch.no_grad():
        results, again = (pytree.tree_leaves(problem.call()) for _ in range(2))
    for result, second in zip(results, again, strict=True):
        assert torch.equal(result, second)
        assert bool(result.isfinite().all())
        values = result.double()
        spread = values.std() if values.dim() else values.abs()
        assert float(spread) > 1e-2 * float(values.abs().mean()) > 0


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_has_gradients(path: Path) -> None:
    problem = load_one(str(path)).training()
    results = [t for t in pytree.tree_leaves(problem.call()) if t.requires_grad]
    torch.autograd.backward(results, [torch.randn_like(t) for t in results])
    grads = [t.grad for t in problem.inputs if isinstance(t, torch.Tensor) and t.requires_grad]
    assert grads and all(g is not None and float(g.abs().max()) > 0 for g in grads)
