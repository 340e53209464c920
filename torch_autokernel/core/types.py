"""The values that travel between rooms: frozen, slotted, JSON both ways, free of torch.

Every type has `.to_json()` (plain dicts, lists, strings, numbers) and `.from_json()`. `canonical()` is the one text
that digests are made from; a digest never depends on `repr`.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
import math
import types as _pytypes
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch_autokernel.core import dims
from torch_autokernel.core.dims import Dim

if TYPE_CHECKING:
    from typing_extensions import Self

SIGNATURE_SCHEMA = 1


# --------------------------------------------------------------------------------------------- JSON both ways
def canonical(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any) -> str:
    """sha256 (hex) of the canonical JSON of a value."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def _encode(value: Any) -> Any:
    if isinstance(value, Json):
        return value.to_json()
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, float) and not math.isfinite(value):
        return {"f": str(value)}
    if isinstance(value, (list, tuple)):
        return [_encode(v) for v in value]
    if isinstance(value, Mapping):
        return {str(k): _encode(v) for k, v in value.items()}
    return value


def _decode(hint: Any, value: Any) -> Any:
    origin = typing.get_origin(hint)
    if hint is Any or value is None:
        return _revive(value)
    if origin in (typing.Union, _pytypes.UnionType):
        kinds = [a for a in typing.get_args(hint) if a is not type(None)]
        structured = [k for k in kinds if typing.get_origin(k) or (isinstance(k, type) and issubclass(k, (Json, enum.Enum)))]
        return _decode(structured[0], value) if len(structured) == 1 and isinstance(value, (dict, list)) else _revive(value)
    if origin is tuple:
        (item, *_rest) = typing.get_args(hint)
        return tuple(_decode(item, v) for v in value)
    if origin in (dict, Mapping) or (isinstance(origin, type) and issubclass(origin, Mapping)):
        return {k: _decode(typing.get_args(hint)[1], v) for k, v in value.items()}
    if isinstance(hint, type) and issubclass(hint, Json):
        return hint.from_json(value)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return hint(value)
    if hint is float:
        return float(value["f"]) if isinstance(value, dict) else float(value)
    return _revive(value)


def _revive(value: Any) -> Any:
    if isinstance(value, dict):
        if set(value) == {"f"}:
            return float(value["f"])
        if set(value) == {"v"}:
            return Ref(value["v"])
        if set(value) == {"k", "value"}:
            return Const(value["k"], value["value"])
        return {k: _revive(v) for k, v in value.items()}
    return tuple(_revive(v) for v in value) if isinstance(value, list) else value


class Json:
    """Mixin: a frozen dataclass to plain JSON and back, driven by its annotations."""

    __slots__ = ()

    def to_json(self) -> dict[str, Any]:
        return {f.name: _encode(getattr(self, f.name)) for f in dataclasses.fields(self)}  # type: ignore[arg-type]

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The value that `to_json` gave; raises KeyError or ValueError where `data` is not of this type."""
        hints = _hints(cls)
        known = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
        if unknown := set(data) - set(known):
            raise ValueError(f"{cls.__name__} has no field {sorted(unknown)[0]!r}; known: {', '.join(known)}")
        return cls(**{name: _decode(hints[name], data[name]) for name in known if name in data})


_HINTS: dict[type, dict[str, Any]] = {}


def _hints(cls: type) -> dict[str, Any]:
    if cls not in _HINTS:
        _HINTS[cls] = typing.get_type_hints(cls)
    return _HINTS[cls]


# --------------------------------------------------------------------------------------------- what is computed
DTYPE_BYTES = {
    "float64": 8, "float32": 4, "bfloat16": 2, "float16": 2,
    "int64": 8, "int32": 4, "int16": 2, "int8": 1, "uint8": 1, "bool": 1,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Ref(Json):
    """Value number `index`: inputs are 0..n-1, op i of the signature is n+i."""

    index: int

    def to_json(self) -> dict[str, Any]:
        return {"v": self.index}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Ref:
        return cls(data["v"])


@dataclass(frozen=True, slots=True)
class Const(Json):
    """An argument that plain JSON cannot tell: kind `dim` (a size expression), `dtype`, `device`, `memory_format`."""

    kind: str
    value: str

    def to_json(self) -> dict[str, Any]:
        return {"k": self.kind, "value": self.value}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Const:
        return cls(data["k"], data["value"])


@dataclass(frozen=True, slots=True)
class TensorSpec(Json):
    """A tensor as a kernel sees it. `stride` counts elements; the stride of a size-1 dimension is written as 0 and
    means "any". `alignment` is in bytes."""

    shape: tuple[Dim, ...]
    dtype: str
    stride: tuple[Dim, ...]
    device: str = "cpu"
    alignment: int = 1
    requires_grad: bool = False

    @property
    def itemsize(self) -> int:
        return DTYPE_BYTES[self.dtype]

    def concrete(self, sizes: Mapping[str, int]) -> TensorSpec:
        """The same spec with every size evaluated."""
        shape, stride = (tuple(dims.evaluate(d, sizes) for d in ds) for ds in (self.shape, self.stride))
        return dataclasses.replace(self, shape=shape, stride=stride)

    def numel(self, sizes: Mapping[str, int] | None = None) -> int:
        return math.prod(dims.evaluate(d, sizes or {}) for d in self.shape)

    def storage_elements(self, sizes: Mapping[str, int] | None = None) -> int:
        """How many elements lie between the first and the last one, both counted; 0 for an empty tensor."""
        shape = [dims.evaluate(d, sizes or {}) for d in self.shape]
        stride = [dims.evaluate(d, sizes or {}) for d in self.stride]
        return 0 if 0 in shape else 1 + sum((n - 1) * s for n, s in zip(shape, stride, strict=True))

    def natural_stride(self) -> tuple[Dim, ...]:
        """The strides to allocate: where the spec says "any", those of a tensor that is contiguous from there on."""
        out = list(self.stride)
        for d in reversed(range(len(out))):
            if self.shape[d] == 1 and out[d] == 0:
                out[d] = dims.mul(self.shape[d + 1] or 1, out[d + 1]) if d + 1 < len(out) else 1
        return tuple(out)

    @staticmethod
    def contiguous(shape: tuple[Dim, ...], dtype: str, device: str = "cpu") -> TensorSpec:
        strides: list[Dim] = []
        step: Dim = 1
        for size in reversed(shape):
            strides.append(0 if size == 1 else step)
            step = dims.mul(step, size)
        return TensorSpec(shape, dtype, tuple(reversed(strides)), device, DTYPE_BYTES[dtype])


@dataclass(frozen=True, slots=True)
class Op(Json):
    """One operation. `target` is an ATen or prims overload (`aten.add.Tensor`, `prims.convert_element_type.default`)
    or `getitem`. Arguments are Refs, Consts, numbers, strings, None and tuples of these. `shape` and `dtype` are those
    of the result; for an op with several results they are empty and the `getitem`s that follow carry them."""

    target: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    shape: tuple[Dim, ...] = ()
    dtype: str = ""


@dataclass(frozen=True, slots=True)
class Signature(Json):
    """What a region computes, with all names gone. `outputs` are value numbers, `output_specs` what to allocate for
    them. `symbols` are in kernel argument order (first appearance: all input shapes, then all input strides); each
    stands alone in some input's shape or stride, from which it is bound. `guards` maps a symbol to its least value."""

    ops: tuple[Op, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[int, ...]
    output_specs: tuple[TensorSpec, ...]
    symbols: tuple[str, ...] = ()
    guards: Mapping[str, int] = field(default_factory=dict)
    schema: int = SIGNATURE_SCHEMA

    @property
    def digest(self) -> str:
        return digest(self.to_json())

    def bind(self, shapes: tuple[tuple[int, ...], ...], strides: tuple[tuple[int, ...], ...]) -> dict[str, int]:
        """The symbols' values under concrete input shapes and strides; raises ValueError where they do not fit."""
        sizes: dict[str, int] = {}
        want = [d for s in self.inputs for d in s.shape] + [d for s in self.inputs for d in s.stride]
        have = [d for s in shapes for d in s] + [d for s in strides for d in s]
        if len(want) != len(have):
            raise ValueError(f"expected {len(want) // 2} dimensions in all, got {len(have) // 2}")
        for w, h in zip(want, have, strict=True):
            if isinstance(w, str) and w.isidentifier():
                sizes.setdefault(w, h)
        half = len(have) // 2
        for i, (w, h) in enumerate(zip(want, have, strict=True)):
            if dims.evaluate(w, sizes) != h and not (i >= half and have[i - half] == 1):
                raise ValueError(f"size or stride {h} where {w} = {dims.evaluate(w, sizes)} was expected")
        return sizes


@dataclass(frozen=True, slots=True)
class Region(Json):
    """A subgraph that may be replaced. `reference` is PyTorch source with one function `reference(x0, ..., s0, ...)`
    returning a tuple: the one text for verifier, prompt, report and dataset. `sizes` are the values at hand (the
    hints) for the symbols: what speed is measured at. `nodes` names the graph's nodes, for reports only.
    `edge_bytes` counts the tensors at the region's edge that Inductor could have kept in registers because it fuses what
    stands on the other side: a kernel has to make up for writing and reading them. `phase` is inference, forward, backward, or
    `direct`: the decorator calls the kernel itself, and what it competes with is a whole call through torch.compile."""

    signature: Signature
    reference: str
    sizes: Mapping[str, int] = field(default_factory=dict)
    nodes: tuple[str, ...] = ()
    phase: str = "inference"
    edge_bytes: int = 0

    @property
    def direct(self) -> bool:
        return self.phase == "direct"


# --------------------------------------------------------------------------------------------- where it runs
@dataclass(frozen=True, slots=True)
class Arch(Json):
    """A device as far as a binary cares. `limits`: threads, l1_bytes, l2_bytes, l3_bytes, vector_bytes (CPU).
    `peak_flops` by dtype in flop/s for all threads; `peak_bytes_per_s` of main memory; 0 means not measured."""

    key: str
    features: tuple[str, ...] = ()
    limits: Mapping[str, int] = field(default_factory=dict)
    peak_bytes_per_s: float = 0.0
    peak_flops: Mapping[str, float] = field(default_factory=dict)
    name: str = ""


@dataclass(frozen=True, slots=True)
class CacheKey(Json):
    """Where a kernel lies: signature digest, arch key, and the ABI (launcher and toolchain fingerprint)."""

    signature: str
    arch: str
    abi: str


# --------------------------------------------------------------------------------------------- candidates
@dataclass(frozen=True, slots=True)
class Source(Json):
    """A kernel as text. `schedule` holds the integer choices it was made with. `launch` is the launch plan as data
    (`workspace`: bytes as a Dim over the signature's symbols)."""

    language: str
    text: str
    entry: str = "kernel"
    flags: tuple[str, ...] = ()
    schedule: Mapping[str, Any] = field(default_factory=dict)
    launch: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Cost(Json):
    seconds: float = 0.0
    tokens: int = 0
    money: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.seconds + other.seconds, self.tokens + other.tokens, self.money + other.money)


@dataclass(frozen=True, slots=True)
class Budget(Json):
    """Limits; None is no limit."""

    seconds: float | None = None
    tokens: int | None = None
    money: float | None = None

    def spent(self, cost: Cost) -> str | None:
        """Why the budget is used up, or None."""
        for name in ("seconds", "tokens", "money"):
            limit, used = getattr(self, name), getattr(cost, name)
            if limit is not None and used >= limit:
                return f"{name} used up: {used:.6g} of {limit:.6g}"
        return None


@dataclass(frozen=True, slots=True)
class Candidate(Json):
    """Unproven source for a signature (its digest)."""

    signature: str
    source: Source
    proposer: str
    parents: tuple[str, ...] = ()
    cost: Cost = Cost()

    @property
    def id(self) -> str:
        """Content hash: what it is for and what it says; who proposed it does not matter."""
        return digest({"signature": self.signature, "source": self.source.to_json()})[:32]


@dataclass(frozen=True, slots=True)
class Artifact(Json):
    """Compiled bytes at `path`; or no path and the reason in `log` where the compiler refused. `facts` are static
    (code bytes, imported symbols)."""

    candidate: Candidate
    path: str
    sha256: str
    entry: str
    launch: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    log: str = ""
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        return bool(self.path)


# --------------------------------------------------------------------------------------------- judgement
class Status(enum.Enum):
    PASS = "pass"
    FAIL = "fail"
    SKIP = "skip"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Case(Json):
    """One set of inputs, as data from which they can be made again: symbol values, distribution, seed."""

    seed: int
    sizes: Mapping[str, int]
    distribution: str
    origin: str = "generated"
    note: str = ""


@dataclass(frozen=True, slots=True)
class Finding(Json):
    check: str
    status: Status
    reason: str = ""
    evidence: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Timing(Json):
    """Candidate against the named best baseline; nanoseconds a call, one sample a round, paired by position.
    `speedup` is the median of the paired ratios, `low` and `high` the ends of its 95% interval. `others` holds the
    median nanoseconds of every contender, with warm and with cold caches."""

    samples_ns: tuple[float, ...]
    baseline_ns: tuple[float, ...]
    baseline: str
    speedup: float
    low: float
    high: float
    method: str
    sizes: Mapping[str, int] = field(default_factory=dict)
    others: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Verdict(Json):
    candidate: str
    arch: str
    findings: tuple[Finding, ...]
    required: tuple[str, ...]
    timing: Timing | None = None
    seed: int = 0
    verifier: str = ""

    @property
    def accepted(self) -> bool:
        """Every required check passed and none failed. A skipped required check is not a pass."""
        passed = {f.check for f in self.findings if f.status is Status.PASS}
        broken = any(f.status in (Status.FAIL, Status.ERROR) for f in self.findings)
        return bool(self.required) and set(self.required) <= passed and not broken

    @property
    def why(self) -> str:
        for f in self.findings:
            if f.status in (Status.FAIL, Status.ERROR):
                return f"{f.check}: {f.reason}"
        passed = {f.check for f in self.findings if f.status is Status.PASS}
        if missing := [c for c in self.required if c not in passed]:
            return f"required check not passed: {', '.join(missing)}"
        return f"{len(passed)} checks passed" if self.required else "no check was required, so nothing is accepted"


@dataclass(frozen=True, slots=True)
class Attempt(Json):
    """A judged candidate: the unit of the journal, the search history and the dataset."""

    candidate: Candidate
    artifact: Artifact | None = None
    verdict: Verdict | None = None
    cost: Cost = Cost()


@dataclass(frozen=True, slots=True)
class Assignment(Json):
    """One candidate that a strategy wants from an author. `kind`: translate (no parent), improve, combine (two parents),
    differ (unlike all of `avoid`) or repair (a parent that was rejected). `approach` is the strategy to follow, `notes` are
    facts for the author, `examples` are verified kernels of related regions. `sample` tells equal assignments apart."""

    kind: str
    sample: int = 0
    approach: str = ""
    parents: tuple[Attempt, ...] = ()
    notes: tuple[str, ...] = ()
    avoid: tuple[str, ...] = ()
    examples: tuple[Candidate, ...] = ()


@dataclass(frozen=True, slots=True)
class Expense(Json):
    """What calls of one role to one model for one region (its digest) cost. `requests` counts what went over the wire,
    retries included; `replayed` the calls answered from the record of an earlier run, whose tokens were paid then; `failed`
    those without a usable answer; `estimated` the tokens that no server told."""

    role: str
    model: str
    region: str
    calls: int = 1
    requests: int = 0
    replayed: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    estimated: int = 0
    seconds: float = 0.0
    money: float = 0.0

    @property
    def cost(self) -> Cost:
        return Cost(self.seconds, self.prompt_tokens + self.completion_tokens, self.money)

    def __add__(self, other: Expense) -> Expense:
        names = [f.name for f in dataclasses.fields(self)][3:]
        return dataclasses.replace(self, **{n: getattr(self, n) + getattr(other, n) for n in names})


# --------------------------------------------------------------------------------------------- what is kept
class Trust(enum.Enum):
    VERIFIED_HERE = "verified_here"
    PROVISIONAL = "provisional"
    SIGNED = "signed"
    UNTRUSTED = "untrusted"


@dataclass(frozen=True, slots=True)
class CacheEntry(Json):
    """An accepted kernel in the store. `ranges` maps a symbol to the least and greatest value for which this kernel is
    the one to use (speed, not correctness). `created` is seconds since the epoch."""

    key: CacheKey
    signature: Signature
    candidate: Candidate
    artifact: Artifact
    verdict: Verdict
    trust: Trust
    reference: str = ""
    ranges: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    created: float = 0.0

    @property
    def op_name(self) -> str:
        """The operator's name: a content hash, so that a changed body is another operator."""
        return "k" + digest([self.key.to_json(), self.candidate.id, self.artifact.sha256])[:24]


@dataclass(frozen=True, slots=True)
class Refusal(Json):
    """A search that found nothing: kept, so that it is not repeated until one of `conditions` changes. One of a whole graph
    (its key's signature is then the graph's digest) names the `signatures` whose kernels lose within it; there may be none."""

    key: CacheKey
    reason: str
    conditions: str
    ranges: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    created: float = 0.0
    signatures: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Kernel:
    """An accepted, loaded kernel: `call(*tensors)` gives the outputs as a tuple, or raises `GuardMiss`."""

    entry: CacheEntry
    call: Callable[..., Any]
