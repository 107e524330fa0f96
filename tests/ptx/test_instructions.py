"""Every instruction of arithmetic against that of Python's integers and fractions, and numpy's floats."""

import math
import re
import struct
from fractions import Fraction

import numpy as np
import pytest
import torch

from devtools.ptx.instructions import ARITHMETIC
from tests.ptx import run

LANES = 32
FLOATS = {32: np.float32, 64: np.float64}
rng = np.random.default_rng(5)


def signed(x, bits):
    return x - (1 << bits) if x >> (bits - 1) & 1 else x


def value_of(bits, size):
    """The float of some bits."""
    return struct.unpack({16: "<e", 32: "<f", 64: "<d"}[size], bits.to_bytes(size // 8, "little"))[0]


def bits_of(x, size):
    if math.isnan(x):
        return (1 << (size - 1)) - 1
    return int.from_bytes(struct.pack({32: "<f", 64: "<d"}[size], x), "little")


def rounded(x, size):
    """The float nearest to a fraction, ties to even; its bits."""
    digits, lowest = (24, -149) if size == 32 else (53, -1074)
    if x == 0:
        return 0
    exponent = max(math.floor(math.log2(abs(x.numerator)) - math.log2(x.denominator)) - digits - 1, lowest)
    while abs(x) >= Fraction(2) ** (exponent + digits):
        exponent += 1
    unit = Fraction(2) ** exponent
    result = round(x / unit) * unit  # Python rounds a tie to even
    if abs(result) >= Fraction(2) ** (128 if size == 32 else 1024):
        return bits_of(math.inf if x > 0 else -math.inf, size)
    return bits_of(float(result), size)


def arithmetic(name, size, *sources):
    """Of floats, given as values: numpy's results, which IEEE rounds, and a fused multiply-add of fractions."""
    a, b, c = map(FLOATS[size], (*sources, 1.0, 1.0)[:3])
    with np.errstate(all="ignore"):
        plain = {"add": a + b, "sub": a - b, "mul": a * b, "div": a / b, "fma": a * b + c}
        plain = float(np.sqrt(a) if name == "sqrt" else plain[name])
    if name != "fma" or not all(map(math.isfinite, sources)):
        return bits_of(plain, size)
    exact = Fraction(sources[0]) * Fraction(sources[1]) + Fraction(sources[2])
    if exact == 0:
        return bits_of(plain, size)
    return rounded(exact, size) or bits_of(0.0 if exact > 0 else -0.0, size)  # what underflows keeps its sign


def gross_reciprocal(source):
    """The high half; denormals are zeros."""
    normal = 0x7FF << 52
    result = arithmetic("div", 64, 1.0, value_of(source if source & normal else source & (1 << 63), 64))
    if result == (1 << 63) - 1:
        return result
    return result & ~0xFFFFFFFF if result & normal else result & (1 << 63)


def extremum(name, size, *sources):
    numbers = [x for x in sources if not math.isnan(x)]
    if not numbers:
        return bits_of(math.nan, size)
    return bits_of((min if name == "min" else max)(numbers, key=lambda x: (x, math.copysign(1, x))), size)


def truncated(x):
    """To int32."""
    if math.isnan(x):
        return 0
    low, high = -(1 << 31), (1 << 31) - 1
    return min(max(math.trunc(x) if math.isfinite(x) else int(math.copysign(high + 1, x)), low), high) % (1 << 32)


COMPARE = {
    "lt": lambda a, b: a < b, "le": lambda a, b: a <= b, "gt": lambda a, b: a > b, "ge": lambda a, b: a >= b,
    "eq": lambda a, b: a == b, "ne": lambda a, b: a != b,
}  # fmt: skip
INTEGER = {
    "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul.lo": lambda a, b: a * b, "min": min, "max": max,
    "mad.lo": lambda a, b, c: a * b + c, "neg": lambda a: -a, "and": lambda a, b: a & b,
    "or": lambda a, b: a | b, "xor": lambda a, b: a ^ b, "not": lambda a: ~a, "mov": lambda a: a,
    "selp": lambda a, b, c: a if c else b,
}  # fmt: skip


def quotient(a, b):
    whole = abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1) if b else -1
    return whole % (1 << 32)


def field(a, start, length, bits, is_signed):
    start, length = start & 255, length & 255
    places = [a >> min(start + i, bits - 1) & 1 if start + i < bits or is_signed else 0 for i in range(length)][:bits]
    places += [places[-1] if is_signed and places else 0] * (bits - len(places))
    return sum(bit << i for i, bit in enumerate(places))


def expected(mnemonic, sources):
    """The bits of the destination for the bits of the sources."""
    name = re.match(r"mul\.(?:lo|hi|wide)|mad\.(?:lo|wide)|setp\.\w+|\w+", mnemonic)[0]
    kind = mnemonic.rsplit(".", 1)[1]
    size = int(re.search(r"\d+", kind)[0]) if re.search(r"\d+", kind) else 1
    if mnemonic == "rcp.approx.ftz.f64":
        return gross_reciprocal(sources[0])
    if mnemonic == "abs.ftz.f32":
        return sources[0] & 0x7FFFFFFF if sources[0] & 0x7F800000 else 0
    if kind == "f32x2":
        halves = [[value_of(s >> shift & 0xFFFFFFFF, 32) for s in sources] for shift in (0, 32)]
        low, high = (arithmetic(name, 32, *half) for half in halves)
        return low | high << 32
    if name == "cvt":
        return converted(mnemonic, sources[0])
    if mnemonic.count(".f32.") and kind in ("f16", "bf16"):
        wide = value_of(sources[0], 16) if kind == "f16" else value_of(sources[0] << 16, 32)
        return arithmetic(name, 32, wide, value_of(sources[1], 32))
    if kind[0] == "f" and name not in ("mov", "selp"):
        return of_floats(name, size, sources)
    if name == "prmt":
        return permuted(*sources)
    if kind == "pred":
        return INTEGER[name](*sources) & 1
    if name == "popc":
        return sources[0].bit_count()
    return of_integers(name, kind[0], size, sources)


def of_integers(name, sign, size, sources):
    is_signed = sign == "s"
    if name in ("shl", "shr"):
        a, count = signed(sources[0], size) if is_signed else sources[0], sources[1]
        return (a << min(count, size) if name == "shl" else a >> min(count, size)) % (1 << size)
    if name == "bfe":
        return field(sources[0], sources[1], sources[2], size, is_signed)
    if name == "selp":
        return INTEGER["selp"](*sources)
    values = [signed(s, size) if is_signed and place < 2 else s for place, s in enumerate(sources)]
    if name.startswith("setp"):
        return int(COMPARE[name[5:]](*values))
    if name == "div":
        return quotient(*values)
    if name in ("mul.wide", "mad.wide"):
        return (values[0] * values[1] + (values[2] if len(values) > 2 else 0)) % (1 << 64)
    if name == "mul.hi":
        return (values[0] * values[1] >> size) % (1 << size)
    return INTEGER[name](*values) % (1 << size)


def of_floats(name, size, sources):
    if name in ("neg", "abs"):
        sign = 1 << (size - 1)
        return sources[0] ^ sign if name == "neg" else sources[0] & ~sign
    values = [value_of(s, size) for s in sources]
    if name.startswith("setp"):
        unordered = any(map(math.isnan, values))
        test = name[5:]
        if test in ("num", "nan"):
            return int(unordered == (test == "nan"))
        if test in COMPARE:
            return int(not unordered and COMPARE[test](*values))
        return int(unordered or COMPARE[test[:-1]](*values))
    if name in ("min", "max"):
        return extremum(name, size, *values)
    return arithmetic(name, size, *values)


def converted(mnemonic, source):
    *_, to, of = mnemonic.split(".")[1:]
    bits = int(re.search(r"\d+", to)[0])
    if of in ("f16", "bf16"):
        return bits_of(value_of(source, 16), 32) if of == "f16" else source << 16
    if of[0] == "f" and to[0] == "f":
        with np.errstate(over="ignore"):
            return bits_of(float(FLOATS[bits](value_of(source, int(of[1:])))), bits)
    if of[0] == "f":
        return truncated(value_of(source, 32))
    size = int(of[1:])
    value = signed(source % (1 << size), size) if of[0] == "s" else source % (1 << size)
    if to[0] == "f":
        return bits_of(float(FLOATS[bits](value)), bits)
    return (signed(value % (1 << bits), bits) if to[0] == "s" else value % (1 << bits)) % (1 << max(bits, 16))


def permuted(a, b, selector):
    both, result = a | b << 32, 0
    for i in range(4):
        choice = selector >> 4 * i & 15
        byte = both >> 8 * (choice & 7) & 255
        result |= (255 * (byte >> 7) if choice & 8 else byte) << 8 * i
    return result


def sizes(mnemonic, count):
    """Bits of the destination and of the sources; 1: a predicate."""
    parts = mnemonic.split(".")
    width = {"f32x2": 64, "pred": 1, "bf16": 16}
    size = width.get(parts[-1]) or int(re.search(r"\d+", parts[-1])[0])
    if parts[0] == "cvt":
        return max(16, width.get(parts[-2]) or int(parts[-2][1:])), [max(16, size)]
    if parts[0] == "setp":
        return 1, [size] * count
    if parts[0] == "selp":
        return size, [size, size, 1]
    if parts[0] in ("shl", "shr", "bfe"):
        return size, [size, *[32] * (count - 1)]
    if ".wide." in mnemonic:
        return 64, [size, size, 64][:count]
    if parts[0] == "popc":
        return 32, [size]
    if parts[-1] in ("f16", "bf16"):
        return 32, [*[16] * (count - 1), 32]
    return size, [size] * count


CORNERS = {
    16: [0, 1, 0x7FFF, 0x8000, 0xFFFF, 0x3C00, 0x7C00, 0xFC01, 0x0001, 0x8001],
    32: [0, 1, 5, 31, 32, 40, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x3F800000, 0x7F800000, 0xFF800000, 0x7FC00001,
         0x00000001, 0x00800000, 0x4B000001, 0xCF000000, 0x5F800000],
    64: [0, 1, 63, 64, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, 0x3FF0000000000000, 0x7FF0000000000000,
         0xFFF0000000000000, 0x7FF8000000000001, 1, 0x0010000000000000, 0x36A0000000000000,
         0x47EFFFFFF0000000, 0x43E0000000000000],
}  # fmt: skip


def numbers(bits):
    """Values of 32 lanes: corners, small ones, and random bits, of which many are floats near each other."""
    if bits == 1:
        return [int(x) for x in rng.integers(0, 2, LANES)]
    near = {16: 0x3C00, 32: 0x3F800000, 64: 0x3FF0000000000000}[bits]
    made = [int(x) for x in rng.choice(np.array(CORNERS[bits], dtype=np.uint64), 12)]
    made += [int(x) for x in rng.integers(0, 1 << min(bits, 62), 10)] + [
        near + int(x) for x in rng.integers(0, 1 << (bits // 2), 10)
    ]
    return [made[i] for i in rng.permutation(LANES)]


def body_of(mnemonic, to, of):
    """Loads the sources from rows of 8 bytes a lane, executes, and stores 8 bytes a lane."""
    prefix = {1: "%p", 16: "%rs", 32: "%r", 64: "%rd"}
    lines = ["mov.u32 %r90, %tid.x;"]
    names = []
    for place, bits in enumerate(of):
        lines += [f"ld.param.b64 %rd8{place}, [k_param_{place}];", f"mad.wide.u32 %rd7{place}, %r90, 8, %rd8{place};"]
        lines += [f"ld.global.b{max(bits, 16)} {'%rs' if bits == 1 else prefix[bits]}{place}, [%rd7{place}];"]
        names.append(f"{prefix[bits]}{place}")
        if bits == 1:
            lines.append(f"setp.ne.b16 %p{place}, %rs{place}, 0;")
    lines += [f"{mnemonic} {prefix[to]}50, {', '.join(names)};", f"ld.param.b64 %rd60, [k_param_{len(of)}];"]
    if to == 1:
        lines.append("selp.b32 %r50, 1, 0, %p50;")
    width = max(to, 32) if to == 1 else to
    return "\n".join(
        [*lines, "mad.wide.u32 %rd61, %r90, 8, %rd60;", f"st.global.b{width} [%rd61], {prefix[width]}50;", "ret;"]
    )


@pytest.mark.parametrize("key", [key for key in ARITHMETIC if not key.startswith("ld.param")])
def test_an_instruction_is_exact(key):
    mnemonic, _, *operands = key.split()
    to, of = sizes(mnemonic, len(operands))
    for _ in range(3):
        sources = [numbers(bits) for bits in of]
        tensors = [torch.from_numpy(np.array(column, np.uint64).view(np.int64).copy()) for column in sources]
        out = torch.zeros(LANES, dtype=torch.int64)
        assert run(body_of(mnemonic, to, of), *tensors, out) == []
        for lane, got in enumerate(out.numpy().view(np.uint64).tolist()):
            given = [column[lane] for column in sources]
            want = expected(mnemonic, given)
            assert got == want, f"{mnemonic} of {[hex(x) for x in given]} is {got:#x}; expected {want:#x}"
