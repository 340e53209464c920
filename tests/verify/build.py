"""Compiles C++ kernels for tests without the toolchain's own gate: the author's text plus an entry made from the signature."""

from __future__ import annotations

import hashlib
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.verify import regions
from torch_autokernel.core.dims import Dim
from torch_autokernel.core.types import Artifact, Candidate, Region, Source

ZOO = Path(__file__).parent / "zoo"
C_TYPE = {
    "float32": "float", "float64": "double", "bfloat16": "uint16_t", "float16": "uint16_t", "int64": "int64_t",
    "int32": "int32_t", "int8": "int8_t", "uint8": "uint8_t", "bool": "bool",
}  # fmt: skip
FLAGS = ("-O2", "-march=native", "-fopenmp", "-shared", "-nostartfiles", "-fPIC", "-std=c++17", "-ffp-contract=fast", "-fno-math-errno")


def entry(region: Region, workspace: bool) -> str:
    """`ak_entry` for a kernel `kernel` of the signature."""
    signature, args = region.signature, []
    specs = [(s, "const ") for s in signature.inputs] + [(s, "") for s in signature.output_specs]
    for at, (spec, mark) in enumerate(specs):
        args.append(f"({mark}{C_TYPE[spec.dtype]}*)b[{at}]")
    args += [f"s[{i}]" for i in range(len(signature.symbols))] + (["w"] if workspace else [])
    return f'\nextern "C" void ak_entry(void* const* b, const int64_t* s, void* w, void*) {{ kernel({", ".join(args)}); }}\n'


def artifact(region: Region, text: str, folder: Path, workspace: Dim = 0) -> Artifact:
    """The compiled text; the object is kept in the folder under its content's name."""
    whole = text.replace("#include <kernel.h>", (ZOO / "kernel.h").read_text().replace("#pragma once\n", ""))
    candidate = Candidate(region.signature.digest, Source("cpp", whole), "test")
    full = text + entry(region, bool(workspace))
    header = (ZOO / "kernel.h").read_text()
    path = folder / f"{hashlib.sha256((header + full + str(FLAGS)).encode()).hexdigest()[:20]}.so"
    if not path.exists():
        command = ["g++", *FLAGS, f"-I{ZOO}", "-x", "c++", "-", "-o", f"{path}.new"]
        done = subprocess.run(command, input=full, capture_output=True, text=True)
        if done.returncode:
            return Artifact(candidate, "", "", "ak_entry", log=done.stderr)
        Path(f"{path}.new").rename(path)
    sha = hashlib.sha256(path.read_bytes()).hexdigest()
    return Artifact(candidate, str(path), sha, "ak_entry", {"workspace": workspace})


@dataclass(frozen=True)
class Specimen:
    """A kernel of the zoo. `checks` are those of which one must name it; none for an honest kernel."""

    path: Path
    text: str
    region: Region
    checks: tuple[str, ...]
    workspace: Dim

    def build(self, folder: Path) -> Artifact:
        return artifact(self.region, self.text, folder, self.workspace)


def specimen(kind: str, name: str) -> Specimen:
    """The kernel in `zoo/<kind>/<name>.cpp`; its first lines say what it is."""
    path = ZOO / kind / f"{name}.cpp"
    text = path.read_text()
    found = dict(re.findall(r"^// (region|check|workspace): (.+)$", text, re.MULTILINE))
    function, arguments = re.fullmatch(r"(\w+)\((.*)\)", found["region"]).groups()  # type: ignore[union-attr]
    region = getattr(regions, function)(*([arguments.strip("'")] if arguments else []))
    workspace: Dim = found.get("workspace", 0)
    if isinstance(workspace, str) and workspace.isdigit():
        workspace = int(workspace)
    return Specimen(path, text, region, tuple(found.get("check", "").split()), workspace)


def names(kind: str) -> list[str]:
    return sorted(p.stem for p in (ZOO / kind).glob("*.cpp"))
