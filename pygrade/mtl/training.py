"""Training: check the rows, train with early stopping, train again on more rows, calibrate on rows never seen."""

from dataclasses import replace

import numpy as np
import torch
from torch.nn import functional

from pygrade._util.progress import show_line
from pygrade._util.threads import torch_threads
from pygrade.config.mtl import MtlConfig
from pygrade.metrics.streamed import LabelHistogram
from pygrade.mtl.calibration import fit_calibration
from pygrade.mtl.column_stats import ColumnStats, stats_of_parts
from pygrade.mtl.columns import Columns
from pygrade.mtl.model import MtlModel
from pygrade.mtl.network import Network
from pygrade.mtl.stream import Batches, Window
from pygrade.mtl.timeline import TimeSplit
from pygrade.workers.group import Group

_CHUNK = 8192  # rows that are evaluated at a time


@torch_threads(1)
def fit_stream(
    batches: Batches,
    tasks: tuple[str, ...],
    timeline: TimeSplit,
    columns: Columns,
    config: MtlConfig | None = None,
    group: Group | None = None,
) -> MtlModel:
    """Trains on rows from a factory of batches, in memory that does not grow with their number.

    ``batches()`` gives all rows as (dense, ids, labels, time), in any chunks; it is called once or twice a pass.
    dense[n, D] (NaN: unknown), ids[n, F] int64, labels[n, T] 0 or 1 (NaN: not observed, left out of the loss).
    Rows before ``timeline.train_end`` train, those up to ``stop_end`` stop early, those up to ``calibrate_end``
    calibrate; later ones are only counted: the model's predictions for them are out of time.

    Training runs on one thread (a second one gains nothing at this size), so the same arguments give the same model on
    one machine; torch's global generator is left as it was. Each pass is logged. ValueError for shapes that
    disagree, labels outside [0, 1], and a task of one class alone in a part that makes the model; the error names
    part and task.

    group: the ranks that train together; ``batches()`` gives this rank's share of the rows, and every rank gets the
    same model. It is as good as that of one process, not the same: rows, dropout and the last bits of sums differ.
    """
    config, tasks, group = config or MtlConfig(), tuple(tasks), group or Group()
    by_part = stats_of_parts(batches, tasks, timeline, config, columns, group)
    spans = {name: span for name, span in timeline.parts.items() if span[0] < span[1]}

    def window(*names: str) -> Window:
        rows = sum(by_part[name].rows for name in names)
        span = (spans[names[0]][0], spans[names[-1]][1])
        return Window(batches, columns, span, group.share(rows), config.memory_rows, len(tasks))

    def train(window: Window, stop: Window | None, epochs: int, name: str) -> MtlModel:
        return _train(window, by_part["train"], stop, tasks, config, columns, epochs, group, name)

    if "stop" not in spans:
        model = train(window("train"), None, config.epochs, "mtl")
    else:
        model = train(window("train"), window("stop"), config.epochs, "mtl")
        if config.refit:
            by_part["train"].merge_stats(by_part["stop"])
            again = train(window("train", "stop"), None, model.best_epoch, "mtl, again")
            model = replace(model, module=again.module)
    if "calibrate" in spans:
        seen = _histogram(model.module, window("calibrate"), tasks, config, group)
        model = replace(model, calibration=fit_calibration(seen, tasks))
    model.module.cpu()
    return model


def _train(
    window: Window,
    stats: ColumnStats,
    stop: Window | None,
    tasks: tuple[str, ...],
    config: MtlConfig,
    columns: Columns,
    epochs: int,
    group: Group,
    name: str,
) -> MtlModel:
    """Trains on ``window``; with rows to stop on it returns the best pass's parameters. ``name``: of its checkpoints.

    A positive counts ``weight`` times, see `_pass`.
    """
    rate = stats.rate
    weight = (((1 - rate) / rate) ** config.positive_weight_power).clip(1.0, config.max_positive_weight)
    positive_weight = torch.from_numpy(weight.astype(np.float32)).to(group.device)
    with group.own_generator():
        torch.manual_seed(config.seed)
        module = Network(config, columns, tasks)
        _start_from(module, stats)
        module.to(group.device)
        if group.size > 1:
            torch.manual_seed(group.seed(config.seed))
        optimizer = torch.optim.AdamW(
            module.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
        done, best, best_state = 0, 0, _copy(module)
        aucs: list[float] = []
        losses: list[float] = []
        if saved := group.load(name):
            module.load_state_dict(saved["module"])
            optimizer.load_state_dict(saved["optimizer"])
            done, best, best_state = saved["epochs"], saved["best"], saved["best_state"]
            aucs, losses = saved["aucs"], saved["losses"]
            group.set_random_state(saved["random"])
        for epoch in range(done, epochs):
            if stop is not None and epoch - 1 - best >= config.patience:
                break
            loss = _pass(module, optimizer, window, positive_weight, config, group)
            _check_finite(group.sum(loss), config)
            if stop is None:
                show_line(f"mtl: pass {epoch + 1} of {epochs} over {stats.rows} rows")
            else:
                seen = _histogram(module, stop, tasks, config, group)
                base = -rate * np.log(rate) - (1 - rate) * np.log1p(-rate)
                aucs.append(float(np.average(seen.auc(), weights=seen.minority_counts())))
                losses.append(float(np.mean(seen.log_loss() / base)))
                loss_text = f"loss {losses[-1]:.4f} of the base rate's"
                show_line(f"mtl: pass {epoch + 1}, validation AUC {aucs[-1]:.4f}, {loss_text}")
                if aucs[-1] >= max(aucs):
                    best, best_state = epoch, _copy(module)
            state = {"module": module.state_dict(), "optimizer": optimizer.state_dict(), "epochs": epoch + 1}
            state |= {"best": best, "best_state": best_state, "aucs": aucs, "losses": losses}
            group.save(name, state | {"random": group.random_state()})
        if stop is not None:
            module.load_state_dict(best_state)
        else:
            best = epochs - 1
    return MtlModel(module.eval(), config, tasks, columns, best + 1, tuple(aucs), tuple(losses))


def _pass(
    module: Network,
    optimizer: torch.optim.Optimizer,
    window: Window,
    positive_weight: torch.Tensor,
    config: MtlConfig,
    group: Group,
) -> torch.Tensor:
    """One pass over the rows; returns the last batch's loss.

    The minimum of a loss in which a positive counts ``weight`` times has odds that are ``weight`` times the true ones,
    so the loss sees the network's logit + log(weight) and the network's own logit is the true one.
    """
    shift, loss = positive_weight.log(), torch.zeros(())
    module.train()
    for batch in group.steps(window.shuffled(group.share(config.batch_size)), window.empty):
        dense, entries, labels = (tensor.to(group.device) for tensor in batch)
        observed = ~torch.isnan(labels)
        losses = functional.binary_cross_entropy_with_logits(
            module(module.inputs(dense, entries)) + shift,
            labels.nan_to_num(),
            pos_weight=positive_weight,
            reduction="none",
        )
        loss = (losses * observed).sum() / group.sum(observed.sum()).clamp_min(1)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        group.sum_gradients(module)
        optimizer.step()
    return loss.detach()


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


def _histogram(
    module: Network, window: Window, tasks: tuple[str, ...], config: MtlConfig, group: Group
) -> LabelHistogram:
    """Labels of a window, of all ranks, by the network's logit."""
    seen = LabelHistogram(len(tasks))
    module.eval()
    with group.shared_errors(), torch.no_grad():
        for dense, entries, labels in window:
            for rows in zip(*(torch.split(tensor, _CHUNK) for tensor in (dense, entries, labels)), strict=True):
                logits = module(module.inputs(rows[0].to(group.device), rows[1].to(group.device)))
                _check_finite(logits, config)
                seen.add(logits.cpu().numpy(), rows[2].numpy())
    seen.rows, seen.positives = (group.sum(torch.from_numpy(sums)).numpy() for sums in (seen.rows, seen.positives))
    return seen


def _check_finite(values: torch.Tensor, config: MtlConfig) -> None:
    if not torch.isfinite(values).all():
        raise ValueError(f"training diverged; expected a learning_rate below {config.learning_rate}")
