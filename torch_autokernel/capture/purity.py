"""May a call be replaced by a kernel without running the Python in between?

A function is replayable when all that it reads, besides its tensor arguments, is known: constants, torch's own functions, other
replayable functions, and the parameters, buffers and constant attributes of its module. Each such thing becomes a watch,
checked by identity before every direct call. Whatever is not understood is a reason, and the call goes through torch.compile,
whose guards understand more.
"""

from __future__ import annotations

import builtins
import dis
import inspect
import math
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

_FORBIDDEN = frozenset((
    "STORE_GLOBAL", "DELETE_GLOBAL", "STORE_ATTR", "DELETE_ATTR", "IMPORT_NAME", "IMPORT_FROM", "LOAD_BUILD_CLASS",
    "YIELD_VALUE", "RETURN_GENERATOR", "GET_AWAITABLE", "SETUP_WITH", "BEFORE_WITH", "SETUP_ASYNC_WITH", "BEFORE_ASYNC_WITH",
    "STORE_DEREF", "DELETE_DEREF",
))  # fmt: skip
_OF_CELLS = ("STORE_DEREF", "DELETE_DEREF")
# A generator that is not used up within the call is a result that no trace has.
_WITHIN_GENERATORS = frozenset(("YIELD_VALUE", "RETURN_GENERATOR"))
_SAFE_BUILTINS = frozenset((
    "abs", "bool", "divmod", "enumerate", "float", "int", "isinstance", "len", "list", "max", "min", "pow", "range",
    "reversed", "round", "slice", "sorted", "str", "sum", "tuple", "zip", "dict", "set", "any", "all", "super", "type",
    "hasattr", "ValueError", "TypeError", "AssertionError", "RuntimeError",
))  # fmt: skip
_CONSTANTS = (int, float, complex, bool, str, bytes, type(None), torch.dtype, torch.device, torch.memory_format, torch.Size)
_OF_BLOCKS = frozenset(("SETUP_WITH", "BEFORE_WITH"))
# Python that says what is differentiated, or asks whether anything is: a trace does not see it.
TELLS = frozenset(
    "apply backward data detach detach_ enable_grad grad grad_fn inference_mode is_grad_enabled is_leaf jvp vjp no_grad "
    "register_hook requires_grad requires_grad_ retain_grad set_grad_enabled checkpoint functional_call item tolist".split()
)
TOLD_ALIKE = TELLS - {"detach", "no_grad", "enable_grad"}  # of these, what may make one call differ from the next
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_UNWATCHED_ATTRIBUTES = frozenset(torch.nn.Module().__dict__) - {"training"} | {"forward"}


@dataclass
class Watched:
    """What a replay depends on. `entries`: (dict, key, value) that must be identical; `cells`: closure cells and their
    contents; `empty`: dicts that must stay empty; `reason`: why the function cannot be replayed, or None; `names`: those
    of globals and attributes in the Python text; `stores`: whether it sets attributes of modules."""

    entries: list[tuple[dict[str, Any], str, Any]] = field(default_factory=list)
    cells: list[tuple[Any, Any]] = field(default_factory=list)
    empty: list[Any] = field(default_factory=list)
    reason: str | None = None
    names: frozenset[str] = frozenset()
    stores: bool = False

    def holds(self) -> bool:
        for space, key, value in self.entries:
            if space.get(key) is not value:
                return False
        for cell, value in self.cells:
            if cell.cell_contents is not value:
                return False
        return not any(self.empty)


def watch(function: Any, module: torch.nn.Module | None = None, repeat: bool = False) -> Watched:
    """What a replay of `function` (the forward of `module`, where given) depends on. With `repeat` the question is whether the
    Python may run again, and the module be put back as it was: blocks of torch's and attributes of modules are no reasons."""
    inspector = _Inspector(repeat)
    try:
        if module is not None:
            inspector.module_tree(module)
        if not (isinstance(module, torch.nn.RNNBase) and getattr(function, "__module__", "") == torch.nn.RNNBase.__module__):
            inspector.function(function)
        inspector.names_of_modules()
    except _Impure as impure:
        inspector.found.reason = str(impure)
    found = inspector.found
    found.entries = list({(id(space), key): (space, key, value) for space, key, value in found.entries}.values())
    found.names, found.stores = frozenset(inspector.names), bool(inspector.stored)
    return found


def modules_of(function: Any) -> list[torch.nn.Module]:
    """The modules that a function, or a plain function that it calls, names as globals or closes over."""
    found: dict[int, torch.nn.Module] = {}
    seen: set[Any] = set()
    todo: list[Any] = [function]
    while todo:
        value = todo.pop()
        if isinstance(value, torch.nn.Module):
            found[id(value)] = value
        elif isinstance(value, types.FunctionType) and value not in seen and not _from_torch(value):
            seen.add(value)
            todo += [value.__globals__.get(n) for code in codes(value.__code__) for n in code.co_names]
            todo += [c.cell_contents for c in value.__closure__ or () if c != types.CellType()]
    return list(found.values())


def codes(code: types.CodeType) -> list[types.CodeType]:
    """A function's code and that of the functions within it."""
    return [code, *(c for k in code.co_consts if isinstance(k, types.CodeType) for c in codes(k))]


def of_torch(what: Any) -> bool:
    """Whether a function, a method or a class is torch's."""
    return (getattr(getattr(what, "__func__", what), "__module__", None) or "").split(".")[0] == "torch"


def reached(start: Iterable[Any], attributes: Callable[[str], Iterable[Any]]) -> Iterator[types.FunctionType]:
    """These functions and the user's that they may come to: what they name among their globals and among `attributes`, and
    what their closures hold."""
    todo, seen = list(start), set[types.FunctionType]()
    while todo:
        f = todo.pop()
        f = getattr(f, "__func__", f)
        if not isinstance(f, types.FunctionType) or f in seen:
            continue
        seen.add(f)
        yield f
        names = {n for code in codes(f.__code__) for n in code.co_names}
        found = [g for n in names for g in (f.__globals__.get(n), *attributes(n))]
        found += [cell.cell_contents for cell in f.__closure__ or () if cell != types.CellType()]
        todo += [g for g in found if not of_torch(g)]


class _Impure(Exception):
    pass


def is_constant(value: Any) -> bool:
    return isinstance(value, _CONSTANTS) or (isinstance(value, (tuple, frozenset)) and all(is_constant(v) for v in value))


def _from_torch(value: Any) -> bool:
    module = getattr(value, "__module__", None) or type(value).__module__
    if isinstance(value, types.ModuleType):
        return value.__name__.split(".")[0] == "torch" or value is math
    return module.split(".")[0] in ("torch", "math") or id(value) in _TORCH_BUILTINS


_TORCH_BUILTINS: set[int] = {id(v) for v in vars(torch).values() if isinstance(v, types.BuiltinFunctionType)}


class _Inspector:
    def __init__(self, repeat: bool = False) -> None:
        self.repeat = repeat
        self.stored: set[str] = set()  # attributes of modules
        self.supers = False  # whether methods call those of base classes
        self.found = Watched()
        self.seen: set[Any] = set()
        self.names: set[str] = set()
        self.modules: list[torch.nn.Module] = []

    def function(self, function: Any) -> None:
        function = getattr(function, "__func__", function)
        if function in self.seen:
            return
        self.seen.add(function)
        if not isinstance(function, types.FunctionType):
            raise _Impure(f"{function!r} is not a Python function")
        for default in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
            if not is_constant(default):
                raise _Impure(f"a default argument of {function.__qualname__} is not a constant")
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            if name != "__class__":
                self.found.cells.append((cell, cell.cell_contents))
                self.value(cell.cell_contents, f"{name} of {function.__qualname__}")
        self.code(function.__code__, function)

    def code(self, code: types.CodeType, function: types.FunctionType) -> None:
        self.names.update(code.co_names)
        within = _WITHIN_GENERATORS if code.co_name == "<genexpr>" else frozenset()
        within |= _OF_BLOCKS if self.repeat else frozenset()
        instructions = list(dis.get_instructions(code))
        for number, instruction in enumerate(instructions):
            if instruction.opname in _OF_CELLS and instruction.argval in code.co_cellvars:
                continue  # a local value that a function within this one reads
            if self.repeat and instruction.opname == "STORE_ATTR" and self.of_self(instructions[:number], code):
                self.stored.add(str(instruction.argval))
                continue
            if instruction.opname in _FORBIDDEN - within:
                raise _Impure(f"{function.__qualname__} does {instruction.opname.lower()}")
            if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
                self.load_global(str(instruction.argval), function)
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                self.code(constant, function)

    def of_self(self, before: Sequence[dis.Instruction], code: types.CodeType) -> bool:
        """Whether what was loaded last, or first in the line of an operation in place, is the method's own module."""
        if not self.modules or code.co_varnames[:1] != ("self",) or not before:
            return False
        line = next((k for k in reversed(range(len(before))) if before[k].starts_line), 0)
        at = line if before[-1].opname in ("SWAP", "ROT_TWO") else len(before) - 1
        loaded = before[at].argval[-1] if isinstance(before[at].argval, tuple) else before[at].argval
        return before[at].opname.startswith("LOAD_FAST") and loaded == "self"

    def load_global(self, name: str, function: types.FunctionType) -> None:
        space = function.__globals__
        if name in space:
            self.found.entries.append((space, name, space[name]))
            self.value(space[name], name)
        elif name not in _SAFE_BUILTINS or not hasattr(builtins, name):
            raise _Impure(f"{function.__qualname__} uses {name}, whose effect is not known")

    def value(self, value: Any, name: str) -> None:
        if is_constant(value) or any(value is m for m in self.modules):
            return
        if _from_torch(value) and not isinstance(value, torch.nn.Module):
            return
        if isinstance(value, (types.FunctionType, types.MethodType)) and not isinstance(
            getattr(value, "__self__", None), torch.nn.Module
        ):
            self.function(value)
            return
        raise _Impure(f"{name} is a {type(value).__name__} that may change")

    def module_tree(self, root: torch.nn.Module) -> None:
        for module in root.modules():
            self.modules.append(module)
            self.found.empty += [module.__dict__[h] for h in _HOOKS]
            if any(self.found.empty):
                raise _Impure(f"{type(module).__name__} has hooks")
            for store in ("_parameters", "_buffers", "_modules"):
                self.found.entries += [(module.__dict__[store], k, v) for k, v in module.__dict__[store].items()]
            if module is root or type(module).__module__.split(".")[0] == "torch":
                continue
            if "forward" in module.__dict__:
                raise _Impure(f"{type(module).__name__} has its own forward on the instance")
            if type(module).__call__ is not torch.nn.Module.__call__:
                raise _Impure(f"{type(module).__name__} has a way of its own to be called")
            self.function(type(module).forward)

    def names_of_modules(self) -> None:
        """Attributes of the modules that the code names: constants are watched, methods are read in turn."""
        for module in self.modules:  # all constants: of the code of torch's own modules nothing is read
            self._constants(module)
        done: set[str] = set()
        while fresh := self.names - done:
            done |= fresh
            if "super" in fresh:  # what classes have of the names that were looked at, and of others, their bases may do too
                self.supers, fresh = True, done
            for module in self.modules:
                if type(module).__module__.split(".")[0] != "torch":
                    self._attributes(module, fresh)
        for module in self.modules if self.stored else ():
            kind = type(module)
            own = [n for n in self.stored if hasattr(inspect.getattr_static(kind, n, None), "__set__")]
            own += [n for n in self.stored if n in module._parameters or n in module._modules]
            if own or kind.__setattr__ is not torch.nn.Module.__setattr__:
                raise _Impure(f"attributes of {kind.__name__} are set by code of its own")

    def _constants(self, module: torch.nn.Module) -> None:
        space = module.__dict__
        self.found.entries += [(space, n, v) for n, v in space.items() if n not in _UNWATCHED_ATTRIBUTES and is_constant(v)]

    def _attributes(self, module: torch.nn.Module, names: Iterable[str]) -> None:
        for name, value in module.__dict__.items():
            if name in _UNWATCHED_ATTRIBUTES or name not in names or is_constant(value):
                continue
            if name in self.stored and type(value) is torch.Tensor:
                continue  # another one is put in its place
            if not isinstance(value, (types.BuiltinFunctionType, types.FunctionType)):
                raise _Impure(f"{type(module).__name__}.{name} is a {type(value).__name__} that may change")
            self.found.entries.append((module.__dict__, name, value))
            self.value(value, f"{type(module).__name__}.{name}")
        own = [c for c in type(module).__mro__ if c.__module__.split(".")[0] != "torch"]
        for name in names:
            found = [vars(c)[name] for c in own if name in vars(c)]
            for static in found if self.supers else found[:1]:
                self.static(static, f"{type(module).__name__}.{name}")

    def static(self, value: Any, name: str) -> None:
        if isinstance(value, property):
            self.function(value.fget)
        elif isinstance(value, (types.FunctionType, staticmethod, classmethod)):
            self.function(getattr(value, "__func__", value))
        elif value is not None and not is_constant(value):
            raise _Impure(f"{name} is a {type(value).__name__} that may change")
