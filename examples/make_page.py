"""python examples/make_page.py DIR: a policy, and the page by it that every example in another language prints."""

import sys
from pathlib import Path

import numpy as np
import torch

from pygrade import BlendedRanker, FusionPolicy
from pygrade.config.policy import PolicyConfig
from pygrade.policy import PolicySpec
from pygrade.policy.correction import Correction
from pygrade.policy.mixture import Baseline, Mixture

TASKS, FEATURES = ("click", "cart", "order", "like"), ("hour", "intent", "age")


def make_policy(seed: int = 3) -> FusionPolicy:
    """One that is mixed with a baseline of corrected predictions and prices."""
    policy = FusionPolicy(PolicySpec(TASKS, FEATURES, PolicyConfig(hidden=(16, 8), trade_offs=True)), seed=seed)
    policy.head.weight.data.mul_(40)  # so that requests differ
    policy.set_static_weights(torch.tensor([0.4, 0.2, 0.2, 0.2]), {})
    policy.correction = Correction.identity(TASKS, FEATURES)
    value = Baseline("corrected value", "identity", (1.0, 2.0, 5.0, 0.5), True, ("order",), corrected=True)
    policy.mixture = Mixture(0.6, value)
    return policy


def page_text(ranker: BlendedRanker) -> str:
    """The page of 40 made-up candidates: a candidate and the bits of its score a line."""
    predictions = (1 + np.arange(40 * len(TASKS)) * 7 % 50).reshape(1, 40, -1) / np.float32(64)
    context = np.full((1, len(FEATURES)), 0.5, np.float32)
    page = ranker.rank(context, predictions.astype(np.float32), 10, item_values=np.float32([1 + np.arange(40) % 8]))
    bits = page.values[0].view(np.uint32)
    return "".join(f"{index} {score:08x}\n" for index, score in zip(page.indices[0], bits, strict=True))


def main(directory: Path) -> None:
    make_policy().save(directory / "policy")
    (directory / "page.txt").write_text(page_text(BlendedRanker.load(directory / "policy")))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
