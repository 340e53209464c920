"""Rows in tiles, where some tensors lie with another axis side by side than the one along which vectors run.

A transposed operand read element by element costs a cache line for each. Here the rows of a tile are as many as share a few
lines, and what lies turned goes through a small square of its own: turned in registers before the tile's rows are computed, or
behind them where it is a result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch_autokernel.core.types import DTYPE_BYTES
from torch_autokernel.propose import ir
from torch_autokernel.propose.index import Affine
from torch_autokernel.propose.rows_together import TogetherText
from torch_autokernel.propose.sweeps import Segment, reach
from torch_autokernel.propose.text import affine_text, size_text

LINE = 64  # bytes
RUN = 4 * LINE  # bytes of a column: one line alone is slow where columns lie pages apart
COLUMNS = 64  # of a tile, along the vector axis
LEAST = 8  # elements along either axis
MOST = 8  # turned tensors


class TurnedText(TogetherText):
    """Prints the rows of a sweep in tiles."""

    def axis_across(self, segments: Sequence[Segment]) -> str:
        """The axis of rows that lies side by side in what does not along the vector axis; empty where there is none."""
        sweep, v = self.sweep, self.vector
        if not self.schedule.tile or not self.plain() or sweep.content or self.pieces or sweep.across or v not in self.rows:
            return ""
        if sweep.reduced_rows is not None or self.former.outer or self.former.hint(self.sizes[v]) < LEAST:
            return ""
        found = self._turned(segments)
        votes = {a: sum(at.coefficient(a) == 1 for _tensor, _dtype, at in found) for a in self.rows if a != v}
        good = [a for a in votes if votes[a] and a not in sweep.cuts and self.former.hint(self.sizes[a]) >= LEAST]
        best = max(good, key=lambda a: votes[a], default="")
        return best if best and votes[best] <= MOST else ""

    def _turned(self, segments: Sequence[Segment]) -> list[tuple[str, str, Affine]]:
        """What is read and written with steps along the vector axis: tensor, dtype and offset, each once."""
        tops = [value for s in segments for value in s.values.values()]
        read = [(i.tensor, i.dtype, i.at) for i in sorted(reach(tops), key=lambda i: i.id) if i.kind == "load"]
        written = [(r.target, r.dtype, r.store_at) for r in self.sweep.roots]
        return [access for access in dict.fromkeys((*read, *written)) if self._steps_over(access[2])]

    def _steps_over(self, at: Affine) -> bool:
        """Whether neighbours along the vector axis lie apart, at distances that do not depend on data."""
        return at.coefficient(self.vector) not in (0, 1) and not any(a[0] == "@" for a in at.axes)

    def write_tiles(self, group: list[Segment], across: str, outer: Sequence[str]) -> None:
        """The segment's rows in tiles: rows along `across`, columns along the vector axis. A segment in which nothing lies
        turned (where others are cut off) is printed so too."""
        turned = [access for access in self._turned(group) if access[2].coefficient(across) == 1]
        v, u = self.axis[self.vector], self.axis[across]
        rows, columns = self.range(across, group[0].ranges), self.range(self.vector, group[0].ranges)
        high = RUN // max((DTYPE_BYTES[dtype] for _tensor, dtype, _at in turned), default=4)
        loops = [self.loop(a, self.range(a, group[0].ranges)) for a in outer if a != across]
        for name, r, step in ((v, columns, COLUMNS), (u, rows, high)):
            low, end = size_text(r.low), size_text(r.high)
            loops.append(f"for (int64_t {name}s = {low}; {name}s < {end}; {name}s += {step})")

        def tile() -> None:
            self.out(f"const int64_t {v}n = least({COLUMNS}, {size_text(columns.high)} - {v}s);")
            self.out(f"const int64_t {u}n = least({high}, {size_text(rows.high)} - {u}s);")
            results = {r.target for r in self.sweep.roots}
            later = [self._square(*access, across, high, access[0] in results) for access in turned]
            self.tiles = {(tensor, at): text for (tensor, _dtype, at), (text, _leaves) in zip(turned, later, strict=True)}
            with self.out.block(f"for (int64_t {u} = {u}s; {u} < {u}s + {u}n; ++{u})"):
                self.rows_of([group], f"{v}s", f"{v}s + {v}n")
            self.out(*(leaves for _text, leaves in later if leaves))
            self.tiles = {}

        self.nested(loops, tile)

    def _square(self, tensor: str, dtype: str, at: Affine, across: str, high: int, result: bool) -> tuple[str, str]:
        """Opens the square of a tensor: what is read is in it from now on. The elements in it, and the line by which a result
        leaves."""
        v, u, name, element = self.axis[self.vector], self.axis[across], self.fresh("t"), ir.C_MEMORY[dtype]
        names = self.axis | {self.vector: f"{v}s", across: f"{u}s"}
        there, step = f"{tensor} + {affine_text(at, names)}", size_text(at.coefficient(self.vector))
        here = f"{name} + ({u} - {u}s) * {COLUMNS} + ({v} - {v}s)"
        self.out(f"alignas({LINE}) {element} {name}[{high * COLUMNS}];")
        if result:
            return here, f"turned({there}, {step}, {name}, {COLUMNS}, {v}n, {u}n);"
        self.out(f"turned({name}, {COLUMNS}, {there}, {step}, {u}n, {v}n);")
        return here, ""

    def nested(self, loops: list[str], body: Callable[[], None]) -> None:
        """The loops, shared out among threads, around the body."""
        raise NotImplementedError

    def rows_of(self, groups: list[list[Segment]], low: str = "", high: str = "") -> None:
        """The bodies of a row; a part of it along the vector axis where its ends are given."""
        raise NotImplementedError

    def plain(self) -> bool:
        """Whether a step may be done twice."""
        raise NotImplementedError
