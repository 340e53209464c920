"""Windows that slide over images: pools and convolutions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

MOST_TAPS = 27  # of a pool, three in each of three dimensions; Inductor writes 25 out
MOST_MEETING = 9  # windows of a pool that share an element of the image, where its gradient is a sum over them
MOST_PRODUCTS = 32  # that make one element of a convolution


@dataclass(frozen=True, slots=True)
class Window:
    """One number for each dimension that the window slides along."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]

    @staticmethod
    def of(
        kernel: Sequence[int], stride: Sequence[int] | None = None, padding: Sequence[int] | None = None,
        dilation: Sequence[int] | None = None,
    ) -> Window:  # fmt: skip
        """With torch's defaults: a pool's stride is its kernel; one number stands for all dimensions."""
        n = len(kernel)

        def each(value: Sequence[int] | None, default: tuple[int, ...]) -> tuple[int, ...]:
            value = tuple(int(v) for v in value or default)
            return value * n if len(value) == 1 else value

        kernel = tuple(int(k) for k in kernel)
        return Window(kernel, each(stride, kernel), each(padding, (0,)), each(dilation, (1,)))

    def count(self, d: int, size: int, ceil: bool) -> int:
        """How many windows there are along dimension d of this size; with `ceil` the last one may stand out, if it begins
        within the image or the padding before it."""
        k, s, p = self.kernel[d], self.stride[d], self.padding[d]
        room = size + 2 * p - self.dilation[d] * (k - 1) - 1
        count = (room + s - 1 if ceil else room) // s + 1
        return count - 1 if ceil and (count - 1) * s >= size + p else count

    @property
    def meeting(self) -> int:
        """In how many windows an element may be; without dilation."""
        return math.prod(-(-k // s) for k, s in zip(self.kernel, self.stride, strict=True))

    @property
    def overlaps(self) -> bool:
        """Whether an element may be in two windows."""
        return any(d * (k - 1) >= s for k, s, d in zip(self.kernel, self.stride, self.dilation, strict=True))
