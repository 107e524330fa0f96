"""python torch_ranker.py: learned fusion weights behind a multi-task model of your own in torch.

The model predicts click and order for the candidates of a request; `BlendedRanker` fuses the predictions with weights
for this request, keeps rules (a mask, a boost, at most two items of a brand), and returns the page.
"""

import numpy as np
import torch

from pygrade import BlendedRanker, FusionPolicy
from pygrade.policy import PolicySpec

TASKS, FEATURES = ("click", "order"), ("hour", "intent")


class MultiTaskModel(torch.nn.Module):
    """Your model: item and request features in, a probability of each kind of feedback out."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(10, 32), torch.nn.ReLU(), torch.nn.Linear(32, len(TASKS)))

    def forward(self, context: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        rows = torch.cat([items, context[:, None].expand(-1, items.shape[1], -1)], -1)  # [B, N, 8 + 2]
        return self.layers(rows).sigmoid()  # [B, N, T]


def rounded(numbers: np.ndarray) -> dict[str, float]:
    """By task, for reading."""
    return {task: round(number, 2) for task, number in zip(TASKS, numbers.tolist(), strict=True)}


@torch.no_grad()
def main() -> None:
    torch.manual_seed(0)
    model = MultiTaskModel().eval()
    # What `pygrade train` left: BlendedRanker.load("runs/mine/policy"). Here one that has learned nothing yet.
    ranker = BlendedRanker(FusionPolicy(PolicySpec(TASKS, FEATURES)))

    requests, candidates = 3, 200
    context, items = torch.rand(requests, len(FEATURES)), torch.rand(requests, candidates, 8)
    page = ranker.rank(
        context,
        model(context, items),
        k=5,
        mask=torch.rand(requests, candidates) < 0.9,  # in stock
        boost_mul=torch.where(torch.rand(requests, candidates) < 0.1, 1.2, 1.0),  # a campaign
        groups=torch.randint(0, 20, (requests, candidates, 1)),  # the brand of each candidate
        caps=[2],
    )
    for weights, places, parts in zip(page.weights, page.indices, page.contributions, strict=True):
        print("page:", places.tolist(), "weights:", rounded(weights), "first item's score by task:", rounded(parts[0]))


if __name__ == "__main__":
    main()
