"""The tolerances of every test, by dtype of the result; errors are measured against float64."""

import torch
from torch import Tensor

RELATIVE = {torch.float64: 1e-10, torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
ABSOLUTE = {torch.float64: 1e-10, torch.float32: 2e-6, torch.float16: 2e-4, torch.bfloat16: 1e-3}


def assert_close(actual: Tensor, expected: Tensor) -> None:
    """``actual`` equals ``expected`` within its dtype's tolerance; NaN equals NaN, infinities must agree."""
    torch.testing.assert_close(
        actual.double(), expected.double(), rtol=RELATIVE[actual.dtype], atol=ABSOLUTE[actual.dtype], equal_nan=True
    )


def same_bits(actual: Tensor, expected: Tensor) -> bool:
    """Equal bit for bit, except for the payload of NaNs."""
    assert actual.dtype == expected.dtype and actual.shape == expected.shape
    if not actual.is_floating_point():
        return bool(torch.equal(actual, expected))
    missing = torch.isnan(actual)
    integer = {2: torch.int16, 4: torch.int32, 8: torch.int64}[actual.element_size()]
    same = actual.view(integer) == expected.view(integer)
    return bool((same | (missing & torch.isnan(expected))).all())
