"""Numerics that give the same bits on every backend: the twin of csrc/src/simd/numerics.hpp, function by function.

They use only correctly rounded operations (add, multiply, fma, div_rn, sqrt_rn, integer and bit operations), and their
kernels are launched with ``enable_fp_fusion=False``. The bits of `tl.exp` and `tl.log` depend on the device.
"""

import triton
import triton.language as tl


@triton.jit
def _from_bits(bits):
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def log_of_bits(bits, shift):
    """log of 2^shift · (the normal positive float with these int32 bits); polynomial of Cephes logf."""
    exponent = (bits - 0x3F3504F3) >> 23
    f = _from_bits(bits - (exponent << 23)) - 1.0
    e = (exponent + shift).to(tl.float32)
    z = f * f
    p = tl.fma(f, 7.0376836292e-2, -1.1514610310e-1)
    p = tl.fma(p, f, 1.1676998740e-1)
    p = tl.fma(p, f, -1.2420140846e-1)
    p = tl.fma(p, f, 1.4249322787e-1)
    p = tl.fma(p, f, -1.6668057665e-1)
    p = tl.fma(p, f, 2.0000714765e-1)
    p = tl.fma(p, f, -2.4999993993e-1)
    p = tl.fma(p, f, 3.3333331174e-1)
    p = tl.fma(e, -2.12194440e-4, (p * f) * z)
    p = tl.fma(z, -0.5, p)
    return tl.fma(e, 0.693359375, f + p)


@triton.jit
def log_positive(x):
    """log(x) of a normal, positive, finite x."""
    return log_of_bits(x.to(tl.int32, bitcast=True), 0)


@triton.jit
def log(x):
    """log(x) of any float32 x: -inf at ±0, NaN below 0, inf at inf; denormals are converted as integers."""
    bits = x.to(tl.int32, bitcast=True)
    magnitude = bits & 0x7FFFFFFF
    denormal = magnitude < 0x00800000
    scaled = magnitude.to(tl.float32).to(tl.int32, bitcast=True)
    safe = tl.where(denormal, tl.where(magnitude == 0, 0x3F800000, scaled), magnitude)
    result = log_of_bits(safe, tl.where(denormal, -149, 0))
    result = tl.where(bits == 0x7F800000, float("inf"), result)
    result = tl.where((bits < 0) | (bits > 0x7F800000), float("nan"), result)
    return tl.where(magnitude == 0, float("-inf"), result)


@triton.jit
def log_one_plus(y):
    """log(1 + y) of 0 ≤ y < 1e30, with a small relative error for small y."""
    s = 1.0 + y
    return log_positive(s) + tl.div_rn(y - (s - 1.0), s)


@triton.jit
def log1p(y):
    """log(1 + y) of any y ≥ 0, including inf and NaN."""
    finite = tl.where(y < float("inf"), y, 0.0)
    s = 1.0 + finite
    return log(1.0 + y) + tl.div_rn(finite - (s - 1.0), s)


@triton.jit
def exp(x):
    """exp(x) of any float32 x: 0 below -104, denormal results rounded once, inf above 88.72, NaN at NaN."""
    low = tl.where(x < -104.0, -104.0, x)
    inside = tl.where(low > 89.0, 89.0, low)
    shifted = tl.fma(inside, 1.44269504089, 12582912.0)
    n = shifted - 12582912.0
    k = shifted.to(tl.int32, bitcast=True) - 0x4B400000
    k = tl.where(x == x, k, 0)
    r = tl.fma(n, -0.693359375, inside)
    r = tl.fma(n, 2.12194440e-4, r)
    p = tl.fma(r, 1.9875691500e-4, 1.3981999507e-3)
    p = tl.fma(p, r, 8.3334519073e-3)
    p = tl.fma(p, r, 4.1665795894e-2)
    p = tl.fma(p, r, 1.6666665459e-1)
    p = tl.fma(p, r, 5.0000001201e-1)
    p = tl.fma(p, r * r, r) + 1.0
    half = k >> 1
    first = _from_bits((half + 127) << 23)
    second = _from_bits((k - half + 127) << 23)
    return (p * first) * second


@triton.jit
def unit_interval(k):
    """The 23-bit integer k (uint32) as (k + ½) · 2^-23, exactly: never 0, never 1."""
    return (k.to(tl.int32).to(tl.float32) + 0.5) * 1.1920928955078125e-07


@triton.jit
def uniform(word):
    """A uniform number from the high 23 bits of a random uint32 word."""
    return unit_interval(word >> 9)


@triton.jit
def box_muller(w0, w1):
    """Two standard normals from two random words; polynomials of Cephes sinf and cosf on an octant."""
    radius = tl.sqrt_rn(-2.0 * log_positive(uniform(w0)))
    eighths = uniform(w1) * 8.0
    octant = eighths.to(tl.int32)
    part = eighths - octant.to(tl.float32)
    q = tl.where((octant & 1) != 0, 1.0 - part, part) * 0.785398163397448
    z = q * q
    sine_series = tl.fma(tl.fma(z, -1.9515295891e-4, 8.3321608736e-3), z, -1.6666654611e-1)
    cosine_series = tl.fma(tl.fma(z, 2.443315711809948e-5, -1.388731625493765e-3), z, 4.166664568298827e-2)
    sine = tl.fma(q * z, sine_series, q)
    cosine = tl.fma(z * z, cosine_series, tl.fma(z, -0.5, 1.0))
    swapped = ((octant + 1) & 2) != 0
    x = tl.where(swapped, sine, cosine)
    y = tl.where(swapped, cosine, sine)
    x = tl.where(((octant + 2) & 4) != 0, -x, x)
    y = tl.where(octant >= 4, -y, y)
    return radius * x, radius * y


@triton.jit
def tree_sum(x, ROWS: tl.constexpr, WIDTH: tl.constexpr, LEVELS: tl.constexpr):
    """Sum of x[ROWS, WIDTH] over its last axis, [ROWS, 1]: x_j += x_{j+h} for h = WIDTH/2 … 1, WIDTH = 2^LEVELS."""
    for level in tl.static_range(LEVELS):
        x = tl.sum(tl.reshape(x, [ROWS, 2, WIDTH >> (level + 1)]), axis=1)
    return tl.reshape(x, [ROWS, 1])
