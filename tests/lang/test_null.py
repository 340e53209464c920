"""The language that needs no compiler."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.lang.conftest import add_signature
from torch_autokernel.core.errors import GuardMiss, ToolchainError
from torch_autokernel.core.types import Arch, Candidate, Op, Ref, Signature, Source, TensorSpec
from torch_autokernel.lang.null import Null
from torch_autokernel.machine.null import NullArch

TEXT = "def reference(x0, x1, s0, s1):\n    v2 = aten.add.Tensor(x0, x1)\n    return (v2,)\n"


def candidate(text: str) -> Candidate:
    return Candidate("x", Source("null", text, "reference"), "null")


def null_arch() -> Arch:
    found = NullArch().probe()
    assert found is not None and NullArch().probe(1) is None
    return found


def test_the_whole_way(tmp_path: Path) -> None:
    good, bad = Null().compile([candidate(TEXT), candidate("def reference(:")], add_signature(), null_arch(), tmp_path / "new")
    assert good.ok and not bad.ok and "invalid syntax" in bad.log
    run = Null().load(good, add_signature())
    x, w = torch.randn(3, 5, requires_grad=True), torch.randn(3, 5)
    (out,) = run(x, w)
    assert torch.equal(out, x + w) and not out.requires_grad


def test_outputs_are_fresh_and_strided_as_demanded(tmp_path: Path) -> None:
    spec, out = TensorSpec.contiguous(("s0", "s1"), "float32"), TensorSpec(("s0", "s1"), "float32", (1, "s0"))
    signature = Signature((Op("aten.alias.default", (Ref(0),)),), (spec,), (1,), (out,), ("s0", "s1"))
    (artifact,) = Null().compile([candidate("def reference(x0, s0, s1):\n    return (x0,)")], signature, null_arch(), tmp_path)
    x = torch.randn(3, 5)
    (result,) = Null().load(artifact, signature)(x)
    assert torch.equal(result, x) and result.stride() == (1, 3) and result.data_ptr() != x.data_ptr()


@pytest.mark.parametrize("tensors", [
    (), (torch.ones(3, 5),), (torch.ones(3, 5), torch.ones(3, 4)), (torch.ones(3, 5), torch.ones(3, 5).double()),
    (torch.ones(0, 5), torch.ones(0, 5)), (torch.ones(3, 5), None), (torch.ones(3, 5), torch.ones(5, 3).t()),
])  # fmt: skip
def test_misfits(tmp_path: Path, tensors: tuple[torch.Tensor, ...]) -> None:
    (artifact,) = Null().compile([candidate(TEXT)], add_signature(), null_arch(), tmp_path)
    with pytest.raises(GuardMiss):
        Null().load(artifact, add_signature())(*tensors)


def test_never_for_a_real_device(tmp_path: Path) -> None:
    assert Null().missing(null_arch()) is None
    assert "serves the arch 'null' only" in (Null().missing(Arch("cpu-x86_64")) or "")


def test_changed_files_are_refused(tmp_path: Path) -> None:
    (artifact,) = Null().compile([candidate(TEXT)], add_signature(), null_arch(), tmp_path)
    Path(artifact.path).write_text(TEXT.replace("add", "sub"))
    with pytest.raises(ToolchainError, match="sha256"):
        Null().load(artifact, add_signature())
