"""A forward that holds a Python loop over time, as one region whose length is a symbol.

The call is traced at small lengths; `reroll.py` makes a loop of each trace, `loop_signature.py` one signature of two of them,
and a third length must give the same one. Which dimensions are time is tried out. All sizes but the length are constants.
Python that looks at the length itself is not seen at small ones: that is for `witness.py`.
"""

from __future__ import annotations

import dis
import itertools
import logging
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx
from torch.overrides import TorchFunctionMode

from torch_autokernel.capture import ops
from torch_autokernel.capture.loop_signature import LoopWriter, T
from torch_autokernel.capture.purity import of_torch, reached
from torch_autokernel.capture.reference import print_reference
from torch_autokernel.capture.reroll import live, roll, share
from torch_autokernel.capture.signature import Captured
from torch_autokernel.capture.whole import Whole, named_state, trace
from torch_autokernel.core.errors import CaptureError
from torch_autokernel.core.types import Region

log = logging.getLogger(__name__)

LENGTHS = (7, 9, 11, 13, 15, 17)
LEAST = 8  # a shorter loop is not worth it
_MOST_CALLS = 2000
UNROLLED = 64  # a longer one is not traced step by step
Table = Mapping[Any, Callable[..., Any]]
Where = frozenset[tuple[int, int]]  # (tensor argument, dimension) pairs that are as long as the loop


def capture_recurrence(
    function: Callable[..., Any], args: Sequence[Any], module: torch.nn.Module | None = None, table: Table | None = None
) -> Whole:
    """The call as one region with a loop; raises CaptureError with the reason where it is none. With a `table` operations are
    taken apart by it alone, and any may stand in and around the loop: the region is for reading, not for a kernel."""
    reasons = []
    for where in _hypotheses(args):
        try:
            with _quietly():
                return _Capture(function, args, module, where, table).whole()
        except _NotTime as error:
            log.debug("not time, %s: %s", sorted(where), error.message)
        except CaptureError as error:
            reasons.append(error.message)
            log.debug("no loop over %s: %s", sorted(where), error.message)
    if reasons:
        raise Unrolls(f"the loop cannot be rolled up: {reasons[0]}")
    raise CaptureError("no loop over a dimension of an argument")


class Unrolls(CaptureError):
    """There is a loop, but no kernel can be made of it."""


class _NotTime(CaptureError):
    """The forward does not grow with these dimensions."""


def longest(args: Sequence[Any]) -> int:
    return max((n for a in args if isinstance(a, torch.Tensor) for n in a.shape), default=0)


def loops(function: Callable[..., Any], module: torch.nn.Module | None) -> bool:
    """Whether the Python text of the function, of a user's submodule's forward, or of what they call, loops at all. What only
    makes a module may loop as it likes."""
    kinds = set() if module is None else {type(m) for m in module.modules()}
    own = {c for kind in kinds for c in kind.__mro__ if issubclass(c, torch.nn.Module) and not of_torch(c)}
    forwards = [kind.forward for kind in kinds if not own.isdisjoint(kind.__mro__)]
    attributes = lambda n: [getattr(a, "fget", a) for c in own if (a := vars(c).get(n)) is not None]
    return any(_jumps_back(f.__code__) for f in reached([function, *forwards], attributes))


def _jumps_back(code: types.CodeType) -> bool:
    if any(i.opname == "FOR_ITER" or "JUMP_BACKWARD" in i.opname for i in dis.get_instructions(code)):
        return True
    return any(_jumps_back(c) for c in code.co_consts if isinstance(c, types.CodeType))


@contextmanager
def _quietly() -> Iterator[None]:
    """Without torch's own words on traces that fail: a wrong guess at what is time is no error."""
    loud = logging.getLogger("torch._subclasses.fake_tensor")
    before, loud.disabled = loud.disabled, True
    try:
        yield
    finally:
        loud.disabled = before


def _hypotheses(args: Sequence[Any]) -> Iterator[Where]:
    """Which dimensions may be time: all of one size; those of one size at one position; each alone."""
    tensors = [a for a in args if isinstance(a, torch.Tensor)]
    pairs = [(i, d, int(n)) for i, t in enumerate(tensors) for d, n in enumerate(t.shape) if n >= LEAST]
    pairs.sort(key=lambda p: -p[2])
    groups = [frozenset((i, d) for i, d, n in pairs if n == size) for size in sorted({n for *_, n in pairs}, reverse=True)]
    groups += [frozenset((i, e) for i, e, n in pairs if n == size and e == d) for _i, d, size in pairs]
    groups += [frozenset(((i, d),)) for i, d, _n in pairs]
    yield from list(dict.fromkeys(groups))[:12]


def resized(args: Sequence[Any], where: Where, length: int) -> list[Any]:
    """The arguments with another length, contents meaningless; the order of dimensions in memory stays."""
    out: list[Any] = []
    numbers = itertools.count()
    for a in args:
        if not isinstance(a, torch.Tensor):
            out.append(a)
            continue
        i = next(numbers)
        shape = [length if (i, d) in where else n for d, n in enumerate(a.shape)]
        if shape == list(a.shape):
            out.append(a)
            continue
        order = sorted(range(a.dim()), key=lambda d: (-list(a.stride())[d], d))
        made = torch.empty([shape[d] for d in order], dtype=a.dtype)
        out.append(made.permute([order.index(d) for d in range(a.dim())]))
    return out


class _Traced:
    """The call at one length."""

    def __init__(self, function: Callable[..., Any], args: Sequence[Any], module: Any, where: Where, length: int,
                 table: Table | None) -> None:  # fmt: skip
        with _Few():
            gm, self.spec, self.names = trace(function, resized(args, where, length), module, table)
        self.graph = functional(gm).graph
        share(self.graph, length)
        self.length = length
        self.placeholders = [n for n in self.graph.nodes if n.op == "placeholder"]
        if found := [n.name for n in self.graph.nodes if n.op == "get_attr"]:
            raise CaptureError(f"the function reads a tensor that is not an argument ({found[0]})")

    @property
    def size(self) -> int:
        return len(live(self.graph))


class _Few(TorchFunctionMode):
    """Ends a trace that does not end soon: what was made short is not what the loop goes over."""

    def __init__(self) -> None:
        self.left = _MOST_CALLS

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.left -= 1
        if self.left < 0:
            raise _NotTime(f"more than {_MOST_CALLS} calls of torch at a length of a few steps")
        return func(*args, **(kwargs or {}))


def functional(gm: fx.GraphModule) -> fx.GraphModule:
    """The graph without operations in place, which some decompositions bring along."""
    from torch._subclasses import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx

    if not any(getattr(getattr(n.target, "_schema", None), "is_mutable", False) for n in live(gm.graph)):
        return gm
    values = [n.meta["val"] for n in gm.graph.nodes if n.op == "placeholder"]
    mode = next((v.fake_mode for v in values if hasattr(v, "fake_mode")), None) or FakeTensorMode()
    with torch.no_grad(), mode:
        out = make_fx(torch.func.functionalize(gm))(*values)
    out.graph.eliminate_dead_code()
    return out


class _Capture:
    def __init__(self, function: Callable[..., Any], args: Sequence[Any], module: torch.nn.Module | None, where: Where,
                 table: Table | None) -> None:  # fmt: skip
        self.function, self.args, self.module, self.where, self.table = function, args, module, where, table
        self.tensors = [a for a in args if isinstance(a, torch.Tensor)]
        self.tensors += named_state(module)
        taken = {int(n) for t in self.tensors for n in t.shape}
        lengths = [n for n in LENGTHS if n not in taken][:3]
        self.lengths = lengths
        (i, d), *_ = sorted(where)
        self.length = int(self.tensors[i].shape[d])

    def make(self, length: int) -> _Traced:
        return _Traced(self.function, self.args, self.module, self.where, length, self.table)

    def whole(self) -> Whole:
        try:
            short, longer = self.make(self.lengths[0]), self.make(self.lengths[1])
        except CaptureError as error:
            raise _NotTime(error.message) from error
        grown = longer.size - short.size
        if grown <= 0:
            raise _NotTime("the graph does not grow with the length")
        for node in live(longer.graph):
            if getattr(getattr(node.target, "_schema", None), "is_mutable", False):
                raise CaptureError(f"an argument is changed by {ops.name_of(node.target)}")
            if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
                raise CaptureError(f"{ops.name_of(node.target)} draws random numbers")
        if grown % (longer.length - short.length):
            raise CaptureError("the graph does not grow by the same number of operations a step")
        period = grown // (longer.length - short.length)
        first = roll(short.graph, period, short.length)
        second = roll(longer.graph, period, longer.length)
        writer = LoopWriter(self.tensors, self.length, short, longer, first, second, self.table is not None)
        signature = writer.signature()
        third = self.make(self.lengths[2])
        rolled = roll(third.graph, period, third.length)
        again = LoopWriter(self.tensors, self.length, short, third, first, rolled, self.table is not None).signature()
        if again.to_json() != signature.to_json():
            raise CaptureError("the loop is another one at other lengths")
        region = Region(signature, print_reference(signature), {T: self.length}, ())
        order = tuple(short.placeholders.index(n) for n in writer.inputs)
        captured = Captured(region, tuple(writer.inputs), (), ())
        return Whole(captured, order, writer.results, short.spec, tuple(short.names), self.where)
