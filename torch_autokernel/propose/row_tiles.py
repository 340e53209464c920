"""Sums over products of which a step of the loop makes several rows at once: what the rows share is read once for all of them.

A batch that goes through a loop's weights row by row reads them anew for every row. Here a sweep's rows are taken in tiles of a
few, with an accumulator for each, so that a step is a matrix product with its sums in registers.
"""

from __future__ import annotations

from torch_autokernel.propose.index import ZERO, Affine
from torch_autokernel.propose.ir import Index
from torch_autokernel.propose.pull import Inst
from torch_autokernel.propose.sweeps import Former, Sweep, reach


def tile(former: Former, most: int) -> None:
    """Sums whose rows share what is read along the vector axis, in tiles of at most `most` rows. Rows that are left over are a
    sweep of their own."""
    out: list[Sweep] = []
    for sweep in former.sweeps:
        axis = _axis(former, sweep) if most > 1 else ""
        out += _tiles(former, sweep, axis, height(int(sweep.sizes[axis]), most)) if axis else [sweep]
    for number, sweep in enumerate(out):
        sweep.number = number
    former.sweeps = out


def height(rows: int, most: int) -> int:
    """The rows of a tile: a divisor where one is nearly as large as tiles of equal heights would be."""
    equal = -(-rows // -(-rows // most))
    divisor = max(n for n in range(1, most + 1) if rows % n == 0)
    return divisor if 3 * divisor >= 2 * equal else equal


def _axis(former: Former, sweep: Sweep) -> str:
    """The longest axis of rows along which what the sums read is the same: along the vector axis, where that is one of rows,
    else some of it. Empty where the sweep cannot be tiled."""
    v = former.unit_axis(sweep)
    if v is None or sweep.cuts or sweep.across or sweep.reduced_rows is not None or not sweep.content:
        return ""
    ((segment,),) = sweep.segments
    sums = [k for k, r in enumerate(sweep.roots) if r.role == "row" and r.owner is not None and r.owner.fn == "sum"]
    rest = [r for k, r in enumerate(sweep.roots) if k not in sums]
    if not sums or any(r.kind not in ("out", "keep") for r in rest):
        return ""
    values: set[Inst] = reach([segment.values[k] for k in sums])
    if any(i.kind == "scan" for i in values):
        return ""
    wide = [i for i in values if i.kind in ("load", "index") and v in i.axes]
    sizes = {a: n for a in sweep.rows if a != v and isinstance(n := sweep.sizes[a], int) and n > 1}
    shared = {a: sum(a not in i.axes for i in wide) for a in sizes}
    enough = 1 if v in sweep.content else max(1, len(wide))
    return max((a for a in sizes if shared[a] >= enough), key=lambda a: sizes[a], default="")


def _tiles(former: Former, sweep: Sweep, axis: str, high: int) -> list[Sweep]:
    whole, left = divmod(int(sweep.sizes[axis]), high)
    out = [_unrolled(sweep, axis, Affine.axis(axis).times(high) if whole > 1 else ZERO, high)]
    if left:
        out.append(_unrolled(sweep, axis, Affine((), whole * high), left))
    for made in out:
        if whole > 1 and made is out[0]:
            made.sizes[axis], made.tiled = whole, axis
        else:
            made.order.remove(axis)
            made.rows.remove(axis)
            del made.sizes[axis]
        former.analyse(made)
    return out


def _unrolled(sweep: Sweep, axis: str, first: Affine, high: int) -> Sweep:
    """The sweep with each of its roots once for every row of a tile that begins at `first`."""
    out = sweep.copy()
    places = [first.plus(row) for row in range(high)]
    out.tile = high
    out.roots = [r.substitute(axis, at) for at in places for r in sweep.roots]
    out.hoisted = {
        (node, _moved(index, axis, at)): (name, shape, _moved(where, axis, at))
        for (node, index), (name, shape, where) in sweep.hoisted.items()
        for at in places
    }
    return out


def _moved(index: Index, axis: str, at: Affine) -> Index:
    return tuple(i.substitute(axis, at) for i in index)
