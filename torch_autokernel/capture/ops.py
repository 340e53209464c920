"""Which post-grad operations a region may hold, and what each does to shapes.

Data only. `kind(target)` is one of `pointwise`, `view`, `reduction`, `shaped`, `scan`, `source`, `pool`, `convolution`,
`product`, `attention`, or None: not for us. Products and torch's attention are only for regions that are attention
(`attention.py`) or that hold one product (`products.py`); which pools and convolutions a region may hold says `windows.py`. A
test checks that the built-in generator can lower every name here.
"""

from __future__ import annotations

import operator
from typing import Any

from torch_autokernel.core.indexing import INDEXED
from torch_autokernel.core.products import ATTENTION, PRODUCTS

POINTWISE = frozenset((
    "aten.abs.default", "aten.add.Tensor", "aten.add.Scalar", "aten.sub.Tensor", "aten.sub.Scalar", "aten.mul.Tensor",
    "aten.mul.Scalar", "aten.div.Tensor", "aten.div.Scalar", "aten.neg.default", "aten.reciprocal.default",
    "aten.sqrt.default", "aten.rsqrt.default", "aten.exp.default", "aten.exp2.default", "aten.expm1.default",
    "aten.log.default", "aten.log2.default", "aten.log1p.default", "aten.sigmoid.default", "aten.tanh.default",
    "aten.erf.default", "aten.sin.default", "aten.cos.default", "aten.relu.default", "aten.silu.default", "aten.gelu.default",
    "aten.pow.Tensor_Scalar", "aten.square.default", "aten.sign.default", "aten.floor.default", "aten.ceil.default",
    "aten.round.default", "aten.trunc.default", "aten.maximum.default", "aten.minimum.default", "aten.clamp.default",
    "aten.clamp_min.default", "aten.clamp_max.default", "aten.where.self", "aten.where.ScalarSelf", "aten.where.ScalarOther",
    "aten.where.Scalar", "aten.masked_fill.Scalar", "aten.eq.Tensor", "aten.eq.Scalar", "aten.ne.Tensor", "aten.ne.Scalar",
    "aten.lt.Tensor", "aten.lt.Scalar", "aten.le.Tensor", "aten.le.Scalar", "aten.gt.Tensor", "aten.gt.Scalar",
    "aten.ge.Tensor", "aten.ge.Scalar", "aten.logical_and.default", "aten.logical_or.default", "aten.logical_not.default",
    "aten.logical_xor.default", "aten.bitwise_and.Tensor", "aten.bitwise_or.Tensor", "aten.bitwise_xor.Tensor",
    "aten.bitwise_not.default", "aten.isnan.default", "aten.isinf.default", "aten.clone.default", "aten.fmod.Scalar",
    "aten.rsub.Scalar",
)) | {"prims.convert_element_type.default"}  # fmt: skip

VIEWS = frozenset((
    "aten.reshape.default", "aten.view.default", "aten.unsqueeze.default", "aten.squeeze.default", "aten.squeeze.dim",
    "aten.squeeze.dims", "aten.expand.default", "aten.permute.default", "aten.slice.Tensor", "aten.select.int",
    "aten.as_strided.default",
))  # fmt: skip

REDUCTIONS = frozenset((
    "aten.sum.dim_IntList", "aten.sum.default", "aten.mean.dim", "aten.mean.default", "aten.amax.default",
    "aten.amin.default", "aten.prod.dim_int", "aten.var_mean.correction", "aten.var.correction", "aten.any.dim",
    "aten.any.dims", "aten.argmax.default", "aten.argmin.default",
))  # fmt: skip

# Running sums and the like along one dimension, and the flips that their backward graphs put around them.
SCANS = frozenset((
    "aten.cumsum.default", "aten.cumprod.default", "aten.logcumsumexp.default",
))  # fmt: skip

SHAPED = frozenset((
    "aten.cat.default", "aten.slice_scatter.default", "aten.constant_pad_nd.default", "aten.gather.default",
    "aten.embedding.default", "aten.flip.default", "prims.rev.default", *INDEXED,
))  # fmt: skip

INDICES = "prims._low_memory_max_pool_offsets_to_indices.default"
POOLS = frozenset((
    "aten.max_pool2d_with_indices.default", "prims._low_memory_max_pool_with_offsets.default", "aten.avg_pool2d.default",
    "aten.avg_pool3d.default", "aten.max_pool3d_with_indices.default", "aten.avg_pool2d_backward.default", INDICES,
    "aten.scatter_add.default",
))  # fmt: skip
CONVOLUTION = "aten.convolution.default"

# What a loop's body may hold besides: products with the state, done by the loop's kernel itself.
IN_LOOPS = frozenset((
    *PRODUCTS, "aten.unbind.int", "aten.split.Tensor", "aten.split_with_sizes.default", "aten.mv.default",
    "aten.any.dim", "aten.any.default", "aten.all.dim", "aten.all.default", "aten.any.dims", "aten.all.dims",
))  # fmt: skip
# What stands neither in a loop nor beside one: these depend on sizes or memory in ways that two lengths do not tell.
UNLIKE_LOOPS = frozenset((
    "aten.as_strided.default", "aten.gather.default", "aten.embedding.default", "prims.iota.default", ATTENTION, *INDEXED,
))  # fmt: skip
LOOP = "loop"

SOURCES = frozenset(("aten.full.default", "aten.scalar_tensor.default", "prims.iota.default"))

GETITEM = "getitem"

# What Inductor calls as a whole: it never fuses across these on a CPU, so a region loses nothing by ending there.
EXTERN_PREFIXES = ("aten.mm.", "aten.addmm.", "aten.bmm.", "aten.baddbmm.", "aten.convolution", "aten._scaled_dot_product",
                   "aten._flash", "aten.sort", "aten.topk", "mkldnn.", "mkl.", "aten._convolution", "aten._fused",
                   "aten.lstm", "aten.gru", "aten._embedding_bag", "autokernel.", "aten.copy_.", "aten._trilinear")  # fmt: skip

DTYPES = frozenset(("float32", "bfloat16", "float16", "float64", "int64", "int32", "uint8", "int8", "int16", "bool"))
FLOATS = frozenset(("float32", "bfloat16", "float16", "float64"))


def name_of(target: Any) -> str:
    """`aten.add.Tensor` for an overload, `getitem` for tuple access, else the text of the target."""
    return GETITEM if target is operator.getitem else str(target)


def kind(name: str) -> str | None:
    """The class of an operation, or None where a region must end."""
    if name in POINTWISE:
        return "pointwise"
    if name in VIEWS:
        return "view"
    if name in REDUCTIONS:
        return "reduction"
    if name in SCANS:
        return "scan"
    if name in SHAPED:
        return "shaped"
    if name in SOURCES:
        return "source"
    if name in PRODUCTS:
        return "product"
    if name in POOLS:
        return "pool"
    if name == CONVOLUTION:
        return "convolution"
    if name == ATTENTION:
        return "attention"
    return GETITEM if name == GETITEM else None


def is_extern(name: str) -> bool:
    return name.startswith(EXTERN_PREFIXES)
