"""Saved models as files that need no Python: a policy's pages and the multi-task model's predictions.

`.pt2`: compiled by AOTInductor, run by libtorch in C++ (examples/torch/run_pt2.cpp) or in Python; the library of the
ops, `_ops.so`, is loaded first. `.onnx`: standard ONNX ops, for any runtime.

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
import operator
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pygrade._util.optional_imports import require
from pygrade.correction.inputs import REACH
from pygrade.mtl.model import MIN_PREDICTION, MtlModel
from pygrade.ops.fusion import MAX_LENGTH, TRANSFORMS
from pygrade.policy import FusionPolicy, project_weights
from pygrade.policy.correction import NODES, PREFIX, Correction
from pygrade.serving.formula import Fusion, NodeValues, formula_of, walk

logger = logging.getLogger("pygrade")
_IDENTITY = TRANSFORMS.index("identity")
_TREE_PARTS = ("inputs", "thresholds", "masks", "leaves")
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

    fallback: Tensor
    own_values: Tensor
    task_values: Tensor

    def __init__(self, policy: FusionPolicy, k: int, *, standard: bool = False) -> None:
        """standard: by torch's own ops alone, for ONNX, in place of the core's."""
        super().__init__()
        if not 1 <= k <= MAX_LENGTH:
            raise ValueError(f"k is {k}; expected at least 1 and at most 2^31 - 1")
        policy.refuse_elsewhere("an exported page")
        config = policy.config
        self.policy, self.k = policy.eval(), k
        self.fuse, self.top = (_fuse, _top) if standard else (_fuse_in_core, _top_in_core)
        self.sum_leaves = _sum_in_ensemble if standard else _sum_leaves
        self.scenarios = tuple(sorted({*policy.scenarios, *config.scenario_values}))
        names = (*self.scenarios, None)
        self.register_buffer("fallback", torch.stack([policy.fallback_weights(name) for name in names]))
        worth = policy.spec.task_values
        defaults = [policy.spec.own_values(worth, [str(name)], 1)[0] for name in names]
        self.register_buffer("own_values", torch.from_numpy(np.stack(defaults)))
        self.register_buffer("task_values", torch.tensor(worth))
        low, high = policy.bounds
        self.free = bool((low == 0).all() and (high == 1).all())  # then the mean complies with them
        self.formula = formula_of(policy)
        self.correction = _Coefficients(policy.correction) if self.formula.variables and policy.correction else None

    @property
    def ports(self) -> tuple[Port, ...]:
        """The inputs in the order of `forward`."""
        tasks = len(self.policy.tasks)
        documents = {node.fact[0] for node in walk(self.formula.score) if node.kind == "document"}
        columns = len(self.policy.correction.items) if self.correction and self.policy.correction else 0
        return (
            Port("context", "float32", ("B", len(self.policy.features))),
            Port("predictions", "float32", ("B", "N", tasks)),
            *((Port("scenario", "int64", ("B",)),) if self.scenarios else ()),
            *((Port("values", "float32", ("B", tasks)),) if self.policy.config.trade_offs else ()),
            *((Port("item_values", "float32", ("B", "N")),) if "value" in documents else ()),
            *((Port("items", "float32", ("B", "N", columns)),) if columns else ()),
        )

    def forward(self, context: Tensor, predictions: Tensor, *others: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        optional = dict(zip((port.name for port in self.ports[2:]), others, strict=True))
        policy, config, formula = self.policy, self.policy.config, self.formula
        row = torch.full_like(context[:, 0] if context.shape[1] else predictions[:, 0, 0], 0, dtype=torch.int64)
        if "scenario" in optional:
            scenario, count = optional["scenario"], len(self.scenarios)
            row = torch.where((scenario >= 0) & (scenario < count), scenario, count)
        context = torch.where(context.isfinite(), context, torch.nan)
        values = self.own_values[row]
        if "values" in optional:
            values = torch.where(optional["values"].isnan(), values, optional["values"])
        documents = {f"p_{task}": p for task, p in zip(policy.tasks, predictions.unbind(-1), strict=True)}
        if "items" in optional and policy.correction is not None:
            names = (f"i_{column}" for column in policy.correction.items)
            documents |= dict(zip(names, optional["items"].unbind(-1), strict=True))
        documents = {name.replace(" ", "_"): column for name, column in documents.items()}
        if "item_values" in optional:
            documents["value"] = optional["item_values"]
        inputs = {"values": values}
        value_of = _evaluation(documents, inputs, self.fuse, self.sum_leaves)
        if self.correction is not None:
            variables = torch.stack([value_of(node) for node in formula.variables], -1)
            inputs |= self.correction(context, means := variables.double().mean(1).float())
            inputs["means"] = means
        missing = context.isnan()
        parts = [context, missing[:, [policy.features.index(name) for name in config.indicators]].float()]
        if not config.context_only:
            logs = torch.log(torch.stack([value_of(node) for node in formula.network_terms], -1).double() + config.beta)
            mean = logs.mean(1)
            parts += [mean.float(), (logs - mean[:, None]).square().mean(1).sqrt().float()]
        if config.trade_offs:
            u = torch.where(values == self.task_values, 1.0, values / self.task_values)
            parts.append(policy.spec.value_inputs(u))
        network_inputs = torch.cat(parts, 1)
        static = self.fallback[row]
        alpha = policy.concentration(network_inputs)
        if config.evidence_prior:
            share = policy.shrinkage(network_inputs)[:, None]
            alpha = alpha + share * (alpha.sum(-1, keepdim=True) * static - alpha)
        weights = alpha / alpha.sum(-1, keepdim=True)
        if not self.free:
            weights = project_weights(weights, policy.bounds)
        if policy.features:
            weights = torch.where(missing.all(1, keepdim=True), static, weights)
        inputs["weights"] = weights
        return *self.top(value_of(formula.score), self.k), weights


def _fuse_in_core(scores: Tensor, weights: Tensor, fusion: Fusion) -> Tensor:
    transform, beta, epsilon, slope = fusion
    slopes = scores.new_tensor(slope) if transform == "log1p" else None
    code = TRANSFORMS.index(transform)
    fused: Tensor = torch.ops.pygrade.fuse_scores(scores, weights, code, beta, epsilon, slopes)
    return fused


def _fuse(scores: Tensor, weights: Tensor, fusion: Fusion) -> Tensor:
    """Return sums [B, N] of scores [B, N, T] by weights [B, T]."""
    transform, beta, epsilon, slope = fusion
    if transform in ("log", "zlog"):
        scores = torch.log(scores + beta)
    elif transform == "log1p":
        scores = torch.log(1.0 + scores * scores.new_tensor(slope))
    if transform in ("zscore", "zlog"):
        deviation = scores - scores.mean(1, keepdim=True)
        scores = deviation / (deviation.square().mean(1, keepdim=True).sqrt() + epsilon)
    if transform == "rank":  # the share of the other candidates that each beats, of equal ones those of larger index
        _, order = scores.sort(1, descending=True)  # stable in ONNX
        beaten = torch.arange(scores.shape[1]).flip(0).to(scores.dtype)
        share = beaten / beaten[:1].clamp_min(1.0)
        scores = torch.zeros_like(scores).scatter(1, order, share[:, None].expand_as(scores))
    # Task by task, so that equal candidates get equal sums: a matrix product's rounding depends on the row.
    terms = [scores[..., t] * weights[:, t, None] for t in range(scores.shape[-1])]
    return sum(terms[1:], terms[0])


def _top_in_core(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    best, indices = torch.ops.pygrade.fuse_topk(scores[..., None], torch.ones_like(scores[:, :1]), k, _IDENTITY)
    return best, indices


def _top(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k best of scores [B, N] and their places, padded with -inf and -1; NaN counts as -inf."""
    finite = torch.where(scores.isnan(), -torch.inf, scores)
    best, places = functional.pad(finite, (0, k), value=-torch.inf).topk(k)  # k places more than there are candidates
    return best, torch.where(places >= scores.shape[1], -1, places).int()


def _evaluation(
    documents: Mapping[str, Tensor],
    inputs: Mapping[str, Tensor],
    fuse_scores: Callable[..., Tensor],
    sum_leaves: Callable[[Tensor, Correction], Tensor],
) -> NodeValues:
    """Values [B, N] of nodes, of documents [B, N]; those of the request, of inputs [B, …], are [B, 1]."""

    def column(field: tuple[str, float | None]) -> Tensor:
        name, missing = field
        return documents[name] if missing is None else torch.where(documents[name].isfinite(), documents[name], missing)

    def piecewise(p: Tensor, knots: tuple[Any, Any]) -> Tensor:
        x, y = map(torch.from_numpy, knots)
        segment = (p[..., None] >= x[1:-1]).sum(-1)
        return y[:-1][segment] + (p - x[:-1][segment]) * ((y[1:] - y[:-1]) / (x[1:] - x[:-1]))[segment]

    def fuse(*arguments: Any) -> Tensor:
        *operands, fusion = arguments
        terms, weights = operands[: len(operands) // 2], operands[len(operands) // 2 :]
        one = torch.ones_like(terms[0][:, :1])
        return fuse_scores(torch.stack(terms, -1), torch.cat([one * weight for weight in weights], 1), fusion)

    def trees(*arguments: Any) -> Tensor:
        *operands, correction = arguments
        variables, means = torch.stack(operands, -1), inputs["means"][:, None]
        given = (part.expand(*variables.shape[:2], -1) for part in (inputs["x"][:, None], means))
        return sum_leaves(torch.cat([variables, variables - means, *given], -1), correction)

    kinds: dict[str, Callable[..., Any]] = {"add": operator.add, "subtract": operator.sub, "multiply": operator.mul}
    kinds |= {"divide": operator.truediv, "log": torch.log, "exp": torch.exp, "constant": float, "document": column}
    kinds |= {
        "max": torch.clamp_min,
        "min": torch.clamp_max,
        "clip": lambda p, ends: p.clamp(*ends),
        "piecewise": piecewise,
        "fuse": fuse,
        "trees": trees,
    }
    kinds["request"] = lambda leaf: inputs[leaf[0]][(slice(None), *leaf[1])][:, None]
    return NodeValues(kinds, {})


def _sum_leaves(columns: Tensor, correction: Correction) -> Tensor:
    """Return the leaves of trees by columns [B, N, D], of each tree the first one that no node leaves out, [B, N]."""
    arrays = correction.tensors()
    places, thresholds, masks, leaves = (arrays[f"{PREFIX}tree_{name}"] for name in _TREE_PARTS)
    outside = (masks.int()[..., None] >> torch.arange(NODES + 1)) % 2 == 0  # [G, 7, 8]
    above = columns[..., places.long()] > thresholds  # [B, N, G, 7]
    first = (above[..., None] & outside).any(-2).int().argmin(-1)  # [B, N, G]
    return leaves.expand(*first.shape, -1).gather(-1, first[..., None])[..., 0].sum(-1)


def _sum_in_ensemble(columns: Tensor, correction: Correction) -> Tensor:
    rows = columns.flatten(0, 1)
    settings: dict[str, Any] = {"dtype": rows.dtype, "shape": (rows.shape[0], 1), "version": 3}
    sums = torch.onnx.ops.symbolic("ai.onnx.ml::TreeEnsembleRegressor", [rows], _ensemble(correction), **settings)
    return sums.reshape(columns.shape[:2])


def _ensemble(correction: Correction) -> dict[str, Any]:
    """Attributes of ONNX's TreeEnsembleRegressor. ValueError if the masks of a tree are not those of a binary tree."""
    nodes: list[dict[str, Any]] = []
    targets: list[dict[str, Any]] = []
    arrays = (getattr(correction, f"tree_{name}").tolist() for name in _TREE_PARTS)
    for tree, (places, thresholds, masks, leaves) in enumerate(zip(*arrays, strict=True)):
        left = [[bit for bit in range(NODES + 1) if not int(mask) >> bit & 1] for mask in masks]  # leaves of each node
        ends = [(0, sum(map(bool, left)) + 1)]  # first and last leaf of each node
        for number, (begin, end) in enumerate(ends):  # which grows
            node = {"treeids": tree, "nodeids": number, "modes": "LEAF", "values": 0.0}
            nodes.append(node | dict.fromkeys(("featureids", "truenodeids", "falsenodeids"), 0))
            if end == begin + 1:
                targets.append({"treeids": tree, "nodeids": number, "ids": 0, "weights": leaves[begin]})
                continue
            fits = [
                k for k, bits in enumerate(left) if bits and bits == [*range(begin, min(begin + len(bits), end - 1))]
            ]
            if not fits:
                raise ValueError(f"tree_masks[{tree}] of the correction are {masks}; expected those of a binary tree")
            k = max(fits, key=lambda k: len(left[k]))
            nodes[-1] |= {"modes": "BRANCH_LEQ", "featureids": int(places[k]), "values": thresholds[k]}
            nodes[-1] |= {"truenodeids": len(ends), "falsenodeids": len(ends) + 1}
            ends += (begin, begin + len(left[k])), (begin + len(left[k]), end)
    lists = {f"nodes_{name}": [node[name] for node in nodes] for name in nodes[0]}
    lists |= {f"target_{name}": [target[name] for target in targets] for name in targets[0]}
    return lists | {"n_targets": 1, "aggregate_function": "SUM", "post_transform": "NONE"}


class _Coefficients(nn.Module):
    """Shifts [B, T] and slopes [B, T, V] of a correction, and x [B, X], its standardized context; by context [B, F]
    (NaN: unknown) and means [B, V] of the candidates' variables."""

    median: Tensor
    x_mean: Tensor
    x_std: Tensor
    weights: Tensor

    def __init__(self, correction: Correction) -> None:
        super().__init__()
        self.indicators = list(correction.indicators)
        tensors = correction.tensors()
        for name in ("median", "x_mean", "x_std", "weights"):
            self.register_buffer(name, tensors[PREFIX + name])

    def forward(self, context: Tensor, means: Tensor) -> dict[str, Tensor]:
        missing = context.isnan()
        x = torch.cat([torch.where(missing, self.median, context), missing[:, self.indicators].float()], 1)
        x = ((x - self.x_mean) / self.x_std).clamp(-REACH, REACH)
        x = torch.where(missing.all(1, keepdim=True), 0.0, x) if context.shape[1] else x
        z = torch.cat([torch.ones_like(means[:, :1]), x, means], 1)
        b = (z[:, None, :, None] * self.weights).sum(2)  # [B, T, U]
        return {"shifts": b[..., 0] - (b[..., 1:] * means[:, None]).sum(-1), "slopes": b[..., 1:], "x": x}


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
    page = PolicyPage(policy, k, standard=onnx)
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
        raise ValueError(f"out is {str(out)!r}; expected a name that ends in {wanted}")
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
        {axis: torch.export.Dim.DYNAMIC for axis, size in enumerate(port.shape) if isinstance(size, str)}
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
        model = torch.onnx.export(program, input_names=inputs, output_names=outputs, dynamo=True, verbose=False)
    assert model is not None
    model.model.metadata_props["pygrade"] = json.dumps(facts)
    model.save(out, external_data=False)
