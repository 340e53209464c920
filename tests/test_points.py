"""The registry, and a conformance suite over everything registered: newcomers inherit it."""

from __future__ import annotations

import inspect

import pytest

from torch_autokernel.core import points, protocols
from torch_autokernel.core.errors import UnknownName

ROWS = [(kind, name) for kind, point in points.ALL.items() for name in point.names()]
PROTOCOLS = {"proposer": protocols.Proposer, "language": protocols.Language, "arch": protocols.ArchProbe,
             "strategy": protocols.Strategy, "check": protocols.Check, "llm": protocols.LLM}  # fmt: skip


@pytest.mark.parametrize(("kind", "name"), ROWS)
def test_every_row_resolves_and_keeps_its_contract(kind: str, name: str) -> None:
    cls = points.ALL[kind].get(name)
    protocol = PROTOCOLS[kind]
    for member, wanted in vars(protocol).items():
        if member.startswith("_") or not callable(wanted):
            continue
        assert callable(getattr(cls, member, None)), f"{cls.__name__} lacks {member}"
        have = list(inspect.signature(getattr(cls, member)).parameters)
        want = list(inspect.signature(wanted).parameters)
        assert have[: len(want)] == want, f"{cls.__name__}.{member}{tuple(have)} is not {tuple(want)}"
    assert inspect.getdoc(cls), f"{cls.__name__} has no docstring"


@pytest.mark.parametrize("name", points.checks.names())
def test_checks_explain_themselves(name: str) -> None:
    doc = inspect.getdoc(points.checks.get(name)) or ""
    for heading in ("What it checks", "Why it matters", "What it misses", "Example"):
        assert heading in doc, f"check {name} lacks {heading!r}"


@pytest.mark.parametrize("name", points.languages.names())
def test_languages_give_reasons(name: str) -> None:
    arch = points.archs.get("null" if name == "null" else "cpu")().probe()
    reason = points.languages.get(name)().missing(arch)
    assert reason is None or (isinstance(reason, str) and reason)


def test_register_refuses_duplicates_and_names_the_known() -> None:
    point = points.Point("thing", {"a": "json:loads"})
    point.register("b", "json:dumps")
    assert point.get("b")({}) == "{}"
    with pytest.raises(ValueError, match="'a' is registered already"):
        point.register("a", "json:dumps")
    with pytest.raises(UnknownName, match="no thing named 'gpt'; known: a, b"):
        point.get("gpt")
