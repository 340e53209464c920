"""The forms of a problem file.

kernelbench     class Model (or a function Model that makes the model), get_inputs(), get_init_inputs()
robust-kbench   forward_fn (or class Model around it), get_inputs(**cfg), get_init_inputs(**cfg), config_*.json beside it
function        one function or module, example_inputs()

Each may pin sizes in `static_sizes`.
"""

from __future__ import annotations

import inspect
import itertools
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from torch_autokernel.app.problem import Problem, user_code
from torch_autokernel.core.errors import UsageError

SEED = 0
INPUTS = ("get_inputs", "example_inputs")

Config = tuple[str, dict[str, Any], dict[str, Any]]  # label, init arguments, input arguments
_PLAIN: list[Config] = [("", {}, {})]


def read(module: ModuleType, path: Path | None, name: str, wanted: str) -> list[Problem]:
    inputs = next((getattr(module, n) for n in INPUTS if callable(getattr(module, n, None))), None)
    if wanted and not hasattr(module, wanted):
        raise UsageError(f"{name} has no {wanted!r}; it has {_names(module)}", hint="name one of these after the colon")
    if inputs is None:
        raise UsageError(f"{path or name} says nothing of its inputs; it has {_names(module)}",
                         hint="define get_inputs() or example_inputs() returning a list of tensors")  # fmt: skip
    static = tuple(int(n) for n in getattr(module, "static_sizes", ()))
    form, target, configs = _form(module, path, wanted)
    out = []
    for label, init, given in configs:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            model = _build(module, target, init, path)
            with user_code(f"{inputs.__name__}({_told(given)}) of {path or name}", path):
                args, kwargs = _arguments(inputs(**given))
        full = f"{name}:{wanted}" if wanted else name
        out.append(Problem(f"{full}[{label}]" if label else full, model, args, form, kwargs, path, static))
    return out


def _form(module: ModuleType, path: Path | None, wanted: str) -> tuple[str, Any, list[Config]]:
    """The form's name, what to call or build, and (label, init arguments, input arguments) for each configuration."""
    if wanted:
        return "callable", getattr(module, wanted), _PLAIN
    model = getattr(module, "Model", None)
    if callable(getattr(module, "forward_fn", None)):
        return "robust-kbench", model or module.forward_fn, _configs(path) or _PLAIN
    if model is not None:
        return "kernelbench", model, _PLAIN
    return "function", _only_callable(module, path), _PLAIN


def _only_callable(module: ModuleType, path: Path | None) -> Any:
    """The one function or module instance that a file defines, or the one named like the file."""
    found = {
        n: v for n, v in vars(module).items() if not n.startswith(("_", "get_")) and n not in INPUTS and _is_own(v, module)
    }
    if path is not None and path.stem in found:
        return found[path.stem]
    if len(found) == 1:
        return next(iter(found.values()))
    if not found:
        raise UsageError(f"{path} has inputs but nothing to call; it has {_names(module)}",
                         hint="define `class Model(nn.Module)`, `forward_fn`, or one function")  # fmt: skip
    raise UsageError(f"{path} defines several functions: {', '.join(sorted(found))}", hint=f"name one: {path}:{min(found)}")


def _is_own(value: Any, module: ModuleType) -> bool:
    if isinstance(value, type) or not callable(value):
        return False
    return isinstance(value, nn.Module) or getattr(value, "__module__", None) == module.__name__


def _build(module: ModuleType, target: Any, init: dict[str, Any], path: Path | None) -> Any:
    """The callable itself, or what a module class, or a function named Model, makes of the file's init inputs."""
    known = "name a function, an nn.Module class or an nn.Module instance"
    if not callable(target):
        raise UsageError(f"{target!r} cannot be called", hint=known)
    if isinstance(target, type) and not issubclass(target, nn.Module):
        raise UsageError(f"{target.__name__} is a class but no nn.Module", hint=known)
    makes = isinstance(target, type) or (target is getattr(module, "Model", None) and not isinstance(target, nn.Module))
    if not makes:
        return target
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    with user_code(f"making {target.__name__} of {path or module.__name__}", path):
        if callable(make := getattr(module, "get_init_inputs", None)):
            args, kwargs = _arguments(make(**init))
        return target(*args, **kwargs)


def _arguments(value: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What an inputs function returned, as positional and keyword arguments."""
    if isinstance(value, dict):
        return (), dict(value)
    if isinstance(value, (list, tuple)):
        return tuple(value), {}
    return (value,), {}


def _names(module: ModuleType) -> str:
    names = [n for n, v in vars(module).items() if not n.startswith("_") and (inspect.isclass(v) or callable(v))]
    return ", ".join(sorted(names)[:12]) or "no functions or classes"


def _told(config: dict[str, Any]) -> str:
    return ", ".join(f"{k}={v}" for k, v in config.items())


# ------------------------------------------------------------------------------------------- config_*.json
def _configs(path: Path | None) -> list[Config]:
    """The configurations beside a file, or nothing. `single_*` entries count before `multi_*` ones; shared ones come last."""
    if path is None or (found := _config_file(path)) is None:
        return []
    try:
        data = json.loads(found.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
        raise UsageError(f"{found} is not JSON: {error}", hint="correct it, or remove it to use the defaults") from None
    if isinstance(data, dict) and not any(k.endswith("_configs") for k in data):
        data = {"single_input_configs": [data]}
    elif isinstance(data, list):
        data = {"single_input_configs": data}
    if not isinstance(data, dict):
        raise UsageError(
            f"{found} holds a {type(data).__name__}; an object was expected", hint="see torch_autokernel/app/README.md"
        )

    def entries(kind: str) -> list[dict[str, Any]]:
        rows = data.get(f"single_{kind}_configs") or data.get(f"multi_{kind}_configs") or [{}]
        if not isinstance(rows, list) or not all(isinstance(r, dict) for r in rows):
            raise UsageError(f"{found}: {kind} configurations are not a list of objects", hint='write [{"batch_size": 16}]')
        return rows

    out = []
    for init, given, shared in itertools.product(entries("init"), entries("input"), entries("shared")):
        init, given = {**init, **shared}, {**given, **shared}
        out.append((_told({**init, **given}).replace(" ", ""), init, given))
    return out if len(out) > 1 else [("", *out[0][1:])]


def _config_file(path: Path) -> Path | None:
    """`config_forward.json` for `func_forward.py`; else the forward one, else the only one."""
    found = sorted(path.parent.glob("config_*.json"))
    for name in (f"config_{path.stem.rpartition('_')[2]}.json", f"config_{path.stem}.json", "config_forward.json"):
        if path.with_name(name) in found:
            return path.with_name(name)
    if len(found) > 1:
        raise UsageError(f"several configuration files beside {path}: {', '.join(p.name for p in found)}",
                         hint=f"name one config_{path.stem}.json")  # fmt: skip
    return found[0] if found else None
