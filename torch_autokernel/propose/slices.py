"""Which dimensions of a loop's states are independent of each other, how they become slices, and how states lie in memory."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from math import prod

from torch_autokernel.core.dims import Dim
from torch_autokernel.propose.cell import TIME, Cell, Out, Parallel, only, reads_of
from torch_autokernel.propose.index import Refused, SplitNeeded
from torch_autokernel.propose.ir import Index


def find_parallel(cell: Cell, enough: int) -> None:
    """Fill in the dimensions along which nothing depends on anything else: for each, the state's dimension by state, the
    result's by result, and the size. The last dimension of the first state stays for vectors, and so do others that share
    something costly, once there are `enough` slices."""
    if not cell.state:
        raise Refused("a loop that carries nothing")
    for d in range(len(cell.state[0].shape) - 1):
        if cell.state[0].shape[d] == 1:
            continue
        try:
            found = _follow(cell, {0: d})
        except (Refused, SplitNeeded):
            continue
        many = prod(n for _w, _o, n in cell.parallel if isinstance(n, int)) >= enough
        if found is not None and any(found[1][k] == outs[k] for _w, outs, _n in cell.parallel for k in outs):
            continue
        if found is not None and not (many and _shares(cell, found[0])):
            cell.parallel.append((*found, cell.state[0].shape[d]))


def keep_together(cell: Cell, weights: Collection[str], enough: int) -> None:
    """Take dimensions out of the parallel ones, for tiles of rows: those along which a sum reads the same of one of these
    inputs, or else one that shares anything."""
    cell.together = [entry for entry in cell.parallel if _share_weights(cell, entry[0], weights)]
    cell.parallel = [entry for entry in cell.parallel if entry not in cell.together]
    if not cell.together and (one := keep_one(cell, enough)) is not None:
        cell.together = [one]


def keep_one(cell: Cell, enough: int) -> Parallel | None:
    """Take the last of the parallel dimensions along which a step reads the same of anything out of them and give it, if there
    are enough slices without it."""
    for entry in reversed(cell.parallel):
        others = [e for e in cell.parallel if e is not entry]
        if prod(n for _w, _o, n in others if isinstance(n, int)) >= enough and _share_anything(cell, entry[0]):
            cell.parallel = others
            return entry
    return None


def _share_weights(cell: Cell, where: Mapping[int, int], weights: Collection[str]) -> bool:
    """Whether sums read one of these inputs, the same in every step, at the same place for all positions of a dimension."""
    return any(
        label in weights and not axes & {"^p", TIME} and any(a.startswith("k") for a in axes)
        for label, index in _read_at(cell, where)
        for axes in (_axes(index),)
    )


def _share_anything(cell: Cell, where: Mapping[int, int]) -> bool:
    """Whether a step reads something but states and single numbers at the same place for all positions of a dimension."""
    states = {n.label for n in cell.state}
    axes = [_axes(index) for label, index in _read_at(cell, where) if label not in states]
    return any("^p" not in a and bool(a - {TIME}) for a in axes)


def _read_at(cell: Cell, where: Mapping[int, int]) -> Iterator[tuple[str, Index]]:
    """Each input that the next states are made of, with its index; `^p` walks along the dimension."""
    for i, n in enumerate(cell.then):
        yield from reads_of(n, "a", {where[i]: "^p"}).states


def _axes(index: Index) -> set[str]:
    return {a for e in index for a in e.axes}


def read_along(cell: Cell, where: Mapping[int, int]) -> dict[str, int]:
    """The dimension of each input that a dimension of the states walks along by itself."""
    found = ((label, only(index, "^p")) for label, index in _read_at(cell, where))
    return {label: d for label, d in found if d is not None}


def _shares(cell: Cell, where: Mapping[int, int]) -> bool:
    """Whether something costly is the same at all positions of a dimension."""
    reads = [reads_of(n, "a", {where[i]: "^p"}) for i, n in enumerate(cell.then)]
    return any(all("^p" not in e.axes for e in index) for r in reads for index in r.costly)


def _follow(cell: Cell, where: dict[int, int]) -> tuple[dict[int, int], dict[int, int]] | None:
    """The dimension of each state and of each result that goes with these, or None where they mix."""
    number, where, done = {n.label: i for i, n in enumerate(cell.state)}, dict(where), set[int]()
    extent = next(cell.state[i].shape[d] for i, d in where.items())
    while len(done) < len(cell.state):
        todo = [i for i in where if i not in done]
        if not todo:
            rest = next(i for i in range(len(cell.state)) if i not in where)
            same = [e for e, n in enumerate(cell.state[rest].shape) if n == extent]
            tried = (_follow(cell, {**where, rest: e}) for e in same)
            return next((found for found in tried if found is not None), None)
        done.add(todo[0])
        for label, index in reads_of(cell.then[todo[0]], "a", {where[todo[0]]: "^p"}).states:
            if label in number:
                e = only(index, "^p")
                if e is None or where.setdefault(number[label], e) != e:
                    return None
    outs = {k: _out_dim(out, where, number, extent) for k, out in enumerate(cell.outs)}
    return None if None in outs.values() else (where, outs)  # type: ignore[return-value]


def _out_dim(out: Out, where: Mapping[int, int], number: Mapping[str, int], extent: Dim) -> int | None:
    """The result's dimension that goes with these of the states; for one that reads no state any of that size will do."""
    axes = set()
    for label, index in reads_of(out.node, "o", {}).states:
        if label in number:
            at = index[where[number[label]]]
            if len(at.terms) != 1 or at.const != 0 or at.terms[0][1] != 1 or only(index, at.terms[0][0]) is None:
                return None
            axes.add(at.terms[0][0])
    if not axes:
        same = [e for e, n in enumerate(out.node.shape) if n == extent]
        return next((e for e in same if e == where[0]), same[0] if same else None)
    found = axes.pop() if len(axes) == 1 else ""
    return int(found[1:]) if found[:1] == "o" and found[1:].isdigit() else None


def layout(cell: Cell, i: int) -> list[int]:
    """The order of a state's dimensions in memory: those that sums run over first, so that vectors run along another."""
    rank = len(cell.state[i].shape)
    summed: set[int] = set()
    for node in (*cell.then, *(o.node for o in cell.outs)):
        for label, index in reads_of(node, "z", {}).states:
            if label == f"state{i}":
                summed |= {d for d in range(rank) if any(a[0] == "k" for a in index[d].axes)}
    free = [d for d in range(rank) if d not in summed and cell.state[i].shape[d] != 1]
    slices = {where[i] for where, _o, _n in (*cell.parallel, *cell.together)}
    sizes = [int(n) if isinstance(n, int) else 0 for n in cell.state[i].shape]
    wide = max((sizes[d] for d in free if d not in slices), default=0)
    if not summed or wide < 8 or 2 * wide < max(sizes[d] for d in summed):
        return list(range(rank))
    return sorted(range(rank), key=lambda d: (d not in summed, d))
