"""Trains the two towers on streams of logged requests.

Loss of a batch of B positives (u_r, i_r) of weight w_r, with s of `towers` and q the share of the draws so far:

    - Σ_r w_r log ( exp(s_rr) / (exp(s_rr) + Σ_c exp(s_rc - log((B - 1) q(i_c)))) ) / Σ_r w_r,   s_rc = s(u_r, i_c)

where c runs over the columns of other items: a second copy of the positive is no negative. The B - 1 columns are draws
from q, so the corrected sum estimates the sum over all other items, and s are the logits of a softmax over the catalog
and not over popular items. The positive itself was not drawn but is always there: it has no correction.

Ranks that train together (`workers.Group`) gather the vectors of their items: the columns c of every rank's users are
the items of the whole batch, so the loss is that of one process with the same batch.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pygrade._util.progress import show_line
from pygrade._util.threads import torch_threads
from pygrade.config.prerank import PrerankConfig
from pygrade.prerank.batches import Batch, Batches, Catalog, Pairs, shuffled
from pygrade.prerank.index import ItemIndex
from pygrade.prerank.recall import held_out_positives, recall
from pygrade.prerank.towers import Inputs, TwoTower
from pygrade.workers.group import Group

_VALIDATION_REQUESTS = 2_000  # with a positive, the earliest, that measure the recall


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
    group: Group | None = None,
) -> FittedTowers:
    """Trains on every pass of ``batches()``; the later requests of ``validation()`` decide when to stop.

    task_weights[T]: a shown row is a positive of weight Σ_t task_weights[t] · feedback[t] if that is above 0. The
    same batches and config give the same towers on one machine, by one thread; torch's global generator is left as it
    was. Raises ValueError for shapes that disagree and for no positives.

    group: the ranks that train together; both factories give this rank's share of the batches, and every rank gets the
    same towers.
    """
    config, group = config or PrerankConfig(), group or Group()
    weights = np.asarray(task_weights, np.float32)
    if weights.ndim != 1 or not len(weights) or not np.isfinite(weights).all() or (weights < 0).any():
        raise ValueError(f"task_weights is {task_weights}; expected numbers >= 0, one for each task")
    if validation is None:
        towers, losses, _, _ = _train(batches, weights, config, None, group, "prerank")
        return FittedTowers(towers, tuple(weights.tolist()), config.epochs, losses, ())
    towers, losses, best, recalls = _train(batches, weights, config, validation, group, "prerank")
    if config.refit:
        later = validation

        def everything() -> "itertools.chain[Batch]":
            return itertools.chain(batches(), later())

        towers = _train(everything, weights, replace(config, epochs=best), None, group, "prerank, again")[0]
    return FittedTowers(towers, tuple(weights.tolist()), best, losses, recalls)


def _train(
    batches: Batches,
    task_weights: NDArray[np.float32],
    config: PrerankConfig,
    validation: Batches | None,
    group: Group,
    name: str,
) -> tuple[TwoTower, tuple[float, ...], int, tuple[float, ...]]:
    """Towers, losses, the best number of passes and the recalls. ``name``: of its checkpoints."""
    inputs = Inputs.fit(batches, task_weights, config, group)
    catalog = None if validation is None else Catalog.from_batches(batches, group)
    draws = torch.zeros(len(inputs.item_id) + 1, dtype=torch.float64)
    rng = np.random.default_rng(group.seed(config.seed))
    done, losses, recalls = 0, list[float](), list[float]()
    best = config.epochs - 1
    with group.own_generator():
        torch.manual_seed(config.seed)
        towers = TwoTower(config, inputs).to(group.device)
        if group.size > 1:
            torch.manual_seed(group.seed(config.seed))
        optimizer = torch.optim.AdamW(towers.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
        best_state = _copy(towers)
        if saved := group.load(name):
            towers.load_state_dict(saved["towers"])
            optimizer.load_state_dict(saved["optimizer"])
            done, best, best_state = saved["epochs"], saved["best"], saved["best_state"]
            losses, recalls = saved["losses"], saved["recalls"]
            draws = saved["draws"]
            group.set_random_state(saved["random"], rng)
        for epoch in range(done, config.epochs):
            if recalls and epoch - 1 - best >= config.patience:
                break
            towers.train()
            total = weight = 0.0
            pairs_of_pass = shuffled(batches, task_weights, group.share(config.batch_size), config.shuffle, rng)
            for pairs in group.steps(pairs_of_pass, inputs.no_pairs()):
                loss = _loss(towers, pairs, draws, rng, group)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                group.sum_gradients(towers)
                optimizer.step()
                total += float(group.sum(loss.detach())) * float(pairs.weight.sum())
                weight += float(pairs.weight.sum())
            total, weight = group.sum(torch.tensor([total, weight], dtype=torch.float64)).tolist()
            losses.append(total / weight)
            towers.eval()
            if validation is None or catalog is None:
                show_line(f"prerank: pass {epoch + 1} of {config.epochs}, loss {losses[-1]:.4f}")
            else:
                recalls.append(_validate(towers.cpu(), catalog, validation, task_weights, config, group))
                towers.to(group.device)
                recall = f"recall@{config.recall_at} {recalls[-1]:.4f}"
                show_line(f"prerank: pass {epoch + 1}, loss {losses[-1]:.4f}, {recall}")
                if recalls[-1] > max(recalls[:-1], default=-1.0):
                    best, best_state = epoch, _copy(towers)
            state = {"towers": towers.state_dict(), "optimizer": optimizer.state_dict(), "epochs": epoch + 1}
            state |= {"best": best, "best_state": best_state, "losses": losses, "recalls": recalls}
            state |= {"draws": draws, "random": group.random_state(rng)}
            group.save(name, state)
        if validation is not None:
            towers.load_state_dict(best_state)
    return towers.eval().cpu(), tuple(losses), best + 1, tuple(recalls)


def _copy(towers: TwoTower) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in towers.state_dict().items()}


def _loss(towers: TwoTower, pairs: Pairs, draws: Tensor, rng: np.random.Generator, group: Group) -> Tensor:
    """This rank's part of the batch's loss: the sum over the ranks is the loss.

    draws: how often each row of the item table was drawn so far, float64; this batch is added.
    """
    user_inputs = (tensor.to(group.device) for tensor in towers.user_inputs(pairs))
    item_dense, item_fields, rows = towers.item_inputs(pairs.item_id, pairs.item_dense, pairs.item_ids)
    hidden = torch.from_numpy(rng.random(len(pairs)) < towers.config.id_dropout)
    item_inputs = (tensor.to(group.device) for tensor in (item_dense, item_fields, rows.masked_fill(hidden, 0)))
    users, own_items = towers.user(*user_inputs), towers.item(*item_inputs)
    every, _ = group.gather_rows(rows)  # [B], of the whole batch
    draws.add_(torch.bincount(every, minlength=len(draws)))
    correction = torch.log(draws[every] / draws.sum()).float()
    correction -= math.log(max(1, towers.inputs.others)) * (every == 0)  # those that share a row share its draws
    items, first = group.gather_rows(own_items)
    logits = users @ items.T  # [b, B]: the b positives of this rank
    positive = logits.diagonal(first)
    item_id = torch.from_numpy(pairs.item_id)
    same = (item_id[:, None] == group.gather_rows(item_id)[0]).to(group.device)
    correction = correction.to(group.device)
    logits = torch.where(same, -torch.inf, logits - correction - math.log(max(1, len(every) - 1)))
    normalizer = torch.logaddexp(positive, torch.logsumexp(logits, 1))
    weight = torch.from_numpy(pairs.weight).to(group.device)
    return (weight * (normalizer - positive)).sum() / group.sum(weight.sum())


def _validate(
    towers: TwoTower,
    catalog: Catalog,
    validation: Batches,
    task_weights: NDArray[np.float32],
    config: PrerankConfig,
    group: Group,
) -> float:
    """Recall of the first validation requests with a positive, of all ranks, by an index of the training items."""
    index = ItemIndex.build(catalog.item_id, towers.item_vectors(catalog))
    total, count, limit = 0.0, 0, group.share(_VALIDATION_REQUESTS)
    with group.shared_errors():
        for batch in validation():
            requests, relevant = held_out_positives(batch, task_weights)
            if not len(requests):
                continue
            requests = requests[: limit - count]
            with torch.inference_mode():
                vectors = towers.user(*towers.user_inputs(batch)).numpy()[requests]
            retrieved = index.search(vectors, config.recall_at)[0]
            total += float(recall(retrieved, relevant[: len(requests)]).sum())
            count += len(requests)
            if count >= limit:
                break
    hits, requests_of_all = group.sum(torch.tensor([total, count], dtype=torch.float64)).tolist()
    if not requests_of_all:
        raise ValueError("validation batches hold no positive; expected later requests with some")
    return float(hits / requests_of_all)
