"""Boosted trees (LightGBM) with the policy's information: a candidate's predictions and the request's inputs.

They start at the expected value and learn a factor of it from the debiased value of the rows shown: by Tweedie
regression with a log link, or by LambdaMART with the pages as its lists. The trees are chosen in the protocol.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.study.trial import ArmRanking, Options, Trial
from pygrade import ops
from pygrade._util.optional_imports import require
from pygrade.policy.spec import fusion_formula

_GRADES = 20  # LambdaMART's labels are whole numbers: 0 without value, then by quantiles of it
TREES = {"lambda_l2": 10.0, "feature_fraction": 0.8, "bagging_fraction": 0.8, "bagging_freq": 1}
FIXED = {"num_threads": 1, "deterministic": True, "force_col_wise": True, "seed": 0, "verbosity": -1}
Array = NDArray[Any]


def boosted(trial: Trial, options: Options) -> ArmRanking:
    """``objective``: tweedie or lambdarank; ``rounds``: trees, ``small_rounds``: up to 5,000 requests; ``trees``: more
    options of LightGBM.
    """
    trees = require("lightgbm", "study")
    config, data, requests = trial.config({}), trial.data, trial.requests
    values = trial.values.double().numpy()
    at = data.page_item[..., None].expand(-1, -1, len(values))
    logged = torch.from_numpy(trial.logs.predictions).reshape(trial.logs.num_requests, -1, len(values)).gather(1, at)
    table, start = _features(logged, data.scores.gather(1, at), data.inputs, values, config.policy.beta)
    label = (data.page_value / data.page_propensity).numpy()  # [R, K]
    given: dict[str, Any] = {"label": label.ravel(), "init_score": start + np.log(label.sum() / np.exp(start).sum())}
    chosen = {"objective": options["objective"], **options["trees"]}
    if options["objective"] == "lambdarank":
        grade, gain = _grades(label)
        ideal = -np.sort(-np.array(gain)[grade], 1) / np.log2(np.arange(label.shape[1]) + 2)
        # Lists count by their value: LambdaMART's own normalization makes one click worth as much as one order.
        weight = np.maximum(ideal.sum(1) / ideal.sum(1).mean(), 1e-6).repeat(label.shape[1])
        given = {"label": grade.ravel(), "init_score": start, "weight": weight}
        given["group"] = np.full(len(label), label.shape[1])
        chosen |= {"label_gain": gain, "lambdarank_truncation_level": config.reward.page_size}
    count = options["small_rounds" if trial.logs.num_requests <= 5000 else "rounds"]
    model = trees.train(TREES | FIXED | chosen, trees.Dataset(table, **given), count)
    p = torch.from_numpy(requests.p_hat)
    inputs = trial.spec(config).request_inputs(requests.context, requests.p_hat)
    table, start = _features(
        p, ops.transform_scores(p, **fusion_formula(config.policy)), inputs, values, config.policy.beta
    )
    scores = start + model.predict(table, raw_score=True, num_threads=1)
    return ArmRanking(scores.reshape(p.shape[:2]))


def _features(p: Tensor, transformed: Tensor, inputs: Tensor, values: Array, beta: float) -> tuple[Array, Array]:
    """The table [B · N, features] and the logarithm of the expected value [B · N] of candidates p [B, N, T]."""
    expected = np.log(p.double().numpy() @ values + beta)
    parts = [(p + beta).log(), transformed, torch.from_numpy(expected).float()[..., None]]
    parts.append(inputs[:, None].expand(-1, p.shape[1], -1))
    table = torch.cat(parts, -1)
    return table.reshape(-1, table.shape[-1]).numpy(), expected.ravel()


def _grades(label: Array) -> tuple[Array, list[float]]:
    """Whole numbers for labels ≥ 0, and what each is worth: the mean of its labels."""
    steps = np.unique(np.quantile(label[label > 0], np.linspace(0, 1, _GRADES)))
    grade = np.where(label > 0, np.searchsorted(steps, label, side="right"), 0)
    total, count = (np.bincount(grade.ravel(), w, len(steps) + 1) for w in (label.ravel(), None))
    return grade, (total / np.maximum(count, 1)).tolist()
