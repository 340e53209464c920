from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torch_autokernel.core import errors
from torch_autokernel.core.types import (
    Budget,
    Const,
    Cost,
    Finding,
    Op,
    Ref,
    Signature,
    Status,
    TensorSpec,
    Timing,
    Verdict,
    canonical,
)

ARGS = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-9, 9), st.floats(allow_nan=False), st.builds(Ref, st.integers(0, 9)),
              st.sampled_from([Const("dtype", "float32"), Const("dim", "2*s0")])),
    lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=5,
)  # fmt: skip


@given(st.lists(ARGS, max_size=3).map(tuple))
def test_signatures_survive_json(args: tuple[object, ...]) -> None:
    spec = TensorSpec.contiguous(("s0", 1, "s1"), "float32")
    sig = Signature(
        (Op("aten.add.Tensor", args, {"k": args}, ("s0",), "float32"),), (spec,), (1,), (spec,), ("s0", "s1"), {"s0": 2}
    )
    again = Signature.from_json(sig.to_json())
    assert again == sig and again.digest == sig.digest
    assert canonical(again.to_json()) == canonical(sig.to_json())


def test_unknown_fields_are_named() -> None:
    with pytest.raises(ValueError, match="TensorSpec has no field 'shapes'; known: shape"):
        TensorSpec.from_json({"shapes": []})


def test_contiguous_strides() -> None:
    assert TensorSpec.contiguous(("s0", 1, "s1", 4), "float32").stride == ("4*s1", 0, 4, 1)


def test_bind() -> None:
    sig = Signature((), (TensorSpec.contiguous(("s0", "s1"), "float32"),) * 2, (0,), (), ("s0", "s1"))
    assert sig.bind(((3, 4), (3, 4)), ((4, 1), (4, 1))) == {"s0": 3, "s1": 4}
    with pytest.raises(ValueError, match="size or stride 5"):
        sig.bind(((3, 4), (3, 5)), ((4, 1), (5, 1)))


def verdict(*findings: Finding, required: tuple[str, ...] = ("a", "b")) -> Verdict:
    return Verdict("c", "cpu", findings, required)


def test_accepted_means_every_required_check_passed() -> None:
    ok, also = Finding("a", Status.PASS), Finding("b", Status.PASS)
    assert verdict(ok, also).accepted
    assert not verdict(ok).accepted and "b" in verdict(ok).why
    assert not verdict(ok, Finding("b", Status.SKIP)).accepted
    assert not verdict(ok, also, Finding("c", Status.FAIL, "off")).accepted
    assert not verdict(ok, also, Finding("c", Status.ERROR, "off")).accepted
    assert not verdict(ok, also, required=()).accepted
    assert verdict(ok, Finding("b", Status.FAIL, "off by one")).why == "b: off by one"


def test_verdicts_survive_json() -> None:
    timing = Timing((1.0, 2.0), (3.0, float("inf")), "eager", 2.0, 1.5, float("nan"), "m", {"s0": 3}, {"eager": 3.0})
    v = Verdict("c", "cpu", (Finding("a", Status.PASS, "r", {"n": 3}, 0.5),), ("a",), timing, 7, "1")
    again = Verdict.from_json(v.to_json())
    assert again.findings == v.findings and again.timing is not None
    assert again.timing.baseline_ns == timing.baseline_ns and again.accepted


def test_budget() -> None:
    assert Budget(seconds=2).spent(Cost(seconds=1)) is None
    assert "seconds used up" in (Budget(seconds=2).spent(Cost(seconds=1) + Cost(seconds=1.5)) or "")


@pytest.mark.parametrize(
    "cls", [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, errors.AutoKernelError)]
)
def test_errors_pickle_and_carry_a_hint(cls: type[errors.AutoKernelError]) -> None:
    error = pickle.loads(pickle.dumps(cls("what happened", hint="what to do")))
    assert type(error) is cls and error.hint == "what to do" and "what to do" in str(error)
    assert cls.__name__ in (errors.__doc__ or "")
