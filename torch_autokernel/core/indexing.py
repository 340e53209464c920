"""Operations that read where values say."""

INDEXED = frozenset(("aten.index.Tensor", "aten._unsafe_index.Tensor"))  # x[:, i, j], tensors of integers side by side
