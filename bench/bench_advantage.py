"""Group-relative advantages."""

from collections.abc import Iterator

import torch

import pygrade
from bench import core
from bench.harness import OURS, Contender, Row, measure

ROTATIONS = 64


def training(quick: bool) -> Iterator[Row]:
    """One reward component, scaled by the group's own std as GRPO does, and by the batch's."""
    for batch, samples in [(256, 16)] if quick else [(256, 16), (1024, 32), (4096, 32)]:
        generator = torch.Generator().manual_seed(0)
        inputs = [torch.randn(batch, samples, 1, generator=generator) for _ in range(ROTATIONS)]
        for normalize in ("group", "batch"):
            dimension = (1,) if normalize == "group" else (0, 1)

            def step(rewards: torch.Tensor, dimension: tuple[int, ...] = dimension) -> torch.Tensor:
                deviation = rewards[..., 0] - rewards[..., 0].mean(1, keepdim=True)
                std = deviation.square().mean(dimension, keepdim=True).sqrt()
                return (deviation / (std + 1e-8)).clamp(-5.0, 5.0)

            compiled = torch.compile(step, dynamic=False)
            contenders: dict[str, Contender] = {
                OURS: lambda i, x=inputs, n=normalize: pygrade.group_advantage(
                    x[i % ROTATIONS], None, n, num_threads=1
                ),
                "torch": lambda i, x=inputs, f=step: f(x[i % ROTATIONS]),
                "torch.compile": lambda i, x=inputs, f=compiled: f(x[i % ROTATIONS]),
            }
            torch.testing.assert_close(contenders[OURS](0), contenders["torch"](0), rtol=1e-4, atol=1e-5)
            shape = {"B": batch, "G": samples, "C": 1, "by": normalize}
            timings = measure(contenders, 0.3 if quick else 1.0)
            alone = core.run("group_advantage", batch, samples) if normalize == "group" else {}
            yield Row("group_advantage", shape, timings, ("torch", "torch.compile"), **alone)
