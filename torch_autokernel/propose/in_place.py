"""Which states of a loop may be written over those before them."""

from __future__ import annotations

from torch_autokernel.propose.sweeps import Former, Segment, Sweep, reach


def written_in_place(former: Former) -> frozenset[str]:
    """The states whose next values may be written over those before: each element is read where its successor is made, and
    nowhere after."""
    found = set()
    for number, sweep in enumerate(former.sweeps):
        for target in {r.target for r in sweep.roots if r.target.startswith("next")}:
            state = target.replace("next", "state")
            later = any(i.tensor == state for s in former.sweeps[number + 1 :] for i in former.loads_of(s))
            if not later and all(_read_where_made(sweep, segment, target, state) for g in sweep.segments for segment in g):
                found.add(target)
    return frozenset(found)


def _read_where_made(sweep: Sweep, segment: Segment, target: str, state: str) -> bool:
    made = [k for k, r in enumerate(sweep.roots) if r.target == target]
    stage = min(segment.values[k].stage for k in made)
    places = {sweep.roots[k].store_at for k in made}
    for k, value in segment.values.items():
        loads = [i for i in reach([value]) if i.kind == "load" and i.tensor == state]
        moved = value.kind == "load" and k not in made  # copied when results are written
        if loads and (value.stage > stage or moved or any(i.at not in places for i in loads)):
            return False
    return True
