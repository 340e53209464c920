"""Large constant matrices of a loop in panels, and the text of sweeps that read and write them so."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from torch_autokernel.core.dims import Dim
from torch_autokernel.core.types import DTYPE_BYTES
from torch_autokernel.propose import ir
from torch_autokernel.propose.cell import TIME
from torch_autokernel.propose.emit import SweepText
from torch_autokernel.propose.index import Affine, Range
from torch_autokernel.propose.pull import Inst
from torch_autokernel.propose.sweeps import Root, Segment
from torch_autokernel.propose.text import affine_text, size_text
from torch_autokernel.propose.values import BITS, Scope


@dataclass(frozen=True)
class Panels:
    """How a packed matrix lies: `wide` columns of all its rows side by side, then the next ones. Read down a panel, memory
    goes by in order; rows a power of two apart would meet in the same few lines of the cache."""

    rows: int
    columns: int
    wide: int

    @property
    def elements(self) -> int:
        return self.rows * -(-self.columns // self.wide) * self.wide

    def place(self, at: Affine) -> tuple[Affine, Affine]:
        """Row and column of an offset in the matrix as it would lie without panels."""
        parts: tuple[list[tuple[str, Dim]], list[tuple[str, Dim]]] = ([], [])
        for axis, step in at.terms:
            if not isinstance(step, int) or step < 0 or step >= self.columns and step % self.columns:
                raise NoPanels
            parts[step < self.columns].append((axis, step // self.columns if step >= self.columns else step))
        if not isinstance(at.const, int) or at.const < 0:
            raise NoPanels
        row, column = divmod(at.const, self.columns)
        return Affine.of(dict(parts[0]), row), Affine.of(dict(parts[1]), column)


TO_AND_FRO = 1 << 18  # bytes of panels that a step reads, from which on they are walked to and fro


class NoPanels(Exception):
    """A packed matrix is read in a way that panels do not serve."""


class Quiet(SweepText):
    """Sweeps inside a parallel region. Offsets into packed matrices are told in panels."""

    fused = True
    roomy = False
    pure = False  # states are overwritten where they are read
    panels: Mapping[str, Panels] = {}
    afar: Collection[str] = ()  # inputs that come from memory and not from a cache
    in_place: Collection[str] = ()  # results that lie where their states lie

    def _pragma(self, depth: int) -> None:
        return

    def _write_rows(self, ranges: dict[str, Range], groups: list[list[Segment]]) -> None:
        """Tiles of rows go inside the vector axis: what they share stays in the first cache. Panels that are more than a second
        cache holds are walked to and fro, so that a step begins with those that it has."""
        inside = [a for a in (self.sweep.tiled,) if a in self.rows and self.vector in self.rows]
        outer = [a for a in self.rows if a != self.vector and a not in inside]
        turns = self.vector in self.rows and not self.sweep.cuts and self._read() >= TO_AND_FRO
        if not inside and not (turns and not outer):
            super()._write_rows(ranges, groups)
            return

        def step() -> None:
            way = f"each_way<L>({TIME[1:]} & 1, " if turns else "each<L>("
            with self.out.block(f"{way}0, {size_text(self.sizes[self.vector])}, [&](int64_t j, auto m) AK_BODY", "});"):
                self._around([self.loop(a, self.whole(a)) for a in inside], lambda: self.row_body(groups[0]))

        self._around([self.loop(a, self.whole(a)) for a in outer], step)

    def _read(self) -> int:
        """Bytes of packed matrices that a step of the loop reads here."""
        if TIME not in self.former.outer:
            return 0
        packed = {(i.tensor, i.at): i for i in self.former.loads(self.sweep) if i.tensor in self.panels}
        return sum(DTYPE_BYTES[i.dtype] * self.elements([self.sweep.sizes[a] for a in i.axes]) for i in packed.values())

    def _along(self, root: Root) -> bool:
        return root.target not in self.in_place and super()._along(root)

    def _in_panels(self, tensor: str, at: Affine) -> tuple[str, int]:
        """The pointer, and the step from lane to lane."""
        panels = self.panels[tensor]
        row, column = panels.place(at)
        along, step = column.coefficient(self.vector or ""), row.coefficient(self.vector or "")
        if along not in (0, 1) or not isinstance(step, int) or along and self.vector in self.sweep.cuts:
            raise NoPanels
        if along and (column.const % panels.wide or any(c % panels.wide for a, c in column.terms if a != self.vector)):
            raise NoPanels
        for axis, each in column.terms:  # merged axes run on into the next row
            size = self.sizes.get(axis)
            if not isinstance(size, int) or not isinstance(each, int) or each * (size - 1) >= panels.columns:
                raise NoPanels
        r, c = affine_text(row, self.axis), affine_text(column, self.axis)
        text = f"{tensor} + ({c}) / {panels.wide} * {panels.rows * panels.wide} + ({r}) * {panels.wide} + ({c}) % {panels.wide}"
        return text, along or step * panels.wide

    def _load(self, inst: Inst, scope: Scope, element: str = "") -> str:
        if self._comes_next(inst):
            self.fetch_ahead(inst, TIME, scope)
        text = super()._load(inst, scope, element)
        return f"in_registers({text})" if self.sweep.tile and not self.inner and self.wide(inst) else text

    def _comes_next(self, load: Inst) -> bool:
        """Whether the load is a run out of memory that the next step reads elsewhere: it is fetched while this one computes."""
        if load.tensor not in self.afar or TIME not in load.at.axes or any(a[0] == "@" for a in load.at.axes):
            return False
        return bool(self.vector) and load.at.coefficient(self.vector) == 1

    def _at(self, tensor: str, dtype: str, at: Affine, scope: Scope, element: str = "") -> str:
        if tensor not in self.panels:
            return super()._at(tensor, dtype, at, scope, element)
        where, step = self._in_panels(tensor, at)
        kind = f"ak::{element or ir.ELEMENT[dtype]}"
        if step == 0:
            return f"get<{kind}>({where})"
        return f"get<{kind}>({where}, m)" if step == 1 else f"get_strided<{kind}>({where}, {step}, m)"

    def store(
        self, tensor: str, dtype: str, at: Affine, text: str, wide: bool, ctype: str, fn: str = "", last: bool = True
    ) -> None:
        if tensor not in self.panels:
            super().store(tensor, dtype, at, text, wide, ctype, fn, last)
            return
        where, step = self._in_panels(tensor, at)
        kind = f"ak::{BITS if ctype == BITS else ir.ELEMENT[dtype]}"
        more = f", {step}, m" if step > 1 else ", m" if step else ""
        value = self.spread(text, wide, ctype) if step else text
        self.out(f"put{'_strided' if step > 1 else ''}<{kind}>({where}, {value}{more});")


class Before(Quiet):
    """Sweeps before the parallel region: they are shared out themselves."""

    def _pragma(self, depth: int) -> None:
        SweepText._pragma(self, depth)

    def _write_rows(self, ranges: dict[str, Range], groups: list[list[Segment]]) -> None:
        """A panel after the other, so that what is read across its rows is read while it is in the first cache."""
        if self.vector not in self.rows or self.sweep.cuts or any(r.target not in self.panels for r in self.sweep.roots):
            SweepText._write_rows(self, ranges, groups)
            return
        size = size_text(self.sizes[self.vector])
        inside = [self.loop(a, self.whole(a)) for a in self.rows if a != self.vector]

        def panel() -> None:
            with self.out.block(f"each<L>(b * L, least({size}, (b + 1) * L), [&](int64_t j, auto m) AK_BODY", "});"):
                self._around(inside, lambda: self.row_body(groups[0]))

        self.nested([f"for (int64_t b = 0; b < cdiv({size}, L); ++b)"], panel)
