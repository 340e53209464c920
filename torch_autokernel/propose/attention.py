"""Attention in a graph: softmax(f(q k)) v, in whatever spelling, and every part of it pulled to its own loops.

The loops are the *outer* axes (batch, heads, and whatever a view makes of them), `i` over queries, `j` over keys, `d` over
what q and k share, `e` over the columns of v. A score is pulled like any other value, with the product of q and k as a leaf,
so biases, masks, caps and conversions around it need no pattern. The patterns are those of the softmax alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch_autokernel.core.dims import Dim
from torch_autokernel.core.products import ATTENTION, PRODUCTS
from torch_autokernel.core.types import Signature
from torch_autokernel.propose import ir
from torch_autokernel.propose.build import Call, build
from torch_autokernel.propose.index import ZERO, Affine, CutNeeded, Range, Refused, Space, SplitNeeded, divide
from torch_autokernel.propose.ir import Index, Node
from torch_autokernel.propose.pull import Inst, Puller, Table

LOW = ("float32", "bfloat16", "float16")
MAX_SPLITS = 16


@dataclass(frozen=True)
class Form:
    """The nodes that matter: `first` = q k, `score` what the softmax is taken of, `weights` its result as `second` = weights v
    reads it. With `safe`, rows whose scores are all -inf have weights of zero instead of NaN. With `strict`, values of keys
    that the mask empties have no part in a result, be they NaN; else 0 * NaN is NaN."""

    output: Node
    second: Node
    weights: Node
    score: Node
    first: Node
    safe: bool
    strict: bool = False


@dataclass
class Parts:
    """The values of an attention at the indices of its loops. `outer` maps axes to sizes, in order; `dot` and `sum` are the
    leaves that stand for the products in `score` and `result`; `at` is where the result is stored."""

    outer: dict[str, Dim]
    sizes: dict[str, Dim]
    table: Table
    query: Inst
    key: Inst
    value: Inst
    score: Inst
    dot: Inst
    result: Inst
    total: Inst
    at: Affine
    safe: bool
    strict: bool = False


def count_products(signature: Signature) -> int:
    return sum(2 if op.target == ATTENTION else op.target in PRODUCTS for op in signature.ops)


# ---- the form ----
def find(signature: Signature) -> Form:
    """The attention that the whole signature is; raises Refused where it is something else."""
    _inputs, outputs = build(signature)
    if len(outputs) != 1:
        raise Refused("attention with more than one result")
    seconds = products_of(outputs[0])
    if len(seconds) != 1:
        raise Refused(f"a result made of {len(seconds)} products")
    (second,) = seconds
    weights = _plain(second.args[0])
    soft, safe = _unsafe(weights)
    score = _softmax_of(soft)
    firsts = products_of(score)
    if len(firsts) != 1:
        raise Refused(f"scores made of {len(firsts)} products")
    (first,) = firsts
    if any(products_of(n) for n in (*first.args, second.args[1])):
        raise Refused("a product of products")
    for node in (first, second):
        if node.dtype not in LOW:
            raise Refused(f"a product in {node.dtype}")
    strict = any(op.target == ATTENTION and Call(op, ()).raw(4, "is_causal") for op in signature.ops)
    return Form(outputs[0], second, weights, score, first, safe, strict)


def products_of(node: Node) -> list[Node]:
    """The matrix products that the node is made of, without those that are within others."""
    seen: set[int] = set()
    todo, found = [node], []
    while todo:
        n = todo.pop()
        if id(n) in seen:
            continue
        seen.add(id(n))
        if n.kind == "product":
            found.append(n)
        else:
            todo.extend(n.args)
    return found


def _plain(node: Node) -> Node:
    """The node behind views and roundings."""
    while node.kind == "view" or node.kind == "point" and node.fn in ("round_bf16", "round_f16"):
        node = node.args[0]
    return node


def _is(node: Node, fn: str) -> bool:
    return node.kind == "point" and node.fn == fn


def _unsafe(node: Node) -> tuple[Node, bool]:
    """The softmax within `where(no score of the row is above -inf, 0, softmax)`, and whether it was within one."""
    if not _is(node, "select"):
        return node, False
    condition, zero, soft = node.args
    if not (_zero(zero) and _nothing_above(condition, _softmax_of(_plain(soft)))):
        raise Refused("weights that are chosen by a condition")
    return _plain(soft), True


def _zero(node: Node) -> bool:
    node = _plain(node)
    return node.kind == "const" and node.value == 0


def _nothing_above(condition: Node, score: Node) -> bool:
    """Whether the condition is `not any(not (score == -inf))` over the rows."""
    if not (_is(condition, "not") and (fold := condition.args[0]).kind == "reduce" and fold.fn == "any"):
        return False
    if not _is(fold.args[0], "not") or not _is(test := fold.args[0].args[0], "eq"):
        return False
    limit = _plain(test.args[1])
    return test.args[0] is score and limit.kind == "const" and limit.value == float("-inf")


def _softmax_of(node: Node) -> Node:
    """x of a written-out softmax(x) over the last dimension."""
    if not _is(node, "div"):
        raise Refused("weights that are no softmax")
    weight, total = node.args
    if not (_is(weight, "exp") and _folds(total, "sum") and total.args[0] is weight):
        raise Refused("weights that are no softmax")
    shifted = weight.args[0]
    if _is(shifted, "select"):  # how a softmax of x * c is rewritten: rows with infinities go the plain way
        condition, scaled, shifted = shifted.args
        if not (_by_rows(condition) and _shifted(_unscaled(scaled))):
            raise Refused("scores that are chosen by a condition")
    if not _shifted(shifted):
        raise Refused("a softmax without its maximum")
    return shifted.args[0]


def _folds(node: Node, fn: str) -> bool:
    return node.kind == "reduce" and node.fn == fn and node.keepdim and node.dims == (len(node.args[0].shape) - 1,)


def _shifted(node: Node) -> bool:
    return _is(node, "sub") and _folds(node.args[1], "max") and node.args[1].args[0] is node.args[0]


def _unscaled(node: Node) -> Node:
    scaled = (_is(node, "mul") or _is(node, "div")) and node.args[1].kind == "const"
    return node.args[0] if scaled else node


def _by_rows(condition: Node) -> bool:
    return _is(condition, "not") and _folds(condition.args[0], "any")


# ---- the parts ----
def parts_of(signature: Signature) -> Parts:
    """The parts of the attention that the signature is; raises Refused."""
    strides = {f"x{i}": s.stride for i, s in enumerate(signature.inputs)}
    return parts(find(signature), strides, signature.output_specs[0].stride)


def parts(form: Form, strides: dict[str, tuple[Dim, ...]], store: tuple[Dim, ...]) -> Parts:
    """Every part at the indices of its loops; raises Refused. `store` are the strides of the result."""
    (*batch, queries, columns), (keys, depth) = form.second.shape, (form.first.shape[-1], form.first.args[0].shape[-1])
    sizes = {"j": keys, "d": depth, "e": columns}
    if 1 in sizes.values():
        raise Refused("attention with one key or one column")
    outer: dict[str, Dim] = {"batch": batch[0]} if batch and batch[0] != 1 else {}
    at_batch = Affine.axis("batch") if outer else ZERO
    at_query = Affine.axis("i") if queries != 1 else ZERO
    sizes["i"] = queries
    for number in range(MAX_SPLITS):
        ranges = {a: Range(0, s) for a, s in (outer | sizes).items()}
        try:
            return _pull(form, Space(ranges), strides, store, outer, sizes, (at_batch,) if batch else (), at_query)
        except SplitNeeded as need:
            at_batch, at_query = _split(need, number, outer, sizes, at_batch, at_query)
        except CutNeeded as need:
            raise Refused(f"a boundary within the loop over {need.axis}") from None
    raise Refused("the loops would have to be split too often")


def _split(
    need: SplitNeeded, number: int, outer: dict[str, Dim], sizes: dict[str, Dim], at_batch: Affine, at_query: Affine
) -> tuple[Affine, Affine]:
    """An outer axis becomes two; of the queries' axis the slow part becomes an outer one."""
    axis, inner = need.axis, need.inner
    if axis not in outer and axis != "i":
        raise Refused(f"the loop over {axis} would have to be split")
    whole = divide((outer | sizes)[axis], inner)
    if whole is None:
        raise Refused(f"a loop of {(outer | sizes)[axis]} cannot be split by {inner}")
    slow, fast = f"slow{number}", "i" if axis == "i" else f"fast{number}"
    by = Affine.of({slow: inner, fast: 1})
    if axis == "i":
        sizes["i"], outer[slow] = inner, whole
    else:
        items = [(a, s) for k, v in outer.items() for a, s in ([(slow, whole), (fast, inner)] if k == axis else [(k, v)])]
        outer.clear()
        outer.update(items)
    return at_batch.substitute(axis, by), at_query.substitute(axis, by)


def _pull(
    form: Form, space: Space, strides: dict[str, tuple[Dim, ...]], store: tuple[Dim, ...], outer: dict[str, Dim],
    sizes: dict[str, Dim], batch: Index, at_query: Affine,
) -> Parts:  # fmt: skip
    table = Table()
    j, d, e = (Affine.axis(a) for a in "jde")
    seen: dict[str, Index] = {}
    every = frozenset((*outer, "i"))

    def leaf(name: str, index: Index, axes: frozenset[str]) -> Inst:
        if seen.setdefault(name, index) != index:
            raise Refused(f"the {name} of another row than this")
        return table.make("leaf", "float", axes=axes, tensor=name)

    def resolve(node: Node, index: Index) -> Inst | None:
        if node is form.weights:
            return leaf("weights", index, every | {"j"})
        if node is form.first:
            return leaf("dot", index, every | {"j"})
        if node is form.second:
            return leaf("total", index, every | {"e"})
        return None

    puller = Puller(table, space, strides, resolve)
    result = puller.value(form.output, made := _pushed(form, space, (*batch, at_query, e)))
    puller.value(form.second.args[0], (*batch, at_query, j))
    score = puller.value(form.score, ir.broadcast(seen["weights"], form.score.shape))
    *at_first, at_i, at_j = seen["dot"]
    if at_j != j or at_i.axes & {"j"}:
        raise Refused("scores that are transposed before the softmax")
    query, key = (puller.value(a, x) for a, x in zip(form.first.args, ((*at_first, at_i, d), (*at_first, d, j)), strict=True))
    value = puller.value(form.second.args[1], (*batch, j, e))
    if key.axes & {"i"} or value.axes & {"i"}:
        raise Refused("keys or values that differ from query to query")
    at = ZERO
    for x, s in zip(made, store, strict=True):
        at = at + x.times(s)
    dot, total = (table.make("leaf", "float", axes=every | {a}, tensor=n) for n, a in (("dot", "j"), ("total", "e")))
    return Parts(dict(outer), dict(sizes), table, query, key, value, score, dot, result, total, at, form.safe, form.strict)


def _pushed(form: Form, space: Space, index: Index) -> Index:
    """The output's index of an element of the second product; between them stand views that are one to one and values of
    the same shape."""
    path, node = [], form.output
    while node is not form.second:
        path.append(node)
        below = [a for a in node.args if form.second in products_of(a)]
        if len(below) != 1 or node.kind not in ("view", "point") or node.kind == "point" and below[0].shape != node.shape:
            raise Refused("a result that is not element by element the product's")
        (node,) = below
    for node in reversed(path):
        if node.kind == "view":
            if node.push is None:
                raise Refused("a result that repeats the product's elements")
            index = node.push(space, index)
    return index
