"""Several rows at once: their reductions one row after the other, then the results of all of them in one walk, backwards.

Rows that come from memory are so read and written as several streams, what they share is read once for all of them, and what
the reductions read last is still in the first cache when the results are made. Slower where the results cost something.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch_autokernel.propose.index import Range
from torch_autokernel.propose.passes import RowText
from torch_autokernel.propose.pull import Inst
from torch_autokernel.propose.sweeps import Segment, reach
from torch_autokernel.propose.text import Writer, size_text
from torch_autokernel.propose.values import Scope


@dataclass(frozen=True)
class _Halves:
    """A row's passes: those that reduce it, and the last one, which makes results; the roots of each, and those behind."""

    early: dict[int, list[int]]
    stage: int
    last: list[int]
    tail: list[int]


class TogetherText(RowText):
    """Prints rows in groups of `schedule.together`."""

    def rows_together(self, group: list[Segment], axis: str, rows: Range) -> tuple[str, list[str]] | None:
        """The head of a loop over groups of rows along the axis and the lines inside it; None where rows are not taken so."""
        halves = self._halves(group)
        if halves is None or axis in self.sweep.cuts:
            return None
        n, v, out = self.schedule.together, self.axis[axis], self.out
        self.roomy, self.out = False, Writer()
        try:
            self._park(group, {**halves.early, halves.stage: halves.last})
            if self._walks(group[0], halves.last) != [self.vector]:
                return None
            self._write_group(group[0], halves, v, n, f"least({n}, {size_text(rows.high)} - {v}s)")
        finally:
            lines, self.roomy, self.out = self.out.lines, True, out
        return f"for (int64_t {v}s = {size_text(rows.low)}; {v}s < {size_text(rows.high)}; {v}s += {n})", lines

    def _halves(self, group: list[Segment]) -> _Halves | None:
        roots, content = self.sweep.roots, frozenset(self.sweep.content)
        if self.schedule.together < 2 or not self.inner or len(group) > 1 or self.pieces or self.sweep.across or self.fused:
            return None
        values = group[0].values
        inside = [k for k, r in enumerate(roots) if r.axes & content or r.role == "row"]
        passes: dict[int, list[int]] = {}
        for k in inside:
            passes.setdefault(values[k].stage, []).append(k)
        *early, last = sorted(passes)
        tail = [k for k in range(len(roots)) if k not in inside]
        if not early or any(roots[k].kind not in ("out", "keep") for k in passes[last] + tail):
            return None
        read = [i for i in reach([values[k] for k in passes[last]]) if i.kind in ("load", "index")]
        if any(r.kind == "scan" for r in roots) or any(a[0] == "@" for i in read for a in i.at.axes):
            return None
        return _Halves({stage: passes[stage] for stage in early}, last, passes[last], tail)

    def _walks(self, segment: Segment, which: list[int]) -> list[str]:
        """The loops over the content, as the last pass would have them."""
        saved = dict(self.sizes), dict(self.axis)
        loops = self._merged_content(segment, which)
        self.sizes, self.axis = saved
        return loops

    def _merged_content(self, segment: Segment, which: list[int]) -> list[str]:
        walked = self.affines([segment.values[k] for k in which], [self.sweep.roots[k] for k in which])
        return self.merged(self.content, [*walked, *(p.at for p in self.parked.values())])

    def _write_group(self, segment: Segment, halves: _Halves, v: str, n: int, count: str) -> None:
        again = self._read_again([segment], {**halves.early, halves.stage: halves.last})
        tops, content = [segment.values[k] for k in halves.last], frozenset(self.sweep.content)
        scope, writer, self.out = dict(self.scope), self.out, Writer()
        for stage, which in halves.early.items():
            self.stage, self.again = stage, again.get(stage, [])
            self._pass([segment], which, scope)
        self.stage, self.again = halves.stage, again.get(halves.stage, [])
        needed = self.needed(tops)
        for i in needed:
            if not i.axes & content:
                self.emit(i, scope)
        for k in halves.tail:
            self._finish(k, segment.values[k], scope)
        early, self.out = self.out.lines, writer
        used = set(tops).union(*(i.args for i in needed if i.axes & content))
        kept = {i: f"{scope[i.id]}s" for i in sorted(used, key=lambda i: i.id)
                if i.id in scope and i.id not in self.scope and not i.axes & content}  # fmt: skip
        self.out(f"const int64_t rows = {count};")
        self.out(*(f"{i.ctype} {name}[{n}];" for i, name in kept.items()))
        with self.out.block("for (int64_t q = 0; q < rows; ++q)"):
            self.out(f"const int64_t {v} = {v}s + q;", *early, *(f"{name}[q] = {scope[i.id]};" for i, name in kept.items()))
        with self.out.block("const auto results = [&](auto count) AK_BODY", "};"):
            self._results(segment, halves, v, kept, dict(scope))
        self.out(f"if (rows == {n}) results(std::integral_constant<int64_t, {n}>{{}});", "else results(rows);")
        self.again = []

    def _results(self, segment: Segment, halves: _Halves, v: str, kept: dict[Inst, str], scope: Scope) -> None:
        """The walk back over the group's rows. What they share is computed once for all of them; of what `scope` has of one
        row, nothing is read but what is kept."""
        saved = dict(self.sizes), dict(self.axis)
        which = halves.last
        self._merged_content(segment, which)
        r = self.range(self.vector, segment.ranges)
        todo = self._todo(segment, which, {})
        own = self._own(todo, kept)
        head = f"each_back<L>({size_text(r.low)}, {size_text(r.high)}, [&](int64_t j, auto m) AK_BODY"
        with self.out.block(head, "});"):
            for i in todo:
                if i not in own:
                    self.emit(i, scope)
            with self.out.block("for (int64_t q = 0; q < count; ++q)"):
                self.out(f"const int64_t {v} = {v}s + q;")
                for i, name in kept.items():
                    scope[i.id] = self.fresh("v")
                    self.out(f"const auto {scope[i.id]} = {name}[q];")
                for i in todo:
                    self.emit(i, scope)
                with self._named(self.vector, f"({size_text(r.high)} - L - j)"):  # the next rows are read from their begin on
                    for load in self.again:
                        self.fetch_ahead(load, self.rows[-1], scope, self.schedule.together)
                self.finish_all([segment], which, [scope], {})
        self.sizes, self.axis = saved

    @contextmanager
    def _named(self, axis: str, text: str) -> Iterator[None]:
        """With another text for the axis."""
        before, self.axis[axis] = self.axis[axis], text
        yield
        self.axis[axis] = before

    def _own(self, todo: list[Inst], kept: dict[Inst, str]) -> set[Inst]:
        """The values that each row has for itself."""
        rows, own = frozenset(self.sweep.rows), set(kept)
        for i in todo:  # operands first
            if i.axes & rows or i.stage or i.id in self.parked or not own.isdisjoint(i.args):
                own.add(i)
        return own
