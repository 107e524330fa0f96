"""The bit-exact numerics: how accurate they are, and that Triton and C++ give the same bits."""

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from pygrade import _core
from pygrade.kernels import numerics
from pygrade.reference.tolerances import same_bits

FUNCTIONS = ("log", "exp", "log1p")  # in the order of the core's hook
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


def triton_values(function: str, x: torch.Tensor, device: str) -> torch.Tensor:
    x = x.to(device)
    y = torch.empty_like(x)
    _apply[(1,)](x, y, x.numel(), FUNCTION=function, BLOCK=triton.next_power_of_2(x.numel()), enable_fp_fusion=False)
    return y.cpu()


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


def core_values(function: str, x: torch.Tensor) -> torch.Tensor:
    y = torch.empty_like(x)
    _core.float_function(FUNCTIONS.index(function), x, y)
    return y


@pytest.mark.parametrize("function", FUNCTIONS)
def test_accuracy(function):
    x = samples(function)
    with np.errstate(all="ignore"):
        exact = getattr(np, function)(x.double().numpy())
        distance = ulps(core_values(function, x), exact)
    assert distance.max() < 1.5, (function, x[int(distance.argmax())].item())


@pytest.mark.filterwarnings("ignore:overflow encountered")  # the interpreter runs on numpy
@pytest.mark.parametrize("function", FUNCTIONS)
def test_triton_gives_the_bits_of_the_core(function, device):
    x = samples(function)
    assert same_bits(triton_values(function, x, device), core_values(function, x))


@triton.jit
def _philox(counters, words, key_low, key_high):
    key = (tl.cast(key_high, tl.int64) << 32) | tl.cast(key_low, tl.int64)
    w0, w1, w2, w3 = tl.philox(
        key, tl.load(counters), tl.load(counters + 1), tl.load(counters + 2), tl.load(counters + 3)
    )
    tl.store(words, w0)
    tl.store(words + 1, w1)
    tl.store(words + 2, w2)
    tl.store(words + 3, w3)


@pytest.mark.parametrize(
    ("counters", "key", "expected"),
    [
        ("00000000 00000000 00000000 00000000", (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", (2**32 - 1,) * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", (0xA4093822, 0x299F31D0), "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_philox_vectors(counters, key, expected, device):
    """The known answers of Random123 for philox4x32-10; the C++ test has the same."""
    counters = torch.from_numpy(np.array([int(w, 16) for w in counters.split()], dtype=np.uint32)).to(device)
    words = torch.zeros(4, dtype=torch.uint32, device=device)
    _philox[(1,)](counters, words, *key)
    assert " ".join(f"{w:08x}" for w in words.tolist()) == expected
