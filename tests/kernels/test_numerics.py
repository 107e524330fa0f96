"""The bit-exact numerics and how accurate they are."""

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from pygrade.kernels import numerics

SPECIAL = [0.0, -0.0, 1.0, -1.0, torch.inf, -torch.inf, torch.nan, 1e-45, -1e-45, 1.1754942e-38, 1.1754944e-38, 3.4e38]


@triton.jit
def _apply(x, y, count, FUNCTION: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(x + i, mask=i < count, other=1.0)
    if FUNCTION == "log":
        value = numerics.log(value)
    elif FUNCTION == "exp":
        value = numerics.exp(value)
    else:
        value = numerics.log_one_plus(value)
    tl.store(y + i, value, mask=i < count)


def triton_values(function: str, x: torch.Tensor) -> torch.Tensor:
    y = torch.empty_like(x)
    _apply[(1,)](x, y, x.numel(), FUNCTION=function, BLOCK=triton.next_power_of_2(x.numel()), enable_fp_fusion=False)
    return y


def samples(function: str, count: int = 20_000) -> torch.Tensor:
    bits = torch.randint(-(2**31), 2**31, (count,), generator=torch.Generator().manual_seed(0)).to(torch.int32)
    everything = bits.view(torch.float32)
    if function == "exp":
        ordinary = torch.linspace(-110.0, 95.0, count)
    elif function == "log":
        ordinary = torch.linspace(0.4, 2.5, count)
    else:
        return torch.cat([torch.linspace(0.0, 63.0, count), torch.logspace(-40, 1, count)])
    return torch.cat([everything, ordinary, torch.tensor(SPECIAL)])


def ulps(actual: torch.Tensor, exact: np.ndarray) -> np.ndarray:
    """Distance in units in the last place of the float32 nearest to ``exact``; 0 where both are NaN or the same inf."""
    got = actual.double().numpy()
    with np.errstate(all="ignore"):
        unit = np.maximum(np.spacing(np.abs(exact.astype(np.float32))).astype(np.float64), 2.0**-149)
        distance = np.abs(got - exact) / unit
    same = (got == exact.astype(np.float32)) | (np.isnan(got) & np.isnan(exact))
    return np.where(same, 0.0, distance)


@pytest.mark.parametrize("function", ["log", "exp", "log1p"])
def test_accuracy(function):
    x = samples(function)
    with np.errstate(all="ignore"):
        exact = getattr(np, function)(x.double().numpy())
        distance = ulps(triton_values(function, x), exact)
    assert distance.max() < 1.5, (function, x[int(distance.argmax())].item())
