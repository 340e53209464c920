"""Element-wise functions: how each is written in C++ and about how many operations it costs."""

from __future__ import annotations

# name -> (text over the operands, cost in vector instructions)
FUNCTIONS: dict[str, tuple[str, float]] = {
    "add": ("{0} + {1}", 1), "sub": ("{0} - {1}", 1), "mul": ("{0} * {1}", 1), "div": ("{0} / {1}", 4),
    "neg": ("-{0}", 1), "abs": ("abs({0})", 1), "sign": ("sign({0})", 4), "square": ("{0} * {0}", 1),
    "exp": ("exp({0})", 14), "exp2": ("exp2({0})", 80), "expm1": ("expm1({0})", 18), "log": ("log({0})", 24),
    "log2": ("log2({0})", 80), "log10": ("log10({0})", 80), "log1p": ("log1p({0})", 36), "tanh": ("tanh({0})", 26),
    "erf": ("erf({0})", 34), "erfc": ("erfc({0})", 80), "sigmoid": ("sigmoid({0})", 20), "silu": ("silu({0})", 20),
    "sqrt": ("sqrt({0})", 6), "rsqrt": ("rsqrt({0})", 10), "reciprocal": ("reciprocal({0})", 4),
    "sin": ("sin({0})", 40), "cos": ("cos({0})", 40), "tan": ("tan({0})", 80), "asin": ("asin({0})", 80),
    "acos": ("acos({0})", 80), "atan": ("atan({0})", 80), "atan2": ("atan2({0}, {1})", 80), "sinh": ("sinh({0})", 80),
    "cosh": ("cosh({0})", 80), "asinh": ("asinh({0})", 80), "acosh": ("acosh({0})", 80), "atanh": ("atanh({0})", 80),
    "floor": ("floor({0})", 5), "ceil": ("ceil({0})", 5), "round": ("round({0})", 5), "trunc": ("trunc({0})", 4),
    "pow": ("pow({0}, {1})", 200), "fmod": ("fmod({0}, {1})", 80), "remainder": ("remainder({0}, {1})", 90),
    "maximum": ("maximum({0}, {1})", 3), "minimum": ("minimum({0}, {1})", 3),
    "eq": ("{0} == {1}", 1), "ne": ("{0} != {1}", 1), "lt": ("{0} < {1}", 1), "le": ("{0} <= {1}", 1),
    "gt": ("{0} > {1}", 1), "ge": ("{0} >= {1}", 1),
    "and": ("{0} & {1}", 1), "or": ("{0} | {1}", 1), "xor": ("{0} ^ {1}", 1), "not": ("invert({0})", 1),
    "bit_not": ("~{0}", 1), "isnan": ("isnan({0})", 1), "isinf": ("isinf({0})", 2),
    "select": ("select({0}, {1}, {2})", 1), "to": ("to<{T}>({0})", 1), "truth": ("{0} != {Z}", 1),
    "round_bf16": ("round_bf16({0})", 6), "round_f16": ("round_f16({0})", 2),
    "wrap_i16": ("wrap<int16_t>({0})", 2), "wrap_i8": ("wrap<int8_t>({0})", 2), "wrap_u8": ("wrap<uint8_t>({0})", 2),
    "power2": ("{0} * {0}", 1), "fma": ("multiply_add({0}, {1}, {2})", 1),
    **{f"power{k}": (f"power<{k}>({{0}})", 3.0) for k in range(3, 17)},
}  # fmt: skip

EXPENSIVE = 12.0

# The folds of reductions: (neutral element by C type class, combination of two, fold of lanes).
FOLDS: dict[str, tuple[str, str, str]] = {
    "sum": ("0", "{0} + {1}", "hsum"),
    "prod": ("1", "{0} * {1}", "hprod"),
    "max": ("lowest", "maximum({1}, {0})", "hmax"),
    "min": ("highest", "minimum({1}, {0})", "hmin"),
    "any": ("false", "{0} | {1}", "hany"),
    "all": ("true", "{0} & {1}", "hall"),
}

# Reductions to where an extreme stands, and the folds that say which is better.
PLACES = {"argmax": "max_", "argmin": "min_"}


def neutral(fold: str, ctype: str) -> str:
    """The fold's neutral element as a C++ literal of the type."""
    name = FOLDS[fold][0]
    if name in ("false", "true"):
        return name
    if name in ("lowest", "highest"):
        if ctype in ("float", "double"):
            return ("-" if name == "lowest" else "") + f"std::numeric_limits<{ctype}>::infinity()"
        return f"std::numeric_limits<{ctype}>::{'lowest' if name == 'lowest' else 'max'}()"
    return {"float": f"{name}.0f", "double": f"{name}.0"}.get(ctype, f"{ctype}({name})")


def literal(value: object, ctype: str) -> str:
    """A number as a C++ literal of the type."""
    if ctype == "bool":
        return "true" if value else "false"
    if ctype in ("float", "double"):
        x = float(value)  # type: ignore[arg-type]
        if x != x:
            return f"std::numeric_limits<{ctype}>::quiet_NaN()"
        if ctype == "float" and abs(x) > 3.4028235677973366e38:
            x = float("inf") if x > 0 else float("-inf")
        if x in (float("inf"), float("-inf")):
            return ("-" if x < 0 else "") + f"std::numeric_limits<{ctype}>::infinity()"
        text = repr(x)
        return text + "f" if ctype == "float" else text
    number = int(value)  # type: ignore[call-overload]
    if number == -(2**63):
        return "std::numeric_limits<int64_t>::lowest()"
    return f"{ctype}({number}{'ll' if abs(number) >= 2**31 else ''})"
