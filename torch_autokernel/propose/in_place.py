"""Which states of a loop may be written over those before them."""

from __future__ import annotations

from torch_autokernel.propose.sweeps import Former, Segment, Sweep, reach


def written_in_place(former: Former) -> frozenset[str]:
    """The states whose next values may be written where they lie themselves: each element is read before its successor is
    written, and nowhere after."""
    found = set()
    for target in {r.target for s in former.sweeps for r in s.roots if r.target.startswith("next")}:
        homes = [n for n, s in enumerate(former.sweeps) if any(r.target == target for r in s.roots)]
        state = f"state{target.removeprefix('next')}"
        later = any(i.tensor == state for s in former.sweeps[homes[-1] + 1 :] for i in former.loads_of(s))
        sweep = former.sweeps[homes[0]]
        if len(homes) == 1 and not later and all(_read_before(sweep, group, target, state) for group in sweep.segments):
            found.add(target)
    return frozenset(found)


def _read_before(sweep: Sweep, group: list[Segment], target: str, state: str) -> bool:
    """Whether the sweep reads no element of the state after it has written its successor."""
    made = [k for k, r in enumerate(sweep.roots) if r.target == target]
    places, first = {sweep.roots[k].store_at for k in made}, min(_when(sweep, group, k) for k in made)
    for k, root in enumerate(sweep.roots):
        values = [segment.values[k] for segment in group]
        places_read = {i.at for i in reach(values) if i.kind == "load" and i.tensor == state}
        if k in made and not places_read <= {root.store_at}:
            return False
        if k in made or not places_read:
            continue
        copied = any(v.kind == "load" for v in values)  # read only when the copy is written
        if copied or not places_read <= places or _when(sweep, group, k) > first:
            return False
    return True


def _when(sweep: Sweep, group: list[Segment], k: int) -> tuple[int, int]:
    """When a root is made, as rows are printed: those within the content pass by pass, each after all that its pass reads at
    the same place; then the others one by one."""
    root = sweep.roots[k]
    if root.axes & frozenset(sweep.content) or root.role == "row":
        return 0, max(segment.values[k].stage for segment in group)
    return 1, k
