"""One sweep as C++ text: its outer loops, its threads, and the partial results of reductions over rows."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import cast

from torch_autokernel.core.dims import Dim
from torch_autokernel.propose import ir
from torch_autokernel.propose.functions import neutral
from torch_autokernel.propose.index import ZERO, Affine, Range, mul, product
from torch_autokernel.propose.passes import RUN
from torch_autokernel.propose.pull import Inst
from torch_autokernel.propose.sweeps import Root, Segment, gathers, reach
from torch_autokernel.propose.text import Writer, affine_text, parenthesised, size_text
from torch_autokernel.propose.turned import TurnedText
from torch_autokernel.propose.values import Parked

LEAST_LANES = 8
SHORT_RUN = 16  # steps


@dataclass
class Partial:
    """Where a late reduction gathers: `extent` elements for each of the kept rows and blocks.

    `layout` is the place of an element within them (an array of column sums), empty for a single number; that is
    gathered in lanes where `lanes` is set. `part` is what is wanted of squared deviations."""

    root: Root
    number: int
    kept: Dim
    extent: Dim
    layout: Affine
    lanes: bool
    ctype: str
    part: str = "m2"

    @property
    def fold(self) -> str:
        return self.root.fold

    @property
    def kept_as(self) -> str:
        """The C++ type of a block's result."""
        return "moments" if gathers(self.root) or self.part == "total" else self.ctype

    @property
    def exact(self) -> bool:
        """Whether a single number is gathered in double precision."""
        return self.fold == "sum" and self.ctype == "float" and not self.layout.terms


@dataclass(frozen=True)
class Scratch:
    """One row of a value for each block of rows: `count` elements for each of the kept rows and blocks."""

    name: str
    ctype: str
    count: Dim
    kept: Dim = 1


class SweepText(TurnedText):
    """Prints a whole sweep."""

    partials: list[Partial]
    rooms: list[Scratch]
    untold: list[Root]  # sums that are gathered with squared deviations
    kept: Dim  # rows of which each has blocks of its own
    roomy = True  # rows may have scratch
    pure = True  # results lie apart from what is read
    runs = False  # column sums go through a second array

    def write(self) -> None:
        self.partials, self.rooms, self.kept = [], [], 1
        late = self.sweep.reduced_rows is not None
        affines = self.affines(self.tops, self.sweep.roots)
        keep = [a for a in self.rows if a not in self.gone]
        over = [a for a in self.rows if a in self.gone]
        keep, over = self.merged(keep, affines), self.merged(over, affines)
        self.rows = keep + over
        self.steps = self._steps()
        self.scope = {}
        self.emit_all([i for i in reach(self.tops) if not i.axes and not i.stage], self.scope)
        if late:
            self._write_late(keep, over)
        else:
            for ranges, groups in self._row_groups():
                self._write_rows(ranges, groups)
        if self.schedule.stream:
            self.out("stream_end();")

    def lanes(self) -> int:
        """The schedule's, halved while half of them hold every run along the vector axis that there is at the sizes at hand,
        or, where a step may be done twice, while no run fills them."""
        lanes, least = self.schedule.lanes, min(self.schedule.lanes, LEAST_LANES)
        longest = self.longest()
        while longest and lanes > least and (lanes > longest if self.plain() else lanes // 2 >= longest):
            lanes //= 2
        return lanes

    def longest(self) -> int:
        """The longest run along the vector axis at the sizes at hand; 0 where there is no such axis."""
        if not self.vector:
            return 0
        saved = dict(self.sizes), dict(self.axis)
        if self.plain():
            self.merged([a for a in self.rows if a not in self.gone], self.affines(self.tops, self.sweep.roots))
        runs = [self.range(self.vector, segment.ranges).size for group in self.sweep.segments for segment in group]
        self.sizes, self.axis = saved
        return max((self.former.hint(n) for n in runs), default=0)

    def plain(self) -> bool:
        """Whether a step may be done twice: each element is made from what is not written, and nothing is gathered."""
        return self.pure and all(r.kind in ("out", "keep") for r in self.sweep.roots)

    def _steps(self) -> str:
        """The loop over steps. In short runs what is left over is a large share; steps that overlap are not streamed."""
        longest = self.longest()
        return "each_whole" if self.plain() and longest % self.lanes() and longest < SHORT_RUN * self.lanes() else "each"

    def _row_groups(self) -> list[tuple[dict[str, Range], list[list[Segment]]]]:
        """Segments of the rows; those that differ only along the vector axis go into one nest."""
        groups: list[tuple[dict[str, Range], list[list[Segment]]]] = []
        for group in self.sweep.segments:
            ranges = {a: r for a, r in group[0].ranges.items() if a in self.sweep.rows and a not in (self.vector, self.pieces)}
            if groups and groups[-1][0] == ranges:
                groups[-1][1].append(group)
            else:
                groups.append((ranges, [group]))
        return groups

    # ---- rows without anything gathered over them ----
    def _write_rows(self, ranges: dict[str, Range], groups: list[list[Segment]]) -> None:
        outer = [a for a in self.rows if a != self.vector]
        if across := self.axis_across([segment for group in groups for segment in group]):
            for group in groups:
                self.write_tiles(group, across, outer)
            return
        apart = bool(outer) and self._goes_strip_by_strip(outer)
        strip = apart or self.vector in self.rows and self._strips(outer)
        loops = [self.loop(a, self.range(a, ranges)) for a in outer]
        if strip:
            over = f"for (int64_t b = 0; b < cdiv({size_text(self.sizes[self.vector])}, {self.schedule.strip}); ++b)"
            loops.insert(0 if apart else len(loops), over)
        if outer and not strip and len(groups) == 1:
            if (made := self.rows_together(groups[0], outer[-1], self.range(outer[-1], ranges))) is not None:
                head, lines = made
                self.nested([*loops[:-1], head], lambda: self.out(*lines))
                return
        body, rooms = self._aside(groups, strip)

        def whole() -> None:
            self._open_rooms(rooms, "")
            self.out(*body)

        def block() -> None:
            self._open_rooms(rooms, "k")
            sizes = [size_text(self.sizes[a]) for a in outer]
            self._rows_of_block(sizes)
            with self.out.block("for (int64_t r = first; r < end; ++r)"):
                self._decode([self.axis[a] for a in outer], sizes)
                self.out(*body)

        if rooms and loops:
            self.nested([f"for (int64_t k = 0; k < {self.schedule.blocks}; ++k)"], block)
        else:
            self.nested(loops, whole)

    def _aside(self, groups: list[list[Segment]], strip: bool) -> tuple[list[str], list[Scratch]]:
        """The bodies of rows, for later, and the scratch that they need."""
        out, first, self.out = self.out, len(self.rooms), Writer()
        self._row_bodies(groups, strip)
        lines, self.out = self.out.lines, out
        return lines, self.rooms[first:]

    def scratch(self, value: Inst, since: int) -> Parked | None:
        """A row of scratch; blocks of rows take turns, so that as much is needed as there are blocks."""
        if not self.roomy or self.kept != 1 or frozenset(self.sweep.cuts) & frozenset(self.sweep.rows):
            return None  # each of the kept rows would need blocks of its own
        at, extent = self._row_layout()
        self.rooms.append(Scratch(self.fresh("row"), value.ctype, extent, self.kept))
        return Parked(self.rooms[-1].name, ir.STORED_AS[value.ctype], at, since)

    def _row_layout(self) -> tuple[Affine, Dim]:
        """Where an element lies in a row of its own, and how many elements that has."""
        at, extent = ZERO, cast(Dim, 1)
        for a in reversed(self.content):
            at = at + Affine.of({a: extent})
            extent = mul(extent, self.sweep.sizes[a])
        return at, extent

    def _open_rooms(self, rooms: list[Scratch], at: str) -> None:
        for s in rooms:
            where = f"m{s.name}" + (f" + {at} * {size_text(s.count)}" if at else "")
            self.out(f"{s.ctype}* {s.name} = {where};")

    def _rows_of_block(self, sizes: list[str]) -> None:
        """The rows from `first` to `end` are block k's."""
        blocks = self.schedule.blocks
        self.out(f"const int64_t rows = {' * '.join(sizes) or '1'};")
        self.out(f"const int64_t first = rows * k / {blocks}, end = rows * (k + 1) / {blocks};")

    def nested(self, loops: list[str], body: Callable[[], None]) -> None:
        """The loops, shared out among threads, around the body."""
        self._pragma(len(loops))
        self._around(loops, body)

    def _around(self, loops: list[str], body: Callable[[], None]) -> None:
        for head in loops[:-1]:
            self.out(head)
        with self.out.block(loops[-1] if loops else ""):
            body()

    def _strips(self, outer: list[str]) -> bool:
        """Whether the vector axis is to be shared out among threads too."""
        return self.vector not in self.sweep.cuts and self.elements([self.sizes[a] for a in outer]) < 4 * self.former.threads

    def _goes_strip_by_strip(self, outer: list[str]) -> bool:
        """Whether all rows go through one strip of the vector axis before the next one: for what they share."""
        if not self.schedule.apart or self.sweep.content or self.vector not in self.rows or self.vector in self.sweep.cuts:
            return False
        return any(self.vector in i.axes and not i.axes >= frozenset(outer) for i in reach(self.tops) if i.kind == "load")

    def _pragma(self, depth: int) -> None:
        work, least = product(self.sweep.sizes.values()), self.schedule.serial_below
        if not depth or (isinstance(work, int) and work <= least):
            return
        collapse = f" collapse({depth})" if depth > 1 else ""
        when = "" if isinstance(work, int) else f" if ({work} > {least})"
        self.out(f"#pragma omp parallel for{collapse} schedule(static){when}")

    def _row_bodies(self, groups: list[list[Segment]], strip: bool) -> None:
        if strip:
            end = size_text(self.range(self.vector, groups[0][0].ranges).high)
            self.rows_of(groups, f"b * {self.schedule.strip}", f"least({end}, (b + 1) * {self.schedule.strip})")
        else:
            self.rows_of(groups)

    def rows_of(self, groups: list[list[Segment]], low: str = "", high: str = "") -> None:
        """The bodies of a row; a part of it along the vector axis where its ends are given."""
        together = self.pieces in self.sweep.rows
        for group in self._at_once(groups) if together else groups:
            if self.vector not in self.rows:
                self.row_body(group)
                continue
            r = self.range(self.vector, group[0].ranges)
            ends = f"{low or size_text(r.low)}, {high or size_text(r.high)}"
            whole, self.scope = self.scope, dict(self.scope)
            self.emit_all(self._same_in_all_steps(group), self.scope)
            alone = together and r.size == 1  # an image's edge: no step of lanes
            with self.out.block("") if alone else nullcontext():
                if alone:
                    self.out("constexpr int L = 1;")
                with self.out.block(f"{self.steps}<L>({ends}, [&](int64_t j, auto m) AK_BODY", "});"):
                    if together:
                        self.finish_all(group, list(range(len(self.sweep.roots))), [dict(self.scope) for _ in group], {})
                    else:
                        self.row_body(group)
            self.scope = whole

    def _at_once(self, groups: list[list[Segment]]) -> list[list[Segment]]:
        """The segments whose results lie side by side, for each stretch of the vector axis."""
        found: dict[Range, list[Segment]] = {}
        for segment in itertools.chain.from_iterable(groups):
            found.setdefault(segment.ranges[self.vector], []).append(segment)
        return list(found.values())

    def _same_in_all_steps(self, group: list[Segment]) -> list[Inst]:
        """What a row's steps have in common; the compiler may not know that stores leave it as it is. Where the row is in
        pieces, of which some may be empty, each keeps its own."""
        if self.pieces or self.vector in self.sweep.cuts:
            return []
        inside = frozenset((self.vector, *self.sweep.content))
        values = sorted(reach([v for segment in group for v in segment.values.values()]), key=lambda i: i.id)
        moving: set[Inst] = set()
        for i in values:  # operands first
            if i.kind in ("scan", "fold") or i.stage or i.axes & inside or not moving.isdisjoint(i.args):
                moving.add(i)
        return [i for i in values if i not in moving]

    # ---- reductions over rows ----
    def _write_late(self, keep: list[str], over: list[str]) -> None:
        outer = [a for a in over if a != self.vector]
        strip = self.vector in over and self._strips(outer)
        self.kept = product(self.sizes[a] for a in keep)
        late = [k for k, r in enumerate(self.sweep.roots) if r.role == "late"]
        beside = self.beside(sum(self.sweep.segments, []), late)
        self.untold = [self.sweep.roots[k] for k in beside]
        self.partials += [self._partial(self.sweep.roots[k]) for k in late if k not in beside]
        rows = product(self.sizes[a] for a in outer)
        many = isinstance(rows, str) or rows > 2 * RUN * self.schedule.blocks
        self.runs = many and any(p.layout.terms for p in self.partials)
        loops = [self.loop(a, self.whole(a)) for a in keep]
        loops.append(f"for (int64_t k = 0; k < {self.schedule.blocks}; ++k)")
        self.nested(loops, lambda: self._late_block(keep, outer, strip))
        known = {id(p.root.owner): p for p in self.partials}
        for p in self.partials:
            self._combine(p, keep)
        for k, gathering in beside.items():
            p = known[id(self.sweep.roots[gathering].owner)]
            self._combine(replace(p, root=self.sweep.roots[k], part="total"), keep)

    def _partial(self, root: Root) -> Partial:
        assert root.owner is not None
        layout, extent = self._row_layout() if root.axes & frozenset(self.sweep.content) else (ZERO, 1)
        lanes = not layout.terms and self.vector in root.axes
        self.counter[0] += 1
        return Partial(root, self.counter[0], self.kept, extent, layout, lanes, root.owner.ctype)

    def _kept_row(self, keep: list[str]) -> str:
        at = ""
        for a in keep:
            at = f"({at} * {size_text(self.sizes[a])} + {self.axis[a]})" if at else self.axis[a]
        return at

    def _late_block(self, keep: list[str], outer: list[str], strip: bool) -> None:
        row, blocks = self._kept_row(keep), self.schedule.blocks
        at = f"({row} * {blocks} + k)" if row else "k"
        inside = [(self._inside(ranges), *self._aside(groups, strip)) for ranges, groups in self._row_groups()]
        self._open_rooms([room for _condition, _body, rooms in inside for room in rooms], at)
        for p in self.partials:
            self._open_partial(p, at)
        sizes = [size_text(self.sizes[a]) for a in outer]
        if strip:
            sizes.append(f"cdiv({size_text(self.sizes[self.vector])}, {self.schedule.strip})")
        self._rows_of_block(sizes)
        if self.runs:
            self.out(f"const int64_t run = run_length(rows / {blocks});")
        names = [self.axis[a] for a in outer] + (["b"] if strip else [])
        with self.out.block("for (int64_t r = first; r < end; ++r)"):
            self._decode(names, sizes)
            for p in self.partials:
                if p.lanes and not gathers(p.root):
                    self.accumulator(f"t{p.number}", p.fold, p.ctype, True)
            for condition, body, _rooms in inside:
                with self.out.block(condition):
                    self.out(*body)
            self._close_row()
        for p in self.partials:
            if not p.layout.terms:
                self.out(f"p{p.number}[{at}] = {self._whole_block(p)};")

    def _inside(self, ranges: dict[str, Range]) -> str:
        """The condition under which a row lies in these ranges, for rows that are cut."""
        cut = [(self.axis[a], r) for a, r in ranges.items() if a in self.sweep.cuts]
        tests = [f"{size_text(r.low)} <= {v} && {v} < {size_text(r.high)}" for v, r in cut]
        return f"if ({' && '.join(tests)})" if tests else ""

    def _open_partial(self, p: Partial, at: str) -> None:
        n = size_text(p.extent)
        if p.layout.terms:
            zero = neutral(p.fold, p.ctype)
            self.out(f"{p.ctype}* q{p.number} = p{p.number} + {at} * {n};", f"fill(q{p.number}, {n}, {zero});")
            if self.runs and p.fold == "sum":
                self.out(f"{p.ctype}* t{p.number} = o{p.number} + {at} * {n};", f"fill(t{p.number}, {n}, {zero});")
        else:
            self.accumulator(f"q{p.number}", p.fold, "double" if p.exact else p.ctype, p.lanes)

    def _close_row(self) -> None:
        """What the row gathered goes into the block's sums; column sums do so once in a run of rows."""
        for p in self.partials:
            if p.lanes and not gathers(p.root):
                t = f"to<double>(t{p.number})" if p.exact else f"t{p.number}"
                self.out(f"q{p.number} = {self.combine(p.fold, f'q{p.number}', t)};")
        arrays = [p for p in self.partials if p.layout.terms and p.fold == "sum"] if self.runs else []
        if arrays:
            with self.out.block("if (r % run == run - 1 || r + 1 == end)"):
                for p in arrays:
                    self.out(f"pour(q{p.number}, t{p.number}, {size_text(p.extent)});")

    def _whole_block(self, p: Partial) -> str:
        if gathers(p.root):
            return f"q{p.number}.part()"
        return self.all_lanes(p.fold, f"q{p.number}") if p.lanes else f"q{p.number}"

    def _decode(self, names: list[str], sizes: list[str]) -> None:
        """Loop variables from the number of the row."""
        left = "r"
        for k in range(len(names) - 1, 0, -1):
            self.out(f"const int64_t {names[k]} = {left} % {parenthesised(sizes[k])};")
            left = f"({left} / {parenthesised(sizes[k])})"
        if names:
            self.out(f"const int64_t {names[0]} = {left};")

    def gather_late(self, root: Root, text: str, wide: bool, ctype: str) -> None:
        if root in self.untold:
            return
        p = next(p for p in self.partials if p.root.owner is root.owner)
        if gathers(root):
            self.out(f"q{p.number}.step({self.spread(text, wide, ctype)}, m);")
            return
        if not p.layout.terms:
            target = f"t{p.number}" if p.lanes else f"q{p.number}"
            if p.lanes:
                text = self.existing(self.spread(text, wide, ctype), p.fold, ctype)
            self.out(f"{target} = {self.combine(p.fold, target, text)};")
            return
        array = "t" if self.runs and p.fold == "sum" else "q"
        where, element = f"{array}{p.number} + {affine_text(p.layout, self.axis)}", f"ak::{ir.ELEMENT[ir.STORED_AS[ctype]]}"
        if self.inner:
            new = self.combine(p.fold, f"get<{element}>({where}, m)", self.spread(text, wide, ctype))
            self.out(f"put<{element}>({where}, {new}, m);")
            return
        if self.vector:
            text = self.all_lanes(p.fold, self.existing(self.spread(text, wide, ctype), p.fold, ctype))
        self.out(f"*({where}) = {self.combine(p.fold, f'*({where})', text)};")

    def _combine(self, p: Partial, keep: list[str]) -> None:
        """The blocks' partial results folded in order into the reduction's buffer."""
        target, final = self.former.kept[id(p.root.owner)], p.root.kept_at
        row = self._kept_row(keep)
        base = f"p{p.number}" + (f" + {row} * {size_text(mul(self.schedule.blocks, p.extent))}" if row else "")
        saved = dict(self.sizes), dict(self.axis)
        inner = self.merged(self.content, [p.layout, final]) if p.layout.terms else []
        for a in (*keep, *(a for a in inner if a != self.vector)):
            self.out(self.loop(a, self.whole(a)))
        at = base + (f" + {affine_text(p.layout, self.axis)}" if inner else "")
        if self.vector in inner:
            n = size_text(self.sizes[self.vector])
            with self.out.block(f"each<L>(0, {n}, [&](int64_t j, auto m) AK_BODY", "});"):
                self._sum_blocks(p, at, ", m", target, final)
        else:
            with self.out.block(""):
                self._sum_blocks(p, at, "", target, final)
        self.sizes, self.axis = saved

    def _sum_blocks(self, p: Partial, at: str, m: str, target: str, final: Affine) -> None:
        dtype = ir.STORED_AS[p.ctype]
        if p.kept_as == "moments":
            self.out(f"auto t = *({at});")
            self.out(f"for (int64_t k = 1; k < {self.schedule.blocks}; ++k) t = merge(t, *({at} + k));")
            self.store(target, dtype, final, f"{p.ctype}(t.{p.part})", False, p.ctype)
            return
        get = f"get<ak::{ir.ELEMENT[dtype]}>"
        more = self.combine(p.fold, "t", f"{get}({at} + k * {size_text(p.extent)}{m})")
        self.out(f"auto t = {get}({at}{m});", f"for (int64_t k = 1; k < {self.schedule.blocks}; ++k) t = {more};")
        self.store(target, dtype, final, "t", bool(m), p.ctype)
