"""A trained multi-task model: predictions that depend on nothing but the rows of their request, to the last bit."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pygrade._typing import Floats32, Ints
from pygrade._util.threads import torch_threads
from pygrade.mtl.calibration import Calibration
from pygrade.mtl.config import Columns, MtlConfig, schema_hash
from pygrade.mtl.network import Network, table_entries

SMALL_BLOCK, BLOCK = 32, 128
"""Rows the network sees at a time, by the request's size: a matrix product's rounding depends on its shape."""
MIN_PREDICTION = 1e-6
"""Lower bound of a prediction, so that its logarithm is finite."""


@dataclass(frozen=True)
class MtlModel:
    """A trained `Network` and the meaning of its inputs and outputs. `fit_stream` makes it, `predict` uses it."""

    module: Network
    config: MtlConfig
    tasks: tuple[str, ...]
    columns: Columns
    best_epoch: int  # passes that were best on the early-stopping rows
    validation_auc: tuple[float, ...] = ()  # per pass: weighted mean over tasks on the early-stopping rows
    validation_loss: tuple[float, ...] = ()  # per pass: mean over tasks of log-loss / log-loss of the base rate
    calibration: Calibration | None = None

    @property
    def schema_hash(self) -> str:
        """Of tasks, columns and funnel."""
        return schema_hash(self.tasks, self.columns, self.config.funnel)


def predict(
    model: MtlModel,
    dense: Floats32,
    ids: Ints,
    offsets: Ints | None = None,
    calibrated: bool = True,
) -> Floats32:
    """Probability of each kind of feedback, [n, T] float32 in [1e-6, 1]; dense[n, D], ids[n, F] as in `fit_stream`.

    offsets[R + 1]: the rows of each of R requests (None: all rows are one). A request's predictions have the same bits
    whatever else is in the call and whatever number of threads torch is set to: each request runs by itself, on one
    thread, in blocks of 128 rows (32 if it has no more), the last one padded with zeros. ``calibrated=False`` skips the
    calibration. ValueError and TypeError for inputs that do not fit the model.
    """
    columns = model.columns
    if dense.ndim != 2 or dense.shape[1] != len(columns.dense):
        raise ValueError(f"dense has shape {dense.shape}; want [n, {len(columns.dense)}]")
    if ids.shape != (len(dense), len(columns.ids)):
        raise ValueError(f"ids has shape {ids.shape}; want {(len(dense), len(columns.ids))}")
    if ids.dtype.kind not in "iu":
        raise TypeError(f"ids has dtype {ids.dtype}; want int64")
    bounds = np.array([0, len(dense)]) if offsets is None else np.asarray(offsets)
    if bounds.ndim != 1 or not len(bounds) or bounds[0] or bounds[-1] != len(dense) or (np.diff(bounds) < 0).any():
        raise ValueError(f"offsets is {bounds}; want an ascending array from 0 to {len(dense)}")
    result = np.empty((len(dense), len(model.tasks)), np.float32)
    model.module.eval()
    with torch.inference_mode(), torch_threads(1):
        for start, stop in pairwise(bounds.tolist()):
            if stop > start:
                logits = _request(model, dense[start:stop], ids[start:stop], calibrated)
                result[start:stop] = torch.sigmoid(logits)[: stop - start].clamp_min(MIN_PREDICTION).numpy()
    return result


def _request(model: MtlModel, dense: Floats32, ids: Ints, calibrated: bool) -> Tensor:
    """Logits [n padded to whole blocks, T] float64."""
    block = BLOCK if len(dense) > SMALL_BLOCK else SMALL_BLOCK
    missing = -len(dense) % block
    inputs = model.module.inputs(
        torch.from_numpy(np.ascontiguousarray(dense, np.float32)),
        torch.from_numpy(table_entries(ids, model.columns, model.config.buckets)),
    )
    inputs = functional.pad(inputs, (0, 0, 0, missing))
    logits = torch.cat([model.module(part) for part in torch.split(inputs, block)]).double()
    return model.calibration(logits) if calibrated and model.calibration is not None else logits
