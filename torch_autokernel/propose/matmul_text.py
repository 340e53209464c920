"""A matrix product as C++: the left operand as rows of floats, the right one packed block by block into panels (or read as it
lies, for few rows), sums in registers, and what stands behind the product done where a block is finished."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch_autokernel.core.types import Arch, Region, Signature
from torch_autokernel.propose import ir
from torch_autokernel.propose.blocks import Blocks, Problem, choose
from torch_autokernel.propose.index import Refused, product
from torch_autokernel.propose.kernel import Kernel
from torch_autokernel.propose.matmul import Parts, parts_of
from torch_autokernel.propose.part_text import PartsKernel, at_hand, plain, steps
from torch_autokernel.propose.pull import Inst
from torch_autokernel.propose.text import size_text

UNITS = {"bfloat16": frozenset(("avx512_bf16", "amx_bf16")), "float16": frozenset(("avx512_fp16", "amx_fp16"))}


class MatmulText(PartsKernel):
    """Prints one kernel."""

    def __init__(self, signature: Signature, parts: Parts, blocks: Blocks) -> None:
        constants = {"ROWS": blocks.rows, "COLUMNS": blocks.columns, "DEPTH": blocks.depth, "WORKERS": blocks.workers}
        super().__init__(signature, parts, blocks, constants, product((parts.outer | parts.sizes).values()))
        self.parts, self.blocks = parts, blocks
        self.left_plain = None if blocks.direct else _floats(parts.left, "d")

    @property
    def panel(self) -> int:
        return self.blocks.nv * self.blocks.lanes

    def body(self) -> None:
        if self.left_plain is None:
            self._rows_of_floats()
        self._work()

    def _batch(self, part: Inst, one: str) -> str:
        """The offset of a part's matrix among those of its batch."""
        return f"batch * {one} + " if "batch" in part.axes else ""

    # ---- the left operand ----
    def _rows_of_floats(self) -> None:
        """The left operand as rows of floats that end in zeros."""
        part, out, d = self.parts.left, self.out, self.sizes["d"]
        outer, turned = self.deps(part), steps(part, "i") and not steps(part, "d")
        rows, long = (self.round_up(self.parts.sizes[a]) for a in "id")
        self.buffer("left", *[self.parts.outer[a] for a in outer], rows, long)
        out(f"const int64_t ldl = {size_text(long)};")
        one, step = f"{size_text(rows)} * ldl", "L" if turned else "1"
        with out.block(self.shared(outer, f"for (int64_t i0 = 0; i0 < {self.sizes['i']}; i0 += {step})")):
            out(f"float* const at = left + {self._batch(part, one)}i0 * ldl;")
            if turned:
                out(f"const int64_t n = least(L, {self.sizes['i']} - i0);")
                with out.block(f"for (int64_t d0 = 0; d0 < {d}; d0 += L)"):
                    out(f"const int64_t wide = least(L, {d} - d0);")
                    with out.block("pack_turned<L>(at + d0, ldl, n, wide, L, [&](int64_t c, int64_t r, auto m) AK_BODY", "});"):
                        out("const int64_t d = d0 + c, i = i0 + r;")
                        self._give(part, "i")
            else:
                out("const int64_t i = i0;")
                out(f"if (ldl != {d}) fill(at + ldl - L, L, 0.0f);")
                with out.block(f"each<L>(0, {d}, [&](int64_t d, auto m) AK_BODY", "});"):
                    self.put(part, "d", "put<ak::f32>(at + d, {}, m);")

    def _give(self, part: Inst, vector: str) -> None:
        self.put(part, vector, "return {};")

    def _left(self) -> None:
        """`l`, the block's first row of the left operand, and `ldl`, the step to the next one."""
        out = self.out
        if self.left_plain is not None:
            out(f"const int64_t ldl = {size_text(self.left_plain.at.coefficient('i'))};")
            out(f"const float* const l = {self.source(self.left_plain, ('i', 'd'))} + i0 * ldl;")
            return
        one = f"{size_text(self.round_up(self.parts.sizes['i']))} * ldl"
        out(f"const float* const l = left + {self._batch(self.parts.left, one)}i0 * ldl;")

    # ---- the blocks ----
    def _work(self) -> None:
        out, blocks = self.out, self.blocks
        rows, columns = self.sizes["i"], self.sizes["j"]
        if not blocks.direct:
            self.buffer("panels", blocks.workers, blocks.columns, blocks.depth)
        self.buffer("sums", blocks.workers, blocks.rows, blocks.columns)
        out(f"const int64_t row_blocks = cdiv({rows}, ROWS), column_blocks = cdiv({columns}, COLUMNS);")
        count = " * ".join([*(self.sizes[a] for a in self.parts.outer), "row_blocks * column_blocks"])
        out(f"const int64_t blocks = {count};", f"#pragma omp parallel for schedule(dynamic){self.many}")
        with out.block("for (int64_t w = 0; w < WORKERS; ++w)"):
            if not blocks.direct:
                out("float* const panel = panels + w * COLUMNS * DEPTH;")
            out("float* const s = sums + w * ROWS * COLUMNS;")
            with out.block("for (int64_t b = w; b < blocks; b += WORKERS)"):
                out(f"const int64_t i0 = b % row_blocks * ROWS, rows = least(ROWS, {rows} - i0);")
                out(f"const int64_t j0 = b / row_blocks % column_blocks * COLUMNS, columns = least(COLUMNS, {columns} - j0);")
                if self.parts.outer:
                    out("const int64_t batch = b / (row_blocks * column_blocks);")
                self._left()
                if blocks.direct:
                    self._as_it_lies()
                else:
                    self._by_panels()
                self._results()

    def _strips(self, line: str) -> None:
        """A line for every strip of rows; `R` stands for how many."""
        self.out("int64_t r = 0;")
        for some in dict.fromkeys((self.blocks.mr, -(-self.blocks.mr // 2), 1)):
            self.out(f"for (; r + {some} <= rows; r += {some}) {line.replace('R,', f'{some},', 1)}")

    def _by_panels(self) -> None:
        out, part, w = self.out, self.parts.right, self.panel
        out("int64_t d0 = 0;")
        with out.block("do", f"}} while ((d0 += DEPTH) < {self.sizes['d']});"):
            out(f"const int64_t depth = least(DEPTH, {self.sizes['d']} - d0);")
            with out.block(f"for (int64_t c0 = 0; c0 < columns; c0 += {w})"):
                out("float* const at = panel + c0 * DEPTH;", f"const int64_t n = least({w}, columns - c0);")
                if steps(part, "d") and not steps(part, "j"):
                    with out.block(f"pack_turned<L>(at, {w}, depth, n, {w}, [&](int64_t c, int64_t k, auto m) AK_BODY", "});"):
                        out("const int64_t d = d0 + k, j = j0 + c0 + c;")
                        self._give(part, "d")
                else:
                    out(f"if (n < {w}) fill(at, {w} * depth, 0.0f);")
                    with out.block("for (int64_t k = 0; k < depth; ++k)"):
                        out("const int64_t d = d0 + k;")
                        with out.block("each<L>(0, n, [&](int64_t c, auto m) AK_BODY", "});"):
                            out("const int64_t j = j0 + c0 + c;")
                            self.put(part, "j", f"put<ak::f32>(at + k * {w} + c, {{}}, m);")
                where = "l + r * ldl + d0, ldl, at, depth, s + r * COLUMNS + c0, COLUMNS, d0 > 0"
                self._strips(f"panel_sums<R, {self.blocks.nv}, L>({where});")

    def _as_it_lies(self) -> None:
        """Few rows: the right operand is read once, along whatever lies side by side."""
        out, d, mr = self.out, self.sizes["d"], self.blocks.mr
        along = plain(self.parts.right, "d", "j")
        load = along or plain(self.parts.right, "j", "d")
        assert load is not None
        kind = ir.ELEMENT[load.dtype]
        out(f"const auto* const k = {self.source(load, ('j', 'd'))};")
        if along is None:
            step = size_text(load.at.coefficient("d"))
            out("fill(s, ROWS * COLUMNS, 0.0f);")
            where = f"l + r * ldl, ldl, k + j0, {step}, {d}, columns, s + r * COLUMNS, COLUMNS"
            self._strips(f"update_all<R, {self.blocks.nv}, ak::{kind}, L>({where});")
            return
        step = size_text(load.at.coefficient("j"))
        at_once = max(1, min(8, 8 // mr))
        out("int64_t c = 0;")
        for many in dict.fromkeys((at_once, 1)):
            with out.block(f"for (; c + {many} <= columns; c += {many})"):
                where = f"l + r * ldl, ldl, k + (j0 + c) * {step}, {step}, {d}, s + r * COLUMNS + c, COLUMNS"
                self._strips(f"row_dots<R, {many}, ak::{kind}, L>({where});")

    def _results(self) -> None:
        out, p = self.out, self.parts
        with out.block("for (int64_t r = 0; r < rows; ++r)"):
            out("const int64_t i = i0 + r;")
            with out.block("each<L>(0, columns, [&](int64_t c, auto m) AK_BODY", "});"):
                out("const int64_t j = j0 + c;", "const auto total = load(s + r * COLUMNS + c, m);")
                self.text.vector = "j"
                text = self.text.value(p.result, {p.total.id: "total"})
                self.text.store("y0", self.signature.output_specs[0].dtype, p.at, text, True, p.result.ctype, p.result.fn)


def _floats(part: Inst, along: str) -> Inst | None:
    """The part where it lies in memory as rows of floats."""
    found = plain(part, along, "")
    return found if found is not None and found.dtype == "float32" else None


def write(signature: Signature, parts: Parts, blocks: Blocks) -> Kernel:
    return MatmulText(signature, parts, blocks).kernel()


def kernels(region: Region, arch: Arch) -> Iterator[tuple[Blocks, Kernel]]:
    """Kernels for a region that is one product, the most promising first; raises Refused where it is not, or where the machine
    multiplies in the product's precision."""
    parts = parts_of(region.signature)
    if found := sorted(UNITS.get(parts.dtype, frozenset()) & set(arch.features)):
        raise Refused(f"this machine has units for products in {parts.dtype} ({found[0]})")
    for blocks in choose(problem(parts, region.sizes), arch):
        yield blocks, write(region.signature, parts, blocks)


def problem(parts: Parts, hints: Mapping[str, int]) -> Problem:
    rows, columns, depth = (at_hand([parts.sizes[a]], hints) for a in "ijd")
    right = parts.right
    return Problem(
        at_hand(parts.outer.values(), hints), rows, columns, depth,
        turn_left=steps(parts.left, "i") and not steps(parts.left, "d"), copy_left=_floats(parts.left, "d") is None,
        turn_right=steps(right, "d") and not steps(right, "j"), direct=bool(plain(right, "d", "j") or plain(right, "j", "d")),
    )  # fmt: skip
