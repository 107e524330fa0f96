"""Trains the two towers on streams of logged requests.

Loss of a batch of B positives (u_r, i_r) of weight w_r, with s of `towers` and q of `frequency`:

    - Σ_r w_r log ( exp(s_rr) / (exp(s_rr) + Σ_c exp(s_rc - log((B - 1) q(i_c)))) ) / Σ_r w_r,   s_rc = s(u_r, i_c)

where c runs over the columns of other items: a second copy of the positive is no negative. The B - 1 columns are draws
from q, so the corrected sum estimates the sum over all other items, and s are the logits of a softmax over the catalog
and not over popular items. The positive itself was not drawn but is always there: it has no correction.
"""

import itertools
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pygrade._util.threads import torch_threads
from pygrade.prerank.batches import Batch, Batches, Catalog, Pairs, shuffled
from pygrade.prerank.frequency import ItemFrequency
from pygrade.prerank.index import ItemIndex
from pygrade.prerank.recall import held_out_positives, recall
from pygrade.prerank.towers import Inputs, PrerankConfig, TwoTower

logger = logging.getLogger("pygrade")


@dataclass(frozen=True)
class FittedTowers:
    """Trained towers and how the training went."""

    towers: TwoTower
    task_weights: tuple[float, ...]
    best_epoch: int  # passes that were best on the validation batches
    losses: tuple[float, ...]  # per pass of the training that chose best_epoch
    validation_recall: tuple[float, ...]  # per pass; empty without validation batches


@torch_threads(1)
def fit(
    batches: Batches,
    task_weights: Sequence[float],
    config: PrerankConfig | None = None,
    validation: Batches | None = None,
) -> FittedTowers:
    """Trains on every pass of ``batches()``; the later requests of ``validation()`` decide when to stop.

    task_weights[T]: a shown row is a positive of weight Σ_t task_weights[t] · feedback[t] if that is above 0. The
    same batches and config give the same towers on one machine, by one thread; torch's global generator is left as it
    was. Raises ValueError for shapes that disagree and for no positives.
    """
    config = config or PrerankConfig()
    weights = np.asarray(task_weights, np.float32)
    if weights.ndim != 1 or not len(weights) or not np.isfinite(weights).all() or (weights < 0).any():
        raise ValueError(f"task_weights is {task_weights}; want numbers >= 0, one for each task")
    if validation is None:
        towers, losses, _, _ = _train(batches, weights, config, None)
        return FittedTowers(towers, tuple(weights.tolist()), config.epochs, losses, ())
    towers, losses, best, recalls = _train(batches, weights, config, validation)
    if config.refit:
        later = validation

        def everything() -> "itertools.chain[Batch]":
            return itertools.chain(batches(), later())

        towers = _train(everything, weights, replace(config, epochs=best), None)[0]
    return FittedTowers(towers, tuple(weights.tolist()), best, losses, recalls)


def _train(
    batches: Batches,
    task_weights: NDArray[np.float32],
    config: PrerankConfig,
    validation: Batches | None,
) -> tuple[TwoTower, tuple[float, ...], int, tuple[float, ...]]:
    inputs = Inputs.fit(batches, task_weights, config)
    catalog = Catalog.from_batches(batches) if validation is not None else None
    frequency = ItemFrequency(len(inputs.item_id) + 1, config.frequency_half_life)
    rng = np.random.default_rng(config.seed)
    losses: list[float] = []
    recalls: list[float] = []
    best = config.epochs - 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        towers = TwoTower(config, inputs)
        optimizer = torch.optim.AdamW(towers.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
        best_state = {name: value.clone() for name, value in towers.state_dict().items()}
        for epoch in range(config.epochs):
            towers.train()
            total, weight = 0.0, 0.0
            for pairs in shuffled(batches, task_weights, config.batch_size, config.shuffle, rng):
                loss = _loss(towers, pairs, frequency, rng)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                total += float(loss.detach()) * float(pairs.weight.sum())
                weight += float(pairs.weight.sum())
            losses.append(total / weight)
            towers.eval()
            if validation is None or catalog is None:
                logger.info("prerank: pass %d of %d, loss %.4f", epoch + 1, config.epochs, losses[-1])
                continue
            recalls.append(_validate(towers, catalog, validation, task_weights, config))
            report = "prerank: pass %d, loss %.4f, recall@%d %.4f"
            logger.info(report, epoch + 1, losses[-1], config.recall_at, recalls[-1])
            if recalls[-1] > max(recalls[:-1], default=-1.0):
                best, best_state = epoch, {name: value.clone() for name, value in towers.state_dict().items()}
            elif epoch - best >= config.patience:
                break
        if validation is not None:
            towers.load_state_dict(best_state)
    return towers.eval(), tuple(losses), best + 1, tuple(recalls)


def _loss(towers: TwoTower, pairs: Pairs, frequency: ItemFrequency, rng: np.random.Generator) -> Tensor:
    dense, fields, sequence = towers.user_inputs(pairs)
    item_dense, item_fields, rows = towers.item_inputs(pairs.item_id, pairs.item_dense, pairs.item_ids)
    frequency.add(rows.numpy())
    correction = torch.from_numpy(frequency.log(rows.numpy()))
    correction -= math.log(max(1, towers.inputs.others)) * (rows == 0)  # those that share a row share its draws
    hidden = torch.from_numpy(rng.random(len(pairs)) < towers.config.id_dropout)
    users = towers.user(dense, fields, sequence)
    items = towers.item(item_dense, item_fields, rows.masked_fill(hidden, 0))
    logits = users @ items.T  # [B, B]
    positive = logits.diagonal()
    same = torch.from_numpy(pairs.item_id[:, None] == pairs.item_id)
    logits = torch.where(same, -torch.inf, logits - correction - math.log(max(1, len(pairs) - 1)))
    normalizer = torch.logaddexp(positive, torch.logsumexp(logits, 1))
    weight = torch.from_numpy(pairs.weight)
    return (weight * (normalizer - positive)).sum() / weight.sum()


def _validate(
    towers: TwoTower,
    catalog: Catalog,
    validation: Batches,
    task_weights: NDArray[np.float32],
    config: PrerankConfig,
) -> float:
    """Recall of the first validation requests with a positive, by a flat index of the training items."""
    index = ItemIndex.build(catalog.item_id, towers.item_vectors(catalog), "flat")
    total, count = 0.0, 0
    for batch in validation():
        requests, relevant = held_out_positives(batch, task_weights)
        if not len(requests):
            continue
        requests = requests[: config.validation_requests - count]
        with torch.inference_mode():
            vectors = towers.user(*towers.user_inputs(batch)).numpy()[requests]
        retrieved = index.search(vectors, config.recall_at)[0]
        total += float(recall(retrieved, relevant[: len(requests)]).sum())
        count += len(requests)
        if count >= config.validation_requests:
            break
    if not count:
        raise ValueError("validation batches hold no positive; want later requests with some")
    return total / count
