"""The C++ function an author fills: its prototype, whether a text has it, and the entry that calls it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from torch_autokernel.core import dims
from torch_autokernel.core.dims import Dim
from torch_autokernel.core.types import Signature, TensorSpec

ENTRY = "ak_entry"

# dtype -> (as an author writes it, as the entry writes it without needing a header)
CTYPES = {
    "float64": ("double", "double"), "float32": ("float", "float"),
    "bfloat16": ("uint16_t", "__UINT16_TYPE__"), "float16": ("uint16_t", "__UINT16_TYPE__"),
    "int64": ("int64_t", "__INT64_TYPE__"), "int32": ("int32_t", "__INT32_TYPE__"), "int16": ("int16_t", "__INT16_TYPE__"),
    "int8": ("int8_t", "__INT8_TYPE__"), "uint8": ("uint8_t", "__UINT8_TYPE__"), "bool": ("bool", "bool"),
}  # fmt: skip

_KERNEL = re.compile(r"\bvoid\s+kernel\s*\(([^()]*)\)\s*(?:noexcept\s*)?\{")
_QUIET = re.compile(
    r'''R"([^()\\\s]{0,16})\(.*?\)\1"|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|//[^\n]*|/\*.*?\*/''', re.DOTALL
)
_WORKSPACE = re.compile(r"^[ \t]*//[ \t]*workspace:(.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Prototype:
    """What was found in a text: the names of the sizes, the workspace over the signature's symbols, or the problem."""

    workspace: Dim = 0
    has_workspace: bool = False
    problem: str = ""


def render(signature: Signature, workspace: bool = False) -> str:
    """The prototype to fill, one parameter a line with its shape, dtype and strides."""
    rows = [(f"{ctype(s, True)} x{i}", describe(s)) for i, s in enumerate(signature.inputs)]
    rows += [(f"{ctype(s, False)} y{i}", describe(s)) for i, s in enumerate(signature.output_specs)]
    rows += [(f"int64_t {s}", f"at least {max(1, signature.guards.get(s, 1))}") for s in signature.symbols]
    if workspace:
        rows.append(("void* workspace", "64-byte aligned, contents undefined"))
    lines = [f"    {what}{',' if i + 1 < len(rows) else ''}  // {note}" for i, (what, note) in enumerate(rows)]
    return 'extern "C" void kernel(\n' + "\n".join(lines) + "\n)"


def ctype(spec: TensorSpec, is_input: bool) -> str:
    return f"{'const ' if is_input else ''}{CTYPES[spec.dtype][0]}*"


def describe(spec: TensorSpec) -> str:
    """`float32 [s0, s1], strides [s1, 1]`, in elements; the stride of a size-1 dimension may be anything."""
    strides = ["any" if n == 1 and s == 0 else str(s) for n, s in zip(spec.shape, spec.stride, strict=True)]
    aligned = f", aligned to {spec.alignment} bytes" if spec.alignment > spec.itemsize else ""
    return f"{spec.dtype} [{', '.join(map(str, spec.shape))}], strides [{', '.join(strides)}]{aligned}"


def declaration(signature: Signature, workspace: bool) -> str:
    """The same prototype in one line and without names."""
    inputs = [f"const {CTYPES[s.dtype][1]}*" for s in signature.inputs]
    outputs = [f"{CTYPES[s.dtype][1]}*" for s in signature.output_specs]
    parameters = inputs + outputs + ["__INT64_TYPE__"] * len(signature.symbols) + ["void*"] * workspace
    return f'extern "C" void kernel({", ".join(parameters)});\n'


def check_text(signature: Signature, workspace: bool) -> str:
    """What follows an author's text: beside a `kernel` of other types it is a compiler error."""
    line = declaration(signature, workspace)
    words = sorted(set(re.findall(r"[a-z]\w*", line)))
    return "".join(f"#undef {word}\n" for word in words) + f'#line 1 "prototype"\n{line}'


def entry_text(signature: Signature, workspace: bool) -> str:
    """The entry that the launcher calls: `ak_entry(buffers, sizes, workspace, stream)`."""
    inputs = [f"static_cast<const {CTYPES[s.dtype][1]}*>(b[{i}])" for i, s in enumerate(signature.inputs)]
    first = len(inputs)
    outputs = [f"static_cast<{CTYPES[s.dtype][1]}*>(b[{first + i}])" for i, s in enumerate(signature.output_specs)]
    sizes = [f"s[{i}]" for i in range(len(signature.symbols))]
    arguments = ", ".join(inputs + outputs + sizes + ["w"] * workspace)
    return (
        declaration(signature, workspace)
        + f'extern "C" __attribute__((visibility("default"))) void {ENTRY}'
        + f"(void* const* b, const __INT64_TYPE__* s, void* w, void*) {{ (void)b, (void)s, (void)w; kernel({arguments}); }}\n"
    )


def read(text: str, signature: Signature, given: Dim | None = None) -> Prototype:
    """What the text's `kernel` asks for, or the problem with it. `given` is the workspace of a launch plan, if any."""
    found = _KERNEL.findall(blank_comments(text))
    if len(found) != 1:
        return Prototype(problem=f"expected one definition of kernel, found {len(found)}")
    parameters = [" ".join(p.split()) for p in found[0].split(",")] if found[0].strip() else []
    tensors, symbols = len(signature.inputs) + len(signature.outputs), signature.symbols
    expected = tensors + len(symbols)
    has_workspace = len(parameters) == expected + 1
    if len(parameters) not in (expected, expected + 1):
        return Prototype(problem=f"kernel has {len(parameters)} parameters, expected {expected} (and perhaps a workspace)")
    for i, (parameter, wanted) in enumerate(zip(parameters, _types(signature) + ["void*"], strict=False)):
        if _type(parameter) not in _spellings(wanted):
            return Prototype(problem=f"parameter {i + 1} is `{parameter}`, expected type `{wanted}`")
    names = [p.rpartition(" ")[2].lstrip("*&") for p in parameters[tensors:expected]]
    return _workspace(text, dict(zip(names, symbols, strict=True)), has_workspace, given)


def _types(signature: Signature) -> list[str]:
    tensors = [ctype(s, True) for s in signature.inputs] + [ctype(s, False) for s in signature.output_specs]
    return tensors + ["int64_t"] * len(signature.symbols)


def _type(parameter: str) -> str:
    """`const float* __restrict x` -> `const float*`."""
    words = re.sub(r"\b(__restrict__|__restrict|restrict)\b", " ", parameter).replace("std::", "")
    words = re.sub(r"\s*\*\s*", "* ", words)
    kind, _, name = words.strip().rpartition(" ")
    kind = kind if kind and re.fullmatch(r"\w*", name) else words
    kind = re.sub(r"\* const$", "*", kind.strip())
    if re.fullmatch(r"\w+ const\*", kind):
        kind = "const " + kind.replace(" const", "")
    return kind if "*" in kind else kind.removeprefix("const ")


_SAME = {"int64_t": ("long", "long int"), "uint16_t": ("unsigned short",), "int32_t": ("int",), "int16_t": ("short",),
         "int8_t": ("signed char",), "uint8_t": ("unsigned char",)}  # fmt: skip


def _spellings(wanted: str) -> set[str]:
    base = wanted.removeprefix("const ").removesuffix("*")
    return {wanted} | {wanted.replace(base, other) for other in _SAME.get(base, ())}


def _workspace(text: str, names: dict[str, str], has_parameter: bool, given: Dim | None) -> Prototype:

    def refused(why: str) -> Prototype:
        return Prototype(has_workspace=has_parameter, problem=why)

    lines = _WORKSPACE.findall(text)
    if len(lines) > 1:
        return refused(f"{len(lines)} lines `// workspace:`, expected at most one")
    if has_parameter and not (lines or given):
        return refused("kernel has one parameter more, but there is no line `// workspace: <bytes>`")
    if not has_parameter and (lines or given):
        return refused("the text asks for workspace, but kernel has no last parameter `void* workspace`")
    said: Dim | None = None
    if lines:
        try:
            said = _rename(lines[0].strip(), names)
        except (ValueError, KeyError) as error:
            return refused(f"`// workspace:{lines[0]}` is no polynomial over {', '.join(names) or 'constants'}: {error}")
    if said is not None and given and said != given:
        return refused(f"the text asks for {said} bytes of workspace, its launch plan for {given}")
    return Prototype(said if said is not None else given or 0, has_parameter)


def _rename(text: str, names: dict[str, str]) -> Dim:
    """A polynomial over the author's names as one over the symbols; raises KeyError for another name."""
    found = dims.parse(text)
    for key in found:
        for name in key:
            names[name]  # noqa: B018
    return dims.render({tuple(names[s] for s in key): c for key, c in found.items()})


def blank_comments(text: str) -> str:
    """The text with comments and the contents of strings as spaces; lines stay where they are."""
    return _QUIET.sub(lambda m: re.sub(r"[^\n]", " ", m.group()), text)
