"""python mmoe_to_page.py [REQUESTS] [PAGE]: impressions → a multi-task model in torch → a verdict, and its page.

The model is a multi-gate mixture of experts (MMoE, Ma et al., KDD 2018). Any other that predicts probabilities fits:
pygrade takes its predictions for all candidates, not the model.
"""

import sys

import numpy as np
import torch
from small_market import MODEL_INPUTS, impressions, split
from torch import Tensor, nn

import pygrade

TASKS = ("clicked", "ordered")


class MMoE(nn.Module):
    """Logits [n, T] of inputs [n, D]: each task mixes the experts by a gate of its own."""

    def __init__(self, inputs: int, tasks: int, experts: int = 4, width: int = 16) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(inputs, width), nn.ReLU()) for _ in range(experts))
        self.gates = nn.ModuleList(nn.Linear(inputs, experts) for _ in range(tasks))
        self.towers = nn.ModuleList(nn.Linear(width, 1) for _ in range(tasks))

    def forward(self, x: Tensor) -> Tensor:
        experts = torch.stack([expert(x) for expert in self.experts], 2)  # [n, width, E]
        mixed = [(experts @ gate(x).softmax(1)[:, :, None])[:, :, 0] for gate in self.gates]
        return torch.cat([tower(part) for tower, part in zip(self.towers, mixed, strict=True)], 1)


def inputs_of(table: dict[str, np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack([table[name] for name in MODEL_INPUTS], 1)).float()


def fit(table: dict[str, np.ndarray], steps: int = 300) -> MMoE:
    """Learns from the candidates that were shown."""
    torch.manual_seed(0)
    shown = torch.from_numpy(~np.isnan(table["slot"]))
    x, y = inputs_of(table)[shown], torch.from_numpy(np.stack([table[task] for task in TASKS], 1)).float()[shown]
    model = MMoE(len(MODEL_INPUTS), len(TASKS))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(steps):
        batch = torch.randint(len(x), (1024,))
        loss = nn.functional.binary_cross_entropy_with_logits(model(x[batch]), y[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


requests, page = (*sys.argv[1:], *("9000", "mmoe.html")[len(sys.argv) - 1 :])
early, late = split(impressions(int(requests)))
model = fit(early)
with torch.no_grad():
    predictions = model(inputs_of(late)).sigmoid().numpy()
log = late | {"p_click": predictions[:, 0], "p_order": predictions[:, 1]}
trained = pygrade.train(log, map="exploration=page,click=clicked,order=ordered", values={"order": 10})
print(trained.verdict)
print("page:", trained.report(page))
