"""The processes that train one model together (data parallelism): ranks 0 … size - 1 of a group.

Every rank holds the whole model and reads its own share of the rows. In a step each computes the gradient of its part
of the batch's loss, and all add them up, so that they take the same step. What is learned depends on the number of
ranks, which divides the rows, and not on where the ranks run.
"""

import io
import logging
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from pygrade._util.files import atomic_file

Value = TypeVar("Value")

logger = logging.getLogger("pygrade")


class Checkpoints(Protocol):
    """Storage of the state of a training. Every rank calls `write` as often as the others."""

    def write(self, content: bytes | None) -> None:
        """Keeps the content of rank 0 in place of the one before; the other ranks give None."""

    def read(self) -> bytes | None:
        """The content written last, by this run or one that was lost; None: nothing."""


class FileCheckpoints:
    """A file that is replaced in one step."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, content: bytes | None) -> None:
        """See `Checkpoints`."""
        if content is not None:
            with atomic_file(self.path) as partial:
                partial.write_bytes(content)

    def read(self) -> bytes | None:
        """See `Checkpoints`."""
        return self.path.read_bytes() if self.path.is_file() else None


class Group:
    """One of ``size`` processes that train together: rank 0 … size - 1 of torch.distributed's default group, which is
    there already (gloo; for tensors on GPUs NCCL). A group of one needs none: nothing is divided, and nothing added up.
    """

    def __init__(
        self, checkpoints: Checkpoints | None = None, device: str = "cpu", rank: int = 0, size: int = 1
    ) -> None:
        self.device, self.rank, self.size = torch.device(device), rank, size
        self.agreed: Exception | None = None  # what every rank raised (`shared_errors`)
        self._checkpoints = checkpoints
        self._resumed: dict[str, Any] | None = None  # states of an earlier run, until they are asked for
        self._states: dict[str, Any] = {}

    def seed(self, seed: int) -> int:
        """The seed of what differs between ranks: dropout and the order of rows."""
        return seed if self.size == 1 else int(np.random.SeedSequence([seed, self.rank]).generate_state(1)[0])

    def sum(self, values: Tensor) -> Tensor:
        """The sum over the ranks of tensors of one shape."""
        if self.size == 1:
            return values
        total = values.detach().clone()
        torch.distributed.all_reduce(total)
        return total

    def gather(self, value: Value) -> list[Value]:
        """The values of all ranks, which must be picklable, in the order of the ranks."""
        if self.size == 1:
            return [value]
        result: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(result, value)
        return result

    def gather_rows(self, rows: Tensor) -> tuple[Tensor, int]:
        """The rows [n, …] of all ranks, one after another, and the place of this rank's first. Gradients flow back to
        the rank that gave a row."""
        if self.size == 1:
            return rows, 0
        counts = [torch.zeros(1, dtype=torch.int64, device=rows.device) for _ in range(self.size)]
        torch.distributed.all_gather(counts, torch.full_like(counts[0], len(rows)))
        sizes = [int(count) for count in counts]
        apply: Any = _GatherRows.apply  # untyped before torch 2.15
        every: Tensor = apply(rows, sizes, self.rank)
        return every, sum(sizes[: self.rank])

    def steps(self, batches: Iterator[Value], empty: Value) -> Iterator[Value]:
        """This rank's batches, then ``empty`` while other ranks have some left: all ranks take as many steps."""
        if self.size == 1:
            yield from batches
            return
        while True:
            batch = next(batches, None)
            left = torch.tensor([int(batch is not None)], device=self.device)
            if not int(self.sum(left)):
                return
            yield empty if batch is None else batch

    def sum_gradients(self, module: nn.Module) -> None:
        """Replaces every gradient by its sum over the ranks. One flat tensor crosses the network, 4 bytes a
        parameter."""
        if self.size == 1:
            return
        gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        torch.distributed.all_reduce(flat)
        for gradient, total in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
            gradient.copy_(total.view_as(gradient))

    def share(self, batch_size: int) -> int:
        """The rows of a batch that are this rank's."""
        return -(-batch_size // self.size)

    @contextmanager
    def shared_errors(self) -> Iterator[None]:
        """An error of one rank is raised on all of them: none waits for another that is gone."""
        own: Exception | None = None
        try:
            yield
        except Exception as error:
            own = error
        for stated in self.gather(_portable(own) if self.size > 1 else own):
            if stated is not None:
                self.agreed = stated
                raise stated

    def save(self, name: str, state: dict[str, Any]) -> None:
        """Keeps the state (tensors, numbers, lists and dicts) of one of the trainings that a loop consists of."""
        if self._checkpoints is None:
            return
        self._states[name] = state
        content = io.BytesIO()
        if self.rank == 0:
            torch.save({"size": self.size, "states": self._states}, content)
        self._checkpoints.write(content.getvalue() if self.rank == 0 else None)

    def load(self, name: str) -> dict[str, Any] | None:
        """The state that an earlier run with as many ranks kept last, once; None if there is none."""
        if self._resumed is None:
            content = None if self._checkpoints is None else self._checkpoints.read()
            saved = {} if content is None else torch.load(io.BytesIO(content), weights_only=True)
            self._resumed = dict(saved["states"]) if saved.get("size") == self.size else {}
        state = cast("dict[str, Any] | None", self._resumed.pop(name, None))
        if state is not None:
            self._states[name] = state
            logger.info("%s: continued from its last checkpoint", name)
        return state

    def random_state(self, generator: np.random.Generator | None = None) -> dict[str, Any]:
        """The state of torch's generators, and of one of numpy's, for `save`: a list, rank by rank."""
        state: dict[str, Any] = {"torch": torch.get_rng_state()}
        if self.device.type == "cuda":
            state["cuda"] = torch.cuda.get_rng_state(self.device)
        if generator is not None:
            state["numpy"] = generator.bit_generator.state
        return {"ranks": self.gather(state)}

    def set_random_state(self, state: dict[str, Any], generator: np.random.Generator | None = None) -> None:
        """Continues where `random_state` was called."""
        own = state["ranks"][self.rank]
        torch.set_rng_state(own["torch"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(own["cuda"], self.device)
        if generator is not None:
            generator.bit_generator.state = own["numpy"]

    @contextmanager
    def own_generator(self) -> Iterator[None]:
        """torch's generators are afterwards as they were before."""
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            yield


def _portable(error: Exception | None) -> Exception | None:
    """The error, or its text if it cannot be pickled."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


class _GatherRows(torch.autograd.Function):
    """All ranks' rows: forward an all-gather, backward a sum over the ranks of the gradients of a rank's own rows."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, sizes: list[int], rank: int) -> Tensor:
        ctx.sizes, ctx.rank = sizes, rank
        padded = rows.new_zeros(max(sizes), *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in sizes]
        torch.distributed.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        total = gradients[0].contiguous()
        torch.distributed.all_reduce(total)
        return torch.split(total, ctx.sizes)[ctx.rank], None, None
