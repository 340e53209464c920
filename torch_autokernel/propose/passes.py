"""One row of a sweep: its passes over the content, each with its reductions and results."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch_autokernel.core import dims
from torch_autokernel.core.types import DTYPE_BYTES
from torch_autokernel.propose import ir
from torch_autokernel.propose.functions import EXPENSIVE, PLACES
from torch_autokernel.propose.index import ZERO, Affine, Range, Refused, mul
from torch_autokernel.propose.pull import Inst
from torch_autokernel.propose.sweeps import Root, Segment, gathers, places, reach
from torch_autokernel.propose.text import affine_text, size_text
from torch_autokernel.propose.values import BITS, Parked, Scope, ValueText

RUN = 32  # terms that one accumulator lane adds up before they go into a second one, at least (`run_length`)
FAR = 8 << 20  # bytes from which a tensor comes from memory and not from a cache
LONG_ROW, LONGEST_ROW = 2 << 10, 256 << 10  # bytes of rows worth being fetched ahead that a second-level cache holds
MOST_FETCHED = 4
MOST_SHARED = 64  # values that are considered for being kept


class RowText(ValueText):
    """Prints rows. `used` are the workspace buffers that some sweep reads."""

    used: frozenset[str] = frozenset()
    fused = False  # sums of products by fused multiply-add: rounded once, for loops' kernels
    scope: Scope
    again: Sequence[Inst] = ()  # what this pass reads for the last time, and an earlier one has read

    def row_body(self, group: list[Segment]) -> None:
        scope = dict(self.scope)
        passes, tail = self.passes_of(group)
        self._park(group, passes)
        results = self._open_blocks(group)
        again = self._read_again(group, passes)
        for stage in sorted(passes):
            self.stage, self.again = stage, again.get(stage, [])
            self._pass(group, passes[stage], scope)
        self.again = []
        for name in results:
            self.out(f"{name}.leave(m);")
        self.blocks = {}
        for k in tail:
            self._finish(k, group[0].values[k], scope)

    def passes_of(self, group: list[Segment]) -> tuple[dict[int, list[int]], list[int]]:
        """The roots of each pass over the row, by its stage, and those behind all passes."""
        passes: dict[int, list[int]] = {}
        tail: list[int] = []
        for k, root in enumerate(self.sweep.roots):
            stage = max(s.values[k].stage for s in group)
            inside = bool(root.axes & frozenset(self.sweep.content)) or root.role == "row"
            (passes.setdefault(stage, []) if inside else tail).append(k)
        return passes, tail

    def merged_content(self, group: list[Segment], which: list[int]) -> list[str]:
        """The loops over the content that a pass has, neighbours merged."""
        walked = self.affines([s.values[k] for s in group for k in which], [self.sweep.roots[k] for k in which])
        return self.merged(self.content, [*walked, *(p.at for p in self.parked.values())])

    def _read_again(self, group: list[Segment], passes: dict[int, list[int]]) -> dict[int, list[Inst]]:
        """For each pass, what it reads for the last time and an earlier one has read: while it computes, the next row's part is
        fetched. The first pass over a row waits for memory, the others do not."""
        if not self.inner or len(group) > 1 or len(passes) < 2 or self.pieces or not self.rows or self.fused:
            return {}
        (segment,), where = group, dict[tuple[str, Affine], list[tuple[int, Inst]]]()
        for stage, which in passes.items():
            for i in self.needed([segment.values[k] for k in which], stage):
                if i.kind == "load" and i.tensor[0] == "x" and self._comes_from_afar(i):
                    where.setdefault((i.tensor, i.at), []).append((stage, i))
        out: dict[int, list[Inst]] = {}
        for reads in where.values():
            if len({stage for stage, _i in reads}) > 1:
                stage, load = max(reads, key=lambda r: r[0])
                out.setdefault(stage, []).append(load)
        return {stage: loads[:MOST_FETCHED] for stage, loads in out.items()}

    def _comes_from_afar(self, load: Inst) -> bool:
        """Whether rows of it are long, lie one after another, and are many, at the sizes at hand."""
        if any(a[0] == "@" for a in load.at.axes) or load.at.coefficient(self.vector) != 1:
            return False
        if load.at.coefficient(self.rows[-1]) == 0 or self.rows[-1] in self.sweep.cuts:
            return False
        each, sizes = DTYPE_BYTES[load.dtype], self.sweep.sizes
        row = each * self.elements([sizes[a] for a in self.content if a in load.at.axes])
        return LONG_ROW <= row <= LONGEST_ROW and each * self.elements([sizes[a] for a in load.at.axes if a in sizes]) >= FAR

    def _fetch(self, scope: Scope) -> None:
        for load in self.again:
            self.fetch_ahead(load, self.rows[-1], scope)

    def fetch_ahead(self, load: Inst, axis: str, scope: Scope, steps: int = 1) -> None:
        """Ask for what the load reads some steps further along an axis."""
        at = load.at.plus(mul(load.at.coefficient(axis), steps))
        self.out(f"prefetch<L>({load.tensor} + {affine_text(at, self._axis_names(scope, at))});")

    def _open_blocks(self, group: list[Segment]) -> list[str]:
        """Turns the short rows that are read; the blocks of those that are written."""
        if not self.sweep.across or len(group) > 1:
            return []
        for i in sorted(reach(list(group[0].values.values())), key=lambda i: i.id):
            if i.kind == "load" and self.turned(i.at):
                self.open_block(i.tensor, i.dtype, i.at, False)
        read = len(self.blocks)
        for root in self.sweep.roots:
            if root.kind == "out" and self.turned(root.store_at):
                self.open_block(root.target, root.dtype, root.store_at, True)
        return list(self.blocks.values())[read:]

    def _park(self, group: list[Segment], passes: dict[int, list[int]]) -> None:
        """Costly values that several passes need are kept from one to the next: the value first that saves most."""
        self.parked = {}
        if not self.schedule.park or not self.inner or len(group) > 1 or len(passes) < 2 or self.pieces:
            return
        (segment,) = group
        tops = {stage: [segment.values[k] for k in which] for stage, which in passes.items()}
        roots = [(stage, self.sweep.roots[k], segment.values[k]) for stage, which in passes.items() for k in which]
        free = [(stage, root) for stage, root, _value in roots if root.kind == "out" and self._along(root)]
        content = frozenset(self.sweep.content)
        while True:
            needed: dict[Inst, list[int]] = {}
            for stage, values in tops.items():
                for i in self.needed(values, stage):
                    if i.kind == "fn" and i.axes >= content and i.id not in self.parked:
                        needed.setdefault(i, []).append(stage)
            shared = sorted((i for i, stages in needed.items() if len(stages) > 1), key=lambda i: -i.id)[:MOST_SHARED]
            saved = {i: self._saved(i, tops, min(needed[i])) for i in shared}
            for i in sorted((i for i in shared if saved[i] >= EXPENSIVE), key=lambda i: (-saved[i], -i.id)):
                if (place := self._place(i, needed[i], roots, free)) is not None:
                    self.parked[i.id] = place
                    break
            else:
                return

    def _along(self, root: Root) -> bool:
        return root.store_at.coefficient(self.vector) == 1

    def _saved(self, value: Inst, tops: dict[int, list[Inst]], since: int) -> float:
        """What later passes need not compute once the value is kept, in vector instructions."""
        later = {stage: values for stage, values in tops.items() if stage > since}
        before = self._cost(later)
        self.parked[value.id] = Parked("", "", ZERO, since)
        after = self._cost(later)
        del self.parked[value.id]
        return before - after

    def _cost(self, tops: dict[int, list[Inst]]) -> float:
        needed = [(i, stage) for stage, values in tops.items() for i in self.needed(values, stage)]
        return sum(i.cost for i, stage in needed if i.id not in self.parked or self.parked[i.id].since >= stage)

    def _place(
        self, value: Inst, stages: list[int], roots: list[tuple[int, Root, Inst]], free: list[tuple[int, Root]]
    ) -> Parked | None:
        """Its own result, a result that is written when it has been read for the last time, or scratch. Results that are stored
        past the caches are no place: they would be read into them first."""
        since = min(stages)
        for stage, root, stored in roots:
            if stored is value and stage == since and root.kind == "out" and self._along(root):
                if ir.holds(root.dtype, value.ctype, value.fn):
                    free[:] = [f for f in free if f[1] is not root]
                    return Parked(root.target, root.dtype, root.store_at, since, own=True)
        for stage, root in free if not self.schedule.stream else ():
            if stage == max(stages) and ir.holds(root.dtype, value.ctype, value.fn):
                free.remove((stage, root))
                return Parked(root.target, root.dtype, root.store_at, since)
        if self.schedule.stream and 4 * self.elements([self.sweep.sizes[a] for a in self.content]) > LONGEST_ROW:
            return None  # it would not stay in a cache
        return self.scratch(value, since)

    def scratch(self, value: Inst, since: int) -> Parked | None:
        """A place for one row of the value, or None where this kernel has no scratch."""
        return None

    def _pass(self, group: list[Segment], which: list[int], scope: Scope) -> None:
        roots, content = self.sweep.roots, frozenset(self.sweep.content)
        tops = [s.values[k] for s in group for k in which]
        for i in self.needed(tops):
            if not i.axes & content:
                self.emit(i, scope)
        saved = dict(self.sizes), dict(self.axis)
        loops = self.merged_content(group, which)
        found = [roots[k].place for k in which if places(roots[k])]
        if found and (len(loops) > 1 or len(group) > 1 or any(p.coefficient(a) != 1 for p in found for a in loops)):
            raise Refused("places along what is not one loop in the order of the elements: the first of equals counts")
        self._open_scans(tops)
        beside = self.beside(group, [k for k in which if roots[k].role == "row"])
        folds = {k: self.fresh("a") for k in which if roots[k].role == "row" and k not in beside}
        for k, name in folds.items():
            self._open(roots[k], name)
        others = [k for k in which if k not in beside]
        for segments in [group] if self.pieces else [[s] for s in group]:
            self._nest(segments, others, loops, scope, folds)
        self.sizes, self.axis = saved
        for k in which:
            if roots[k].role == "row":
                self._close(roots[k], folds[beside.get(k, k)], scope, "sum" if k in beside else "deviations")

    def beside(self, group: list[Segment], folds: list[int]) -> dict[int, int]:
        """Sums of what squared deviations are gathered of, and these, which know them."""
        roots = self.sweep.roots
        known = {tuple(s.values[k] for s in group): k for k in folds if gathers(roots[k])}
        sums = [k for k in folds if roots[k].fold == "sum"]
        return {k: known[values] for k in sums if (values := tuple(s.values[k] for s in group)) in known}

    def _open(self, root: Root, name: str) -> None:
        assert root.owner is not None
        if places(root):
            kind, lanes = ("along", ", L") if self.inner else ("each", ", L") if self.vector else ("one", "")
            self.out(f"place_{kind}<{PLACES[root.fold]}, {root.owner.args[0].ctype}{lanes}> {name};")
            return
        self.accumulator(name, root.owner.fn, root.owner.ctype, True)

    def _open_scans(self, tops: list[Inst]) -> None:
        """The states of the running folds that this pass needs, one for all segments."""
        self.states = {}
        for i in self.needed(tops):
            if i.kind == "scan" and i.value not in self.states:
                name = self.states[i.value] = self.fresh("running")
                width = "L" if self.vector and not self.inner else "1"
                self.out(f"running_{i.fn}<{i.ctype}, {width}> {name};")

    def _close(self, root: Root, name: str, scope: Scope, part: str) -> None:
        """The row's result from its accumulator; `part` of it where that gathers squared deviations."""
        assert root.owner is not None
        result = self.fresh("v")
        if places(root):
            text = f"{name}.place()"
        elif part == "sum" or gathers(root):
            text = f"{name}.{part}()"
        else:
            text = self.all_lanes(root.owner.fn, name) if self.inner else name
        self.out(f"const auto {result} = {text};")
        if (inst := self.folds.get((id(root.owner), root.kept_at))) is not None:
            scope[inst.id] = result
        buffer = self.former.kept.get(id(root.owner), "")
        if buffer in self.used:
            dtype, vector = ir.STORED_AS[root.owner.ctype], not self.inner and bool(self.vector)
            self.store(buffer, dtype, root.kept_at, result, vector, root.owner.ctype)

    def _nest(self, segments: list[Segment], which: list[int], loops: list[str], names: Scope, folds: dict[int, str]) -> None:
        """The loops over one segment of the content, or over its pieces together; values stand in the outermost loop that they
        can."""
        scopes = [dict(names) for _ in segments]
        todo = [self._todo(s, which, folds) for s in segments]
        depths = {i: self._depth(i, loops) for values in todo for i in values}
        sums = [k for k in folds if self.sweep.roots[k].fold == "sum"]
        plan = self._runs(loops, segments[0]) if sums else ""

        def inside(depth: int) -> None:
            for segment, scope, values in zip(segments, scopes, todo, strict=True):
                self.fix(segment)
                for i in values:
                    if depths[i] == depth:
                        self.emit(i, scope)
                        if self.pieces not in i.axes and i.id in scope:
                            for other in scopes:
                                other.setdefault(i.id, scope[i.id])
            if depth == len(loops):
                self._fetch(scopes[0])
                self.finish_all(segments, which, scopes, folds)
                return
            axis, last = loops[depth], depth == len(loops) - 1
            r = self.range(axis, segments[0].ranges)
            low, high = size_text(r.low), size_text(r.high)
            body = lambda: inside(depth + 1)
            how = plan if last else self._outer_runs(loops[: depth + 1], r) if sums else ""
            if how == "runs":
                self._in_runs(axis, r, sums, folds, body)
            elif how == "whole":
                self._subtotal(sums, folds, lambda: self._content_loop(axis, low, high, body))
            else:
                self._content_loop(axis, low, high, body)

        inside(0)

    def _todo(self, segment: Segment, which: list[int], folds: dict[int, str]) -> list[Inst]:
        """The values that the loops over the segment compute."""
        content = frozenset(self.sweep.content)
        todo = [i for i in self.needed([segment.values[k] for k in which]) if i.axes & content]
        todo = [i for i in todo if not self._only_added(i, segment, which, todo, folds)]
        return [i for i in todo if not self._only_moved(i, segment, which, todo)]

    def finish_all(self, segments: list[Segment], which: list[int], scopes: list[Scope], folds: dict[int, str]) -> None:
        """Every result of this place in the loops; of two pieces that lie side by side both at once."""
        for k in which:
            root, values = self.sweep.roots[k], [s.values[k] for s in segments]
            if len(segments) == 2 and root.kind in ("out", "keep") and root.store_at.coefficient(self.vector) == 2:
                texts = []
                for segment, value, scope in zip(segments, values, scopes, strict=True):
                    self.fix(segment)
                    self.emit_all([value], scope)
                    texts.append(self.spread(self.name(value, scope), self.wide(value), value.ctype))
                self.store_side_by_side(root, texts)
                continue
            for segment, value, scope in zip(segments, values, scopes, strict=True):
                self.fix(segment)
                self._finish(k, value, scope, folds.get(k))

    def _only_added(self, i: Inst, segment: Segment, which: list[int], todo: list[Inst], folds: dict[int, str]) -> bool:
        """Whether the value is a product that nothing but a fused sum reads."""
        if not self.fused or i.fn != "mul" or any(i in u.args for u in todo):
            return False
        return all(k in folds and self.sweep.roots[k].fold == "sum" for k in which if segment.values[k] is i)

    def _only_moved(self, i: Inst, segment: Segment, which: list[int], todo: list[Inst]) -> bool:
        """Whether the value goes from memory to memory, and nothing is computed from it."""
        stored = [self.sweep.roots[k] for k in which if segment.values[k] is i]
        return bool(stored) and all(self._moved(root, i) for root in stored) and not any(i in u.args for u in todo)

    @staticmethod
    def _moved(root: Root, value: Inst) -> bool:
        """Whether a result is a copy of what lies elsewhere, in an element kind for which that needs no arithmetic."""
        return root.kind == "out" and value.kind == "load" and value.dtype == root.dtype in ir.ROUNDING

    def _in_runs(self, axis: str, r: Range, sums: list[int], folds: dict[int, str], body: Callable[[], None]) -> None:
        """The loop over an axis in groups of runs, with a sum of its own for each run and each group."""
        low, high, length = size_text(r.low), size_text(r.high), size_text(r.size)
        unit = " * L" if axis == self.vector else ""
        run, group, start, at = (self.fresh(name) for name in ("run", "group", "g", "b"))
        self.out(f"const int64_t {run} = run_length({f'cdiv({length}, L)' if unit else length}){unit};")
        self.out(f"const int64_t {group} = {run} * {f'({run} / L)' if unit else run};")

        def one_group() -> None:
            with self.out.block(f"for (int64_t {at} = {start}; {at} < least({high}, {start} + {group}); {at} += {run})"):
                loop = lambda: self._content_loop(axis, at, f"least({high}, {at} + {run})", body)
                self._subtotal(sums, folds, loop)

        with self.out.block(f"for (int64_t {start} = {low}; {start} < {high}; {start} += {group})"):
            self._subtotal(sums, folds, one_group)

    def _runs(self, loops: list[str], segment: Segment) -> str:
        """Whether sums want a second accumulator: around the innermost loop (`whole`), or in runs of it (`runs`)."""
        if not loops:
            return ""
        steps = self.former.hint(self.range(loops[-1], segment.ranges).size)
        if loops[-1] == self.vector:
            steps = -(-steps // self.schedule.lanes)
        total = steps * self.elements([self.sizes[a] for a in loops[:-1]])
        last = self.range(loops[-1], segment.ranges).size
        grows = isinstance(last, str) and (loops[-1] != self.vector or len(dims.symbols((last,))) > 1)
        if steps > 2 * RUN or grows:
            return "runs"
        around = [self.sizes[a] for a in loops[:-1]]
        grows = any(isinstance(n, str) for n in around)
        return "whole" if steps > 1 and (total > 2 * RUN or grows) else ""

    def _outer_runs(self, loops: list[str], r: Range) -> str:
        """The same for the last of these loops, inside which there is another one: long sums over several loops."""
        if len(loops) == 1:
            return "runs" if isinstance(r.size, str) or r.size > 2 * RUN else ""
        sizes = [self.sizes[a] for a in loops]
        return "whole" if any(isinstance(n, str) for n in sizes) or self.elements(sizes) > 2 * RUN else ""

    def _subtotal(self, sums: list[int], folds: dict[int, str], body: Callable[[], None]) -> None:
        totals = {k: folds[k] for k in sums}
        for k in sums:
            folds[k] = self.fresh("t")
            self._open(self.sweep.roots[k], folds[k])
        body()
        for k, total in totals.items():
            self.out(f"{total} = {total} + {folds[k]};")
            folds[k] = total

    def _content_loop(self, axis: str, low: str, high: str, body: Callable[[], None]) -> None:
        if axis == self.vector:
            with self.out.block(f"each<L>({low}, {high}, [&](int64_t j, auto m) AK_BODY", "});"):
                body()
        else:
            v = self.axis[axis]
            with self.out.block(f"for (int64_t {v} = {low}; {v} < {high}; ++{v})"):
                body()

    @staticmethod
    def _depth(inst: Inst, loops: list[str]) -> int:
        """How many of the loops must be open before the value can be computed."""
        own = [a for i in reach([inst]) if i.kind in ("load", "index", "scan") for a in i.at.axes]
        return max((loops.index(a) + 1 for a in own if a in loops), default=0)

    def _finish(self, k: int, value: Inst, scope: Scope, accumulator: str | None = None) -> None:
        root = self.sweep.roots[k]
        if accumulator is None and self._moved(root, value) and value.id not in scope:
            name = self.fresh("v")
            self.emit_all(value.args, scope)
            self.out(f"const auto {name} = {self._load(value, scope, BITS)};")
            self.store(root.target, root.dtype, root.store_at, name, self.wide(value), BITS)
            return
        factors = None if accumulator is None else self._factors(root, value, scope)
        if factors is not None:
            if self.inner:
                factors = [self.existing(f, "sum", value.ctype) for f in factors]
            self.out(f"{accumulator} = multiply_add({', '.join(factors)}, {accumulator});")
            return
        self.emit_all([value], scope)
        text, wide = self.name(value, scope), self.wide(value)
        if accumulator is not None:
            text = self.spread(text, wide, value.ctype)
            if places(root):
                where = affine_text(root.place, self.axis)
                self.out(f"{accumulator}.step({text}, {where}{', m' if self.inner else ''});")
                return
            if gathers(root):
                self.out(f"{accumulator}.step({text}{', m' if self.inner else ''});")
                return
            if self.inner:
                text = self.existing(text, root.fold, value.ctype)
            self.out(f"{accumulator} = {self.combine(root.fold, accumulator, text)};")
        elif root.role == "late":
            self.gather_late(root, text, wide, value.ctype)
        elif root.kind != "scan" or root.target in self.used:
            last = not any(p.own and p.tensor == root.target for p in self.parked.values())
            self.store(root.target, root.dtype, root.store_at, text, wide, value.ctype, value.fn, last)

    def _factors(self, root: Root, value: Inst, scope: Scope) -> list[str] | None:
        """The factors of a product that is added up, where products may be fused with sums."""
        if not self.fused or root.fold != "sum" or not self.vector:
            return None
        if value.kind != "fn" or value.fn != "mul" or value.ctype != "float" or value.id in scope or not self.wide(value):
            return None
        self.emit_all(value.args, scope)
        a, b = sorted(value.args, key=self.wide)
        return [self.spread(self.name(x, scope), self.wide(x), x.ctype) for x in (a, b)]

    def gather_late(self, root: Root, text: str, wide: bool, ctype: str) -> None:
        raise NotImplementedError

    def whole(self, axis: str) -> Range:
        return Range(0, self.sizes[axis])
