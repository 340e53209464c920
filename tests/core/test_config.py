from __future__ import annotations

import pytest

from torch_autokernel.core.config import FIELDS, Config, ConfigHandle
from torch_autokernel.core.errors import ConfigError


@pytest.fixture
def handle(monkeypatch: pytest.MonkeyPatch) -> ConfigHandle:
    for name in FIELDS:
        monkeypatch.delenv(f"TORCH_AUTOKERNEL_{name.upper()}", raising=False)
    return ConfigHandle()


def test_precedence(handle: ConfigHandle, monkeypatch: pytest.MonkeyPatch) -> None:
    assert handle.on_miss == Config().on_miss
    monkeypatch.setenv("TORCH_AUTOKERNEL_ON_MISS", "fallback")
    handle.reload()
    assert handle.on_miss == "fallback"
    with handle.patch(on_miss="background"):
        assert handle.on_miss == "background"
        assert handle.resolve({"on_miss": "generate"}).on_miss == "generate"
    assert handle.on_miss == "fallback"


def test_the_kill_switch_beats_everything(handle: ConfigHandle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_AUTOKERNEL_DISABLE", "1")
    handle.reload()
    assert handle.resolve({"disable": False}).disable


@pytest.mark.parametrize(
    ("options", "text"),
    [({"on_mis": 1}, "unknown option 'on_mis'.*known: .*did you mean 'on_miss'"), ({"on_miss": "no"}, "known: generate, background, fallback"),
     ({"max_seconds": "soon"}, "max_seconds='soon' is not a float"), ({"max_seconds": -1}, "negative"), ({"strict": 3}, "strict=3 is not a bool")],
)  # fmt: skip
def test_bad_options(handle: ConfigHandle, options: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigError, match=f"(?s){text}"):
        handle.resolve(options)


def test_bad_environment_names_the_variable(handle: ConfigHandle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_AUTOKERNEL_MAX_SECONDS", "soon")
    handle.reload()
    with pytest.raises(ConfigError, match="TORCH_AUTOKERNEL_MAX_SECONDS='soon' is not a float"):
        handle.resolve()


def test_a_key_is_taken_only_with_a_model_and_never_shown(handle: ConfigHandle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    handle.reload()
    assert handle.resolve().llm_api_key == ""
    monkeypatch.setenv("TORCH_AUTOKERNEL_LLM_MODEL", "m")
    handle.reload()
    assert handle.resolve().llm_api_key == "sk-secret"
    assert "sk-secret" not in repr(handle)


def test_every_option_is_read_from_the_environment(handle: ConfigHandle, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"STRICT": "1", "REST": "eager", "PROPOSERS": "schedule, llm", "HUGE_PAGES": "0"}
    for name, value in given.items():
        monkeypatch.setenv(f"TORCH_AUTOKERNEL_{name}", value)
    handle.reload()
    assert handle.strict and handle.rest == "eager" and handle.proposers == ("schedule", "llm") and not handle.huge_pages


def test_what_is_empty_is_not_given_and_a_switch_that_is_off_is_off(handle: ConfigHandle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_AUTOKERNEL_REST", "")
    monkeypatch.setenv("TORCH_AUTOKERNEL_PROPOSERS", " ")
    handle.reload()
    assert handle.rest == "inductor" and handle.proposers == ("schedule",)
    monkeypatch.setenv("TORCH_AUTOKERNEL_REST", "aot_eager")
    handle.reload()
    with pytest.raises(ConfigError, match="aot_eager"):
        handle.resolve()
    monkeypatch.setenv("TORCH_AUTOKERNEL_DISABLE", "1")
    handle.reload()
    assert handle.disable
