"""One frozen configuration, read once. The only module that touches `TORCH_AUTOKERNEL_*`.

Precedence: the forced switch `TORCH_AUTOKERNEL_DISABLE`, then argument, `config.patch`, environment, default.
"""

from __future__ import annotations

import contextvars
import dataclasses
import difflib
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs

from torch_autokernel.core.errors import ConfigError

PREFIX = "TORCH_AUTOKERNEL_"
KEY_VARIABLE = PREFIX + "LLM_API_KEY"  # how a key reaches a process of ours
ON_MISS = ("generate", "background", "fallback")
REST = ("inductor", "eager")


@dataclass(frozen=True, slots=True)
class Config:
    """Everything a user may set.

    `on_miss`: `generate` searches now, `background` runs the fallback and searches in a process beside it, `fallback`
    only looks up. `max_seconds`, `max_tokens` and `max_money` bound the search of one compilation; tokens are spent only
    where a model is named, money counts only with a price table (`llm_prices`, a JSON file), 0 forbids both. With a model
    named and no proposers given, the proposers are `schedule` and `llm`. `rest` says what compiles the part of a graph that
    no kernel replaces. `strict` raises where the plugin would fall back. `huge_pages` advises Linux to back outputs of 32 MiB
    and more with huge pages; it holds for the process and is taken from the environment only.
    """

    disable: bool = False
    cache_dir: str = ""
    on_miss: str = "generate"
    offline: bool = False
    max_seconds: float = 300.0
    max_tokens: int = 200_000
    max_money: float = math.inf
    arch: str = ""
    llm_model: str = ""
    llm_base_url: str = ""
    llm_api_key: str = dataclasses.field(default="", repr=False)
    llm_prices: str = ""
    llm_reviews: bool = False
    llm_answer_tokens: int = 8000
    proposers: tuple[str, ...] = ("schedule",)
    rest: str = "inductor"
    strict: bool = False
    huge_pages: bool = True

    def __post_init__(self) -> None:
        for name, value in (("on_miss", ON_MISS), ("rest", REST)):
            if getattr(self, name) not in value:
                raise ConfigError(f"{name}={getattr(self, name)!r} is not known; known: {', '.join(value)}")
        for name in ("max_seconds", "max_tokens", "max_money", "llm_answer_tokens"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name}={getattr(self, name)} is negative; give 0 or more")

    @property
    def cache_path(self) -> Path:
        return Path(self.cache_dir).expanduser() if self.cache_dir else Path(platformdirs.user_cache_dir("torch-autokernel"))


FIELDS: dict[str, Any] = {f.name: f for f in dataclasses.fields(Config)}
_DEFAULT = Config()
OF_THE_PROCESS = ("huge_pages",)  # taken from the environment only


def _coerce(name: str, value: Any, shown: str) -> Any:
    """The value in the field's type; raises ConfigError that names the option as `shown` and the form expected."""
    default = getattr(_DEFAULT, name)
    try:
        if isinstance(default, bool):
            if isinstance(value, str):
                lowered = value.strip().lower()
                if lowered not in ("", "0", "1", "true", "false", "yes", "no", "on", "off"):
                    raise ValueError
                return lowered in ("1", "true", "yes", "on")
            if not isinstance(value, bool):
                raise ValueError
            return value
        if isinstance(default, tuple):
            return tuple(p.strip() for p in value.split(",") if p.strip()) if isinstance(value, str) else tuple(value)
        if isinstance(default, (int, float)):
            if isinstance(value, bool):
                raise ValueError
            return type(default)(value)
        return os.fspath(value) if isinstance(value, os.PathLike) else _string(value)
    except (ValueError, TypeError):
        kind = "a list of names" if isinstance(default, tuple) else f"a {type(default).__name__}"
        raise ConfigError(f"{shown}={value!r} is not {kind}", hint=f"the default is {default!r}") from None


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError
    return value


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    """What is empty counts as not given. Where the switch is off, nothing else can be wrong."""
    out = {}
    given = {name: value for name in FIELDS if (value := environ.get(PREFIX + name.upper(), "")).strip()}
    if "disable" in given and _coerce("disable", given["disable"], PREFIX + "DISABLE"):
        given = {name: value for name, value in given.items() if name in ("disable", "cache_dir")}
    for name, value in given.items():
        out[name] = _coerce(name, value, PREFIX + name.upper())
    if "llm_model" in out:  # the fallbacks count only where the user named a model
        _fall_back(out, environ)
    return out


def _fall_back(out: dict[str, Any], environ: Mapping[str, str]) -> None:
    """Address and key as the providers' own clients take them. A key goes only where it belongs: OpenAI's beside the base URL
    of `OPENAI_BASE_URL` or none, Anthropic's to Anthropic."""
    anthropic = out["llm_model"].startswith("anthropic:") or ".anthropic.com" in out.get("llm_base_url", "")
    ours = "llm_base_url" in out
    if not anthropic and not ours and (base := environ.get("OPENAI_BASE_URL")):
        out["llm_base_url"] = base
    if "llm_api_key" in out:
        return
    if anthropic:
        out["llm_api_key"] = environ.get("ANTHROPIC_API_KEY", "")
    elif environ.get("OPENAI_API_KEY") and (not ours or out["llm_base_url"] == environ.get("OPENAI_BASE_URL")):
        out["llm_api_key"] = environ["OPENAI_API_KEY"]
    elif environ.get("ANTHROPIC_API_KEY") and "llm_base_url" not in out:
        out |= {"llm_api_key": environ["ANTHROPIC_API_KEY"], "llm_base_url": "https://api.anthropic.com"}


def check_keys(options: Mapping[str, Any], also: tuple[str, ...] = ()) -> None:
    """Raise ConfigError for an unknown key, naming the known ones and the nearest, and for one that is no call's own."""
    for key in options:
        if key in OF_THE_PROCESS:
            raise ConfigError(f"{key} holds for the whole process", hint=f"set {PREFIX}{key.upper()} before the first call")
        if key not in FIELDS and key not in also:
            near = difflib.get_close_matches(key, [*FIELDS, *also], 1)
            hint = f"did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"unknown option {key!r}; known: {', '.join(FIELDS)}", hint)


class ConfigHandle:
    """The live configuration: attribute access reads the value in force; `patch` sets it for a with-block."""

    def __init__(self) -> None:
        self._patches: contextvars.ContextVar[dict[str, Any] | None] = contextvars.ContextVar("autokernel", default=None)
        self._environment: dict[str, Any] | None = None
        self._plain: tuple[Any, Config] | None = None  # the last patches, and what holds with them for a call without options

    def resolve(self, options: Mapping[str, Any] | None = None) -> Config:
        """The configuration for a call with these options."""
        if options or self._environment is None:
            return self._resolve(options)
        patches, plain = self._patches.get(), self._plain
        if plain is None or plain[0] is not patches:
            plain = self._plain = patches, self._resolve(None)
        return plain[1]

    def _resolve(self, options: Mapping[str, Any] | None) -> Config:
        if self._environment is None:
            self._environment = _from_environment(os.environ)
        check_keys(options or {})
        given = {k: _coerce(k, v, k) for k, v in (options or {}).items()}
        merged = {**self._environment, **(self._patches.get() or {}), **given}
        if self._environment.get("disable"):
            merged["disable"] = True
        if merged.get("llm_model"):
            merged.setdefault("proposers", (*_DEFAULT.proposers, "llm"))
        return Config(**merged)

    def reload(self) -> None:
        """Read the environment again (for tests and long-lived notebooks)."""
        self._environment = self._plain = None

    @contextmanager
    def patch(self, **options: Any) -> Iterator[Config]:
        """Options for a with-block, in this context only."""
        check_keys(options)
        given = {k: _coerce(k, v, k) for k, v in options.items()}
        token = self._patches.set({**(self._patches.get() or {}), **given})
        try:
            yield self.resolve()
        finally:
            self._patches.reset(token)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in FIELDS:
            raise AttributeError(f"no option named {name!r}; known: {', '.join(FIELDS)}")
        return getattr(self.resolve(), name)

    def __repr__(self) -> str:
        return repr(self.resolve())


config = ConfigHandle()
