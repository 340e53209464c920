"""One small case of an accepted kernel as safetensors: inputs, its outputs, and what was expected.

The format (https://github.com/huggingface/safetensors): 8 bytes length, a JSON header, the tensors' bytes.
"""

from __future__ import annotations

import ctypes
import json
import struct
from collections.abc import Mapping

import torch

from torch_autokernel.core.types import canonical
from torch_autokernel.verify.bank import Prepared

_NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


def vectors(prepared: Prepared, outputs: tuple[torch.Tensor, ...], seed: int) -> bytes:
    """Tensors `input.i`, `output.i`, `eager.i`, `oracle.i` (float64 for float outputs), contiguous; the case as metadata."""
    tensors = {f"input.{i}": t for i, t in enumerate(prepared.inputs)}
    for i, (output, target) in enumerate(zip(outputs, prepared.expected.targets, strict=True)):
        tensors |= {f"output.{i}": output.view(target.eager.dtype), f"eager.{i}": target.eager, f"oracle.{i}": target.exact}
    return serialise(tensors, {"case": canonical(prepared.case.to_json()), "seed": str(seed)})


def serialise(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> bytes:
    """The tensors in safetensors' format."""
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    parts, at = [], 0
    for name, tensor in tensors.items():
        data = _bytes(tensor)
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [at, at + len(data)]}
        parts.append(data)
        at += len(data)
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(parts)


def _bytes(tensor: torch.Tensor) -> bytes:
    tensor = tensor.contiguous()
    return ctypes.string_at(tensor.data_ptr(), tensor.nbytes) if tensor.numel() else b""
