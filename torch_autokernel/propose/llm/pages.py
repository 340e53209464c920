"""Prompts: pages of text beside this package, filled in once. What is filled in is never read as a page."""

from __future__ import annotations

import functools
import re
from importlib import resources
from string import Template

from torch_autokernel.core.types import Arch, Region


@functools.cache
def _page(name: str) -> str | None:
    file = resources.files("torch_autokernel.propose") / "prompts" / f"{name}.txt"
    return file.read_text(encoding="utf-8").strip() if file.is_file() else None


def fill(name: str, **values: str) -> str:
    """The page with its `$names` replaced; raises KeyError for a page or value that is missing."""
    page = _page(name)
    if page is None:
        raise KeyError(f"no prompt page named {name!r}")
    return Template(page).substitute(values).strip()


def language(name: str) -> str:
    """The page of a language, or a general one."""
    return fill(f"language_{name}") if _page(f"language_{name}") else fill("language_other", language=name)


def region(of: Region, arch: Arch, prototype: str) -> str:
    sizes = ", ".join(f"{k} = {v}" for k, v in of.sizes.items()) or "fixed"
    reference = of.reference.replace("END REFERENCE", "END_REFERENCE").strip()
    return fill("region", reference=reference, prototype=prototype, sizes=sizes, machine=machine(arch))


def machine(arch: Arch) -> str:
    facts = [arch.name or arch.key, *(f"{k} {v}" for k, v in sorted(arch.limits.items()))]
    if arch.features:
        facts.append("features " + " ".join(arch.features))
    if arch.peak_bytes_per_s:
        facts.append(f"memory {arch.peak_bytes_per_s / 1e9:.0f} GB/s")
    return ", ".join(facts)


def fenced(text: str, name: str) -> str:
    """The text as a block that no backticks in it can close."""
    longest = max((len(m) for m in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{name}\n{text.rstrip()}\n{fence}"
