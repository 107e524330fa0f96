"""The special functions of the Triton kernels against mpmath."""

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from pygrade.kernels import special

mpmath = pytest.importorskip("mpmath")


@triton.jit
def _apply(x, out, count, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    value = tl.load(x + i, mask=i < count, other=1.0)
    tl.store(out + i, special.log_gamma(value), mask=i < count)
    tl.store(out + count + i, special.digamma(value), mask=i < count)
    tl.store(out + 2 * count + i, special.trigamma(value), mask=i < count)


def test_special_functions(device):
    generator = np.random.default_rng(0)
    random = (10.0 ** generator.uniform(-30, 6, 150), generator.uniform(0.5, 12.0, 150))
    x = np.concatenate([*random, [1e-30, 1.0, 2.0, np.nextafter(8.0, 0.0), 8.0, 1e6]])
    found = torch.full((3, x.size), torch.nan, dtype=torch.float64, device=device)
    _apply[(1,)](
        torch.from_numpy(x).to(device), found, x.size, BLOCK=triton.next_power_of_2(x.size), enable_fp_fusion=False
    )
    with mpmath.workdps(40):
        exact = [(mpmath.loggamma(v), mpmath.digamma(v), mpmath.psi(1, v)) for v in map(mpmath.mpf, x.tolist())]
        error = [
            [float(abs(f - e) / max(1, abs(e))) for f, e in zip(*row, strict=True)]
            for row in zip(found.T.tolist(), exact, strict=True)
        ]
    assert (np.max(error, axis=0) < [1e-14, 1e-14, 1e-14]).all()
