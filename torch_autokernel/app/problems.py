"""TARGETs: what a user names on the command line, read into problems.

A TARGET is `package.module:callable`, `path/to/file.py`, `path/to/file.py:callable`, or a folder of such files. A file is
imported under a name of its own, with its folder importable, and `sys.path` is as before afterwards.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import itertools
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType

from torch_autokernel.app.forms import INPUTS, read
from torch_autokernel.app.problem import Problem, user_code
from torch_autokernel.core.errors import UsageError

__all__ = ["Problem", "expand", "load", "load_one", "user_code"]

_COUNT = itertools.count()


def expand(targets: Sequence[str]) -> list[str]:
    """The targets with each folder replaced by the problem files in it, sorted; raises UsageError for what is not there."""
    out: list[str] = []
    for target in targets:
        folder = Path(target)
        out += map(str, _files(folder)) if folder.is_dir() else [target]
    return out


def _files(folder: Path) -> list[Path]:
    files = [
        p for p in sorted(folder.rglob("*.py")) if not any(part.startswith((".", "_")) for part in p.relative_to(folder).parts)
    ]
    found = [p for p in files if _top_names(p) & set(INPUTS)]
    if not found:
        seen = f"its .py files: {', '.join(p.name for p in files[:8])}" if files else "it has no .py files"
        raise UsageError(f"no problem file in {folder}; {seen}", hint="a problem file defines Model and get_inputs(), "
                         "forward_fn and get_inputs(), or a function and example_inputs()")  # fmt: skip
    return found


def _top_names(path: Path) -> set[str]:
    """Names bound at the top of a file, without running it; a file that does not parse has get_inputs, to be told later."""
    try:
        body = ast.parse(path.read_text()).body
    except (SyntaxError, UnicodeDecodeError, OSError):
        return {"get_inputs"}
    names: set[str] = set()
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names |= {a.asname or a.name for a in node.names}
        elif isinstance(node, ast.Assign):
            names |= {t.id for t in node.targets if isinstance(t, ast.Name)}
    return names


def load(target: str) -> list[Problem]:
    """The problems of one file or callable: one, or one for each entry of a configuration file."""
    where, _, wanted = target.rpartition(":") if ":" in target else (target, "", "")
    if where.endswith(".py") or "/" in where or Path(where).is_file():
        path = Path(where)
        if path.is_dir():
            raise UsageError(f"{target} is a folder; a file was expected", hint="name one file in it")
        if not path.is_file():
            raise UsageError(f"no file {where}", hint=_near(path))
        path = path.resolve()
        with _on_path(path.parent):
            return read(import_file(path), path, _name(path), wanted)
    if not wanted:
        raise UsageError(f"{target!r} is neither a file nor of the form package.module:callable",
                         hint="a file ends in .py; a callable in a module is named like torch_model.blocks:Block")  # fmt: skip
    with _on_path(Path.cwd()):
        module = _import_name(where)
        source = getattr(module, "__file__", None)
        origin = Path(source).resolve() if source else None
        return read(module, origin, where, wanted)


def _name(path: Path) -> str:
    """The file's name; robust-kbench's files have the same name in each folder, so there the folder's belongs to it."""
    return f"{path.parent.name}/{path.stem}" if path.stem.startswith("func_") else path.stem


def load_one(target: str) -> Problem:
    """The one problem of a target; raises UsageError where it has several."""
    problems = load(target)
    if len(problems) > 1:
        raise UsageError(f"{target} holds {len(problems)} configurations; one was expected",
                         hint="keep one entry in its config_*.json")  # fmt: skip
    return problems[0]


def _near(path: Path) -> str:
    if not path.parent.is_dir():
        return f"there is no folder {path.parent} either"
    near = get_close_matches(path.name, [p.name for p in path.parent.iterdir()], 1)
    return f"did you mean {path.parent / near[0]}?" if near else "give the path of a .py file"


@contextmanager
def _on_path(folder: Path) -> Iterator[None]:
    """Within the block, modules beside the file can be imported."""
    before = list(sys.path)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path[:] = before


def import_file(path: Path) -> ModuleType:
    """The file as a module under a name of its own: two files of one name, or one loaded twice, do not meet."""
    name = f"_autokernel_problem_{path.stem}_{next(_COUNT)}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} is not a Python file", hint="give a file that ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and dynamo look the module up by name
    try:
        with user_code(f"importing {path}", path):
            spec.loader.exec_module(module)
    except UsageError:
        del sys.modules[name]
        raise
    return module


def _import_name(name: str) -> ModuleType:
    try:
        found = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        found = None
    if found is None:
        raise UsageError(f"no module named {name!r}", hint=f"it was looked for in {Path.cwd()} and in the installed packages")
    with user_code(f"importing {name}"):
        return importlib.import_module(name)
