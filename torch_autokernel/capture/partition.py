"""Cut a post-grad graph into regions.

Every operation that a region may hold gets a depth: how many extern calls (matmul, convolution, attention) must have run
before it. Nodes of one depth that touch each other form a region: no path can leave such a set and come back, so replacing
it by one call never makes a cycle. So do nodes of one depth that read the same large tensor; where no kernel pays for such a
region, its parts are looked at. A node whose users all stand deeper sinks to the shallowest of them, so that cheap
recomputation lands in the region that reads it. Constants and iotas belong to everybody and are copied into each region.
Views at the edge stay outside: the kernel gets the strided tensor. Before all that, attentions are taken out whole, products
included (`attention.py`); after it, products join what stands behind them (`products.py`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import fx

from torch_autokernel.capture import attention, ops, products, windows
from torch_autokernel.capture.nodes import bytes_of, crosses_mutation, writes
from torch_autokernel.capture.signature import Captured, capture_region, dtype_name
from torch_autokernel.capture.sizes import hint
from torch_autokernel.core.errors import CaptureError

MAX_NODES = 256
MAX_TENSORS = 64
_COMPUTES = ("pointwise", "reduction", "scan", "shaped", "pool", "convolution")
SHARED_BYTES = 4096  # a tensor of this size that two groups read makes them one region


@dataclass(frozen=True)
class Left:
    """Nodes that stay as they are, and why."""

    nodes: tuple[str, ...]
    reason: str


@dataclass
class Partition:
    regions: list[Captured]
    left: list[Left]


def partition(graph: fx.Graph, phase: str = "inference") -> Partition:
    """The regions of a graph in topological order, and what was left out with the reason. A view that is read within its region
    and outside of it is doubled in the graph."""
    banned: dict[fx.Node, str] = {}
    while True:
        found = _attempt(graph, phase, banned)
        if found is not None and not _double_views(found.regions):
            return found


def _double_views(regions: Iterable[Captured]) -> bool:
    """Give outside readers a view of their own where a region would have to make the view's elements a second time; such a
    result would not share memory with its base, either. Whether there was such a view."""
    doubled = False
    for captured in regions:
        inside = set(captured.members)
        for node in captured.outputs:
            if ops.kind(ops.name_of(node.target)) == "view" and node.args[0] in inside and _is_plain_view(node):
                with node.graph.inserting_after(node):
                    twin = node.graph.node_copy(node)
                for user in [u for u in node.users if u not in inside]:
                    user.replace_input_with(node, twin)
                doubled = True
    return doubled


def _attempt(graph: fx.Graph, phase: str, banned: dict[fx.Node, str]) -> Partition | None:
    """One pass; None where a node had to be banned and the cut must be made anew."""
    out = Partition([], [Left((n.name,), why) for n, why in banned.items()])
    whole, taken = _attentions(graph, phase, banned, out)
    regions = _fused(graph, phase, banned, taken, out.left)
    inner = _fused(graph, phase, banned, set(), []) if whole else []
    if regions is None or inner is None:
        return None
    doubtful = {n for c in regions for n in c.members if windows.doubtful(n)}
    if doubtful:
        around = _fused(graph, phase, banned, taken | doubtful, [])
        if around is None:
            return None
        regions = [_without(doubtful, c, around) for c in regions]
    regions, failed = products.capture(graph, phase, regions, lambda n: n not in taken and n not in banned and _values_fit(n))
    out.left += [Left((n.name,), why) for n, why in failed]
    taken |= {n for c in regions for n in c.members}
    out.regions = [_with_edge(c, taken) for c in regions]
    out.regions += [replace(c, parts=_within(c, inner)) for c in whole]
    return out


def _fused(
    graph: fx.Graph, phase: str, banned: dict[fx.Node, str], taken: set[fx.Node], left: list[Left]
) -> list[Captured] | None:
    """Regions of what Inductor could fuse, without the nodes that are taken."""
    fusible = _fusible(graph, banned) - taken
    free = _free(graph, fusible)
    depth = _depths(graph, fusible)
    regions: list[Captured] = []
    for cluster in _clusters(_components(graph, fusible - free, depth), depth):
        parts: list[Captured] = []
        for group in cluster:
            captured = _one(_with_free(_trim(group), free, graph), free, phase, banned, left)
            if captured is None:
                return None
            parts += captured
        regions += _joined(parts, free, graph, phase)
    return regions


def _within(captured: Captured, regions: list[Captured]) -> tuple[Captured, ...]:
    """The regions within this one, that stand in for it where it is not replaced as a whole."""
    members = set(captured.members)
    return tuple(c for c in regions if set(c.members) <= members)


def _without(doubtful: set[fx.Node], captured: Captured, around: list[Captured]) -> Captured:
    """The region; where no kernel makes these operations faster than torch's own, what stands around them is asked for."""
    if captured.parts:
        return replace(captured, parts=tuple(_without(doubtful, p, around) for p in captured.parts))
    return replace(captured, parts=_within(captured, around)) if doubtful & set(captured.members) else captured


def _one(
    members: list[fx.Node], free: set[fx.Node], phase: str, banned: dict[fx.Node, str], left: list[Left]
) -> list[Captured] | None:
    """The region of a group, or none and why; None where a node had to be banned."""
    if not any(ops.kind(ops.name_of(n.target)) in _COMPUTES for n in members):
        return []
    names = tuple(n.name for n in members)
    if len(members) > MAX_NODES:
        left.append(Left(names, f"{len(members)} operations are more than {MAX_NODES}"))
        return []
    try:
        captured = capture_region(members, phase=phase, copies=free)
    except CaptureError as error:
        culprit = _culprit(members, error)
        if culprit is None or culprit in banned:
            left.append(Left(names, error.message))
            return []
        banned[culprit] = error.message
        return None
    if not captured.inputs:
        left.append(Left(names, "it reads no tensor, so its results are constants"))
    elif len(captured.inputs) + len(captured.outputs) > MAX_TENSORS:
        left.append(Left(names, f"more than {MAX_TENSORS} tensors go in and out"))
    elif captured.outputs:
        return [captured]
    return []


def _joined(parts: list[Captured], free: set[fx.Node], graph: fx.Graph, phase: str) -> list[Captured]:
    """One region for all, which keeps them as its parts; or the parts, where they cannot be one."""
    members = {n for c in parts for n in c.members}
    tensors = {n for c in parts for n in (*c.inputs, *c.outputs)}
    if len(parts) < 2 or len(members) > MAX_NODES or len(tensors) > MAX_TENSORS:
        return parts
    try:
        whole = capture_region([n for n in graph.nodes if n in members], phase=phase, copies=free)
    except CaptureError:
        return parts
    return [replace(whole, parts=tuple(parts))]


def _clusters(groups: list[list[fx.Node]], depth: dict[fx.Node, int]) -> list[list[list[fx.Node]]]:
    """Groups of one depth that read the same large tensor belong together: one kernel reads it once. No path leaves their
    union and comes back either."""
    clusters: list[tuple[int, set[fx.Node], list[list[fx.Node]]]] = []
    for group in groups:
        inside = set(group)
        read = {_through_views(a) for n in group for a in n.all_input_nodes if a not in inside}
        large = {a for a in read if isinstance(a.meta.get("val"), torch.Tensor) and bytes_of(a) >= SHARED_BYTES}
        level, mine = depth[group[0]], [group]
        for cluster in [c for c in clusters if c[0] == level and c[1] & large]:
            clusters.remove(cluster)
            large, mine = large | cluster[1], [*cluster[2], *mine]
        clusters.append((level, large, mine))
    return [cluster[2] for cluster in clusters]


def _with_edge(captured: Captured, taken: set[fx.Node]) -> Captured:
    region = replace(captured.region, edge_bytes=_edge_bytes(captured, taken))
    return replace(captured, region=region, parts=tuple(_with_edge(p, taken) for p in captured.parts))


def _attentions(
    graph: fx.Graph, phase: str, banned: dict[fx.Node, str], out: Partition
) -> tuple[list[Captured], set[fx.Node]]:
    """The attentions as regions of their own, and the nodes that nothing else may take. Each counts as one extern call for
    what stands around it. Inductor fuses nothing into the products at their ends, so no bytes pass there for nothing."""
    regions, taken = [], set[fx.Node]()
    for found in attention.find(graph, lambda n: n not in banned and _values_fit(n)):
        try:
            regions.append(attention.capture(found, phase))
            taken |= set(found.members) - found.copies
        except CaptureError as error:
            out.left.append(Left(tuple(n.name for n in found.members), error.message))
    return regions, taken


def _edge_bytes(captured: Captured, taken: set[fx.Node]) -> int:
    """Bytes of the tensors that pass between the region and operations that Inductor could have fused with it."""
    ends = [n for n in captured.inputs if _fuses(_through_views(n), taken)]
    ends += [n for n in captured.outputs if any(_fuses(u, taken) for u in n.users if u not in captured.members)]
    return sum(bytes_of(n) for n in ends)


def _through_views(node: fx.Node) -> fx.Node:
    while node.op == "call_function" and ops.kind(ops.name_of(node.target)) in ("view", ops.GETITEM):
        node = node.all_input_nodes[0]
    return node


def _fuses(node: fx.Node, taken: set[fx.Node]) -> bool:
    """Whether Inductor makes a loop of its own out of this node, which no region took."""
    name = ops.name_of(node.target)
    return (
        node.op == "call_function"
        and node not in taken
        and name != ops.GETITEM
        and not ops.is_extern(name)
        and ops.kind(name) != "view"
        and not writes(node)
    )


def _culprit(members: Iterable[fx.Node], error: CaptureError) -> fx.Node | None:
    """The node that an error names in front of its colon."""
    name = error.message.partition(":")[0]
    return next((n for n in members if n.name == name or ops.name_of(n.target) == name), None)


def _fusible(graph: fx.Graph, banned: dict[fx.Node, str]) -> set[fx.Node]:
    out: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op != "call_function" or node in banned:
            continue
        name = ops.name_of(node.target)
        if name == ops.GETITEM:
            if node.args[0] in out:
                out.add(node)
        elif ops.kind(name) not in (None, "product", "attention") and _values_fit(node) and windows.fits(node):
            out.add(node)
    return out


def _values_fit(node: fx.Node) -> bool:
    """All tensors strided, on the CPU, of a dtype that a kernel may hold, and the layout asked for an ordinary one."""
    value = node.meta.get("val")
    tensors = list(value) if isinstance(value, (tuple, list)) else [value]
    tensors += [
        a.meta.get("val") for a in node.all_input_nodes if not isinstance(a.meta.get("val"), (torch.SymInt, tuple, list))
    ]
    return all(
        isinstance(t, torch.Tensor)
        and t.layout is torch.strided
        and t.device.type == "cpu"
        and dtype_name(t.dtype) in ops.DTYPES
        for t in tensors
    ) and (ops.name_of(node.target) != "aten.slice_scatter.default" or _is_source(node.args[0]))


def _is_source(node: object) -> bool:
    return isinstance(node, fx.Node) and ops.kind(ops.name_of(node.target)) == "source"


def _free(graph: fx.Graph, fusible: set[fx.Node]) -> set[fx.Node]:
    """Constants, iotas, and views and conversions of these: cheap enough to copy into every region that reads them."""
    out: set[fx.Node] = set()
    for node in graph.nodes:
        if node not in fusible:
            continue
        name = ops.name_of(node.target)
        if (
            ops.kind(name) == "source"
            or (ops.kind(name) == "view" or name == "prims.convert_element_type.default")
            and node.args[0] in out
        ):
            out.add(node)
    return out


def _depths(graph: fx.Graph, fusible: set[fx.Node]) -> dict[fx.Node, int]:
    """How many extern calls precede a node (as late as its users allow). Where a region must end though it could go on
    (`windows.py`), that counts as a call. A mutation in mid-graph is a wall: nothing before it shares a depth with anything
    behind it."""
    depth: dict[fx.Node, int] = {}
    wall, windowed, ends = 0, set[fx.Node](), set[tuple[fx.Node, fx.Node]]()
    for node in graph.nodes:
        level = wall
        for arg in node.all_input_nodes:
            if windows.ends_before(node, arg, fusible, windowed):
                ends.add((arg, node))
            level = max(level, depth[arg] + (_is_call(arg, fusible) or (arg, node) in ends))
        depth[node] = level
        if node in fusible and (windows.slides(node) or any(a in windowed and depth[a] == level for a in node.all_input_nodes)):
            windowed.add(node)
        if writes(node) and any(True for _ in _later_readers(node)):
            wall = max(depth.values()) + 1
    for node in reversed(graph.nodes):
        if node in fusible:
            bounds = [depth[u] - ((node, u) in ends) for u in node.users if u.op != "output"]
            if bounds:
                depth[node] = max(depth[node], min(bounds)) if not crosses_mutation(node) else depth[node]
    return depth


def _is_call(node: fx.Node, fusible: set[fx.Node]) -> bool:
    return node.op == "call_function" and node not in fusible and ops.name_of(node.target) != ops.GETITEM


def _later_readers(node: fx.Node) -> Iterable[fx.Node]:
    return (u for u in node.users if u.op != "output")


def _components(graph: fx.Graph, fusible: set[fx.Node], depth: dict[fx.Node, int]) -> list[list[fx.Node]]:
    parent: dict[fx.Node, fx.Node] = {n: n for n in fusible}

    def find(n: fx.Node) -> fx.Node:
        while parent[n] is not n:
            parent[n] = parent[parent[n]]
            n = parent[n]
        return n

    for node in graph.nodes:
        if node in fusible:
            for arg in node.all_input_nodes:
                if arg in fusible and depth[arg] == depth[node]:
                    parent[find(arg)] = find(node)
    groups: dict[fx.Node, list[fx.Node]] = {}
    for node in graph.nodes:
        if node in fusible:
            groups.setdefault(find(node), []).append(node)
    split = [part for group in groups.values() for part in _reconnect(_trim(group))]
    return split


def _reconnect(group: list[fx.Node]) -> list[list[fx.Node]]:
    """The connected parts of a group (trimming views may have taken it apart)."""
    inside = set(group)
    seen: set[fx.Node] = set()
    parts: list[list[fx.Node]] = []
    for start in group:
        if start in seen:
            continue
        stack, part = [start], set()
        while stack:
            node = stack.pop()
            if node in part:
                continue
            part.add(node)
            stack += [n for n in (*node.all_input_nodes, *node.users) if n in inside]
        seen |= part
        parts.append([n for n in group if n in part])
    return parts


def _trim(group: Iterable[fx.Node]) -> list[fx.Node]:
    """The group without the views at its edges, and without tuple results whose parts leave as tuples."""
    members = list(group)
    while True:
        inside = set(members)
        keep = [n for n in members if not _at_edge(n, inside)]
        if len(keep) == len(members):
            return keep
        members = keep


def _at_edge(node: fx.Node, inside: set[fx.Node]) -> bool:
    if ops.kind(ops.name_of(node.target)) == "view":
        reads_inside = any(a in inside for a in node.all_input_nodes)
        used_inside = any(u in inside for u in node.users)
        if not reads_inside:
            return _is_plain_view(node)
        return not used_inside
    if isinstance(node.meta.get("val"), (tuple, list)):
        return any(u not in inside for u in node.users)
    if ops.name_of(node.target) == ops.GETITEM:
        return node.args[0] not in inside
    return False


def _is_plain_view(node: fx.Node) -> bool:
    """Whether a leading view costs nothing outside (a reshape may be a copy; then the region makes it)."""
    if ops.name_of(node.target) != "aten.reshape.default":
        return True
    base = node.args[0].meta["val"]  # type: ignore[union-attr]
    try:
        shape, stride = [hint(s) for s in base.shape], [hint(s) for s in base.stride()]
        meta = torch.empty_strided(shape, stride, dtype=base.dtype, device="meta")
        meta.view([hint(s) for s in node.meta["val"].shape])
    except (RuntimeError, ValueError):  # the second is what torch's own Python says under a trace
        return False
    return True


def _with_free(group: list[fx.Node], free: set[fx.Node], graph: fx.Graph) -> list[fx.Node]:
    """The group plus the free nodes that it reads, in graph order."""
    members = set(group)
    stack = list(group)
    while stack:
        for arg in stack.pop().all_input_nodes:
            if arg in free and arg not in members:
                members.add(arg)
                stack.append(arg)
    return [n for n in graph.nodes if n in members]
