"""The launches that `bench.resources` compiles: each calls a launch function of `pygrade.kernels` on small tensors."""

from collections.abc import Callable

import torch

from pygrade.kernels import advantage


def _advantage(normalize: str, samples: int) -> Callable[[], object]:
    return lambda: advantage.group_advantage(torch.zeros(2, samples, 2), torch.ones(2), normalize, False, 5.0)


CASES: dict[str, Callable[[], object]] = {
    "advantage batch G=16": _advantage("batch", 16),
    "advantage group G=32": _advantage("group", 32),
    "advantage component G=1024": _advantage("component", 1024),
}
