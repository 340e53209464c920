"""Values that a sweep would compute over and over, or that keep its loops from merging, moved to a sweep before it."""

from __future__ import annotations

from torch_autokernel.propose.functions import EXPENSIVE
from torch_autokernel.propose.index import Affine, mul
from torch_autokernel.propose.pull import Inst
from torch_autokernel.propose.sweeps import Former, Root, Sweep, contiguous, reach

REUSE = 4  # how often a value must be used for computing it ahead
SHARED = 4  # vectors that steps along an axis have in common, for a loop of its own
SHORT = 16  # a vector axis under this length is worth merging with its neighbour


def hoist(former: Former) -> None:
    """Move what pays; the new sweeps are put before those that read them."""
    out: list[Sweep] = []
    for sweep in former.sweeps:
        moved = _moved(former, sweep)
        for inst, axes in moved:
            out.append(_ahead(former, sweep, inst, axes))
        if moved:
            former.analyse(sweep)
        out.append(sweep)
    for number, sweep in enumerate(out):
        sweep.number = number
    former.sweeps = out


def _moved(former: Former, sweep: Sweep) -> list[tuple[Inst, tuple[str, ...]]]:
    v = former.unit_axis(sweep)
    if v is None:
        return []
    tops = [x for g in sweep.segments for s in g for x in s.values.values()]
    values = reach(tops)
    users: dict[Inst, list[Inst]] = {i: [] for i in values}
    for i in values:
        for a in i.args:
            users[a].append(i)
    total = former.extent(sweep, sweep.order)
    running = {i for i in values if any(x.kind == "scan" for x in reach([i]))}

    def small(i: Inst, more: frozenset[str] = frozenset()) -> bool:
        return not i.stage and bool(i.axes) and i not in running and former.extent(sweep, i.axes | more) * REUSE <= total

    costly = [
        i for i in values
        if (v in i.axes or former.outer) and small(i) and max(x.cost for x in reach([i])) >= EXPENSIVE
        and any(not small(u) for u in users[i])
    ]  # fmt: skip
    if sweep.cuts:
        found = {i: i.axes for i in costly if _same_in_all_pieces(sweep, i)}
    else:
        found = {i: i.axes for i in costly} | _blockers(former, sweep, v, values, users, total)
    found = {i: axes for i, axes in found.items() if i.id in sweep.table.origin}  # a value between those of two nodes stays
    order = sweep.order.index
    return [(i, tuple(sorted(axes, key=order))) for i, axes in sorted(found.items(), key=lambda kv: kv[0].id)]


def _same_in_all_pieces(sweep: Sweep, inst: Inst) -> bool:
    """Whether the node at this index is this value wherever the sweep needs it, and may be asked for along whole loops."""
    if inst.id not in sweep.table.origin:
        return False
    made = sweep.table.made[sweep.table.origin[inst.id]]
    everywhere = len(made) == sum(len(group) for group in sweep.segments)
    return {i for i, _ in made} == {inst.id} and (everywhere or not inst.axes & frozenset(sweep.cuts))


def _blockers(
    former: Former, sweep: Sweep, v: str, values: set[Inst], users: dict[Inst, list[Inst]], total: int
) -> dict[Inst, frozenset[str]]:
    """Small values whose loads keep a short vector axis from merging with the next one, to be spread over both."""
    if former.hint(sweep.sizes[v]) >= SHORT:
        return {}
    large = [i for i in values if i.kind == "load" and former.extent(sweep, i.axes) * REUSE > total]
    step = sweep.sizes[v]
    nexts = [a for a in sweep.order if a != v and large and all(i.at.coefficient(a) == step for i in large)]
    if not nexts or any(i.kind in ("index", "fold", "scan") for i in values):
        return {}
    both = frozenset((v, nexts[0]))

    def merges(at: Affine) -> bool:
        return at.coefficient(nexts[0]) == mul(step, at.coefficient(v))

    def small(i: Inst) -> bool:
        return not i.stage and bool(i.axes) and former.extent(sweep, i.axes | both) * REUSE <= total

    out = {}
    for i in values:
        leaves = [x for x in reach([i]) if x.kind == "load"]
        if small(i) and any(not small(u) for u in users[i]) and not all(merges(x.at) for x in leaves):
            out[i] = i.axes | both
    return out


def _ahead(former: Former, sweep: Sweep, inst: Inst, axes: tuple[str, ...]) -> Sweep:
    """A sweep over `axes` that computes the value into workspace; the old sweep reads it from there."""
    node, index = sweep.table.origin[inst.id]
    name = f"h{len(former.buffers)}"
    sizes = {a: sweep.sizes[a] for a in axes}
    shape = tuple(sizes.values())
    former.buffers[name] = (node, shape)
    into = tuple(Affine.axis(a) for a in axes)
    own = index
    for axis in (a for a in sweep.order if a not in axes):
        low = sweep.table.made[node, index][0][1][axis].low  # the value is the same along this loop, at least in this piece
        own = tuple(i.substitute(axis, Affine((), low)) for i in own)
    root = Root("keep", node, node, own, into, name, former.stored(node), contiguous(shape))
    new = Sweep(0, sizes, list(axes), list(axes), [], [root], hoisted=dict(sweep.hoisted))
    former.analyse(new)
    sweep.hoisted[node, index] = (name, shape, into)
    return new


def share(former: Former) -> None:
    """Give a convolution's sweep an inner loop over the channels of the result: what they read of the image is read once."""
    for sweep in former.sweeps:
        values = reach([x for g in sweep.segments for s in g for x in s.values.values()])
        v = former.unit_axis(sweep)
        alone = not sweep.content and all(r.kind in ("out", "keep") for r in sweep.roots)
        if v is None or not alone or not any(i.fn == "fma" for i in values):
            continue
        loads = [i for i in values if i.kind == "load" and v in i.axes]
        free = {a: sum(a not in i.axes for i in loads) for a in sweep.rows if a != v and a not in sweep.cuts}
        axis = max(free, key=lambda a: free[a], default=v)
        rest = former.extent(sweep, [a for a in sweep.rows if a not in (axis, v)])
        if free.get(axis, 0) >= SHARED and rest >= 4 * former.threads:
            sweep.rows.remove(axis)
            sweep.content.append(axis)
            former.analyse(sweep)
