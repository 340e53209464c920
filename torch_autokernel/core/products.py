"""Matrix products as they stand in graphs."""

from __future__ import annotations

# Operation -> where its left operand stands among the arguments; the right one follows, before it stands what is added.
PRODUCTS = {"aten.mm.default": 0, "aten.bmm.default": 0, "aten.addmm.default": 1, "aten.baddbmm.default": 1}

# Attention as one operation of torch's; its second result, the logarithms of the sums, is for the gradient.
ATTENTION = "aten._scaled_dot_product_flash_attention_for_cpu.default"
