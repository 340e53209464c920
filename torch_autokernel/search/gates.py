"""Reasons not to search a region at all. A gate saves effort; it never lets a kernel through."""

from __future__ import annotations

import math

from torch_autokernel.core import dims
from torch_autokernel.core.products import PRODUCTS
from torch_autokernel.core.types import DTYPE_BYTES, Arch, Region
from torch_autokernel.verify.cases import loop_of, steps
from torch_autokernel.verify.floor import compulsory_bytes, multiply_adds

# An operator that Python implements costs about 6 us a call in a compiled graph (3 us for the dispatcher, 3 us for the
# outputs and the call), which Inductor's own kernels do not pay. Inductor moves data that fits a cache at 10 bytes a
# nanosecond or better, so below 60 kB the whole region costs Inductor less than calling an operator.
CALL_NS = 6000.0
BASELINE_BYTES_PER_NS = 10.0
# What torch's matrix products do a nanosecond on two threads: in float32, and in low precision without units for it.
PRODUCT_NS = 1000.0  # a call of torch's product of small matrices, which each step of an unrolled loop makes
MULTIPLY_ADDS_PER_NS = {"float32": 60.0, "bfloat16": 6.0, "float16": 6.0}


def expected_ns(region: Region) -> float:
    """Roughly what the region takes without a kernel of ours."""
    rate = MULTIPLY_ADDS_PER_NS.get(region.signature.output_specs[0].dtype, 60.0)
    return compulsory_bytes(region) / BASELINE_BYTES_PER_NS + multiply_adds(region) / rate + _steps_ns(region)


def _steps_ns(region: Region) -> float:
    """What a loop's steps take as they are: calls of products, states read and written."""
    loop = loop_of(region.signature)
    if loop is None:
        return 0.0
    _steps, inits, indexed, outside, body, nexts, _outs = loop.args
    products = sum(target in PRODUCTS for target, *_ in body)
    made = [body[k - len(inits) - len(indexed) - len(outside)] for k in nexts if k >= len(inits) + len(indexed) + len(outside)]
    states = sum(math.prod(dims.evaluate(d, region.sizes) for d in shape) * DTYPE_BYTES[dtype] for *_, shape, dtype in made)
    return steps(region.signature, region.sizes) * (products * PRODUCT_NS + 2 * states / BASELINE_BYTES_PER_NS)


def too_small(region: Region, _arch: Arch) -> str | None:
    """Why the region cannot pay for the call of an operator, or None."""
    if region.direct:  # nothing is too small: a call through torch.compile alone costs more than ten of ours
        return None
    if (expected := expected_ns(region)) < CALL_NS:
        return (f"too small: it moves {compulsory_bytes(region)} bytes, about {expected / 1e3:.1f} us of work; calling an "
                f"operator costs {CALL_NS / 1e3:.0f} us")  # fmt: skip
    return None


def empty(region: Region, _arch: Arch) -> str | None:
    """Why there is nothing to compute, or None."""
    if any(s.numel(region.sizes) == 0 for s in region.signature.output_specs):
        return "an output has no elements at these sizes"
    return None


GATES = (empty, too_small)


def refusal(region: Region, arch: Arch) -> str | None:
    """The first gate's reason, or None."""
    return next((reason for gate in GATES if (reason := gate(region, arch))), None)
