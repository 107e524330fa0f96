"""Group-relative advantages."""

from collections.abc import Iterator

import torch
from torch import Tensor

import pygrade
from bench.cpu import core, verify
from bench.cpu.harness import OURS, ROTATIONS, Contender, Row
from bench.cpu.peers import compiled
from pygrade import reference

SHAPES = [(256, 16), (1024, 32), (4096, 32)]  # B, G


def training(quick: bool) -> Iterator[Row]:
    """One reward component, scaled by the std of the group as in GRPO, and by that of the batch."""
    for batch, samples in SHAPES[:1] if quick else SHAPES:
        generator = torch.Generator().manual_seed(0)
        inputs = [torch.randn(batch, samples, 1, generator=generator) for _ in range(ROTATIONS)]
        for normalize in ("batch",) if quick else ("group", "batch"):
            yield _row(inputs, normalize, 0.6 if quick else 4.0)


def _row(inputs: list[Tensor], normalize: str, seconds: float) -> Row:
    batch, samples, _ = inputs[0].shape
    dimension, threads = (1,) if normalize == "group" else (0, 1), torch.get_num_threads()

    def step(rewards: Tensor) -> Tensor:
        deviation = rewards[..., 0] - rewards[..., 0].mean(1, keepdim=True)
        std = deviation.square().mean(dimension, keepdim=True).sqrt()
        return (deviation / (std + 1e-8)).clamp(-5.0, 5.0)

    function = compiled(step)
    contenders: dict[str, Contender] = {
        OURS: lambda i: pygrade.group_advantage(inputs[i % ROTATIONS], None, normalize, num_threads=threads),
        "torch": lambda i: step(inputs[i % ROTATIONS]),
        "torch.compile": lambda i: function(inputs[i % ROTATIONS]),
    }
    wanted = reference.group_advantage(inputs[1].double(), torch.ones(1).double(), normalize)
    for name, run in contenders.items():
        verify.close(name, "advantage", run(1), wanted)
    alone = f"group_advantage_{normalize}", (batch, samples)
    return core.row("group_advantage", {"B": batch, "G": samples, "C": 1, "by": normalize}, contenders, seconds, alone)
