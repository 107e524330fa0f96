"""Training: check the rows, train with early stopping, train again on more rows, calibrate on rows never seen."""

import logging
from dataclasses import replace

import numpy as np
import torch
from torch.nn import functional

from pygrade._util.threads import torch_threads
from pygrade.metrics.streamed import LabelHistogram
from pygrade.mtl.calibration import fit_calibration
from pygrade.mtl.column_stats import ColumnStats, stats_of_parts
from pygrade.mtl.config import Columns, MtlConfig
from pygrade.mtl.model import MtlModel
from pygrade.mtl.network import Network
from pygrade.mtl.stream import Batches, Window
from pygrade.mtl.timeline import Timeline

_CHUNK = 8192  # rows that are evaluated at a time

logger = logging.getLogger("pygrade")


@torch_threads(1)
def fit_stream(
    batches: Batches,
    tasks: tuple[str, ...],
    timeline: Timeline,
    config: MtlConfig | None = None,
    columns: Columns | None = None,
) -> MtlModel:
    """Trains on rows from a factory of batches, in memory that does not grow with their number.

    ``batches()`` gives all rows as (dense, ids, labels, time), in any chunks; it is called once or twice a pass.
    dense[n, D] (NaN: unknown), ids[n, F] any int64, labels[n, T] 0 or 1 (NaN: not observed, left out of the loss).
    Rows before ``timeline.train_end`` train, those up to ``stop_end`` stop early, those up to ``calibrate_end``
    calibrate; later ones are only counted: the model's predictions for them are out of time.

    Training runs on one thread (a second one gains nothing at this size), so the same arguments give the same model on
    one machine; torch's global generator is left as it was. Each pass is logged. ValueError for shapes that
    disagree, labels outside [0, 1], and a task that has only positives or only negatives in a part; the error names
    part and task.
    """
    config, tasks = config or MtlConfig(), tuple(tasks)
    if columns is None:
        first = next(iter(batches()), None)
        if first is None:
            raise ValueError("batches gives no rows; want some")
        for name, shape in (("dense", first[0].shape), ("ids", first[1].shape)):
            if len(shape) != 2:
                raise ValueError(f"{name} has shape {shape}; want two dimensions, rows and columns")
        columns = Columns.numbered(first[0].shape[1], first[1].shape[1])
    by_part = stats_of_parts(batches, tasks, timeline, config, columns)
    spans = {name: span for name, span in timeline.parts.items() if span[0] < span[1]}

    def window(*names: str) -> Window:
        rows = sum(by_part[name].rows for name in names)
        span = (spans[names[0]][0], spans[names[-1]][1])
        return Window(batches, columns, config.buckets, span, rows, config.memory_rows)

    train = window("train")
    if "stop" not in spans:
        model = _train(train, by_part["train"], None, tasks, config, columns, config.epochs)
    else:
        model = _train(train, by_part["train"], window("stop"), tasks, config, columns, config.epochs)
        if config.refit:
            both = window("train", "stop")
            by_part["train"].merge(by_part["stop"])
            again = _train(both, by_part["train"], None, tasks, config, columns, model.best_epoch)
            model = replace(model, module=again.module)
    if "calibrate" in spans:
        seen = _histogram(model.module, window("calibrate"), tasks, config)
        model = replace(model, calibration=fit_calibration(seen, config.calibration, tasks))
    return model


def _train(
    window: Window,
    stats: ColumnStats,
    stop: Window | None,
    tasks: tuple[str, ...],
    config: MtlConfig,
    columns: Columns,
    epochs: int,
) -> MtlModel:
    """Trains on ``window``; with rows to stop on it returns the best pass's parameters.

    A positive counts ``weight`` times. The minimum of such a loss has odds that are ``weight`` times the true ones, so
    the loss sees the network's logit + log(weight) and the network's own logit is the true one.
    """
    rate = stats.rate
    weight = (((1 - rate) / rate) ** config.positive_weight_power).clip(1.0, config.max_positive_weight)
    positive_weight = torch.from_numpy(weight.astype(np.float32))
    shift = positive_weight.log()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        module = Network(config, columns, tasks)
        _start_from(module, stats)
        optimizer = torch.optim.AdamW(
            module.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
        best, best_state = 0, _copy(module)
        aucs: list[float] = []
        losses: list[float] = []
        for epoch in range(epochs):
            module.train()
            for dense, entries, labels in window.shuffled(config.batch_size):
                observed = ~torch.isnan(labels)
                loss = functional.binary_cross_entropy_with_logits(
                    module(module.inputs(dense, entries)) + shift,
                    labels.nan_to_num(),
                    pos_weight=positive_weight,
                    reduction="none",
                )
                loss = (loss * observed).sum() / observed.sum().clamp_min(1)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            _check_finite(loss.detach(), config)
            if stop is None:
                logger.info("mtl: pass %d of %d over %d rows", epoch + 1, epochs, window.rows)
                continue
            seen = _histogram(module, stop, tasks, config)
            base = -rate * np.log(rate) - (1 - rate) * np.log1p(-rate)
            aucs.append(float(np.average(seen.auc(), weights=seen.rarer())))
            losses.append(float(np.mean(seen.log_loss() / base)))
            logger.info(
                "mtl: pass %d, validation AUC %.4f, loss %.4f of the base rate's", epoch + 1, aucs[-1], losses[-1]
            )
            score = np.array(aucs) if config.stop_on == "auc" else -np.array(losses)
            if score[-1] >= score.max():
                best, best_state = epoch, _copy(module)
            elif epoch - best >= config.patience:
                break
        if stop is not None:
            module.load_state_dict(best_state)
        else:
            best = epochs - 1
    return MtlModel(module.eval(), config, tasks, columns, best + 1, tuple(aucs), tuple(losses))


def _start_from(module: Network, stats: ColumnStats) -> None:
    """Sets the normalization; logits start at the base rates, those of a funnel's children at their share of it."""
    std = stats.std
    logit = np.log(stats.rate / (1 - stats.rate))
    for task, parent in enumerate(module.parents):
        if parent >= 0:
            share = min(stats.rate[task] / stats.rate[parent], 1 - 1e-6)
            logit[task] = np.log(share / (1 - share))
    module.mean.copy_(torch.from_numpy(stats.mean))
    module.scale.copy_(torch.from_numpy(np.where(std > 0, 1 / np.where(std > 0, std, 1), 0)))
    module.base.copy_(torch.from_numpy(logit))


def _copy(module: Network) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def _histogram(module: Network, window: Window, tasks: tuple[str, ...], config: MtlConfig) -> LabelHistogram:
    """Labels of a window by the network's logit."""
    seen = LabelHistogram(len(tasks))
    module.eval()
    with torch.no_grad():
        for dense, entries, labels in window:
            for rows in zip(*(torch.split(part, _CHUNK) for part in (dense, entries, labels)), strict=True):
                logits = module(module.inputs(rows[0], rows[1]))
                _check_finite(logits, config)
                seen.add(logits.numpy(), rows[2].numpy())
    return seen


def _check_finite(values: torch.Tensor, config: MtlConfig) -> None:
    if not torch.isfinite(values).all():
        raise ValueError(f"training diverged; want a learning_rate below {config.learning_rate}")
