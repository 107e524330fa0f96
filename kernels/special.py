"""log Γ, ψ and ψ' of positive float64 for the rows of the Dirichlet families; twin of csrc/src/simd/special.hpp.

Accurate to ~1e-14, not bit for bit: `tl.log` differs between devices. An argument below 8 is shifted up by 8, so that
Stirling's series holds; the shift's factors are paired, (y + k)(y + 7 - k) = q + k(7 - k) with q = y(y + 7). Constants
have full precision because each is an operand of a float64 tensor.
"""

import triton
import triton.language as tl


@triton.jit
def _shift(x):
    """A mask of x below 8; x, or 1 if not; and x shifted."""
    small = x < 8.0
    return small, tl.where(small, x, x * 0.0 + 1.0), tl.where(small, x + 8.0, x)


@triton.jit
def log_gamma(x):
    small, y, z = _shift(x)
    q = y * (y + 7.0)
    product = (q * (q + 6.0)) * ((q + 10.0) * (q + 12.0))
    i = 1.0 / z
    w = i * i
    s = w * 0.00641025641025641026 - 0.00191752691752691753
    s = s * w + 0.000841750841750841751
    s = s * w - 0.000595238095238095238
    s = s * w + 0.000793650793650793651
    s = s * w - 0.00277777777777777778
    s = s * w + 0.0833333333333333333
    value = (z - 0.5) * tl.log(z) - z + 0.918938533204672742 + s * i
    return value - tl.where(small, tl.log(product), x * 0.0)


@triton.jit
def digamma(x):
    small, y, z = _shift(x)
    q = y * (y + 7.0)
    harmonic = (y * 2.0 + 7.0) * ((1.0 / q + 1.0 / (q + 6.0)) + (1.0 / (q + 10.0) + 1.0 / (q + 12.0)))
    i = 1.0 / z
    w = i * i
    s = w * 0.0833333333333333333 - 0.0210927960927960928
    s = s * w + 0.00757575757575757576
    s = s * w - 0.00416666666666666667
    s = s * w + 0.00396825396825396825
    s = s * w - 0.00833333333333333333
    s = s * w + 0.0833333333333333333
    return tl.log(z) - (s * w + i * 0.5) - tl.where(small, harmonic, x * 0.0)


@triton.jit
def trigamma(x):
    small, y, z = _shift(x)
    q = y * (y + 7.0)
    pair = q * 2.0 + 49.0
    r0 = 1.0 / q
    r1 = 1.0 / (q + 6.0)
    r2 = 1.0 / (q + 10.0)
    r3 = 1.0 / (q + 12.0)
    squares = pair * r0 * r0 + (pair - 12.0) * r1 * r1 + (pair - 20.0) * r2 * r2 + (pair - 24.0) * r3 * r3
    i = 1.0 / z
    w = i * i
    s = w * 1.16666666666666667 - 0.253113553113553114
    s = s * w + 0.0757575757575757576
    s = s * w - 0.0333333333333333333
    s = s * w + 0.0238095238095238095
    s = s * w - 0.0333333333333333333
    s = s * w + 0.166666666666666667
    return i * (s * w + i * 0.5 + 1.0) + tl.where(small, squares, x * 0.0)


@triton.jit
def row_sum(values, inside):
    """Sum over the tasks of a row, without the padding."""
    return tl.sum(tl.where(inside, values, values * 0.0), axis=0)


@triton.jit
def load_row(concentration, row, t, tasks):
    """One row in float64, NaN if not a finite positive number, 1 beyond its tasks; and its total."""
    inside = t < tasks
    values = tl.load(concentration + row * tasks + t, mask=inside, other=1.0).to(tl.float64)
    values = tl.where((values > 0.0) & (values < float("inf")), values, float("nan"))
    return values, row_sum(values, inside)


@triton.jit
def log_beta_of(alpha, total, inside):
    """The log of the Dirichlet's normalization, Σ_t log Γ(α_t) - log Γ(Σ_t α_t)."""
    return row_sum(log_gamma(alpha), inside) - log_gamma(total)
