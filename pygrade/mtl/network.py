"""The network: embeddings, one or more layers of gated experts, a tower a task, and the funnel between tasks.

MMoE: Ma et al., "Modeling Task Relationships in Multi-task Learning with Multi-gate Mixture-of-Experts", KDD 2018.
PLE: Tang et al., "Progressive Layered Extraction", RecSys 2020. ESMM: Ma et al., "Entire Space Multi-Task Model", SIGIR
2018. One layer serves both: an expert belongs to one task or to all, and a gate sees the experts of its task and the
shared ones; MMoE is the layer without experts of one task.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from pygrade._typing import Ints
from pygrade._util.hashing import GOLDEN, splitmix64
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
    """M experts read their streams, S gates mix what they see: x[n, I] (the first layer) or x[n, T + 1, I] → [n, S, O].

    Streams 0 … T - 1 belong to the tasks; stream T, if another layer follows, to the shared experts.
    """

    sees: Tensor

    def __init__(self, config: MtlConfig, num_tasks: int, inputs: int, first: bool, last: bool) -> None:
        super().__init__()
        ple = config.network == "ple"
        per_task, shared = (config.task_experts, config.shared_experts) if ple else (0, config.experts)
        owner = [task for task in range(num_tasks) for _ in range(per_task)] + [num_tasks] * shared
        self.reads, self.streams = owner, num_tasks + (not last)
        shape = (config.expert_hidden, config.expert_output)
        self.dropout = nn.Dropout(config.dropout)
        if first:
            self.hidden: nn.Module = nn.Linear(inputs, len(owner) * shape[0])
            self.output = Stacked(len(owner), *shape)
            self.gates: nn.Module = nn.Linear(inputs, self.streams * len(owner))
        else:
            self.hidden = Stacked(len(owner), inputs, shape[0])
            self.output = Stacked(len(owner), *shape)
            self.gates = Stacked(self.streams, inputs, len(owner))
        sees = [[stream == num_tasks or of in (stream, num_tasks) for of in owner] for stream in range(self.streams)]
        hidden = torch.where(torch.tensor(sees), 0.0, -torch.inf)
        self.register_buffer("sees", hidden if per_task else torch.zeros(0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.dim() == 2
        hidden = self.hidden(x if flat else x[:, self.reads]).view(
            x.shape[0], len(self.reads), self.output.weight.shape[1]
        )
        outputs = functional.silu(self.output(self.dropout(functional.silu(hidden))))  # [n, M, O]
        gates = self.gates(x if flat else x[:, : self.streams]).view(x.shape[0], self.streams, len(self.reads))
        if len(self.sees):
            gates = gates + self.sees
        odds = torch.exp(gates - gates.detach().amax(-1, keepdim=True))  # torch.softmax is slow on rows this short
        return torch.bmm(odds / odds.sum(-1, keepdim=True), outputs)  # [n, S, O]


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
        self.embedding = nn.Embedding(sum(columns.sizes(config.buckets)), config.embedding)
        nn.init.normal_(self.embedding.weight, std=0.01)  # an id without training has next to no effect
        self.dropout = nn.Dropout(config.dropout)
        levels = config.levels if config.network == "ple" else 1
        widths = [len(columns.dense) + len(columns.ids) * config.embedding] + [config.expert_output] * levels
        self.layers = nn.ModuleList(
            ExpertLayer(config, len(tasks), widths[level], level == 0, level == levels - 1) for level in range(levels)
        )
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
        for layer in self.layers:
            x = layer(x)
        return funnel_logits(self.tower_out(functional.silu(self.tower_in(x)))[..., 0] + self.base, self.parents)


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


def hash_to_buckets(ids: Ints, buckets: int, columns: Sequence[int] | None = None) -> Ints:
    """Bucket of each id, ids[n, F] → [n, F] in [0, buckets); columns hash independently (splitmix64 finalizer).

    ``columns``: number of each column (None: 0, 1, …), to hash only some of them.
    """
    number = np.asarray(range(ids.shape[1]) if columns is None else columns, np.uint64)
    x = splitmix64(ids.astype(np.uint64) + GOLDEN + number * np.uint64(0xD1B54A32D192ED03))
    bucket: Ints = (x % np.uint64(buckets)).astype(np.int64)
    return bucket


def table_entries(ids: Ints, columns: Columns, buckets: int) -> NDArray[np.int32]:
    """Entry of each id in the table of embeddings, [n, F]. Within its column's part of the table this is the id itself
    under a vocabulary (0, unknown, if outside it), else the id's hash.
    """
    sizes = np.array(columns.sizes(buckets), np.int64)
    hashed = [f for f in range(ids.shape[1]) if not columns.vocabulary or not columns.vocabulary[f]]
    result = np.where((ids >= 0) & (ids < sizes), ids, 0)
    if hashed:
        result[:, hashed] = hash_to_buckets(ids[:, hashed], buckets, hashed)
    entries: NDArray[np.int32] = (result + (np.cumsum(sizes) - sizes)).astype(np.int32)
    return entries
