"""An attention as C++: keys packed into panels (or read as they lie), then blocks of queries against blocks of keys with the
softmax corrected as it goes, so that no matrix of scores is ever stored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch_autokernel.core import dims
from torch_autokernel.core.dims import Dim
from torch_autokernel.core.types import Arch, Region, Signature
from torch_autokernel.propose import ir
from torch_autokernel.propose.attention import Parts, parts_of
from torch_autokernel.propose.functions import EXPENSIVE, literal
from torch_autokernel.propose.index import mul, product
from torch_autokernel.propose.kernel import Kernel
from torch_autokernel.propose.part_text import PartsKernel, at_hand, plain, steps
from torch_autokernel.propose.pull import Inst
from torch_autokernel.propose.skips import Masked, masked, possible
from torch_autokernel.propose.sweeps import reach
from torch_autokernel.propose.text import number, size_text
from torch_autokernel.propose.tiles import Problem, Tiles, choose
from torch_autokernel.propose.values import Scope

AHEAD = 16  # keys between the one that is read and the one that is fetched
SETTLED = 104  # exp(-104) is 0 in single precision


class AttentionText(PartsKernel):
    """Prints one attention kernel."""

    def __init__(self, signature: Signature, parts: Parts, tiles: Tiles) -> None:
        every = parts.outer | parts.sizes
        work = mul(product(every[a] for a in (*parts.outer, "i", "j")), dims.add(every["d"], every["e"]))
        constants = {"ROWS": tiles.rows, "KEYS": tiles.keys, "WORKERS": tiles.workers}
        super().__init__(signature, parts, tiles, constants, work)
        self.parts, self.tiles = parts, tiles
        self.score = self.text.narrowed(parts.score)
        with_keys = [a for a in parts.outer if a in parts.key.axes | parts.value.axes]
        self.group = [a for a in parts.outer if a not in with_keys] if tiles.merge else []
        self.blocks = [a for a in parts.outer if a not in self.group]
        self.value_plain = plain(parts.value, "e", "j")
        self.key_plain = plain(parts.key, "d", "j") if tiles.direct else None
        self.mask = masked(parts.score, parts.table)
        rows = (["0", "r0"], [f"{self.sizes['i']} - 1", "r0 + rows - 1"])
        self.may = self._possible("j0", "j0 + n - 1", *(ends[not self.group] for ends in rows))
        last = f"j0 + c + {self.panel - 1}"
        few = tiles.direct or self.group
        self.some = None if few else self._possible("j0 + c", last, "r0 + r1", f"r0 + least(rows, r1 + {tiles.mr}) - 1")
        self.looks = self.mask is not None and _loaded(self.mask.live)
        self.strict = parts.strict and self.mask is not None

    # ---- sizes ----
    @property
    def panel(self) -> int:
        return self.tiles.nv * self.tiles.lanes

    def _rows(self) -> Dim:
        every = self.parts.outer | self.parts.sizes
        return product([every[a] for a in (*self.group, "i")])

    def _place(self, axes: list[str]) -> str:
        """The number of a combination of axes."""
        at = ""
        for a in axes:
            at = f"({at} * {self.sizes[a]} + {a})" if at else a
        return at or "0"

    # ---- the kernel ----
    def body(self) -> None:
        if not self.key_plain:
            self._pack_keys()
        if not self.value_plain:
            self._pack_values()
        if self.strict or (self.may or self.looks) and not self.tiles.direct:
            self._look_for_infinities()
        self._work()

    # ---- packing ----
    def _pack_keys(self) -> None:
        part, w = self.parts.key, self.panel
        deps, keys, depth = self.deps(part), self.parts.sizes["j"], self.parts.sizes["d"]
        one = mul(dims.add(keys, w - 1), depth)
        self.buffer("panels", product([self.parts.outer[a] for a in deps]), one)
        out, self.one_panels = self.out, size_text(one)
        out(f"// keys in panels of {w}, a panel's keys side by side")
        with out.block(self.shared(deps, f"for (int64_t j0 = 0; j0 < {self.sizes['j']}; j0 += {w})")):
            out(f"float* into = panels + {self._place(deps)} * {self.one_panels} + j0 * {self.sizes['d']};")
            out(f"const int64_t n = least({w}, {self.sizes['j']} - j0);")
            out(f"if (n < {w}) fill(into, {w} * {self.sizes['d']}, 0.0f);")
            if steps(part, "j") and not steps(part, "d"):
                with out.block(f"for (int64_t d = 0; d < {self.sizes['d']}; ++d)"):
                    with out.block("each<L>(0, n, [&](int64_t c, auto m) AK_BODY", "});"):
                        out("const int64_t j = j0 + c;")
                        self.put(part, "j", f"put<ak::f32>(into + d * {w} + c, {{}}, m);")
            else:
                with out.block("for (int64_t c = 0; c < n; ++c)"):
                    out("const int64_t j = j0 + c;")
                    with out.block(f"each<L>(0, {self.sizes['d']}, [&](int64_t d, auto m) AK_BODY", "});"):
                        self.put(part, "d", f"put_strided<ak::f32>(into + d * {w} + c, {{}}, {w}, m);")

    def _pack_values(self) -> None:
        part = self.parts.value
        deps, keys, columns = self.deps(part), self.parts.sizes["j"], self.parts.sizes["e"]
        one = mul(keys, columns)
        self.buffer("values", product([self.parts.outer[a] for a in deps]), one)
        self.one_values = size_text(one)
        with self.out.block(self.shared(deps, f"for (int64_t j = 0; j < {self.sizes['j']}; ++j)")):
            self.out(f"float* into = values + {self._place(deps)} * {self.one_values} + j * {self.sizes['e']};")
            with self.out.block(f"each<L>(0, {self.sizes['e']}, [&](int64_t e, auto m) AK_BODY", "});"):
                self.put(part, "e", "put<ak::f32>(into + e, {}, m);")

    def _value_source(self) -> tuple[str, str, str]:
        """Pointer to the first value of these outer axes, its element kind, and the step from key to key."""
        if self.value_plain is None:
            return f"values + {self._place(self.deps(self.parts.value))} * {self.one_values}", "f32", self.sizes["e"]
        return self._plain_source(self.value_plain, "e")

    def _plain_source(self, load: Inst, along: str) -> tuple[str, str, str]:
        return self.source(load, (along, "j")), ir.ELEMENT[load.dtype], size_text(load.at.coefficient("j"))

    def _look_for_infinities(self) -> None:
        """0 for the outer axes whose values are all finite, NaN else: 0 * inf must stay NaN, so nothing is skipped there. With
        `strict` it must not come into being."""
        deps = self.deps(self.parts.value)
        self.buffer("unfit", product([self.parts.outer[a] for a in deps]))
        out = self.out
        masked_keys = "masked keys are left out one by one" if self.strict else "masked keys count too"
        out(f"// where a value is not finite, {masked_keys} (0 * inf is NaN)")
        with out.block(self.shared(deps)):
            source, kind, step = self._value_source()
            call = f"nothing_of<ak::{kind}, L>({source}, {step}, {self.sizes['j']}, {self.sizes['e']})"
            out(f"unfit[{self._place(deps)}] = {call};")

    # ---- the blocks ----
    def _work(self) -> None:
        out, tiles, p = self.out, self.tiles, self.parts
        wide, long = self.round_up(p.sizes["d"]), self.round_up(p.sizes["e"])
        each: dict[str, Dim] = {
            "queries": mul(tiles.rows, wide), "results": mul(tiles.rows, long), "scores": tiles.mr * tiles.keys,
            "tops": tiles.rows, "totals": tiles.rows,
        }  # fmt: skip
        for name, size in each.items():
            self.buffer(name, tiles.workers, size)
        rows = self._rows()
        out(f"const int64_t ldq = {size_text(wide)}, ldo = {size_text(long)}, lds = KEYS;")
        count = " * ".join([self.sizes[a] for a in self.blocks] + [f"cdiv({size_text(rows)}, ROWS)"])
        out(f"const int64_t blocks = {count};", f"#pragma omp parallel for schedule(dynamic){self.many}")
        with out.block("for (int64_t w = 0; w < WORKERS; ++w)"):
            out("float* const q = queries + w * ROWS * ldq;", "float* const o = results + w * ROWS * ldo;")
            out(f"float* const s = scores + w * {tiles.mr} * lds;", "float* const top = tops + w * ROWS;")
            out("float* const total = totals + w * ROWS;")
            with out.block("for (int64_t b = blocks - 1 - w; b >= 0; b -= WORKERS)"):
                self._block(rows)

    def _block(self, rows: Dim) -> None:
        out, tiles, mr = self.out, self.tiles, self.tiles.mr
        out(f"const int64_t r0 = b % cdiv({size_text(rows)}, ROWS) * ROWS, rows = least(ROWS, {size_text(rows)} - r0);")
        left = f"(b / cdiv({size_text(rows)}, ROWS))"
        for a in reversed(self.blocks):
            out(f"const int64_t {a} = {left}" + (f" % {self.sizes[a]};" if a != self.blocks[0] else ";"))
            left = f"({left} / {self.sizes[a]})"
        self._queries()
        out(f"fill(o, cdiv(rows, {mr}) * {mr} * ldo, 0.0f);", "fill(total, rows, 0.0f);")
        out("fill(top, rows, -std::numeric_limits<float>::infinity());")
        source, kind, step = self._value_source()
        out(f"const auto* const v = {source};")
        if self.key_plain:
            keys, key_kind, key_step = self._plain_source(self.key_plain, "d")
            out(f"const auto* const k = {keys};")
        else:
            key_kind, key_step = "f32", ""
            out(f"const float* const k = panels + {self._place(self.deps(self.parts.key))} * {self.one_panels};")
        late = ", bool late" if self.some and not self.strict else ""
        if self.strict:
            out(f"const float odd = unfit[{self._place(self.deps(self.parts.value))}];")
        elif self.may is not None or self.looks:
            out("int64_t left = 0;")
        with out.block(f"const auto meet = [&](int64_t j0, int64_t n{late})", "};"):
            with out.block(f"for (int64_t r1 = 0; r1 < rows; r1 += {mr})"):
                with out.block("const auto part = [&](int64_t first, int64_t end) AK_BODY", "};"):
                    self._dots(key_kind, key_step)
                    with out.block(f"for (int64_t r = r1; r < least(rows, r1 + {mr}); ++r)"):
                        self._softmax_row()
                    values, types = f"v + (j0 + first) * {step}, {step}", f"{mr}, {tiles.nv}, ak::{kind}, L"
                    what = f"s + first, lds, {values}, end - first, {self.sizes['e']}, o + r1 * ldo, ldo"
                    if self.strict:
                        out(f"if (!(odd == 0.0f)) update_marked<ak::{kind}, L>(least({mr}, rows - r1), {what});", "else")
                    out(f"update_all<{types}>({what});")
                self._parts()
        self._all_keys()
        self._results()

    def _parts(self) -> None:
        """The keys of a block that these few rows need; those on either side are for later, as whole blocks are."""
        out, w = self.out, self.panel
        if self.some is None:
            out("part(0, n);")
            return
        out(f"const auto some = [&](int64_t c) {{ return {self.some}; }};", "int64_t first = 0, end = n;")
        out(f"while (end > 0 && !some((end - 1) / {w} * {w})) end = (end - 1) / {w} * {w};")
        out(f"while (first < end && !some(first)) first += {w};")
        if self.strict:
            out("if (first < end) part(first, end);")
            return
        out("if (first > end) first = end;", "left += end - first < n;")
        out("const int64_t ends[] = {late ? 0 : first, late ? first : end, end, late ? n : end};")
        out("for (int k = 0; k < 4; k += 2) if (ends[k] < ends[k + 1]) part(ends[k], ends[k + 1]);")

    def _row_axes(self, row: str) -> None:
        """The axes of a row of the block."""
        if self.group:
            left = f"(r0 + {row})"
            names = [*self.group, "i"]
            for a in reversed(names):
                self.out(f"const int64_t {a} = {left}" + (f" % {self.sizes[a]};" if a != names[0] else ";"))
                left = f"({left} / {self.sizes[a]})"
        else:
            self.out(f"const int64_t i = r0 + {row};")

    def _queries(self) -> None:
        out, mr = self.out, self.tiles.mr
        with out.block("for (int64_t r = 0; r < rows; ++r)"):
            self._row_axes("r")
            out("if (ldq != " + self.sizes["d"] + ") fill(q + (r + 1) * ldq - L, L, 0.0f);")
            with out.block(f"each<L>(0, {self.sizes['d']}, [&](int64_t d, auto m) AK_BODY", "});"):
                self.put(self.parts.query, "d", "put<ak::f32>(q + r * ldq + d, {}, m);")
        out(f"fill(q + rows * ldq, (cdiv(rows, {mr}) * {mr} - rows) * ldq, 0.0f);")

    def _dots(self, kind: str, step: str) -> None:
        out, tiles, mr, d = self.out, self.tiles, self.tiles.mr, self.sizes["d"]
        if not self.key_plain:
            w = self.panel
            with out.block(f"for (int64_t c = first; c < end; c += {w})"):
                out(f"panel_dots<{mr}, {tiles.nv}, L>(q + r1 * ldq, ldq, k + (j0 + c) * {d}, {d}, s + c, lds);")
            return
        share = tiles.lanes // mr  # so many keys' sums are one vector
        at_once = share if tiles.lanes % mr == 0 and share <= 8 else max(1, 8 // mr)
        where = f"q + r1 * ldq, ldq, k + (j0 + c) * {step}, {step}, {d}, s + c, lds"
        out("int64_t c = first;")
        with out.block(f"for (; c + {at_once} <= end; c += {at_once})"):
            if tiles.ahead:
                _source, _kind, value_step = self._value_source()
                with out.block("if (r1 == 0)"):
                    out(f"prefetch_rows(k + (j0 + c + {AHEAD}) * {step}, {step}, {at_once}, {d});")
                    out(f"prefetch_rows(v + (j0 + c) * {value_step}, {value_step}, {at_once}, {self.sizes['e']});")
            out(f"row_dots<{mr}, {at_once}, ak::{kind}, L>({where});")
        if at_once > 1:
            out(f"for (; c < end; ++c) row_dots<{mr}, 1, ak::{kind}, L>({where});")

    def _softmax_row(self) -> None:
        out, score = self.out, self.score
        self._row_axes("r")
        out("float* const x = s + (r - r1) * lds;", "vec<float, L> tops(-std::numeric_limits<float>::infinity());")
        scope: Scope = {}
        self.text.vector = "j"
        self.text.define(score, scope, frozenset("j"))
        with out.block("each<L>(first, end, [&](int64_t c, auto m) AK_BODY", "});"):
            out("[[maybe_unused]] const int64_t j = j0 + c;")
            inner = scope | {self.parts.dot.id: "dot"}
            out("const auto dot = load(x + c, m);")
            text = self.text.value(score, inner)
            out(f"const auto y = {text};")
            if score.id != self.parts.dot.id:
                out("store(x + c, y, m);")
            out("tops = maximum(tops, keep(m, y, -std::numeric_limits<float>::infinity()));")
        out(f"online_softmax(x + first, end - first, tops, top[r], total[r], o + r * ldo, {self.sizes['e']});")
        if self.strict:
            assert isinstance(self.mask, Masked)
            with out.block("if (!(odd == 0.0f)) each<L>(first, end, [&](int64_t c, auto m) AK_BODY", "});"):
                out("[[maybe_unused]] const int64_t j = j0 + c;")
                text = self.text.value(self.text.narrowed(self.mask.live), {})
                out(f"const auto counts = {'~' if self.mask.inverse else ''}{text};")
                out("store(x + c, select(counts, load(x + c, m), -1.0f), m);")

    # ---- which keys ----
    def _possible(self, key: str, last_key: str, row: str, last_row: str) -> str | None:
        """C++ that is false only where the mask empties all of these keys for all of these rows."""
        if self.mask is None or "j" not in self.mask.live.axes:
            return None
        names = {a: a for a in self.parts.outer}
        ends = {"j": (key, last_key), "i": (row, last_row)} | {a: ("0", f"{self.sizes[a]} - 1") for a in self.group}
        return possible(self.mask.live, self.mask.inverse, ends, names)

    def _all_keys(self) -> None:
        out, keys = self.out, self.sizes["j"]
        if self.may is None and not self.looks:
            out(f"for (int64_t j0 = 0; j0 < {keys}; j0 += KEYS) meet(j0, least(KEYS, {keys} - j0));")
            return
        assert isinstance(self.mask, Masked)
        late = ", false" if self.some else ""
        later = "left for later; they count only where their rows have no greater score"
        out(f"// blocks that the mask empties are {'left out' if self.strict else later}")
        with out.block("const auto may = [&](int64_t j0, [[maybe_unused]] int64_t n)", "};"):
            if self.looks:
                self._look(self.mask)
            else:
                out(f"return {self.may};")
        if self.strict:
            with out.block(f"for (int64_t j0 = 0; j0 < {keys}; j0 += KEYS)"):
                out(f"const int64_t n = least(KEYS, {keys} - j0);", "if (may(j0, n)) meet(j0, n);")
            return
        odd = "0.0f" if self.tiles.direct else f"unfit[{self._place(self.deps(self.parts.value))}]"
        out(f"float odd = {odd};")
        with out.block(f"for (int64_t j0 = 0; j0 < {keys}; j0 += KEYS)"):
            out(f"const int64_t n = least(KEYS, {keys} - j0);", f"if (may(j0, n)) meet(j0, n{late});")
            if self.tiles.direct:  # for few queries it is cheaper to look at the values that are left out only
                _, kind, step = self._value_source()
                out(f"else ++left, odd += nothing_of<ak::{kind}, L>(v + j0 * {step}, {step}, n, {self.sizes['e']});")
            else:
                out("else ++left;")
        self.text.vector = ""
        scope: Scope = {}
        for i in self.text.needed([self.mask.value]):
            self.text.emit(i, scope)
        value = number(self.mask.value) if self.mask.value.kind in ("const", "size") else scope[self.mask.value.id]
        out("bool settled = odd == 0.0f;")
        out(f"for (int64_t r = 0; r < rows; ++r) settled = settled && {value} - top[r] < {literal(-SETTLED, 'float')};")
        with out.block(f"if (left && !settled) for (int64_t j0 = 0; j0 < {keys}; j0 += KEYS)"):
            out(f"const int64_t n = least(KEYS, {keys} - j0);", f"if (!may(j0, n)) meet(j0, n{late});")
            if self.some:
                out("meet(j0, n, true);")

    def _look(self, mask: Masked) -> None:
        """A mask that lies in memory is read until a key is found that counts."""
        out = self.out
        if self.may:
            out(f"if (!({self.may})) return false;")
        with out.block("for (int64_t r = 0; r < rows; ++r)"):
            self._row_axes("r")
            out("bool some = false;")
            with out.block("each<L>(0, n, [&](int64_t c, auto m) AK_BODY", "});"):
                out("[[maybe_unused]] const int64_t j = j0 + c;")
                self.text.vector = "j"
                text = self.text.value(self.text.narrowed(mask.live), {})
                out(f"some = some || any(keep(m, {'~' if mask.inverse else ''}{text}, false));")
            out("if (some) return true;")
        out("return false;")

    # ---- results ----
    def _results(self) -> None:
        out, p = self.out, self.parts
        spec = self.signature.output_specs[0]
        with out.block("for (int64_t r = 0; r < rows; ++r)"):
            self._row_axes("r")
            safe = "top[r] == -std::numeric_limits<float>::infinity() ? 1.0f : " if p.safe else ""
            out(f"const float by = {safe}total[r];")
            with out.block(f"each<L>(0, {self.sizes['e']}, [&](int64_t e, auto m) AK_BODY", "});"):
                out("const auto sum = load(o + r * ldo + e, m) / by;")
                self.text.vector = "e"
                text = self.text.value(p.result, {p.total.id: "sum"})
                self.text.store("y0", spec.dtype, p.at, text, True, p.result.ctype, p.result.fn)


def _loaded(live: Inst) -> bool:
    """Whether a condition is cheap to look up: it reads a tensor along the keys, and no score."""
    seen = reach([live])
    reads = any(i.kind == "load" and "j" in i.axes for i in seen)
    return reads and not any(i.kind == "leaf" or i.cost >= EXPENSIVE for i in seen)


def write(signature: Signature, parts: Parts, tiles: Tiles) -> Kernel:
    return AttentionText(signature, parts, tiles).kernel()


def kernels(region: Region, arch: Arch) -> Iterator[tuple[Tiles, Kernel]]:
    """Kernels for a region that is an attention, the most promising first; raises Refused where it is none."""
    parts = parts_of(region.signature)
    for tiles in choose(problem(parts, region.sizes), arch):
        yield tiles, write(region.signature, parts, tiles)


def problem(parts: Parts, hints: Mapping[str, int]) -> Problem:
    used = parts.key.axes | parts.value.axes
    group = at_hand([s for a, s in parts.outer.items() if a not in used], hints)
    queries, keys, depth, columns = (at_hand([parts.sizes[a]], hints) for a in "ijde")
    found = masked(parts.score, parts.table)
    skips = found is not None and bool(found.live.axes & frozenset("ij"))
    return Problem(at_hand(parts.outer.values(), hints), group, queries, keys, depth, columns, skips)
