"""Kernels as torch operators `autokernel::k<content hash>`.

The name digests kernel, signature and ABI: a changed body is another operator. An operator never goes away within a process:
an evicted or unloadable kernel leaves one that runs the printed reference. Outputs are always fresh tensors with the strides
that the signature names.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.library import Library, register_fake

from torch_autokernel.capture.reference import load_reference, print_reference
from torch_autokernel.core import dims
from torch_autokernel.core.errors import AutoKernelError, GuardMiss
from torch_autokernel.core.types import CacheEntry, Signature

log = logging.getLogger(__name__)

Loader = Callable[[CacheEntry], Callable[..., tuple[torch.Tensor, ...]]]

MAX_ARGUMENTS = 64  # of an operator; torch supports no more

_LIBRARY = Library("autokernel", "FRAGMENT")
_OPERATORS: dict[str, Operator] = {}
_LOCK = threading.Lock()


def bind_sizes(signature: Signature, tensors: Sequence[torch.Tensor]) -> dict[str, Any]:
    """The symbols' values (ints or SymInts) under these tensors; nothing is checked."""
    values: dict[str, Any] = {}
    for kind in ("shape", "stride"):
        for spec, tensor in zip(signature.inputs, tensors, strict=True):
            have = tensor.shape if kind == "shape" else tensor.stride()
            for dim, size in zip(getattr(spec, kind), have, strict=True):
                if isinstance(dim, str) and dim.isidentifier():
                    values.setdefault(dim, size)
    return values


def empty_outputs(signature: Signature, values: dict[str, Any], device: torch.device | str) -> list[torch.Tensor]:
    """Uninitialised outputs with exactly the signature's shapes and strides."""
    out = []
    for spec in signature.output_specs:
        shape = [dims.evaluate(d, values) for d in spec.shape]
        stride = [dims.evaluate(s, values) for s in spec.natural_stride()]
        out.append(torch.empty_strided(shape, stride, dtype=getattr(torch, spec.dtype), device=device))
    return out


def run_reference(
    signature: Signature, function: Callable[..., Any], tensors: Sequence[torch.Tensor]
) -> tuple[torch.Tensor, ...]:
    """The reference's results as fresh tensors in the demanded strides."""
    values = bind_sizes(signature, tensors)
    with torch.no_grad():
        results = function(*tensors, *(values[s] for s in signature.symbols))
        outputs = empty_outputs(signature, values, tensors[0].device if tensors else "cpu")
        for output, result in zip(outputs, results, strict=True):
            output.copy_(result)
    return tuple(outputs)


class Operator:
    """One registered operator: loads its kernel on the first call, and falls back to the reference where it must."""

    def __init__(self, entry: CacheEntry, loader: Loader) -> None:
        self.entry = entry
        self.name = entry.op_name
        self._loader = loader
        self._single = len(entry.signature.output_specs) == 1
        self._call: Callable[..., tuple[torch.Tensor, ...]] | None = None
        self._reference: Callable[..., Any] | None = None
        self._warned = False

    @property
    def overload(self) -> Any:
        return getattr(torch.ops.autokernel, self.name).default

    def load(self) -> str | None:
        """Load the kernel unless it is loaded; the reason where that cannot be (then the reference serves)."""
        if self._call is not None:
            return None if self._call != self._run_reference else f"kernel {self.name} is evicted"
        try:
            from torch_autokernel.capture.index_guard import guarded  # imported here: it needs this module

            self._call = guarded(self.entry.signature, self._loader(self.entry))
        except (AutoKernelError, OSError) as error:
            self._call = self._run_reference
            reason = f"kernel {self.name} cannot be loaded: {error}"
            log.warning("%s; the reference runs", reason)
            return reason
        return None

    def evict(self) -> None:
        """From now on the reference runs under this name."""
        self._call = self._run_reference

    def impl(self, *tensors: torch.Tensor) -> Any:
        if self._call is None:
            self.load()
        try:
            results = self._call(*tensors)  # type: ignore[misc]
        except GuardMiss as miss:
            if not self._warned:
                self._warned = True
                log.warning("kernel %s does not take these tensors: %s; the reference runs", self.name, miss.message)
            results = self._run_reference(*tensors)
        return results[0] if self._single else results

    def fake(self, *tensors: torch.Tensor) -> Any:
        signature = self.entry.signature
        results = empty_outputs(signature, bind_sizes(signature, tensors), tensors[0].device if tensors else "cpu")
        return results[0] if self._single else tuple(results)

    def _run_reference(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if self._reference is None:
            self._reference = load_reference(print_reference(self.entry.signature))
        return run_reference(self.entry.signature, self._reference, tensors)


def callable_as_operator(signature: Signature) -> bool:
    """Whether the dispatcher can call it: an operator needs a tensor to dispatch on, and not too many. Other kernels serve
    direct calls only."""
    return 0 < len(signature.inputs) <= MAX_ARGUMENTS


def ensure(entry: CacheEntry, loader: Loader) -> Operator:
    """The operator of an entry that is `callable_as_operator`, registered once in the process."""
    name = entry.op_name
    found = _OPERATORS.get(name)
    if found is not None:
        return found
    with _LOCK:
        if name in _OPERATORS:
            return _OPERATORS[name]
        operator = Operator(entry, loader)
        args = ", ".join(f"Tensor x{i}" for i in range(len(entry.signature.inputs)))
        count = len(entry.signature.output_specs)
        result = "Tensor" if count == 1 else "(" + ", ".join(["Tensor"] * count) + ")"
        tags = (torch.Tag.pt2_compliant_tag, torch.Tag.needs_exact_strides)
        _LIBRARY.define(f"{name}({args}) -> {result}", tags=tags)
        _LIBRARY.impl(name, operator.impl, "CPU")
        register_fake(f"autokernel::{name}", operator.fake, lib=_LIBRARY)
        _OPERATORS[name] = operator
        return operator


def registered() -> dict[str, Operator]:
    """All operators of this process by name."""
    return dict(_OPERATORS)
