"""Number of torch's threads: sums are split by thread, so it decides their last bits."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """``count`` threads inside, and as many as before afterwards.

    One is the most for small batches beside other busy processes: several would wait for each other at every operation.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
