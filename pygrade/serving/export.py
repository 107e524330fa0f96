"""Saved models as files that need no Python: a policy's pages and the multi-task model's predictions.

`.pt2`: compiled by AOTInductor, run by libtorch in C++ (examples/torch/run_pt2.cpp) or in Python; the library of the
ops, `_ops.so`, is loaded first. `.onnx`: the ops are written in standard ONNX ops, for any runtime.

Both take any number of requests and of candidates. Their arithmetic is torch's or the runtime's, so that weights differ
from those of `BlendedRanker` in the last bits, and candidates whose scores are that close may change places. In a
`.pt2` fusion and order are the core's own: given the same weights, the same bits. In ONNX the sums run in another
order; candidates of equal scores still come by their index, but a score of NaN counts as -inf. Predictions must be
finite, on the policy's scales: the ranker ranks candidates without them last and refuses what a scale can't have, which
a graph can't. Masks, boosts, caps, exploration and page
terms are the ranker's too: a page of a graph is in the order of the scores.
"""

import json
import logging
import math
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pygrade._util.optional_imports import require
from pygrade.correction.inputs import downward
from pygrade.logs.prediction_scale import LARGEST_LOG, PredictionScale, parents_of
from pygrade.mtl.model import MIN_PREDICTION, MtlModel
from pygrade.ops.fusion import MAX_LENGTH, TRANSFORMS
from pygrade.policy import FusionPolicy, project_weights
from pygrade.policy.correction import PREFIX, Correction
from pygrade.policy.mixture import EPSILON, Baseline
from pygrade.serving import onnx_ops

logger = logging.getLogger("pygrade")
_IDENTITY, _LOG, _ZSCORE = (TRANSFORMS.index(name) for name in ("identity", "log", "zscore"))
_SMALLEST = 1e-6  # of a prediction, and of what a probability lacks to 1
_SAMPLE = (2, 16)  # requests and candidates of the example that is traced


@dataclass(frozen=True)
class Port:
    """An input or output of an exported model; B requests, N candidates, n rows are dynamic."""

    name: str
    dtype: str
    shape: tuple[str | int, ...]


class PolicyPage(nn.Module):
    """A policy, the fusion by its weights and the best k: what `BlendedRanker.rank` does with finite predictions.

    context [B, F] (NaN: unknown), predictions [B, N, T] on the policy's scales → scores [B, k], indices [B, k] (-1
    pads), weights [B, T].
    Further inputs, if the policy has a use for them: ``scenario`` int64 [B], the place in `scenarios` (another number:
    none of them); ``values`` [B, T] of the tasks (NaN: the policy's own); ``item_values`` [B, N], prices; ``items``
    [B, N, I], item columns of the correction (NaN or infinite: unknown).
    """

    slope: Tensor | None
    fallback: Tensor
    priced: Tensor | None
    own_values: Tensor
    task_values: Tensor

    def __init__(self, policy: FusionPolicy, k: int) -> None:
        super().__init__()
        if not 1 <= k <= MAX_LENGTH:
            raise ValueError(f"k is {k}; want at least 1 and at most 2^31 - 1")
        policy.refuse_prices("an exported page")
        config = policy.config
        self.policy, self.k = policy.eval(), k
        self.scenarios = tuple(sorted({*policy.scenarios, *config.scenario_values}))
        names = (*self.scenarios, None)
        slope = config.slope if isinstance(config.slope, tuple) else (config.slope,) * len(policy.tasks)
        self.register_buffer("slope", torch.tensor(slope) if config.transform == "log1p" else None)
        self.register_buffer("fallback", torch.stack([policy.fallback_weights(name) for name in names]))
        worth = policy.spec.task_values
        defaults = [policy.spec.own_values(worth, [str(name)], 1)[0] for name in names]
        self.register_buffer("own_values", torch.from_numpy(np.stack(defaults)))
        self.register_buffer("task_values", torch.tensor(worth))
        low, high = policy.bounds
        self.free = bool((low == 0).all() and (high == 1).all())  # then the mean complies with them
        self.scales = _Scales(policy) if policy.scales else nn.Identity()
        self.correction = None
        if policy.takes_corrected and policy.correction is not None:
            self.correction = _Correction(policy.correction)
        mixture = policy.mixture
        self.takes_network = mixture is None or mixture.takes_network
        self.trust = 1.0 if mixture is None else mixture.trust
        self.entries = nn.ModuleList(_Baseline(entry, policy) for entry in mixture.ranked_by) if mixture else ()
        priced = [task in config.value_tasks for task in policy.tasks]
        self.register_buffer("priced", torch.tensor(priced) if self.takes_network and any(priced) else None)

    @property
    def ports(self) -> tuple[Port, ...]:
        """The inputs in the order of `forward`."""
        tasks = len(self.policy.tasks)
        priced = self.priced is not None or any(entry.priced for entry in self.entries)
        columns = 0 if self.correction is None else self.correction.columns
        return (
            Port("context", "float32", ("B", len(self.policy.features))),
            Port("predictions", "float32", ("B", "N", tasks)),
            *((Port("scenario", "int64", ("B",)),) if self.scenarios else ()),
            *((Port("values", "float32", ("B", tasks)),) if self.policy.config.trade_offs else ()),
            *((Port("item_values", "float32", ("B", "N")),) if priced else ()),
            *((Port("items", "float32", ("B", "N", columns)),) if columns else ()),
        )

    def forward(self, context: Tensor, predictions: Tensor, *others: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        given = dict(zip((port.name for port in self.ports[2:]), others, strict=True))
        policy, config = self.policy, self.policy.config
        predictions = self.scales(predictions)
        row = torch.full_like(context[:, 0] if context.shape[1] else predictions[:, 0, 0], 0, dtype=torch.int64)
        if "scenario" in given:
            known, count = given["scenario"], len(self.scenarios)
            row = torch.where((known >= 0) & (known < count), known, count)
        context = torch.where(context.isfinite(), context, torch.nan)
        values = self.own_values[row]
        if "values" in given:
            values = torch.where(given["values"].isnan(), values, given["values"])
        multipliers = torch.where(values == self.task_values, 1.0, values / self.task_values)
        corrected = predictions
        if self.correction is not None:
            corrected = self.correction(context, predictions, given.get("items"))
        own, prices = corrected if config.corrected else predictions, given.get("item_values")
        missing = context.isnan()
        parts = [context, missing[:, [policy.features.index(name) for name in config.indicators]].float()]
        if not config.context_only:
            logs = torch.log(own.double() + config.beta)
            mean = logs.mean(1)
            parts += [mean.float(), (logs - mean[:, None]).square().mean(1).sqrt().float()]
        if config.trade_offs:
            parts.append(policy.spec.value_inputs(multipliers))
        inputs = torch.cat(parts, 1)
        static = self.fallback[row]
        alpha = policy.concentration(inputs)
        if config.evidence_prior:
            share = policy.shrinkage(inputs)[:, None]
            alpha = alpha + share * (alpha.sum(-1, keepdim=True) * static - alpha)
        weights = alpha / alpha.sum(-1, keepdim=True)
        if not self.free:
            weights = project_weights(weights, policy.bounds)
        if policy.features:
            weights = torch.where(missing.all(1, keepdim=True), static, weights)
        if self.priced is not None and prices is not None:
            own = torch.where(self.priced, own * prices[..., None], own)
        scores, fusing = own, weights
        formula = [TRANSFORMS.index(config.transform), config.beta, config.epsilon, self.slope]
        if self.entries:
            u = multipliers if config.trade_offs else None
            found = [entry(corrected if entry.corrected else predictions, u, prices) for entry in self.entries]
            if self.takes_network:
                found.insert(0, torch.ops.pygrade.fuse_scores(own, weights, *formula))
            scores = found[0][..., None]
            if self.trust < 1.0:  # the baseline comes last
                trust = weights.new_tensor([1.0 - self.trust, self.trust]).expand(weights.shape[0], 2)
                pair = torch.stack([found[-1], found[0]], -1)
                scores = torch.ops.pygrade.fuse_scores(pair, trust, _ZSCORE, epsilon=EPSILON)[..., None]
            fusing, formula = torch.ones_like(weights[:, :1]), [_IDENTITY, 0.0, 0.0, None]
        code, beta, epsilon, slope = formula
        best, indices = torch.ops.pygrade.fuse_topk(scores, fusing, self.k, code, None, beta, epsilon, slope)
        return best, indices, weights


class _Scales(nn.Module):
    """`FusionPolicy.read_predictions` of predictions [B, N, T]; a graph refuses none."""

    def __init__(self, policy: FusionPolicy) -> None:
        super().__init__()
        self.scales = [policy.scales.get(task, PredictionScale()) for task in policy.tasks]
        self.given = parents_of(self.scales, policy.tasks)
        self.order = downward(self.given)
        self.maps = nn.ModuleList(
            _PiecewiseLinear(scale.x, scale.y, torch.float32) if scale.x else nn.Identity() for scale in self.scales
        )

    def forward(self, predictions: Tensor) -> Tensor:
        read = list(predictions.unbind(-1))
        for t in self.order:
            scale, p = self.scales[t], self.maps[t](read[t])
            kind = scale.kind if scale.kind != "score" else "log" if scale.amount else "logit"
            if kind == "percent":
                p = p / 100
            elif kind in ("logit", "log"):
                p = (p if kind == "log" else -p).clamp(-LARGEST_LOG, LARGEST_LOG).exp()
                p = p if kind == "log" else 1 / (1 + p)
            read[t] = p if self.given[t] < 0 else p * read[self.given[t]]
        return torch.stack(read, -1)


class _Baseline(nn.Module):
    """`Baseline.scores` of predictions [B, N, T], without offsets."""

    weights: Tensor
    applies: Tensor
    slope: Tensor | None

    def __init__(self, baseline: Baseline, policy: FusionPolicy) -> None:
        super().__init__()
        config = policy.config
        self.logarithm, self.priced = baseline.logarithm, bool(baseline.value_tasks)
        self.corrected = baseline.corrected
        self.code, self.beta, self.epsilon = TRANSFORMS.index(baseline.transform), config.beta, config.epsilon
        slope = config.slope if isinstance(config.slope, tuple) else (config.slope,) * len(policy.tasks)
        self.register_buffer("slope", torch.tensor(slope) if baseline.transform == "log1p" else None)
        self.register_buffer("weights", torch.tensor(baseline.weights, dtype=torch.float32))
        self.register_buffer("applies", torch.tensor([task in baseline.value_tasks for task in policy.tasks]))
        self.maps = nn.ModuleList(_PiecewiseLinear(x, y, torch.float32) for x, y in baseline.calibration)

    def forward(self, predictions: Tensor, multipliers: Tensor | None, item_values: Tensor | None) -> Tensor:
        given = predictions
        if len(self.maps):
            given = torch.stack([line(given[..., t]) for t, line in enumerate(self.maps)], -1)
        if self.priced and item_values is not None:
            given = torch.where(self.applies, given * item_values[..., None], given)
        weights = self.weights.expand(predictions.shape[0], self.weights.shape[0])
        if multipliers is not None:
            weights = weights * multipliers
        formula = (self.code, self.beta, self.epsilon, self.slope)
        score: Tensor = torch.ops.pygrade.fuse_scores(given, weights, *formula)
        if self.logarithm:
            score = torch.ops.pygrade.transform_scores(score[..., None], _LOG, self.beta)[..., 0]
        return score


class _Correction(nn.Module):
    """`pygrade.reference.correct` of predictions [B, N, T], context [B, F] (NaN: unknown) and items [B, N, I]."""

    median: Tensor
    x_mean: Tensor
    x_std: Tensor
    l_mean: Tensor
    l_std: Tensor
    weights: Tensor
    map_mean: Tensor
    map_std: Tensor
    map_knots: Tensor
    map_weights: Tensor

    def __init__(self, correction: Correction) -> None:
        super().__init__()
        self.parents, self.amounts, self.form = correction.parents, correction.amounts, correction.form
        self.columns, self.indicators = len(correction.items), list(correction.indicators)
        self.order = sorted(range(len(self.parents)), key=self._depth)
        for name, tensor in replace(correction, page_terms=None).tensors().items():
            self.register_buffer(name.removeprefix(PREFIX), tensor)

    def _depth(self, task: int) -> int:
        return 0 if self.parents[task] < 0 else 1 + self._depth(self.parents[task])

    def forward(self, context: Tensor, predictions: Tensor, items: Tensor | None) -> Tensor:
        given = self._mapped(list(predictions.unbind(-1)))
        ratios = [p if s < 0 else _ratio(p, given[s] + 1e-7) for p, s in zip(given, self.parents, strict=True)]
        base = torch.stack([_log_odds(p, amount) for p, amount in zip(ratios, self.amounts, strict=True)], -1)
        if items is None:
            items = torch.full_like(base[..., :1], torch.nan).expand(-1, -1, self.columns)
        raw = (torch.cat([base, items], -1) - self.l_mean) / self.l_std
        variables = torch.where(raw.isfinite(), raw, 0.0).clamp(-4.0, 4.0)  # [B, N, V]
        mean = variables.double().mean(1).float()
        z = torch.cat([torch.ones_like(mean[:, :1]), self._context(context), mean], 1)
        b = (z[:, None, :, None] * self.weights).sum(2)  # [B, T, U]
        shift = b[:, None, :, 0] + ((variables - mean[:, None])[:, :, None] * b[:, None, :, 1:]).sum(-1)  # [B, N, T]
        corrected = list(given)
        for t in self.order:
            if self.amounts[t]:
                corrected[t] = given[t].clamp_min(_SMALLEST) * shift[..., t].exp()
            elif self.parents[t] < 0:
                corrected[t] = (given[t].clamp(_SMALLEST, 1 - _SMALLEST) * shift[..., t].exp()).clamp_max(1.0)
            else:
                corrected[t] = _shifted(ratios[t], shift[..., t]) * corrected[self.parents[t]]
        return torch.stack(corrected, -1)

    def _context(self, context: Tensor) -> Tensor:
        """[B, X]"""
        missing = context.isnan()
        x = torch.cat([torch.where(missing, self.median, context), missing[:, self.indicators].float()], 1)
        x = ((x - self.x_mean) / self.x_std).clamp(-4.0, 4.0)
        return torch.where(missing.all(1, keepdim=True), 0.0, x) if context.shape[1] else x

    def _mapped(self, raw: list[Tensor]) -> list[Tensor]:
        if not self.form:
            return raw
        mapped = list(raw)
        for t in self.order:
            s = self.parents[t]
            child = self.form == "conditional" and s >= 0
            p = _ratio(raw[t], raw[s].clamp_min(1e-9)) if child else raw[t]
            z = ((_log_odds(p, self.amounts[t]) - self.map_mean[t]) / self.map_std[t]).clamp(-6.0, 6.0)
            level, slope, *hinges = self.map_weights[t].unbind()
            shift = level + slope * z
            for hinge, knot in zip(hinges, self.map_knots[t].unbind(), strict=True):
                shift = shift + hinge * (z - knot).clamp_min(0.0)
            if self.amounts[t]:
                mapped[t] = p.clamp_min(_SMALLEST) * shift.exp()
            else:
                p = _shifted(p, shift)
                mapped[t] = p * mapped[s] if child else p.clamp_max(math.exp(-1e-3)) if self.form == "marginal" else p
        return mapped


def _log_odds(p: Tensor, amount: bool) -> Tensor:
    if amount:
        return torch.log(p.clamp_min(_SMALLEST))
    return torch.log(p.clamp(_SMALLEST, 1 - _SMALLEST) / (1 - p).clamp_min(_SMALLEST))


def _shifted(p: Tensor, shift: Tensor) -> Tensor:
    """The probability whose log odds are those of p plus the shift; sigmoids of ONNX runtimes are coarse near 0."""
    odds = p.clamp(_SMALLEST, 1 - _SMALLEST) * shift.exp()
    return odds / ((1 - p).clamp_min(_SMALLEST) + odds)


def _ratio(child: Tensor, parent: Tensor) -> Tensor:
    return (child / parent).clamp(1e-4, 0.95)


class _PiecewiseLinear(nn.Module):
    """y_i + (p - x_i) · slope_i in the segment of p; the last one has no end."""

    starts: Tensor
    heights: Tensor
    slopes: Tensor

    def __init__(self, x: Sequence[float] | Any, y: Sequence[float] | Any, dtype: torch.dtype) -> None:
        super().__init__()
        at, to = torch.as_tensor(x).to(dtype), torch.as_tensor(y).to(dtype)
        self.register_buffer("starts", at[:-1].clone())
        self.register_buffer("heights", to[:-1].clone())
        self.register_buffer("slopes", (to[1:] - to[:-1]) / (at[1:] - at[:-1]))

    def forward(self, values: Tensor) -> Tensor:
        segment = (values[..., None] >= self.starts[1:]).sum(-1)
        return self.heights[segment] + (values - self.starts[segment]) * self.slopes[segment]


class Predictions(nn.Module):
    """A multi-task model: dense [n, D] float32 (NaN: unknown) and entries [n, C] int32 of its table of embeddings
    (`pygrade.mtl.network.table_entries` of the ids) → calibrated probabilities [n, T]. The last digits differ from
    `mtl.predict`, whose sums have a fixed order.
    """

    beta: Tensor | None

    def __init__(self, model: MtlModel) -> None:
        super().__init__()
        self.module, self.sizes = model.module.eval(), (len(model.columns.dense), len(model.columns.ids))
        calibration = model.calibration
        self.register_buffer("beta", None if calibration is None else torch.from_numpy(calibration.beta).clone())

    @property
    def ports(self) -> tuple[Port, ...]:
        """The inputs."""
        dense, ids = self.sizes
        return Port("dense", "float32", ("n", dense)), Port("entries", "int32", ("n", ids))

    def forward(self, dense: Tensor, entries: Tensor) -> Tensor:
        logits = self.module(self.module.inputs(dense, entries)).double()
        if self.beta is not None:
            a, b, c = self.beta.unbind(1)
            logits = a * functional.logsigmoid(logits) - b * functional.logsigmoid(-logits) + c
        return torch.sigmoid(logits).clamp_min(MIN_PREDICTION).float()


def export_policy(policy: FusionPolicy, out: str | Path, k: int = 10, *, onnx: bool = False) -> dict[str, Any]:
    """Write the pages of a policy to ``out`` (.pt2, or .onnx); returns what is in it, which the file holds as well.

    k: length of a page. The file is written under another name first.
    """
    page = PolicyPage(policy, k)
    tasks = len(policy.tasks)
    outputs = (
        Port("scores", "float32", ("B", k)),
        Port("indices", "int32", ("B", k)),
        Port("weights", "float32", ("B", tasks)),
    )
    record = {
        "kind": "policy",
        "version": policy.version,
        "schema_hash": policy.schema_hash(),
        "k": k,
        "tasks": policy.tasks,
        "features": policy.features,
        "scenarios": page.scenarios,
    }
    if policy.correction is not None and policy.correction.page_terms is not None:
        record["page_terms"] = "left out: pages are in the order of the scores"
        logger.warning("page terms of the policy are %s", record["page_terms"])
    return _write(page, page.ports, outputs, record, Path(out), onnx)


def export_model(model: MtlModel, out: str | Path, *, onnx: bool = False) -> dict[str, Any]:
    """Write the predictions of a multi-task model to ``out`` (.pt2, or .onnx); returns what is in it."""
    predictions = Predictions(model)
    columns = model.columns
    record = {
        "kind": "model",
        "schema_hash": model.schema_hash,
        "tasks": model.tasks,
        "dense": columns.dense,
        "ids": columns.ids,
    }
    outputs = (Port("predictions", "float32", ("n", len(model.tasks))),)
    return _write(predictions, predictions.ports, outputs, record, Path(out), onnx)


def _write(
    module: nn.Module, inputs: Sequence[Port], outputs: Sequence[Port], record: dict[str, Any], out: Path, onnx: bool
) -> dict[str, Any]:
    wanted = ".onnx" if onnx else ".pt2"
    if out.suffix != wanted:
        raise ValueError(f"out is {str(out)!r}; want a name that ends in {wanted}")
    for package in ("onnx", "onnxscript") if onnx else ():
        require(package, "export")
    facts = record | {"inputs": [asdict(port) for port in inputs], "outputs": [asdict(port) for port in outputs]}
    program = _program(module, inputs)
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = out.with_name(f".{os.getpid()}-{out.name}")
    write: Callable[..., None] = _write_onnx if onnx else _write_pt2
    try:
        write(program, [port.name for port in inputs], [port.name for port in outputs], facts, draft)
        draft.replace(out)
    finally:
        draft.unlink(missing_ok=True)
    return facts


def _program(module: nn.Module, inputs: Sequence[Port]) -> torch.export.ExportedProgram:
    """The module as a graph of which B, N and n are free."""
    sample = {"B": _SAMPLE[0], "N": _SAMPLE[1], "n": _SAMPLE[1]}
    examples = tuple(
        torch.ones([sample[size] if isinstance(size, str) else size for size in port.shape]).to(
            getattr(torch, port.dtype)
        )
        for port in inputs
    )
    dynamic = tuple(
        {place: torch.export.Dim.DYNAMIC for place, size in enumerate(port.shape) if isinstance(size, str)}
        for port in inputs
    )
    shapes: tuple[Any, ...] = dynamic if len(inputs) == 2 else (*dynamic[:2], dynamic[2:])  # *others are one tuple
    with torch.no_grad():
        return torch.export.export(module, examples, dynamic_shapes=shapes)


def _write_pt2(
    program: torch.export.ExportedProgram, _inputs: list[str], _outputs: list[str], facts: dict[str, Any], out: Path
) -> None:
    settings = {"aot_inductor.metadata": {"pygrade": json.dumps(facts)}}
    torch._inductor.aoti_compile_and_package(program, package_path=str(out), inductor_configs=settings)


def _write_onnx(
    program: torch.export.ExportedProgram, inputs: list[str], outputs: list[str], facts: dict[str, Any], out: Path
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter about itself
        model = torch.onnx.export(
            program,
            input_names=inputs,
            output_names=outputs,
            dynamo=True,
            verbose=False,
            custom_translation_table=onnx_ops.table(),
        )
    assert model is not None
    model.model.metadata_props["pygrade"] = json.dumps(facts)
    model.save(out, external_data=False)
