"""The PTX instructions of arithmetic: a C++ expression of one lane for each mnemonic, of which the engine is made.

``a``, ``b`` and ``c`` are the 64 bits of a lane's sources, the value is the 64 bits of its destination. Registers of n
bits are 0 above them, constants are not. ``u32(a)``, ``s32(a)``, ``f32(a)``, ``f64(a)`` … read a source as a type,
``bits(x)`` gives the bits of a float, NVIDIA's NaN for every NaN. Semantics: NVIDIA, *PTX ISA*, chapter "Instructions".
"""

import re
from dataclasses import dataclass
from itertools import product

COMPARISONS = {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}


@dataclass(frozen=True)
class Instruction:
    """An entry of the table."""

    expression: str
    defined: str = "all"
    """Which sources decide whether the result is defined: ``all`` of them, the ``selected`` one, ``halves`` (each half
    of 64 bits by its own), ``carry`` (the low half by the low ones, the high half by all), ``low`` (the low halves)."""

    @property
    def sources(self) -> int:
        """The number of sources."""
        return max(
            (place for place, name in enumerate("abc", 1) if re.search(rf"\b{name}\b", self.expression)), default=0
        )


def _integers(table: dict[str, Instruction], bits: int) -> None:
    carry = "carry" if bits == 64 else "all"
    halves = "halves" if bits == 64 else "all"
    for sign in "su":
        kind = f"{sign}{bits}"
        table[f"add.{kind}"] = Instruction(f"u{bits}(a + b)", carry)
        table[f"sub.{kind}"] = Instruction(f"u{bits}(a - b)", carry)
        table[f"mul.lo.{kind}"] = Instruction(f"u{bits}(a * b)", carry)
        table[f"mad.lo.{kind}"] = Instruction(f"u{bits}(a * b + c)", carry)
        table[f"min.{kind}"] = Instruction(f"u{bits}({kind}(a) < {kind}(b) ? a : b)")
        table[f"max.{kind}"] = Instruction(f"u{bits}({kind}(a) > {kind}(b) ? a : b)")
        table[f"div.{kind}"] = Instruction(f"u{bits}(divide({kind}(a), {kind}(b)))")
        table[f"rem.{kind}"] = Instruction(f"u{bits}(remainder({kind}(a), {kind}(b)))")
        table[f"shr.{kind}"] = Instruction(f"u{bits}(shift_right({kind}(a), u32(b)))")
        for name, symbol in COMPARISONS.items():
            table[f"setp.{name}.{kind}"] = Instruction(f"{kind}(a) {symbol} {kind}(b)")
    table[f"neg.s{bits}"] = Instruction(f"u{bits}(0 - a)")
    table[f"abs.s{bits}"] = Instruction(f"u{bits}(s{bits}(a) < 0 ? 0 - a : a)")
    table[f"shl.b{bits}"] = Instruction(f"u32(b) >= {bits} ? 0 : u{bits}(a << u32(b))")
    for name, symbol in {"and": "&", "or": "|", "xor": "^"}.items():
        table[f"{name}.b{bits}"] = Instruction(f"u{bits}(a {symbol} b)", halves)
    table[f"not.b{bits}"] = Instruction(f"u{bits}(~a)", halves)
    for name in ("eq", "ne"):
        table[f"setp.{name}.b{bits}"] = Instruction(f"u{bits}(a) {COMPARISONS[name]} u{bits}(b)")
    for kind in "bsu":
        table[f"mov.{kind}{bits}"] = Instruction(f"u{bits}(a)", halves)
        table[f"selp.{kind}{bits}"] = Instruction(f"u{bits}((c & 1) ? a : b)", "selected")
    if bits > 16:
        for sign in "su":
            table[f"bfe.{sign}{bits}"] = Instruction(f"u{bits}(bit_field({sign}{bits}(a), u32(b), u32(c)))")
        table[f"popc.b{bits}"] = Instruction(f"u64(std::popcount(u{bits}(a)))")
        table[f"clz.b{bits}"] = Instruction(f"u64(std::countl_zero(u{bits}(a)))")


def _floats(table: dict[str, Instruction], bits: int) -> None:
    read = f"f{bits}"
    sign = f"(1ull << {bits - 1})"
    table[f"mov.f{bits}"], table[f"selp.f{bits}"] = table[f"mov.b{bits}"], table[f"selp.b{bits}"]
    for name, symbol in {"add": "+", "sub": "-", "mul": "*", "div": "/"}.items():
        table[f"{name}.rn.f{bits}"] = Instruction(f"bits({read}(a) {symbol} {read}(b))")
    table[f"fma.rn.f{bits}"] = Instruction(f"bits(std::fma({read}(a), {read}(b), {read}(c)))")
    table[f"sqrt.rn.f{bits}"] = Instruction(f"bits(std::sqrt({read}(a)))")
    table[f"rcp.rn.f{bits}"] = Instruction(f"bits(1 / {read}(a))")
    table[f"neg.f{bits}"], table[f"abs.f{bits}"] = Instruction(f"a ^ {sign}"), Instruction(f"a & ~{sign}")
    for name in ("min", "max"):
        table[f"{name}.f{bits}"] = Instruction(f"bits({name}imum({read}(a), {read}(b)))")
        table[f"{name}3.f{bits}"] = Instruction(f"bits({name}imum({name}imum({read}(a), {read}(b)), {read}(c)))")
    unordered = f"std::isunordered({read}(a), {read}(b))"
    for name, symbol in COMPARISONS.items():
        table[f"setp.{name}.f{bits}"] = Instruction(f"!{unordered} && {read}(a) {symbol} {read}(b)")
        table[f"setp.{name}u.f{bits}"] = Instruction(f"{unordered} || {read}(a) {symbol} {read}(b)")
    table[f"setp.num.f{bits}"], table[f"setp.nan.f{bits}"] = Instruction(f"!{unordered}"), Instruction(unordered)


def _conversions(table: dict[str, Instruction]) -> None:
    kinds = [f"{sign}{bits}" for sign, bits in product("su", (8, 16, 32, 64))]
    for to, source in product(kinds, kinds):
        register = max(16, int(to[1:]))
        low = "low" if int(source[1:]) == 64 and int(to[1:]) < 64 else "all"
        table[f"cvt.{to}.{source}"] = Instruction(f"u{register}({to}({source}(a)))", low)
    for kind, (size, name) in product(("s32", "u32", "s64", "u64"), ((32, "float"), (64, "double"))):
        table[f"cvt.rn.f{size}.{kind}"] = Instruction(f"bits({name}({kind}(a)))")
        table[f"cvt.rzi.{kind}.f{size}"] = Instruction(f"u{kind[1:]}(truncated<std::{_integer(kind)}>(f{size}(a)))")
    table["cvt.f64.f32"], table["cvt.rn.f32.f64"] = (
        Instruction("bits(double(f32(a)))"),
        Instruction("bits(float(f64(a)))"),
    )
    table["cvt.f32.f16"], table["cvt.f32.bf16"] = Instruction("bits(half(u16(a)))"), Instruction("u32(a << 16)")


def _integer(kind: str) -> str:
    return f"{'u' if kind[0] == 'u' else ''}int{kind[1:]}_t"


def _pairs(table: dict[str, Instruction]) -> None:
    """Two float32 in 64 bits, and 16-bit floats beside float32: both of sm_100."""
    low, high = "f32({})", "f32({} >> 32)"
    for name, form in {"add": "{} + {}", "sub": "{} - {}", "mul": "{} * {}", "fma": "std::fma({}, {}, {})"}.items():
        sources = "abc"[: form.count("{}")]
        first, second = (form.format(*(half.format(source) for source in sources)) for half in (low, high))
        table[f"{name}.rn.f32x2"] = Instruction(f"bits({first}) | bits({second}) << 32", "halves")
    for kind, wide in {"f16": "half(u16({}))", "bf16": "f32(u32({} << 16))"}.items():
        x, y = wide.format("a"), wide.format("b")
        table[f"add.rn.f32.{kind}"] = Instruction(f"bits({x} + f32(b))")
        table[f"sub.rn.f32.{kind}"] = Instruction(f"bits({x} - f32(b))")
        table[f"fma.rn.f32.{kind}"] = Instruction(f"bits(std::fma({x}, {y}, f32(c)))")


def _table() -> dict[str, Instruction]:
    table: dict[str, Instruction] = {}
    for bits in (16, 32, 64):
        _integers(table, bits)
    for bits in (32, 64):
        _floats(table, bits)
    _conversions(table)
    _pairs(table)
    for name, symbol in {"and": "&", "or": "|", "xor": "^"}.items():
        table[f"{name}.pred"] = Instruction(f"a {symbol} b")
    table["not.pred"], table["mov.pred"] = Instruction("~a & 1"), Instruction("a & 1")
    for sign in "su":
        wide = f"{sign}64({sign}32(a)) * {sign}64({sign}32(b))"
        table[f"mul.wide.{sign}32"] = Instruction(f"u64({wide})")
        table[f"mad.wide.{sign}32"] = Instruction(f"u64({wide}) + c")
        table[f"mul.hi.{sign}32"] = Instruction(f"u32(({wide}) >> 32)")
    table["mul.hi.u64"] = Instruction("u64((unsigned __int128)(a) * b >> 64)")
    table["abs.ftz.f32"] = Instruction("(a & 0x7f800000) ? u32(a & 0x7fffffff) : 0")
    table["prmt.b32"] = Instruction("permute(u32(a), u32(b), u32(c))")
    table["rcp.approx.ftz.f64"] = Instruction("gross_reciprocal(f64(a), approx)")
    return table


TABLE = _table()
RULES = ("all", "selected", "halves", "carry", "low")
SPECIAL = (  # what is more than arithmetic of a lane: written in engine.cpp
    "bra", "ret", "bar.sync", "bar.warp.sync", "ld.global", "st.global", "ld.shared", "st.shared", "ldmatrix",
    "stmatrix", "shfl.bfly", "shfl.up", "shfl.down", "shfl.idx", "redux", "ballot", "pack", "unpack",
)  # fmt: skip
NUMBER = {name: number for number, name in enumerate((*TABLE, *SPECIAL))}


def generated() -> str:
    """The C++ of the table: a function of each mnemonic, their array, and the numbers of the special ones."""
    functions = [f"OPERATION({NUMBER[name]}, {entry.expression})  // {name}" for name, entry in TABLE.items()]
    array = ", ".join(f"operation_{NUMBER[name]}" for name in TABLE)
    special = ", ".join(f"{name.replace('.', '_').upper()} = {NUMBER[name]}" for name in SPECIAL)
    rules = ", ".join(f"BY_{rule.upper()}" for rule in RULES)
    return "\n".join(
        [
            f"enum Special {{ {special} }};",
            f"enum Rule {{ {rules} }};",
            *functions,
            f"constexpr Operation OPERATIONS[] = {{{array}}};",
        ]
    )
