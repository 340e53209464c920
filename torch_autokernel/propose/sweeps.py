"""Sweeps: loop nests over shared axes, each computing as many of the region's results as fit.

A sweep's loops are its rows `P`, then, once or several times for every row, its content `Q`. A reduction over all of
Q is finished within the row (*row* role); one over rows is finished after the sweep, through partial results per
block of rows (*late* role). The vector axis lies in Q, or is the innermost of P.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch_autokernel.core import dims
from torch_autokernel.core.dims import Dim
from torch_autokernel.core.types import DTYPE_BYTES
from torch_autokernel.propose import ir
from torch_autokernel.propose.choices import SHORTEST
from torch_autokernel.propose.functions import PLACES
from torch_autokernel.propose.index import (
    ZERO,
    Affine,
    CutNeeded,
    Range,
    Refused,
    Space,
    SplitNeeded,
    at_most,
    divide,
    mul,
)
from torch_autokernel.propose.ir import Index, Node, peel
from torch_autokernel.propose.pull import Inst, Puller, Table, kept_index

MAX_REWORK = 64
MOST_SEGMENTS = 36  # of a sweep: stretches of rows, or of what is within them, each with code of its own
SHORT = 16
LONG = 32768  # bytes of a row, from which on it is better read once


@dataclass(frozen=True, slots=True, eq=False)
class Root:
    """A result to compute. kinds: `fold` (a reduction's operand), `out` (an output), `keep` (a value kept in workspace),
    `scan` (a running fold: its own sweep has it at hand, later ones read it from workspace).

    `top` is what is wanted, `node` the value behind its one-to-one views; `index` is where `node` is evaluated, `into`
    the element of `top` that this is (for a fold: the element of the reduction's result), and `place` where that stands along
    the dimension of a reduction to places."""

    kind: str
    top: Node
    node: Node
    index: Index = ()
    into: Index = ()
    target: str = ""
    dtype: str = ""
    strides: tuple[Dim, ...] = ()
    owner: Node | None = None
    role: str = ""
    place: Affine = ZERO

    def substitute(self, axis: str, by: Affine) -> Root:
        index, into = (tuple(i.substitute(axis, by) for i in t) for t in (self.index, self.into))
        return replace(self, index=index, into=into, place=self.place.substitute(axis, by))

    @property
    def fold(self) -> str:
        """The reduction that the root is the operand of; empty where it is none's."""
        return self.owner.fn if self.kind == "fold" and self.owner is not None else ""

    @property
    def axes(self) -> frozenset[str]:
        return frozenset(a for i in self.index for a in i.axes if a[0] != "^")

    @property
    def kept(self) -> frozenset[str]:
        return frozenset(a for i in self.into for a in i.axes)

    @property
    def kept_at(self) -> Affine:
        """Where the root's element of a reduction lies in the reduction's buffer."""
        assert self.owner is not None
        at = ZERO
        for i, s in zip(self.into, contiguous(self.owner.shape), strict=True):
            at = at + i.times(s)
        return at

    @property
    def store_at(self) -> Affine:
        at = ZERO
        for i, s in zip(self.into, self.strides, strict=True):
            at = at + i.times(s)
        return at


@dataclass
class Segment:
    """One combination of axis ranges, and every root's value in it."""

    ranges: dict[str, Range]
    values: dict[int, Inst] = field(default_factory=dict)


@dataclass
class Sweep:
    number: int
    sizes: dict[str, Dim]
    order: list[str]
    rows: list[str]
    content: list[str]
    roots: list[Root] = field(default_factory=list)
    cuts: dict[str, list[Dim]] = field(default_factory=dict)
    reduced_rows: frozenset[str] | None = None
    segments: list[list[Segment]] = field(default_factory=list)
    table: Table = field(default_factory=Table)
    hoisted: dict[tuple[Node, Index], tuple[str, ir.Shape, Index]] = field(default_factory=dict)  # buffer, its shape, the place
    across: str = ""  # the row axis that is the vector axis, for rows too short to be vectors
    tile: int = 0  # how many rows a step takes at once: each has roots of its own
    tiled: str = ""  # the axis of tiles, where there are several: it runs inside the vector axis
    fresh: int = 0

    def copy(self) -> Sweep:
        return replace(
            self, sizes=dict(self.sizes), order=list(self.order), rows=list(self.rows), content=list(self.content),
            roots=list(self.roots), cuts={k: list(v) for k, v in self.cuts.items()},
        )  # fmt: skip

    def split(self, axis: str, inner: Dim) -> tuple[str, str]:
        outer = divide(self.sizes[axis], inner)
        points = [divide(point, inner) for point in self.cuts.get(axis, [])]
        if axis in self.running and self.cuts:
            raise Refused("a scan's loop would be split and cut")
        if outer is None or None in points:
            raise Refused(f"a loop of {self.sizes[axis]} cannot be split by {inner}")
        self.fresh += 1
        a, b = f"{axis}{'abcdefgh'[self.fresh % 8]}", f"{axis}{'stuvwxyz'[self.fresh % 8]}"
        self.sizes[a], self.sizes[b] = outer, inner
        del self.sizes[axis]
        if self.cuts.pop(axis, None):
            self.cuts[a] = [point for point in points if point is not None]
        by = Affine.of({a: inner, b: 1})
        if axis == self.across:
            self.across = b
        for names in (self.order, self.rows, self.content):
            if axis in names:
                at = names.index(axis)
                names[at : at + 1] = [a, b]
        if self.reduced_rows and axis in self.reduced_rows:
            self.reduced_rows = (self.reduced_rows - {axis}) | {a, b}
        self.roots = [r.substitute(axis, by) for r in self.roots]
        return a, b

    @property
    def running(self) -> frozenset[str]:
        """The axes that a scan walks along: they stay in order."""
        return frozenset(self.content) if any(r.kind == "scan" for r in self.roots) else frozenset()

    def cut(self, axis: str, at: Dim) -> None:
        if axis in self.running and len(self.content) > 1:
            raise Refused("a scan's loop would be split and cut")
        points = [*self.cuts.get(axis, []), at]
        for i in range(len(points) - 1, 0, -1):
            if at_most(points[i], points[i - 1]):
                points[i], points[i - 1] = points[i - 1], points[i]
            elif not at_most(points[i - 1], points[i]):
                raise Refused(f"the order of the boundaries {points[i]} and {points[i - 1]} is not known")
        self.cuts[axis] = points

    def pieces(self, axes: Sequence[str]) -> Iterator[dict[str, Range]]:
        """All combinations of the axes' cut ranges."""
        choices = []
        for a in axes:
            ends = [0, *self.cuts.get(a, []), self.sizes[a]]
            choices.append([(a, Range(x, y)) for x, y in itertools.pairwise(ends)])
        for combo in itertools.product(*choices):
            yield dict(combo)


class Former:
    """Places all roots of a region into sweeps."""

    def __init__(self, strides: Mapping[str, tuple[Dim, ...]], hints: Mapping[str, int], threads: int, lanes: int,
                 columns: str = "auto", moments: str = "twice", across: bool = False) -> None:  # fmt: skip
        self.strides, self.hints, self.threads, self.lanes, self.columns = dict(strides), dict(hints), threads, lanes, columns
        self.moments, self.across = moments, across
        self.sweeps: list[Sweep] = []
        self.home: dict[int, tuple[int, Root]] = {}  # reduction or kept node -> sweep number, root
        self.kept: dict[int, str] = {}  # node id -> workspace tensor it is read from in later sweeps
        self.buffers: dict[str, tuple[Node, ir.Shape]] = {}
        self.staged: dict[int, Node] = {}  # reduction -> the same one, made in two steps
        self.outer: dict[str, Range] = {}  # loops around all sweeps: their names begin with ^
        self._axis = 0

    def hint(self, d: Dim) -> int:
        return max(1, dims.evaluate(d, {s: self.hints.get(s, 64) for s in dims.symbols([d])}))

    def extent(self, sweep: Sweep, axes: Sequence[str] | frozenset[str]) -> int:
        out = 1
        for a in axes:
            out *= self.hint(sweep.sizes[a])
        return out

    # ---- placing ----
    def place(self, root: Root, first: int = 0) -> None:
        """Into a sweep that fits, of those from the `first` on, or into a new one."""
        least = max(first, self._earliest(root.node))
        for sweep in reversed(self.sweeps[least:]):
            if (joined := self._join(sweep, root)) is not None:
                self.sweeps[sweep.number] = joined
                self._register(joined)
                return
        self._create(root)

    def place_scan(self, node: Node) -> None:
        """A sweep for a running fold; what uses it may join."""
        name = self.kept.setdefault(id(node), f"w{len(self.kept)}")
        self.buffers[name], self.strides[name] = (node, node.shape), contiguous(node.shape)
        root = Root("scan", node, node, target=name, dtype=self.stored(node), strides=contiguous(node.shape), owner=node)
        self._create(root)

    def _register(self, sweep: Sweep) -> None:
        for r in sweep.roots:
            if r.owner is not None:
                self.home[id(r.owner)] = (sweep.number, r)

    def _earliest(self, base: Node) -> int:
        """The first sweep in which everything that the node needs from elsewhere can be there."""
        least, seen, todo = 0, set(), [base]
        while todo:
            n = todo.pop()
            if id(n) in seen:
                continue
            seen.add(id(n))
            while id(n) in self.staged:
                n = self.staged[id(n)]
            if id(n) in self.home:
                number, r = self.home[id(n)]
                least = max(least, number + (0 if r.role == "row" or r.kind == "scan" else 1))
            else:
                todo.extend(n.args)
        return least

    def _named(self) -> str:
        self._axis += 1
        return f"i{self._axis}"

    def _create(self, root: Root) -> None:
        sizes = {self._named(): s for s in root.node.shape if s != 1}
        sweep = Sweep(len(self.sweeps), sizes, list(sizes), list(sizes), [])
        names = iter(list(sizes))
        index = tuple(ZERO if s == 1 else Affine.axis(next(names)) for s in root.node.shape)
        for _ in range(MAX_REWORK):
            try:
                sweep.roots.append(self._at(sweep, root, index))
                break
            except SplitNeeded as need:
                a, b = sweep.split(need.axis, need.inner)
                by = Affine.of({a: need.inner, b: 1})
                index = tuple(i.substitute(need.axis, by) for i in index)
        if root.kind == "scan":
            along = frozenset(a for d in root.node.dims for a in sweep.roots[0].index[d].axes)
            sweep.rows = [a for a in sweep.order if a not in along]
            sweep.content = [a for a in sweep.order if a in along]
        self.analyse(sweep)
        if root.kind == "fold":
            self._shape_rows(sweep)
        self.sweeps.append(sweep)
        self._register(sweep)

    @staticmethod
    def _at(sweep: Sweep, root: Root, index: Index) -> Root:
        """The root with its node evaluated at `index`; where that lands follows by pushing through the views."""
        space = Space({a: Range(0, s) for a, s in sweep.sizes.items()})  # views that push never see the outer loops
        path, n, pushed = [], root.top, index
        while n is not root.node:
            path.append(n)
            n = n.args[0]
        for v in reversed(path):
            assert v.push is not None
            pushed = v.push(space, pushed)
        place = ZERO
        if root.kind == "fold" and root.owner is not None:
            place = pushed[root.owner.dims[0]] if places(root) else ZERO
            pushed = kept_index(root.owner, pushed)
        return replace(root, index=index, into=pushed, place=place)

    def _join(self, sweep: Sweep, root: Root) -> Sweep | None:
        """The sweep with the root in it, or None where it does not fit or has nothing in common."""
        candidates = [list(sweep.order)]
        if sweep.content:
            candidates.append([a for a in sweep.order if a in sweep.rows])
        if self.outer:  # a state and a product with it may come in either order
            candidates.append(sweep.order[::-1])
        for names in candidates:
            trial = sweep.copy()
            try:
                index = self._align(trial, root.node.shape, names)
                if index is None:
                    continue
                if trial.sizes.keys() != sweep.sizes.keys():
                    self.analyse(trial)
                trial.roots.append(self._at(trial, root, index))
                self._classify(trial)
                self.analyse(trial)
                if self._belongs(trial):
                    return trial
            except SplitNeeded as need:
                finer = sweep.copy()
                try:
                    finer.split(need.axis, need.inner)
                    self.analyse(finer)
                except (Refused, KeyError):
                    continue
                return self._join(finer, root)
            except Refused:
                continue
        return None

    def _align(self, sweep: Sweep, shape: ir.Shape, names: list[str]) -> Index | None:
        """The shape's dimensions as digits of the named axes, in order; splits axes where that helps."""
        if 0 in shape:  # which has no digits
            return None
        out: list[Affine] = []
        todo = list(reversed(names))
        for size in shape:
            if size == 1:
                out.append(ZERO)
                continue
            e, left = ZERO, size
            while left != 1:
                if not todo:
                    return None
                axis = todo.pop()
                have = sweep.sizes[axis]
                rest = divide(left, have)
                if rest is None:
                    inner = divide(have, left)
                    if inner is None or axis in sweep.cuts:
                        return None
                    todo += reversed(sweep.split(axis, inner))
                    continue
                e, left = e + Affine.of({axis: rest}), rest
            out.append(e)
        return tuple(out) if not todo else None

    def _classify(self, sweep: Sweep) -> None:
        """Give the newest root its role; raises Refused where the reduction does not fit the sweep's rows."""
        root = sweep.roots[-1]
        if root.kind == "scan":
            raise Refused("a scan begins a sweep of its own")
        if root.kind != "fold":
            return
        gone = root.axes - root.kept
        content = frozenset(sweep.content)
        if gathers(root) and (self.unit_axis(sweep) or "") not in gone:
            raise Refused("deviations are gathered along the vector axis")
        if places(root) and (gone != content or sweep.across):
            raise Refused("places are looked for within rows")
        if content and gone == content and root.axes >= frozenset(sweep.rows):
            role = "row"
        elif gone and not gone & content and (content <= root.axes or not content & root.axes):
            if sweep.reduced_rows not in (None, gone):
                raise Refused("reduces other rows")
            if not content and root.kept and self.unit_axis(sweep) not in gone:
                raise Refused("keeps the vector axis")
            alone = self.columns == "outer" or (self.unit_axis(sweep) or sweep.content[-1]) not in content
            if content and (bool(content & root.axes) or sweep.across not in gone if sweep.across else alone):
                raise Refused("columns are summed in a sweep of their own")
            sweep.reduced_rows, role = gone, "late"
        else:
            raise Refused("does not fit")
        sweep.roots[-1] = replace(root, role=role)

    def _belongs(self, trial: Sweep) -> bool:
        """Whether the newest root has something in common with the others: a row's fold, or a load."""
        last = len(trial.roots) - 1
        mine = reach([v for group in trial.segments for s in group for k, v in s.values.items() if k == last])
        others = reach([v for group in trial.segments for s in group for k, v in s.values.items() if k != last])
        if any(i.kind in ("fold", "scan") for i in mine):
            return True
        if any(i.kind == "load" and i.axes and i in others for i in mine):
            return True
        return not trial.sizes

    @staticmethod
    def stored(node: Node) -> str:
        return ir.STORED_AS[node.ctype]

    # ---- pulling ----
    def analyse(self, sweep: Sweep) -> None:
        """Pull every root in every segment; splits and cuts axes until all indices are affine."""
        for _ in range(MAX_REWORK):
            try:
                self._pull_all(sweep)
                return
            except SplitNeeded as need:
                sweep.split(need.axis, need.inner)
            except CutNeeded as need:
                sweep.cut(need.axis, need.at)
        raise Refused("the loops would have to be split too often")

    def _pull_all(self, sweep: Sweep) -> None:
        sweep.table = Table()
        sweep.segments = []
        rows = [a for a in sweep.order if a in sweep.rows]
        content = [a for a in sweep.order if a in sweep.content]
        for axes in (rows, content):
            if math.prod(len(sweep.cuts.get(a, ())) + 1 for a in axes) > MOST_SEGMENTS:
                raise Refused("too many pieces")
        for outer in sweep.pieces(rows):
            group = []
            for inner in sweep.pieces(content):
                group.append(self._pull_segment(sweep, {**outer, **inner}))
            sweep.segments.append(group)

    def _pull_segment(self, sweep: Sweep, ranges: dict[str, Range]) -> Segment:
        segment = Segment(ranges)
        levels: dict[int, int] = {}

        def resolve(node: Node, index: Index) -> Inst | None:
            if (node, index) in sweep.hoisted:
                name, shape, where = sweep.hoisted[node, index]
                return puller.load(name, ir.STORED_AS[node.ctype], contiguous(shape), where, node)
            if id(node) in self.staged:
                return puller.value(self.staged[id(node)], index)
            known = self._here(sweep, node, index)
            if known is not None:
                if known.kind == "scan" and known.index == index:
                    along = [e for d, e in enumerate(index) if d in node.dims]
                    return sweep.table.make(
                        "scan", node.ctype, (puller.value(node.args[0], index),), frozenset(a for i in index for a in i.axes),
                        fn=node.fn, at=along[0], value=id(node), cost=8.0, node=node,
                    )  # fmt: skip
                if known.role == "row" and known.into == index:
                    return sweep.table.make(
                        "fold", node.ctype, axes=frozenset(a for i in index for a in i.axes), value=id(node),
                        stage=levels[id(node)], fn=node.fn, node=node, at=known.kept_at,
                    )  # fmt: skip
                raise Refused("a result of this very sweep at another row")
            if id(node) in self.home and node.kind in ("reduce", "scan") or id(node) in self.kept:
                return self._from_workspace(puller, node, index)
            return None

        puller = Puller(sweep.table, Space({**self.outer, **ranges}), self.strides, resolve)
        for k, root in enumerate(sweep.roots):
            segment.values[k] = puller.value(root.node, root.index)
            if root.role == "row":
                levels[id(root.owner)] = segment.values[k].stage + 1
        return segment

    @staticmethod
    def _here(sweep: Sweep, node: Node, index: Index) -> Root | None:
        """The root that is this reduction or scan: of several rows' the one at this index, or any, where none is."""
        found = [r for r in sweep.roots if r.owner is node]
        return next((r for r in found if r.into == index), found[0] if found else None)

    def _from_workspace(self, puller: Puller, node: Node, index: Index) -> Inst:
        name = self.kept.setdefault(id(node), f"w{len(self.kept)}")
        if name not in self.buffers:
            self.buffers[name] = (node, node.shape)
            self.strides[name] = contiguous(node.shape)
        return puller.load(name, ir.STORED_AS[node.ctype], self.strides[name], index, node)

    def steps(self, node: Node) -> list[Node]:
        """The reductions that stand for this one, in order."""
        if node.fn != "squares" or self._at_once(node):
            return self.in_two_steps(node)
        self.staged[id(node)] = ir.after_mean(node)
        return self.in_two_steps(self.staged[id(node)])

    def _at_once(self, node: Node) -> bool:
        """Whether squared deviations are gathered with the mean: along the vector axis, over what does not stay in the first
        cache."""
        if self.moments == "twice":
            return False
        sweep = self._tried(node)
        gone = sweep.roots[0].axes - sweep.roots[0].kept
        along = self.unit_axis(sweep) in gone and (sweep.roots[0].role == "row" or not sweep.content)
        read = sum(DTYPE_BYTES[i.dtype] * self.extent(sweep, i.axes & gone) for i in self.loads(sweep))
        return along and (self.moments == "once" or read > LONG)

    def _tried(self, node: Node) -> Sweep:
        """The sweep that the reduction alone would have."""
        squares = node.fn == "squares"
        columns = self.columns if squares else "late"
        trial = Former(self.strides, self.hints, self.threads, self.lanes, columns, across=self.across and squares)
        trial.home, trial.kept, trial.buffers, trial.staged = dict(self.home), dict(self.kept), dict(self.buffers), self.staged
        trial.sweeps = list(self.sweeps)
        trial._create(Root("fold", node.args[0], peel(node.args[0]), owner=node))
        return trial.sweeps[-1]

    def in_two_steps(self, node: Node) -> list[Node]:
        """The reduction, or two in its place where the contiguous axis is too short to be a vector but its neighbour in
        memory is kept: first over the other axes, in vectors along both, then over the short one."""
        operand = node.args[0]
        short = [d for d in node.dims if isinstance(operand.shape[d], int) and 1 < operand.shape[d] < SHORT]  # type: ignore[operator]
        if len(short) != 1 or len(node.dims) < 2 or node.fn == "squares":
            return [node]
        sweep = self._tried(node)
        v = self.unit_axis(replace(sweep, reduced_rows=None))
        root = sweep.roots[0]
        if v is None or v not in root.axes - root.kept or sweep.sizes[v] != operand.shape[short[0]]:
            return [node]
        if not any(self.stride_of(sweep, a) == sweep.sizes[v] for a in root.kept):
            return [node]
        rest = tuple(d for d in node.dims if d not in short)
        first = ir.reduce(node.fn, operand, rest, True, node.dtype)
        second = Node("reduce", node.shape, node.dtype, (first,), node.fn, dims=node.dims, keepdim=node.keepdim)
        self.staged[id(node)] = second
        return [first, second]

    # ---- the form of a sweep that begins with a reduction ----
    def loads_of(self, sweep: Sweep) -> list[Inst]:
        tops = [v for group in sweep.segments for s in group for v in s.values.values()]
        return [i for i in reach(tops) if i.kind == "load"]

    def loads(self, sweep: Sweep) -> list[Inst]:
        return [i for i in self.loads_of(sweep) if i.axes]

    def extent_of(self, sizes: Sequence[Dim]) -> int:
        out = 1
        for s in sizes:
            out *= self.hint(s)
        return out

    def unit_axis(self, sweep: Sweep) -> str | None:
        """The axis along which most of the traffic is contiguous; ties go to the innermost. Where rows are reduced
        late, the rows that are kept are no choice. What is read again and again has no voice, but where nothing else
        has one in a loop's step: a batch's rows read the same weights."""
        if sweep.across:
            return sweep.across
        among = [a for a in sweep.order if sweep.reduced_rows is None or a in sweep.content or a in sweep.reduced_rows]
        full = self.extent(sweep, sweep.order)
        votes: dict[str, float] = {}
        moved: list[tuple[Affine, float]] = [(i.at, self.extent(sweep, i.axes)) for i in self.loads(sweep)]
        moved += [(r.store_at, 1.5 * self.extent(sweep, r.axes)) for r in sweep.roots if r.kind != "fold"]
        for least in (full, 0) if self.outer else (full,):
            for at, elements in moved:
                for a in among:
                    if at.coefficient(a) == 1 and elements * 8 >= least and self.hint(sweep.sizes[a]) > 1:
                        votes[a] = votes.get(a, 0.0) + elements
            if votes:
                break
        return max(votes, key=lambda a: (votes[a], sweep.order.index(a)), default=None)

    def stride_of(self, sweep: Sweep, axis: str) -> int:
        """The axis' step in the largest load, by the hints."""
        best = max(self.loads(sweep), key=lambda i: (self.extent(sweep, i.axes), -i.id), default=None)
        return 0 if best is None else abs(self.hint(best.at.coefficient(axis))) if best.at.coefficient(axis) != 0 else 0

    def _shape_rows(self, sweep: Sweep) -> None:
        """Decide rows, content and role for a sweep whose only root is a reduction."""
        root = sweep.roots[0]
        gone = root.axes - root.kept
        kept = [a for a in sweep.order if a not in gone]
        over = [a for a in sweep.order if a in gone]
        v = self.unit_axis(sweep)
        rows, many = self.extent(sweep, kept), self.extent(sweep, over)
        if places(root):
            role, sweep.rows, sweep.content = "row", kept, over
        elif rows * 2 <= self.threads and many > 65536 and v in gone:
            role, sweep.rows, sweep.content = "late", list(sweep.order), []
        elif across := self._across(sweep, kept, over):
            role, sweep.rows, sweep.content, sweep.across = "row", kept, over, across
        elif v is None or v in gone:
            role, sweep.rows, sweep.content = "row", kept, over
        elif self._outer_vector(rows, many):
            role, sweep.rows, sweep.content = "row", kept, over
        else:
            inside = [a for a in kept if self.stride_of(sweep, a) < max(self.stride_of(sweep, b) for b in over)]
            if v in inside:
                role, sweep.content = "late", inside
                sweep.rows = [a for a in sweep.order if a not in inside]
            else:  # nothing is known of how far apart the reduced elements lie
                role, sweep.rows, sweep.content = "row", kept, over
        sweep.reduced_rows = gone if role == "late" else None
        sweep.roots[0] = replace(root, role=role)
        self.analyse(sweep)

    def _across(self, sweep: Sweep, kept: list[str], over: list[str]) -> str:
        """The row axis along which the vectors run where the content is one short axis, contiguous, and rows lie one behind the
        other; where nothing is read along the content, results will be so."""
        if not self.across or len(over) != 1 or self.hint(sweep.sizes[over[0]]) > SHORTEST:
            return ""
        (c,) = over
        read = [i.at for i in self.loads(sweep) if c in i.axes and len(i.axes) > 1]
        good = [a for a in kept if all(at.coefficient(c) == 1 and at.coefficient(a) == sweep.sizes[c] for at in read)]
        if not read:
            good = kept[-1:] if c == sweep.order[-1] else []
        return next((a for a in good if self.hint(sweep.sizes[a]) >= 2 * self.lanes), "")

    def _outer_vector(self, rows: int, many: int) -> bool:
        """Whether a reduction over outer axes keeps one accumulator per column and finishes it in one go."""
        if self.columns != "auto":
            return self.columns == "outer"
        return rows >= self.lanes * self.threads * 2 and many <= 512 or rows >= 262144


def reach(tops: Sequence[Inst]) -> set[Inst]:
    """The values and all that they are computed from."""
    seen: set[Inst] = set()
    todo = list(tops)
    while todo:
        i = todo.pop()
        if i not in seen:
            seen.add(i)
            todo.extend(i.args)
    return seen


def contiguous(shape: ir.Shape) -> tuple[Dim, ...]:
    step, out = 1, []
    for size in reversed(shape):
        out.append(0 if size == 1 else step)
        step = mul(step, size)  # type: ignore[assignment]
    return tuple(reversed(out))


def places(root: Root) -> bool:
    """Whether the root is a reduction to the place of an extreme."""
    return root.fold in PLACES


def gathers(root: Root) -> bool:
    """Whether the root is a reduction to squared deviations."""
    return root.fold == "squares"
