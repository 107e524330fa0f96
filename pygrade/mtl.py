"""A small multi-task model (MMoE) that predicts every kind of feedback for a candidate.

It stands where a production ranker has its own multi-task model: data sets that come without predictions need one
before fusion can be learned. MMoE: Ma et al., "Modeling Task Relationships in Multi-task Learning with Multi-gate
Mixture-of-Experts", KDD 2018.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class MtlConfig:
    """Size and training of the multi-task model."""

    experts: int = 4
    """Experts shared by all tasks; each task mixes them with its own softmax gate."""
    expert_hidden: int = 64
    """Width of an expert's hidden layer."""
    expert_output: int = 32
    """Width of an expert's output, which the towers read."""
    tower_hidden: int = 16
    """Width of a task tower's hidden layer."""
    embedding: int = 4
    """Width of the embedding of each id field."""
    buckets: int = 1 << 15
    """Hash buckets of each id field; ids that collide share an embedding."""
    dropout: float = 0.4
    """Dropout on the embeddings and on the experts' hidden layer."""
    positive_weight_power: float = 0.5
    """Positives weigh (negatives / positives) ** power in the loss; predictions are corrected back to probabilities."""
    max_positive_weight: float = 30.0
    """Upper bound of that weight."""
    learning_rate: float = 1e-3
    """Step size of AdamW."""
    weight_decay: float = 0.3
    """Decoupled weight decay of AdamW, on every parameter."""
    batch_size: int = 512
    """Rows a step."""
    epochs: int = 20
    """Most passes over the training rows."""
    patience: int = 3
    """Passes without a better validation loss after which training stops."""
    validation_fraction: float = 0.15
    """Latest share of the rows, by time, that decides when to stop. 0: all rows train for all ``epochs``."""
    refit: bool = True
    """After stopping, train again on all rows, validation included, for the best number of passes."""
    seed: int = 0
    """Initial parameters, dropout and the order of rows."""

    def __post_init__(self) -> None:
        for name in ("experts", "expert_hidden", "expert_output", "tower_hidden", "embedding", "buckets", "batch_size",
                     "epochs", "patience"):  # fmt: skip
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; want at least 1")
        for name in ("dropout", "validation_fraction"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"{name} is {getattr(self, name)}; want a number in [0, 1)")


class MMoE(nn.Module):
    """Multi-gate mixture of experts over dense features and hashed ids; one logit a task."""

    def __init__(self, config: MtlConfig, num_dense: int, num_fields: int, num_tasks: int) -> None:
        super().__init__()
        self.embeddings = nn.ModuleList(nn.Embedding(config.buckets, config.embedding) for _ in range(num_fields))
        for table in self.embeddings:
            assert isinstance(table, nn.Embedding)
            nn.init.normal_(table.weight, std=0.01)  # an id never trained on says next to nothing
        width = num_dense + num_fields * config.embedding
        self.experts, self.tasks = config.experts, num_tasks
        self.dropout = nn.Dropout(config.dropout)
        self.expert_in = nn.Linear(width, config.experts * config.expert_hidden)
        self.expert_out = _Stacked(config.experts, config.expert_hidden, config.expert_output)
        self.gates = nn.Linear(width, num_tasks * config.experts)
        self.tower_in = _Stacked(num_tasks, config.expert_output, config.tower_hidden)
        self.tower_out = _Stacked(num_tasks, config.tower_hidden, 1)

    def forward(self, dense: Tensor, buckets: Tensor) -> Tensor:
        """dense[n, D] float, buckets[n, F] int64 in [0, config.buckets) → logits [n, T]."""
        parts = [table(buckets[:, f]) for f, table in enumerate(self.embeddings)]
        inputs = torch.cat([dense, *(self.dropout(part) for part in parts)], -1)
        rows = inputs.shape[0]
        hidden = self.dropout(functional.silu(self.expert_in(inputs))).view(rows, self.experts, -1)
        outputs = functional.silu(self.expert_out(hidden))  # [n, E, W]
        gates = torch.softmax(self.gates(inputs).view(rows, self.tasks, self.experts), -1)
        mixed = torch.bmm(gates, outputs)  # [n, T, W]
        logits: Tensor = self.tower_out(functional.silu(self.tower_in(mixed)))[..., 0]
        return logits


class _Stacked(nn.Module):
    """One linear map for each of S slices: x[n, S, I] → [n, S, O], initialised as S `nn.Linear` would be."""

    def __init__(self, slices: int, inputs: int, outputs: int) -> None:
        super().__init__()
        bound = inputs**-0.5
        self.weight = nn.Parameter(torch.empty(slices, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(slices, outputs).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        return torch.bmm(x.transpose(0, 1), self.weight).transpose(0, 1) + self.bias


@dataclass(frozen=True)
class MtlModel:
    """A trained `MMoE` with what its inputs and outputs need. Made by `fit`, read by `predict`."""

    module: MMoE
    config: MtlConfig
    tasks: tuple[str, ...]
    mean: NDArray[np.float32]  # [D] of the training rows
    std: NDArray[np.float32]  # [D]
    logit_shift: NDArray[np.float32]  # [T] log of the positive weight, subtracted from the logits
    best_epoch: int  # passes that were best on the validation rows
    validation_loss: tuple[float, ...]  # per pass: mean over tasks of BCE / BCE of the constant base rate


def hash_ids(ids: NDArray[np.int64], buckets: int) -> NDArray[np.int64]:
    """Bucket of each id, ids[n, F] → [n, F] in [0, buckets); fields hash independently (splitmix64 finaliser)."""
    field = np.arange(ids.shape[1], dtype=np.uint64) * np.uint64(0xD1B54A32D192ED03)
    with np.errstate(over="ignore"):
        x = ids.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15) + field
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
    bucket: NDArray[np.int64] = (x % np.uint64(buckets)).astype(np.int64)
    return bucket


def fit(
    dense: NDArray[np.float32],
    ids: NDArray[np.int64],
    labels: NDArray[np.float32],
    time: NDArray[np.int64],
    tasks: tuple[str, ...],
    config: MtlConfig | None = None,
    log: Callable[[str], None] | None = None,
) -> MtlModel:
    """Trains an `MMoE` on rows of feedback.

    dense[n, D] (NaN: unknown), ids[n, F] any int64, labels[n, T] 0 or 1 (NaN: not observed, left out of the loss),
    time[n] orders the rows: the latest ``validation_fraction`` decides when to stop. The same arguments give the same
    model on one machine with one number of threads; torch's global generator is left as it was. ``log`` gets one line
    a pass. Raises ValueError for shapes that disagree, labels outside [0, 1], a task without a positive or without a
    negative.
    """
    config = config or MtlConfig()
    _check(dense, ids, labels, time, tasks)
    order = np.argsort(time, kind="stable")
    cut = len(order) - round(config.validation_fraction * len(order))
    while 0 < cut < len(order) and time[order[cut]] == time[order[cut - 1]]:
        cut -= 1  # rows of one instant stay on one side
    train, held = order[:cut], order[cut:]
    if len(held) and len(train) < 1:
        raise ValueError(f"time leaves no rows before the validation part; got {len(time)} rows of one instant")
    if not len(held):
        module, extras = _train(dense, ids, labels, order, config, config.epochs, None, log)[:2]
        return MtlModel(module, config, tasks, *extras, config.epochs, ())
    module, extras, best, losses = _train(dense, ids, labels, train, config, config.epochs, held, log)
    if config.refit:
        module, extras = _train(dense, ids, labels, order, config, best, None, log)[:2]
    return MtlModel(module, config, tasks, *extras, best, losses)


def predict(
    model: MtlModel, dense: NDArray[np.float32], ids: NDArray[np.int64], batch_size: int = 8192
) -> NDArray[np.float32]:
    """Probability of each kind of feedback, [n, T] float32 in [1e-6, 1]; dense[n, D], ids[n, F] as in `fit`."""
    if dense.ndim != 2 or dense.shape[1] != len(model.mean):
        raise ValueError(f"dense has shape {dense.shape}; want [n, {len(model.mean)}]")
    if ids.shape != (len(dense), len(model.module.embeddings)):
        raise ValueError(f"ids has shape {ids.shape}; want {(len(dense), len(model.module.embeddings))}")
    inputs, buckets = _inputs(dense, ids, model.mean, model.std, model.config)
    model.module.eval()
    parts = [np.zeros((0, len(model.logit_shift)), np.float32)]
    with torch.no_grad():
        for start in range(0, len(dense), batch_size):
            logits = model.module(inputs[start : start + batch_size], buckets[start : start + batch_size])
            probability = torch.sigmoid(logits - torch.from_numpy(model.logit_shift))
            parts.append(probability.clamp_min(1e-6).numpy())
    return np.concatenate(parts)


_Extras = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]


def _train(
    dense: NDArray[np.float32],
    ids: NDArray[np.int64],
    labels: NDArray[np.float32],
    rows: NDArray[np.int64],
    config: MtlConfig,
    epochs: int,
    held: NDArray[np.int64] | None,
    log: Callable[[str], None] | None,
) -> tuple[MMoE, _Extras, int, tuple[float, ...]]:
    """Trains on ``rows``; with ``held`` rows it stops early and returns the best pass's parameters."""
    mean, std = _moments(dense[rows])
    rate = np.nanmean(labels[rows], axis=0).clip(1e-6, 1 - 1e-6)
    weight = (((1 - rate) / rate) ** config.positive_weight_power).clip(1.0, config.max_positive_weight)
    shift = np.log(weight).astype(np.float32)
    inputs, buckets = _inputs(dense[rows], ids[rows], mean, std, config)
    targets = torch.from_numpy(labels[rows].astype(np.float32))
    observed = ~torch.isnan(targets)
    targets = torch.nan_to_num(targets)
    positive_weight = torch.from_numpy(weight.astype(np.float32))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        module = MMoE(config, dense.shape[1], ids.shape[1], labels.shape[1])
        with torch.no_grad():  # start at the base rates
            module.tower_out.bias[:, 0] = torch.from_numpy((np.log(rate / (1 - rate)) + shift).astype(np.float32))
        optimiser = torch.optim.AdamW(module.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
        losses: list[float] = []
        best, best_state = 0, {name: value.clone() for name, value in module.state_dict().items()}
        for epoch in range(epochs):
            module.train()
            for batch in torch.split(torch.randperm(len(rows)), config.batch_size):
                logits = module(inputs[batch], buckets[batch])
                loss = functional.binary_cross_entropy_with_logits(
                    logits, targets[batch], pos_weight=positive_weight, reduction="none"
                )
                loss = (loss * observed[batch]).sum() / observed[batch].sum().clamp_min(1)
                optimiser.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
            if held is None:
                if log:
                    log(f"mtl: pass {epoch + 1} of {epochs} over {len(rows)} rows")
                continue
            model = MtlModel(module, config, (), mean, std, shift, 0, ())
            losses.append(_normalised_loss(predict(model, dense[held], ids[held]), labels[held], rate))
            if log:
                log(f"mtl: pass {epoch + 1}, validation loss {losses[-1]:.4f} of the base rate's")
            if losses[-1] <= min(losses):
                best, best_state = epoch, {name: value.clone() for name, value in module.state_dict().items()}
            elif epoch - best >= config.patience:
                break
        if held is not None:
            module.load_state_dict(best_state)
    return module.eval(), (mean, std, shift), best + 1, tuple(losses)


def _normalised_loss(p: NDArray[np.float32], labels: NDArray[np.float32], rate: NDArray[np.floating]) -> float:
    """Mean over tasks of BCE(p) / BCE(base rate of the training rows); NaN labels are left out."""
    safe = p.astype(np.float64).clip(1e-7, 1 - 1e-7)
    loss = np.nanmean(-labels * np.log(safe) - (1 - labels) * np.log1p(-safe), axis=0)
    base = np.nanmean(-labels * np.log(rate) - (1 - labels) * np.log1p(-rate), axis=0)
    return float(np.nanmean(loss / base))


def _moments(dense: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    known = ~np.isnan(dense)
    count = known.sum(0).clip(1)
    mean = np.where(known, dense, 0.0).sum(0, dtype=np.float64) / count
    variance = np.where(known, (dense - mean) ** 2, 0.0).sum(0, dtype=np.float64) / count
    return mean.astype(np.float32), np.sqrt(variance).astype(np.float32)


def _inputs(
    dense: NDArray[np.float32],
    ids: NDArray[np.int64],
    mean: NDArray[np.float32],
    std: NDArray[np.float32],
    config: MtlConfig,
) -> tuple[Tensor, Tensor]:
    """Normalised dense features, unknown ones at the mean, clipped to ±5; and hash buckets."""
    scaled = np.where(std > 0, (dense - mean) / np.where(std > 0, std, 1), 0)
    scaled = np.nan_to_num(scaled, nan=0.0).clip(-5.0, 5.0).astype(np.float32)
    return torch.from_numpy(scaled), torch.from_numpy(hash_ids(ids, config.buckets))


def _check(
    dense: NDArray[np.float32],
    ids: NDArray[np.int64],
    labels: NDArray[np.float32],
    time: NDArray[np.int64],
    tasks: tuple[str, ...],
) -> None:
    if dense.ndim != 2 or not len(dense):
        raise ValueError(f"dense has shape {dense.shape}; want [n, D] with at least one row")
    for name, array, shape in (("labels", labels, (len(dense), len(tasks))), ("time", time, (len(dense),))):
        if array.shape != shape:
            raise ValueError(f"{name} has shape {array.shape}; want {shape}")
    if ids.ndim != 2 or len(ids) != len(dense):
        raise ValueError(f"ids has shape {ids.shape}; want [{len(dense)}, F]")
    if np.isinf(dense).any():
        row = int(np.argmax(np.isinf(dense).any(1)))
        raise ValueError(f"dense is infinite in row {row}; want finite numbers, or NaN where unknown")
    outside = (labels < 0) | (labels > 1)
    if outside.any():
        row, task = np.argwhere(outside)[0]
        raise ValueError(f"labels of task {tasks[task]!r} is {labels[row, task]} in row {row}; want 0 to 1 or NaN")
    for t, task in enumerate(tasks):
        observed = labels[:, t][~np.isnan(labels[:, t])]
        positives = int((observed > 0).sum())
        if not positives or not (observed < 1).any():
            raise ValueError(f"task {task!r} has {positives} positives of {observed.size} labels; want some of each")
