"""The network: embeddings, gated experts, a tower a task, and the funnel between tasks.

MMoE: Ma et al., "Modeling Task Relationships in Multi-task Learning with Multi-gate Mixture-of-Experts", KDD 2018.
PLE: Tang et al., "Progressive Layered Extraction", RecSys 2020. ESMM: Ma et al., "Entire Space Multi-Task Model", SIGIR
2018. An expert belongs to one task or to all, and a gate sees the experts of its task and the shared ones (PLE of one
layer); without experts of one task that is MMoE.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from pygrade._typing import Ints
from pygrade.config.mtl import MtlConfig
from pygrade.mtl.columns import Columns, parents_of

_CLIP = 5.0  # normalized inputs are cut to ± this


class Stacked(nn.Module):
    """One linear map for each of S slices: x[n, S, I] → [n, S, O], initialized as S `nn.Linear` would be."""

    def __init__(self, slices: int, inputs: int, outputs: int) -> None:
        super().__init__()
        bound = inputs**-0.5
        self.weight = nn.Parameter(torch.empty(slices, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(slices, outputs).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias[:, None], x.transpose(0, 1), self.weight).transpose(0, 1)


class ExpertLayer(nn.Module):
    """M experts read x[n, I]; the gate of each task mixes its own and the shared ones → [n, T, O]."""

    hidden_scores: Tensor

    def __init__(self, config: MtlConfig, num_tasks: int, inputs: int) -> None:
        super().__init__()
        owner = [task for task in range(num_tasks) for _ in range(config.task_experts)]
        owner += [num_tasks] * config.shared_experts
        self.num_tasks, self.num_experts = num_tasks, len(owner)
        self.dropout = nn.Dropout(config.dropout)
        self.hidden = nn.Linear(inputs, len(owner) * config.expert_hidden)
        self.output = Stacked(len(owner), config.expert_hidden, config.expert_output)
        self.gates = nn.Linear(inputs, num_tasks * len(owner))
        sees = torch.tensor([[of in (task, num_tasks) for of in owner] for task in range(num_tasks)])
        self.register_buffer("hidden_scores", torch.where(sees, 0.0, -torch.inf), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.hidden(x).view(x.shape[0], self.num_experts, self.output.weight.shape[1])
        outputs = functional.silu(self.output(self.dropout(functional.silu(hidden))))  # [n, M, O]
        gates = self.gates(x).view(x.shape[0], self.num_tasks, self.num_experts) + self.hidden_scores
        odds = torch.exp(gates - gates.detach().amax(-1, keepdim=True))  # torch.softmax is slow on rows this short
        return torch.bmm(odds / odds.sum(-1, keepdim=True), outputs)  # [n, T, O]


class Network(nn.Module):
    """Dense inputs (NaN: unknown) and ids → one logit a task, of the task's probability, funnel included.

    One table holds the embeddings of all id columns, column after column.
    """

    mean: Tensor
    scale: Tensor
    base: Tensor

    def __init__(self, config: MtlConfig, columns: Columns, tasks: tuple[str, ...]) -> None:
        super().__init__()
        self.parents = parents_of(tasks, config.funnel)
        self.embedding = nn.Embedding(sum(columns.vocabulary), config.embedding)
        nn.init.normal_(self.embedding.weight, std=0.01)  # an id without training has next to no effect
        self.dropout = nn.Dropout(config.dropout)
        self.experts = ExpertLayer(config, len(tasks), len(columns.dense) + len(columns.ids) * config.embedding)
        self.tower_in = Stacked(len(tasks), config.expert_output, config.tower_hidden)
        self.tower_out = Stacked(len(tasks), config.tower_hidden, 1)
        self.register_buffer("mean", torch.zeros(len(columns.dense)))
        self.register_buffer("scale", torch.ones(len(columns.dense)))
        self.register_buffer(
            "base", torch.zeros(len(tasks))
        )  # added to the towers' logits; a buffer, so no weight decay

    def normalize(self, dense: Tensor) -> Tensor:
        """(x - mean) · scale, cut to ±5; NaN (unknown) becomes 0, the mean."""
        return ((dense - self.mean) * self.scale).clamp(-_CLIP, _CLIP).nan_to_num(0.0)

    def inputs(self, dense: Tensor, entries: Tensor) -> Tensor:
        """dense[n, D] float32, entries[n, F] int32 of the table (`table_entries`) → what the first layer reads."""
        return torch.cat([self.normalize(dense), self.dropout(self.embedding(entries).flatten(1))], -1)

    def forward(self, x: Tensor) -> Tensor:
        """`inputs` → logits [n, T]."""
        mixed = self.experts(x)
        return funnel_logits(self.tower_out(functional.silu(self.tower_in(mixed)))[..., 0] + self.base, self.parents)


def funnel_logits(logits: Tensor, parents: Sequence[int]) -> Tensor:
    """Logits [n, T] of the tasks given their parents → of the tasks: log p = log p(parent) + log p(task | parent).

    A child is trained through this product on every row, clicked or not, and p(child) ≤ p(parent) always. Unlike in the
    paper, no gradient flows through it into the parent's logit: the parent learns from its own labels, which are many,
    not from a few heavily weighted positives of the child.
    """
    if max(parents) < 0:
        return logits
    conditional = functional.logsigmoid(logits).unbind(1)  # log p(task | parent)

    def log_p(task: int) -> Tensor:
        return conditional[task] if parents[task] < 0 else conditional[task] + log_p(parents[task]).detach()

    columns = list(logits.unbind(1))
    for task, parent in enumerate(parents):
        if parent >= 0:
            log = log_p(task).clamp_max(-1e-6)
            columns[task] = log - torch.log(-torch.expm1(log))
    return torch.stack(columns, 1)


def table_entries(ids: Ints, columns: Columns) -> NDArray[np.int32]:
    """Entry of each id in the table of embeddings, [n, F]: within its column's part of the table the id itself, 0
    (unknown) if it is outside the vocabulary.
    """
    sizes = np.array(columns.vocabulary, np.int64)
    valid = np.where((ids >= 0) & (ids < sizes), ids, 0)
    entries: NDArray[np.int32] = (valid + (np.cumsum(sizes) - sizes)).astype(np.int32)
    return entries
