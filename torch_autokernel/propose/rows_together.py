"""Several rows at once: their reductions one row after the other, then the results of all of them in one walk, backwards.

Rows that come from memory are so read and written as several streams, what they share is read once for all of them, and what
the reductions read last is still in the first cache when the results are made. Slower where the results cost something.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch_autokernel.propose.index import Range
from torch_autokernel.propose.passes import RowText
from torch_autokernel.propose.pull import Inst
from torch_autokernel.propose.sweeps import Segment, reach
from torch_autokernel.propose.text import Writer, size_text
from torch_autokernel.propose.values import Scope


class TogetherText(RowText):
    """Prints rows in groups of `schedule.together`."""

    def rows_together(self, group: list[Segment], axis: str, rows: Range) -> tuple[str, list[str]] | None:
        """The head of a loop over groups of rows along the axis and the lines inside it; None where rows are not taken so."""
        if self.schedule.together < 2 or not self.inner or len(group) > 1 or self.pieces or self.sweep.across or self.fused:
            return None
        passes, tail = self.passes_of(group)
        if axis in self.sweep.cuts or not self._last_makes_results(group[0], passes, tail):
            return None
        n, v, out = self.schedule.together, self.axis[axis], self.out
        self.roomy, self.out = False, Writer()
        try:
            self._park(group, passes)
            if self._walks(group, passes[max(passes)]) != [self.vector]:
                return None
            self._write_group(group, passes, tail, v, f"least({n}, {size_text(rows.high)} - {v}s)")
        finally:
            lines, self.roomy, self.out = self.out.lines, True, out
        return f"for (int64_t {v}s = {size_text(rows.low)}; {v}s < {size_text(rows.high)}; {v}s += {n})", lines

    def _last_makes_results(self, segment: Segment, passes: dict[int, list[int]], tail: list[int]) -> bool:
        """Whether there are several passes, and the last one only makes results, at places that do not depend on data."""
        roots, last = self.sweep.roots, passes[max(passes)]
        if len(passes) < 2 or any(roots[k].kind not in ("out", "keep") for k in last + tail):
            return False
        read = [i for i in reach([segment.values[k] for k in last]) if i.kind in ("load", "index")]
        return not any(r.kind == "scan" for r in roots) and not any(a[0] == "@" for i in read for a in i.at.axes)

    def _walks(self, group: list[Segment], which: list[int]) -> list[str]:
        """The loops over the content, as the last pass would have them."""
        saved = dict(self.sizes), dict(self.axis)
        loops = self.merged_content(group, which)
        self.sizes, self.axis = saved
        return loops

    def _write_group(self, group: list[Segment], passes: dict[int, list[int]], tail: list[int], v: str, count: str) -> None:
        (segment,), n, last = group, self.schedule.together, max(passes)
        again = self._read_again(group, passes)
        tops, content = [segment.values[k] for k in passes[last]], frozenset(self.sweep.content)
        scope, writer, self.out = dict(self.scope), self.out, Writer()
        for stage in sorted(passes):
            self.stage, self.again = stage, again.get(stage, [])
            if stage != last:
                self._pass(group, passes[stage], scope)
        needed = self.needed(tops)
        for i in needed:
            if not i.axes & content:
                self.emit(i, scope)
        for k in tail:
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
            self._results(group, passes[last], v, kept, dict(scope))
        self.out(f"if (rows == {n}) results(std::integral_constant<int64_t, {n}>{{}});", "else results(rows);")
        self.again = []

    def _results(self, group: list[Segment], which: list[int], v: str, kept: dict[Inst, str], scope: Scope) -> None:
        """The walk back over the group's rows. What they share is computed once for all of them; of what `scope` has of one
        row, nothing is read but what is kept."""
        (segment,), saved = group, (dict(self.sizes), dict(self.axis))
        self.merged_content(group, which)
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
                self.finish_all(group, which, [scope], {})
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
