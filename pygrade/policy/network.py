"""The fusion policy: features of a request → a Dirichlet distribution over its fusion weights.

The paper (GRADE, arXiv 2510.07919) states that weights are personal and that exploration is a Dirichlet that adapts to
the request; it leaves the network and the parametrization open. Ours, for T tasks:

    α(x) = f · (α_min + κ · softmax(logits(x)))        logits: an MLP (SiLU) of the normalized inputs

α_min (``concentration_floor``) keeps the density finite near the faces of the simplex, κ (``total_concentration``) is
the width of the exploration, f the exploration factor of the request's scenario, 1 by default. The mean α / Σα is what
is served, projected onto the weight constraints; it does not depend on f, so that exploring more in one scenario does
not change what exploitation shows there.

What is ranked by may be a mixture with a simple baseline (`mixture`), as far as the log proves the policy. Either may
take predictions that the request's context corrects (`correction`).

The weights of users of whom little is known may be shrunk to those of their scenario (off by default): with n pieces of
evidence, from a context feature, and a prior worth m, the mean becomes (n · mean + m · scenario) / (n + m), while Σα
and f stay. This changes what is served and explored, not what is trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pygrade import _core
from pygrade._util.serialization import ArtifactError
from pygrade.config.policy import PolicyConfig
from pygrade.logs.history import History, HistoryReason
from pygrade.logs.keys import hashes
from pygrade.logs.prediction_scale import PredictionScale, from_records, read_predictions, to_records
from pygrade.ops import checks
from pygrade.policy import file
from pygrade.policy.correction import PREFIX, Correction
from pygrade.policy.guardrails import Guardrails
from pygrade.policy.mixture import Mixture, request_values
from pygrade.policy.projection import project_weights
from pygrade.policy.spec import PolicySpec
from pygrade.storage import Place, download, is_url, publishing

Core = _core.Ranker  # a policy as it was, in the core
_INPUT_CLIP = 5.0  # of normalized inputs: one broken feature must not take over the weights


def _initial_logits(weights: Tensor, floor: float, total: float) -> Tensor:
    """Logits whose Dirichlet mean is ``weights``, as far as the floor allows."""
    count = weights.shape[-1]
    mean = (((count * floor + total) * weights - floor) / total).clamp_min(1e-4)
    return torch.log(mean / mean.sum())


class FusionPolicy(nn.Module):
    """Inputs of a request → concentration of its fusion weights.

    initial_weights [T]: what the untrained policy serves, equal weights by default; also its first `static_weights`.
    seed: of the network's initial weights; equal seeds give equal bits, whatever the global generator.

    `static_weights` [T] and `scenario_weights` {scenario: [T]} are served to requests whose features are missing.
    `mixture`: the baseline that its scores are mixed with; None: served alone. `correction`: of the predictions, for
    what takes corrected ones. `scales`: of the predictions that callers of a ranker give; without, they are as logged.
    `columns`: role → column of the table that the training read, by which a frame is ranked.
    `history`: what a log holds of itself, as context and item columns that whoever serves it makes alike.
    """

    mixture: Mixture | None = None  # with a simple ranking; None: served alone
    correction: Correction | None = None  # of the predictions; None: as they are
    guardrails: Guardrails | None = None  # limits that it keeps; None: none
    scales: Mapping[str, PredictionScale] = MappingProxyType({})  # task → how the training's table was read
    columns: Mapping[str, str] = MappingProxyType({})  # role → column of that table
    history: History | None = None  # whose columns it reads; None: none

    input_mean: Tensor  # [I], subtracted from the inputs
    input_std: Tensor  # [I], by which they are divided then
    bounds: Tensor  # [2, T], lower and upper bounds of the served weights
    static_weights: Tensor  # [T]
    scenario_table: Tensor  # [S, T], the static weights of `scenarios`

    def __init__(self, spec: PolicySpec, initial_weights: Tensor | NDArray[Any] | None = None, seed: int = 0) -> None:
        super().__init__()
        self.spec = spec
        count, size, config = len(spec.tasks), spec.num_inputs, spec.config
        if initial_weights is None:
            start = torch.full((count,), 1.0 / count)
        else:
            start = torch.as_tensor(np.asarray(initial_weights), dtype=torch.float32)
            if start.shape != (count,) or not bool(((start >= 0) & start.isfinite()).all()) or float(start.sum()) <= 0:
                raise ValueError(f"initial_weights is {start.tolist()}; expected {count} weights >= 0, not all 0")
            start = start / start.sum()
        self.scenarios: tuple[str, ...] = ()
        self.register_buffer("input_mean", torch.zeros(size))
        self.register_buffer("input_std", torch.ones(size))
        self.register_buffer("bounds", spec.bounds.clone())
        self.register_buffer("static_weights", project_weights(start, spec.bounds))
        self.register_buffer("scenario_table", torch.zeros(0, count))
        with torch.random.fork_rng(devices=[]):
            torch.random.manual_seed(seed)
            layers: list[nn.Module] = []
            for width in config.hidden:
                layers += [nn.Linear(size, width), nn.SiLU()]
                size = width
            self.body = nn.Sequential(*layers)
            self.head = nn.Linear(size, count)
            nn.init.normal_(self.head.weight, std=0.01)
        with torch.no_grad():
            self.head.bias.copy_(_initial_logits(start, spec.concentration_floor, config.total_concentration))

    @property
    def config(self) -> PolicyConfig:
        """The options of its network and formula."""
        return self.spec.config

    @property
    def tasks(self) -> tuple[str, ...]:
        """T names in the order of the weights."""
        return self.spec.tasks

    @property
    def features(self) -> tuple[str, ...]:
        """F names in the order of the context."""
        return self.spec.features

    @property
    def items(self) -> tuple[str, ...]:
        """Names of the item columns that its correction reads, but for effects of items."""
        return () if self.correction is None else self.correction.own_items

    @property
    def task_values(self) -> tuple[float, ...] | None:
        """Values [T] of one event of each task, if a request gives none and the config has none: of a policy with
        trade-offs those of its training, else the weights of the expected value that ranks by a request's values; None:
        requests may give none.
        """
        if self.config.trade_offs:
            return self.spec.task_values
        expected = None if self.mixture is None else self.mixture.expected_value
        return None if expected is None else expected.weights

    @property
    def num_inputs(self) -> int:
        """I: the numbers that the network reads of a request."""
        return self.spec.num_inputs

    @property
    def version(self) -> str:
        """First 12 hex digits of a sha256 of all that decides what is served: equal policies, equal versions."""
        return file.seal(self._served(), self._tensors())[2]

    def _served(self) -> dict[str, Any]:
        """All that decides what is served, beside the tensors."""
        mixture, left_out = self.mixture, {*self.spec.schema}
        left_out |= {name for name in ("boosts", "scenario_boosts", "task_values") if not getattr(self.config, name)}
        scales = {"scales": to_records(self.scales)} if self.scales else {}
        return {
            "config": {name: value for name, value in asdict(self.config).items() if name not in left_out},
            "correction": None if self.correction is None else self.correction.record(),
            "mixture": None if mixture is None else mixture.served(),
            "scenarios": self.scenarios,
            "schema_hash": self.schema_hash(),
            **scales,
            **({} if self.history is None else {"history": asdict(self.history)}),
        }

    @property
    def scenario_weights(self) -> dict[str, Tensor]:
        """Static weights [T] by scenario."""
        return dict(zip(self.scenarios, self.scenario_table, strict=True))

    def set_static_weights(self, weights: Tensor, scenario_weights: Mapping[str, Tensor] | None = None) -> None:
        """Set the fallback weights (projected onto the constraints), globally and by scenario."""
        table = scenario_weights or {}
        self.static_weights = project_weights(weights.to(self.static_weights), self.bounds)
        self.scenarios = tuple(sorted(table))
        rows = [project_weights(table[name].to(self.static_weights), self.bounds) for name in self.scenarios]
        self.scenario_table = torch.stack(rows) if rows else self.static_weights.new_zeros(0, len(self.tasks))

    def fallback_weights(self, scenario: str | None = None) -> Tensor:
        """Static weights [T] of the scenario, or the global ones if it has none."""
        if scenario is not None and scenario in self.scenarios:
            return self.scenario_table[self.scenarios.index(scenario)]
        return self.static_weights

    def read_predictions(self, predictions: NDArray[Any]) -> NDArray[np.float32]:
        """Predictions [..., T] as callers of a ranker give them → as a log has them: probabilities and amounts."""
        return read_predictions(self.scales, self.tasks, predictions)

    def correct(
        self,
        context: NDArray[Any],
        predictions: NDArray[Any],
        offsets: NDArray[Any] | None = None,
        items: NDArray[Any] | None = None,
    ) -> NDArray[np.float32]:
        """The corrected predictions, float32 in the shape of predictions [R, N, T] or, with offsets [R + 1], [M, T].

        context [R, F]; items [R, N, I] or [M, I]: item columns, None: unknown. ValueError without a correction.
        """
        if self.correction is None:
            raise ValueError("the policy has no correction, but expects corrected predictions")
        rows = np.asarray(predictions, np.float32)
        bounds = np.arange(len(rows) + 1) * rows.shape[1] if offsets is None else offsets
        count = len(self.correction.items)
        columns = None if items is None or count == 0 else np.asarray(items).reshape(-1, count)
        given = np.asarray(context, np.float32)
        return self.correction.apply(given, rows.reshape(-1, rows.shape[-1]), bounds, columns).reshape(rows.shape)

    def request_inputs(
        self,
        context: NDArray[Any],
        predictions: NDArray[Any],
        offsets: NDArray[Any] | None = None,
        multipliers: Tensor | None = None,
        items: NDArray[Any] | None = None,
    ) -> Tensor:
        """`PolicySpec.request_inputs` on the device of the policy, of predictions that it corrects if it takes such."""
        given = self.correct(context, predictions, offsets, items) if self.config.corrected else predictions
        return self.spec.request_inputs(context, given, offsets, multipliers).to(self.input_mean.device)

    def item_columns(
        self, item_id: NDArray[Any], items: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32] | None:
        """Item columns [M, I] of the correction for items with these ids [M] or [R, N], whose effects it looks up.

        items: what else is known of them; without item effects these as they are.
        """
        if self.correction is None or self.correction.item_effects is None:
            return items
        ids = np.asarray(item_id).reshape(-1)
        return self.correction.look_up_effects(items, hashes(ids.astype(np.int64) if ids.dtype.kind in "iu" else ids))

    def fit_normalization(self, inputs: Tensor) -> None:
        """Set the mean and std of raw inputs [R, D]; NaN is left out, a constant input gets std 1."""
        values = inputs.double()
        seen = ~values.isnan()
        count = seen.sum(0).clamp_min(1)
        mean = torch.where(seen, values, 0.0).sum(0) / count
        self.set_normalization(mean, (torch.where(seen, values - mean, 0.0).square().sum(0) / count).sqrt())

    def set_normalization(self, mean: Tensor, std: Tensor) -> None:
        """Set the mean and std [D] of raw inputs, found elsewhere."""
        self.input_mean.copy_(mean)
        self.input_std.copy_(torch.where(std > 1e-6, std, 1.0))

    def normalize(self, inputs: Tensor) -> Tensor:
        """(x - mean) / std, cut to ±5; NaN (unknown) becomes 0, the mean."""
        return ((inputs - self.input_mean) / self.input_std).clamp(-_INPUT_CLIP, _INPUT_CLIP).nan_to_num(0.0)

    def concentration(self, inputs: Tensor, factor: Tensor | None = None) -> Tensor:
        """Return α [B, T] of raw inputs [B, D] under exploration factors [B] (None: 1)."""
        share = torch.softmax(self.head(self.body(self.normalize(inputs))), -1)
        alpha = self.spec.concentration_floor + self.config.total_concentration * share
        return alpha if factor is None else alpha * factor[:, None]

    def shrinkage(self, inputs: Tensor) -> Tensor:
        """m / (n + m) [B] of raw inputs [B, D]: the share of the scenario's weights in what is served."""
        prior = self.config.evidence_prior
        if not prior:
            return inputs.new_zeros(len(inputs))
        evidence = inputs[:, self.features.index(self.config.evidence_feature)]
        count = {"count": evidence, "log": evidence.exp(), "log1p": evidence.exp() - 1.0}[self.config.evidence_scale]
        return prior / (torch.where(count > 0.0, count, 0.0) + prior)

    def _shrunk(self, inputs: Tensor, scenario: Sequence[str] | NDArray[Any] | None) -> Tensor:
        """Return α [B, T] with its mean shrunk by evidence."""
        alpha = self.concentration(inputs)
        if not self.config.evidence_prior:
            return alpha
        names = [None] * len(alpha) if scenario is None else [str(name) for name in scenario]
        target = torch.stack([self.fallback_weights(name) for name in names]) if names else alpha
        share = self.shrinkage(inputs)[:, None]
        return alpha + share * (alpha.sum(-1, keepdim=True) * target - alpha)

    def _checked(self, inputs: Tensor, scenario: Sequence[str] | NDArray[Any] | None) -> Tensor:
        given = checks.Arguments("FusionPolicy", D=self.num_inputs)
        given.name, given.tensor = "the policy", self.input_mean
        values = given.other("inputs", inputs, torch.float32, ("B", "D"), grad=True)
        if scenario is not None and len(scenario) != len(values):
            raise ValueError(f"scenario has {len(scenario)} names; expected B = {len(values)}, one for each request")
        return torch.where(values.isfinite(), values, torch.nan)

    def forward(self, inputs: Tensor, scenario: Sequence[str] | NDArray[Any] | None = None) -> Tensor:
        """Return α [B, T] of raw inputs [B, D] (`request_inputs`), to explore with in the scenarios [B] (names).

        What is not finite is unknown. TypeError, ValueError: inputs of another dtype, shape or device than the
        policy's.
        """
        inputs = self._checked(inputs, scenario)
        factor = self.spec.exploration_factor(scenario, len(inputs)).to(inputs.device)
        return self._shrunk(inputs, scenario) * factor[:, None]

    @torch.no_grad()
    def serve(self, inputs: Tensor, scenario: Sequence[str] | NDArray[Any] | None = None) -> Tensor:
        """Weights [B, T] to rank with in the scenarios [B] (names): the mean of α, projected onto the constraints. A
        request without any known feature gets static weights.
        """
        inputs = self._checked(inputs, scenario)
        alpha = self._shrunk(inputs, scenario)
        weights = project_weights(alpha / alpha.sum(-1, keepdim=True), self.bounds)
        if self.features:
            for row in inputs[:, : len(self.features)].isnan().all(1).nonzero()[:, 0].tolist():
                weights[row] = self.fallback_weights(None if scenario is None else str(scenario[row]))
        return weights

    def in_core(self) -> Core:
        """The policy as it is now in the core's ranker, see `scores`."""
        return Core(_core.Policy(*self.artifact()), self, 0)

    def scores(
        self,
        context: NDArray[Any] | None,
        predictions: NDArray[Any],
        offsets: NDArray[Any] | None = None,
        scenario: Sequence[str] | NDArray[Any] | None = None,
        values: Any = None,
        item_values: NDArray[Any] | None = None,
        items: NDArray[Any] | None = None,
        core: Core | None = None,
    ) -> NDArray[np.float32]:
        """Scores of the candidates without rules and page terms, float32 [R, N], or [M] of predictions [M, T] with
        offsets [R + 1]; NaN where a prediction is missing. The core ranks by them.

        context [R, F], None: unknown; predictions as a log has them; scenario [R] names; values: of the tasks, see
        `mixture.request_values`; item_values [R, N] or [M]: prices, if
        what ranks needs them; items [R, N, I] or [M, I]: item columns of the correction; core: of `in_core`, for many
        calls. ValueError names what is wrong.
        """
        result = np.empty(np.shape(predictions)[:-1], np.float32)
        inputs = self._core_inputs(context, predictions, offsets, scenario, values, item_values, items)
        (core or self.in_core()).score(**inputs, result=result.reshape(-1), num_threads=torch.get_num_threads())
        return result

    def score_parts(
        self, weights: NDArray[np.float32], *arguments: Any
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32] | None]:
        """Parts of the scores of candidates by weights [R, T]: `Page.contributions` [M, T] and
        `Page.baseline_contribution` [M] of all candidates, and corrected predictions [M, T], None if nothing reads
        them; NaN where a prediction is missing. arguments: those of `scores`.
        """
        parts: tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32] | None]
        weights = np.ascontiguousarray(weights, np.float32)
        parts = self.in_core().score_parts(**self._core_inputs(*arguments), weights=weights)
        return parts

    def history_reasons(
        self, request: int, candidates: NDArray[np.int32], *arguments: Any
    ) -> list[list[HistoryReason]]:
        """Reasons by history of candidates [n] of a request, by places within it: for each the two
        largest factors that differ from 1 by .05. arguments: those of `scores`."""
        if self.history is None:
            return [[] for _ in candidates]
        inputs = self._core_inputs(*arguments)
        found = self.in_core().history_reasons(request, np.ascontiguousarray(candidates, np.int32), **inputs)
        return [[HistoryReason(*reason) for reason in reasons] for reasons in found]

    def _core_inputs(
        self,
        context: Any,
        predictions: Any,
        offsets: Any = None,
        scenario: Any = None,
        values: Any = None,
        item_values: Any = None,
        items: Any = None,
    ) -> dict[str, Any]:
        """The arguments of `scores` as the core takes them."""
        count = len(predictions) if offsets is None else len(offsets) - 1
        arrays = {"context": context, "predictions": predictions, "item_values": item_values, "items": items}
        return {
            "offsets": None if offsets is None else np.ascontiguousarray(offsets, np.int64),
            "scenario": scenario if scenario is None or isinstance(scenario, str) else [str(name) for name in scenario],
            "values": request_values(values, self.tasks, count),
            **{name: None if a is None else np.ascontiguousarray(a, np.float32) for name, a in arrays.items()},
            "as_logged": True,
        }

    def refuse_elsewhere(self, where: str) -> None:
        """``ValueError`` if the policy has boosts, or values that an expected value ranks by, which alone the core
        computes, or reads history, without which only the core refuses to rank; where: not.
        """
        if self.history is not None:
            raise ValueError(
                f"the policy reads history, and {where} could be ranked without; expected one that reads none"
            )
        config = self.config
        if config.boosts or config.scenario_boosts or (self.spec.has_values and not config.trade_offs):
            raise ValueError(f"the policy has values or boosts of its own (guardrails), which {where} does not compute")

    @property
    def uses_corrected(self) -> bool:
        """The scores, or the network's inputs, are of corrected predictions."""
        mixed = () if self.mixture is None else self.mixture.ranked_by
        return self.config.corrected or any(entry.corrected for entry in mixed)

    def schema_hash(self) -> str:
        """`PolicySpec.schema_hash`."""
        return self.spec.schema_hash()

    def artifact(self, extra: Mapping[str, Any] | None = None) -> tuple[bytes, bytes]:
        """The content of ``policy.json`` and of the tensors' file, as `save` writes them."""
        record = {
            "schema": self.spec.schema,
            "served": self._served(),
            "verdict": None if self.mixture is None else self.mixture.described(),
            "extra": dict(extra or {}),
        }
        if self.columns:
            record["columns"] = dict(self.columns)
        if self.guardrails is not None:
            record["guardrails"] = self.guardrails.to_dict()
        return file.encode(record, self._tensors())

    def _tensors(self) -> dict[str, Tensor]:
        return self.state_dict() | ({} if self.correction is None else self.correction.tensors())

    def save(self, directory: Place, extra: Mapping[str, Any] | None = None) -> Place:
        """Write the policy into a directory, local or at a URL; ``extra``: more JSON to keep with it.

        Other processes may load from and save into the directory meanwhile: each load gives one of the saved policies.
        `ArtifactError`, before anything is written, if `load` would refuse the policy (weights that are NaN, say).
        """
        with publishing(directory) as folder:
            file.write(folder, *self.artifact(extra))
        return directory if is_url(directory) else folder

    @classmethod
    def load(cls, directory: Place) -> FusionPolicy:
        """Read a saved policy, local or at a URL. ``FileNotFoundError`` if there is none; `ArtifactError` (a
        ``ValueError``) naming file and fault if a file is damaged, edited, of another save, or of a newer format.
        """
        folder = download(directory)
        record, tensors = file.read(folder)
        schema, served = record["schema"], record["served"]
        stated = {**served["config"], **schema}
        options = {item.name: stated[item.name] for item in fields(PolicyConfig) if item.name in stated}
        options["hidden"] = [int(width) for width in options["hidden"]]
        try:
            policy = cls(PolicySpec(schema["tasks"], schema["features"], PolicyConfig(**options)))
            policy.scenarios = tuple(served["scenarios"])
            policy.scenario_table = torch.zeros(len(policy.scenarios), len(policy.tasks))
            policy.load_state_dict({name: t for name, t in tensors.items() if not name.startswith(PREFIX)})
            policy.mixture = Mixture.from_dict(served["mixture"] | record["verdict"]) if served["mixture"] else None
            if served["correction"]:
                policy.correction = Correction.decode(served["correction"], tensors, policy.tasks, policy.features)
            policy.scales = from_records(served.get("scales", {}))
            policy.columns = record.get("columns", {})
            policy.history = History.from_dict(served["history"]) if "history" in served else None
            policy.guardrails = Guardrails.from_dict(record["guardrails"]) if "guardrails" in record else None
        except (TypeError, ValueError, RuntimeError) as error:
            raise ArtifactError(f"{folder / 'policy.json'} does not describe a policy: {error}") from error
        return policy.eval()
