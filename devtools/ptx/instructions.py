"""The table of PTX instructions: what each mnemonic computes, and on which operands.

A key is a mnemonic and the shape of its operands: ``1`` a register, ``2`` or ``4`` a vector, ``[]`` an address. An
entry of arithmetic has a C++ expression of one lane, of which the engine is made: ``a``, ``b`` and ``c`` are the 64
bits of the sources, the value is those of the destination. Registers of n bits are 0 above them, constants are not.
``s32(a)``, ``f32(a)``, … read a source as a type, ``bits(x)`` gives the bits of a float, NVIDIA's NaN for every NaN.
Other entries name a method of the engine's ``Machine``. Semantics: NVIDIA, *PTX ISA*, chapter "Instructions".
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product

ROUTINES = (
    "branch", "exit", "wait", "wait_in_warp", "shuffle", "reduce", "matrix", "memory", "pack", "unpack",
)  # fmt: skip
_REDUCTIONS = (
    "add.s32", "add.u32", "and.b32", "or.b32", "xor.b32",
    "min.s32", "min.u32", "min.f32", "max.s32", "max.u32", "max.f32",
)  # fmt: skip
_COMPARISONS = {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}
_PAIRED = {"add": "+", "sub": "-", "mul": "*"}


@dataclass(frozen=True)
class Instruction:
    """An entry of the table."""

    operation: str  # an expression, or one of `ROUTINES`
    outputs: int = 1
    bytes: int = 0  # this and the next are what a routine wants to know
    target: int = 0


# Mnemonic, types, expression. In an expression, T is the type and U the unsigned one of its size.
_ALL, _BITS, _FLOATS = "s16 u16 s32 u32 s64 u64", "b16 b32 b64", "f32 f64"
_FAMILIES: tuple[tuple[str, str, str], ...] = (
    ("add", _ALL, "U(a + b)"),
    ("sub", _ALL, "U(a - b)"),
    ("mul.lo", _ALL, "U(a * b)"),
    ("mad.lo", _ALL, "U(a * b + c)"),
    ("mul.wide", "s32 u32", "u64(wide(T(a)) * T(b))"),
    ("mad.wide", "s32 u32", "u64(wide(T(a)) * T(b)) + c"),
    ("mul.hi", "u32", "u32(u64(u32(a)) * u32(b) >> 32)"),
    ("div", "s32", "u32(s32(b) ? s64(s32(a)) / s32(b) : -1)"),
    ("min", _ALL, "U(T(a) < T(b) ? a : b)"),
    ("max", _ALL, "U(T(a) > T(b) ? a : b)"),
    ("neg", "s32 s64", "U(0 - a)"),
    ("shl", _BITS, "u32(b) < 8 * sizeof(U) ? U(a << u32(b)) : 0"),
    ("shr", _ALL, "U(shift_right(T(a), u32(b)))"),
    ("bfe", "s32 u32", "u32(bit_field(T(a), b, c))"),
    ("popc", "b32", "std::popcount(u32(a))"),
    *((name, f"{_BITS} pred", f"U(a {symbol} b)") for name, symbol in {"and": "&", "or": "|", "xor": "^"}.items()),
    ("not", f"{_BITS} pred", "U(~a)"),
    ("mov", f"{_BITS} {_ALL} {_FLOATS} pred", "U(a)"),
    ("selp", f"{_BITS} {_ALL} {_FLOATS}", "U(c & 1 ? a : b)"),
    ("ld.param", "b8 b32 u32 s32 b64 u64", "U(a)"),
    ("prmt", "b32", "permute(a, b, c)"),
    *((f"setp.{name}", _ALL, f"T(a) {symbol} T(b)") for name, symbol in _COMPARISONS.items()),
    *((f"setp.{name}", _BITS, f"U(a) {_COMPARISONS[name]} U(b)") for name in ("eq", "ne")),
    *((f"setp.{name}", _FLOATS, f"ordered(T(a), T(b)) && T(a) {s} T(b)") for name, s in _COMPARISONS.items()),
    *((f"setp.{name}u", _FLOATS, f"!ordered(T(a), T(b)) || T(a) {s} T(b)") for name, s in _COMPARISONS.items()),
    ("setp.num", _FLOATS, "ordered(T(a), T(b))"),
    ("setp.nan", _FLOATS, "!ordered(T(a), T(b))"),
    *((f"{name}.rn", _FLOATS, f"bits(T(a) {s} T(b))") for name, s in {**_PAIRED, "div": "/"}.items()),
    ("fma.rn", _FLOATS, "bits(std::fma(T(a), T(b), T(c)))"),
    ("sqrt.rn", _FLOATS, "bits(std::sqrt(T(a)))"),
    ("neg", _FLOATS, "a ^ sign_of<U>"),
    ("abs", _FLOATS, "a & ~sign_of<U>"),
    ("abs.ftz", "f32", "a & 0x7f800000 ? a & 0x7fffffff : 0"),
    ("min", _FLOATS, "bits(minimum(T(a), T(b)))"),
    ("max", _FLOATS, "bits(-minimum(-T(a), -T(b)))"),
    ("rcp.approx.ftz", "f64", "gross_reciprocal(f64(a))"),
    # Pairs of float32 in 64 bits, and 16-bit floats beside float32: both of sm_100.
    *((f"{name}.rn", "f32x2", f"bits(f32(a) {s} f32(b)) | bits(f32(a >> 32) {s} f32(b >> 32)) << 32")
      for name, s in _PAIRED.items()),
    ("fma.rn", "f32x2", "bits(std::fma(f32(a), f32(b), f32(c)))"
     " | bits(std::fma(f32(a >> 32), f32(b >> 32), f32(c >> 32))) << 32"),
    ("add.rn.f32", "f16 bf16", "bits(T(a) + f32(b))"),
    ("sub.rn.f32", "f16 bf16", "bits(T(a) - f32(b))"),
    # Conversions: a register has at least 16 bits.
    *((f"cvt.{to}", _ALL, f"u{to[1:]}({to}(T(a)))") for to in _ALL.split()),
    *((f"cvt.rn.{to}", "s32 u32", f"bits({kind}(T(a)))") for to, kind in (("f32", "float"), ("f64", "double"))),
    ("cvt.rzi.s32", "f32", "u32(truncated(f32(a)))"),
    ("cvt.f64", "f32", "bits(double(T(a)))"),
    ("cvt.rn.f32", "f64", "bits(float(T(a)))"),
    ("cvt.f32", "f16", "bits(T(a))"),
    ("cvt.f32", "bf16", "u32(a << 16)"),
)  # fmt: skip


def _arithmetic() -> dict[str, Instruction]:
    table = {}
    for mnemonic, types, expression in _FAMILIES:
        for kind in types.split():
            unsigned = kind if kind == "pred" else f"u{re.sub('[^0-9]', '', kind)}"
            operation = re.sub(r"\bU\b", unsigned, re.sub(r"\bT\b", kind, expression))
            sources = ["1" for name in "abc" if re.search(rf"\b{name}\b", expression)]
            operands = "[]" if mnemonic == "ld.param" else " ".join(sources)
            table[f"{mnemonic}.{kind} 1 {operands}"] = Instruction(operation)
    return table


def _others() -> dict[str, Instruction]:
    """Target is 1 for shared memory, of a shuffle where a lane reads, of a reduction the operation that joins two."""
    table = {"ret": Instruction("exit", 0), "bar.warp.sync 1": Instruction("wait_in_warp", 0)}
    table |= dict.fromkeys(("bra 1", "bra.uni 1"), Instruction("branch", 0))
    table |= dict.fromkeys(("bar.sync 1", "bar.sync 1 1"), Instruction("wait", 0))
    spaces, kinds = (("global", 0), ("shared", 1), ("shared::cta", 1)), product("bsuf", (8, 16, 32, 64))
    moves = [
        ("memory", f".{space}{f'.v{size}' if size > 1 else ''}.{kind}{bits}", size, bits // 8, target)
        for (space, target), (kind, bits), size in product(spaces, kinds, (1, 2, 4))
    ] + [("matrix", f"matrix.sync.aligned.m8n8.x{size}.shared.b16", size, 2, 1) for size in (1, 2, 4)]
    for routine, suffix, size, width, target in moves:
        table[f"ld{suffix} {size} []"] = Instruction(routine, size, width, target)
        table[f"st{suffix} [] {size}"] = Instruction(routine, 0, width, target)
    for bits in (32, 64):
        table[f"mov.b{bits} 1 2"] = Instruction("pack", 1, bits // 16)
        table[f"mov.b{bits} 2 1"] = Instruction("unpack", 2, bits // 16)
    for target, name in enumerate(("idx", "up", "down", "bfly")):
        table[f"shfl.sync.{name}.b32 1 1 1 1 1"] = Instruction("shuffle", target=target)
    for name in _REDUCTIONS:
        joins = OPERATIONS.index(ARITHMETIC[f"{name} 1 1 1"].operation)
        table[f"redux.sync.{name} 1 1 1"] = Instruction("reduce", target=joins)
    return table


ARITHMETIC = _arithmetic()
OPERATIONS = (*ROUTINES, *dict.fromkeys(entry.operation for entry in ARITHMETIC.values()))
TABLE = ARITHMETIC | _others()


def generated() -> str:
    """The C++ of the table: a function of each expression, and what the numbers of operations stand for."""
    count, expressions = len(ROUTINES), list(enumerate(OPERATIONS))[len(ROUTINES) :]
    return "\n".join(
        [
            enumeration("Routine", (*ROUTINES, "routine_count")),
            f"#define MACHINE_ROUTINES {', '.join(f'&Machine::{name}' for name in ROUTINES)}",
            *(f"OPERATION({number}, {expression})" for number, expression in expressions),
            f"Operation OPERATIONS[] = {{{'nullptr, ' * count}{', '.join(f'operation_{n}' for n, _ in expressions)}}};",
        ]
    )


def enumeration(name: str, values: Iterable[str]) -> str:
    """A C++ enumeration of words in capitals."""
    return f"enum {name} {{ {', '.join(value.upper().replace(' ', '_') for value in values)} }};"
