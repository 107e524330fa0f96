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

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pygrade import ops
from pygrade._util.serialization import ArtifactError, to_json
from pygrade.config.policy import PolicyConfig
from pygrade.logs.keys import hashes
from pygrade.policy import file
from pygrade.policy.correction import PREFIX, Correction
from pygrade.policy.mixture import Baseline, Mixture, priced
from pygrade.policy.projection import project_weights
from pygrade.policy.spec import PolicySpec, fusion_formula
from pygrade.storage import Place, download, is_url, publishing

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
    what takes corrected ones.
    """

    mixture: Mixture | None = None
    correction: Correction | None = None
    _format: int = file.FORMAT_VERSION

    input_mean: Tensor
    input_std: Tensor
    bounds: Tensor
    static_weights: Tensor
    scenario_table: Tensor

    def __init__(self, spec: PolicySpec, initial_weights: Tensor | NDArray[Any] | None = None, seed: int = 0) -> None:
        super().__init__()
        self.spec = spec
        count, size, config = len(spec.tasks), spec.num_inputs, spec.config
        if initial_weights is None:
            start = torch.full((count,), 1.0 / count)
        else:
            start = torch.as_tensor(np.asarray(initial_weights), dtype=torch.float32)
            if start.shape != (count,) or not bool(((start >= 0) & start.isfinite()).all()) or float(start.sum()) <= 0:
                raise ValueError(f"initial_weights is {start.tolist()}; want {count} weights >= 0, not all 0")
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
        return self.spec.config

    @property
    def tasks(self) -> tuple[str, ...]:
        return self.spec.tasks

    @property
    def features(self) -> tuple[str, ...]:
        return self.spec.features

    @property
    def num_inputs(self) -> int:
        return self.spec.num_inputs

    @property
    def version(self) -> str:
        """First 12 hex digits of a sha256 of all that decides what is served: equal policies, equal versions."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self._tensors().items()):
            digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
        digest.update(self.version_tail)
        return digest.hexdigest()[:12]

    @property
    def version_tail(self) -> bytes:
        """What the version hashes after the tensors; it ends with the multipliers of the config, if there are any."""
        config = self.config
        explored = sorted(config.scenario_exploration)
        evidence = [config.evidence_scale, config.evidence_feature] if config.evidence_prior else []
        names = {"evidence": evidence, "explored": explored, "scenarios": self.scenarios}
        mixed, valued = self._mixture_facts(), self._value_facts()
        corrected: tuple[list[str], list[float]] = ([], []) if self.correction is None else self.correction.facts
        names |= {"correction": corrected[0]} if corrected[0] else {}
        names |= {"mixture": mixed[0]} if mixed[1] else {}
        names |= {"values": valued[0]} if valued[1] else {}
        slopes = config.slope if isinstance(config.slope, tuple) else (config.slope,) * len(self.tasks)
        factors = (config.scenario_exploration[name] for name in explored)
        numbers = [self.spec.concentration_floor, config.total_concentration, config.beta, config.epsilon]
        numbers += [config.evidence_prior, *slopes, *factors, *mixed[1], *corrected[1], *valued[1]]
        return self.spec.schema_hash().encode() + to_json(names) + np.array(numbers, "<f8").tobytes()

    def _mixture_facts(self) -> tuple[list[str], list[float]]:
        """Names and numbers of the mixture that decide what is served."""
        if self.mixture is None:
            return [], []
        names, numbers = self.mixture.baseline.facts
        if self.mixture.challenger is not None:
            more = self.mixture.challenger.facts
            names, numbers = [*names, "challenger", *more[0]], [*numbers, *more[1]]
        return names, [self.mixture.trust, *numbers]

    def _value_facts(self) -> tuple[list[str], list[float]]:
        """Scenarios with multipliers of their own, and the multipliers: of all requests, then of each scenario."""
        config = self.config
        names = sorted(config.scenario_values)
        tables = [config.values, *(config.values | config.scenario_values[name] for name in names)]
        rows = [[table.get(task, 1.0) for task in self.tasks] for table in tables]
        return names, [number for row in rows for number in row] if config.values or names else []

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
            raise ValueError("the policy has no correction, and takes corrected predictions")
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
        """Item columns [M, I] of the correction for items with these ids [M] or [R, N], whose levels it looks up.

        items: what else is known of them; without levels these as they are.
        """
        if self.correction is None or self.correction.levels is None:
            return items
        ids = np.asarray(item_id).reshape(-1)
        return self.correction.add_levels(items, hashes(ids.astype(np.int64) if ids.dtype.kind in "iu" else ids))

    def multipliers(
        self, values: Any, scenario: Sequence[str] | NDArray[Any] | None, count: int
    ) -> tuple[Tensor | None, Baseline | None]:
        """u [count, T] of requests, if any are in force, and the expected value that alone ranks by them.

        values: see `mixture.multipliers`. With `trade_offs` the policy takes them; without, an expected value that the
        policy is mixed with does, and ranks alone. ValueError if there is none.
        """
        if self.config.trade_offs:
            return self.spec.multipliers(values, scenario, count), None
        if values is None:
            return None, None
        alone = None if self.mixture is None else self.mixture.expected_value
        if alone is None:
            raise ValueError(
                "values was given to a policy without trade_offs and without an expected value; want one of them"
            )
        return self.spec.multipliers(values, scenario, count), alone

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
        """α [B, T] of raw inputs [B, D] under exploration factors [B] (None: 1)."""
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
        """α [B, T] with its mean shrunk by evidence."""
        alpha = self.concentration(inputs)
        if not self.config.evidence_prior:
            return alpha
        names = [None] * len(alpha) if scenario is None else [str(name) for name in scenario]
        target = torch.stack([self.fallback_weights(name) for name in names]) if names else alpha
        share = self.shrinkage(inputs)[:, None]
        return alpha + share * (alpha.sum(-1, keepdim=True) * target - alpha)

    def forward(self, inputs: Tensor, scenario: Sequence[str] | NDArray[Any] | None = None) -> Tensor:
        """α [B, T] of raw inputs [B, D] to explore with in the scenarios [B] (names)."""
        factor = self.spec.exploration_factor(scenario, len(inputs)).to(inputs.device)
        return self._shrunk(inputs, scenario) * factor[:, None]

    @torch.no_grad()
    def serve(self, inputs: Tensor, scenario: Sequence[str] | NDArray[Any] | None = None) -> Tensor:
        """Weights [B, T] to rank with in the scenarios [B] (names): the mean of α, projected onto the constraints. A
        request without any known feature gets static weights.
        """
        alpha = self._shrunk(inputs, scenario)
        weights = project_weights(alpha / alpha.sum(-1, keepdim=True), self.bounds)
        if self.features:
            for row in inputs[:, : len(self.features)].isnan().all(1).nonzero()[:, 0].tolist():
                weights[row] = self.fallback_weights(None if scenario is None else str(scenario[row]))
        return weights

    @torch.no_grad()
    def scores(
        self,
        context: NDArray[Any],
        predictions: NDArray[Any],
        offsets: NDArray[Any] | None = None,
        scenario: Sequence[str] | NDArray[Any] | None = None,
        values: Any = None,
        item_values: NDArray[Any] | None = None,
        items: NDArray[Any] | None = None,
    ) -> Tensor:
        """What the candidates are ranked by, float32 [R, N] or, of predictions [M, T] with offsets [R + 1], [M].

        context [R, F], scenario [R] names; values: multipliers of the tasks' values, see `multipliers`; item_values
        [R, N] or [M]: prices, if what ranks needs them; items [R, N, I] or [M, I]: item columns of the correction.
        """
        u, _ = self.multipliers(values, scenario, len(context))
        corrected = self.correct(context, predictions, offsets, items) if self.takes_corrected else None
        given = predictions if corrected is None or not self.config.corrected else corrected
        inputs = self.spec.request_inputs(context, given, offsets, u if self.config.trade_offs else None)
        weights = self.serve(inputs.to(self.input_mean.device), scenario).cpu()
        return self.scores_of(weights, predictions, offsets, u, item_values, corrected)

    @property
    def takes_corrected(self) -> bool:
        """The scores, or the network's inputs, are of corrected predictions."""
        mixed = () if self.mixture is None else self.mixture.ranked_by
        return self.config.corrected or any(entry.corrected for entry in mixed)

    @torch.no_grad()
    def scores_of(
        self,
        weights: Tensor,
        predictions: NDArray[Any],
        offsets: NDArray[Any] | None = None,
        multipliers: Tensor | None = None,
        item_values: NDArray[Any] | None = None,
        corrected: NDArray[Any] | None = None,
    ) -> Tensor:
        """`scores` under given weights [R, T], such as drawn ones. corrected: what `correct` gives, if
        `takes_corrected`. multipliers [R, T]: in force; without `trade_offs` an expected value ranks by them alone.
        """
        rows = np.ascontiguousarray(predictions, np.float32)
        shape, tasks = rows.shape[:-1], rows.shape[-1]
        bounds = torch.arange(len(rows) + 1) * shape[1] if offsets is None else torch.from_numpy(offsets)
        prices = None if item_values is None else torch.tensor(np.asarray(item_values, np.float32).reshape(-1))

        def candidates(of_corrected: bool) -> Tensor:
            if of_corrected and corrected is None:
                raise ValueError("corrected is missing; the policy takes corrected predictions")
            given = corrected if of_corrected and corrected is not None else rows
            return torch.from_numpy(np.ascontiguousarray(given, np.float32).reshape(-1, tasks))

        def scores(entry: Baseline, u: Tensor | None) -> Tensor:
            given = candidates(entry.corrected)
            return entry.scores(self.tasks, fusion_formula(self.config), given, bounds, u, prices)

        mixture, config, base = self.mixture, self.config, None
        if multipliers is not None and not config.trade_offs and mixture is not None and mixture.expected_value:
            return scores(mixture.expected_value, multipliers).reshape(shape)
        u = multipliers if config.trade_offs else None
        if mixture is not None and mixture.trust < 1.0:
            base = scores(mixture.baseline, u)
        if mixture is not None and base is not None and mixture.trust == 0.0:
            fused = base
        elif mixture is None or mixture.challenger is None:
            given = priced(candidates(config.corrected), self.tasks, config.value_tasks, prices)
            fused = ops.fuse_scores(given, weights, offsets=bounds, **fusion_formula(config))
        else:
            fused = scores(mixture.challenger, u)
        if mixture is None or base is None:
            return fused.reshape(shape)
        return mixture.scores(base, fused, bounds).reshape(shape)

    def schema_hash(self) -> str:
        """`PolicySpec.schema_hash`."""
        return self.spec.schema_hash()

    def artifact(self, extra: Mapping[str, Any] | None = None) -> tuple[bytes, bytes]:
        """The content of ``policy.json`` and of the tensors' file, as `save` writes them."""
        record = {
            "tasks": self.tasks,
            "features": self.features,
            "scenarios": self.scenarios,
            "schema_hash": self.schema_hash(),
            "version": self.version,
            # Format 3 knows the option by its old name.
            "config": asdict(self.config) | {"prediction_features": not self.config.context_only},
            "static_weights": self.static_weights.tolist(),
            "scenario_weights": {name: weights.tolist() for name, weights in self.scenario_weights.items()},
            "mixture": self._mixture_record(),
            "correction": None if self.correction is None else self.correction.record(),
            "extra": dict(extra or {}),
        }
        return file.encode(record, self._tensors(), self.format_version)

    def _mixture_record(self) -> dict[str, Any] | None:
        if self.mixture is None:
            return None
        record = asdict(self.mixture)
        for entry in (record["baseline"], *record["baselines"]) if self.format_version == file.OLDEST_WRITTEN else ():
            del entry["corrected"]  # which readers of format 4 refuse
        return record

    def _tensors(self) -> dict[str, Tensor]:
        return self.state_dict() | ({} if self.correction is None else self.correction.tensors())

    @property
    def format_version(self) -> int:
        """Of its file: that of the file it came from, unless it has what older readers do not know. Before 5 a missing
        feature is enough for static weights.
        """
        config, mixture = self.config, self.mixture
        listed = () if mixture is None else (mixture.baseline, *([mixture.challenger] if mixture.challenger else ()))
        new = self.correction is not None or config.corrected or bool(config.indicators or config.value_tasks)
        new = new or len(listed) > 1 or any(entry.corrected for entry in listed)
        return file.FORMAT_VERSION if new else self._format

    def save(self, directory: Place, extra: Mapping[str, Any] | None = None) -> Place:
        """Write the policy into a directory, local or at a URL; ``extra``: more JSON to keep with it.

        Other processes may load from and save into the directory meanwhile: each load gives one of the saved policies.
        `ArtifactError`, before anything is written, if `load` would refuse the policy (weights that are NaN, say).
        """
        with publishing(directory) as folder:
            file.write(folder, *self.artifact(extra))
        return directory if is_url(directory) else folder

    @classmethod
    def load(cls, directory: Place) -> "FusionPolicy":
        """Read a saved policy, local or at a URL. ``FileNotFoundError`` if there is none; `ArtifactError` (a
        ``ValueError``) naming file and fault if a file is damaged, edited, of another save, or of a newer format.
        """
        folder = download(directory)
        record, tensors = file.read(folder)
        known = {item.name for item in fields(PolicyConfig)}
        options = {name: value for name, value in record["config"].items() if name in known}
        options["hidden"] = [int(width) for width in options["hidden"]]
        if "prediction_features" in record["config"]:  # of formats 1 to 3
            options["context_only"] = not record["config"]["prediction_features"]
        try:
            policy = cls(PolicySpec(record["tasks"], record["features"], PolicyConfig(**options)))
            policy.scenarios = tuple(record["scenarios"])
            policy.scenario_table = torch.zeros(len(policy.scenarios), len(policy.tasks))
            policy.load_state_dict({name: t for name, t in tensors.items() if not name.startswith(PREFIX)})
            policy.mixture = Mixture.from_dict(record["mixture"]) if record.get("mixture") else None
            policy._format = max(record["format_version"], file.OLDEST_WRITTEN)
            if record.get("correction"):
                policy.correction = Correction.decode(record["correction"], tensors, policy.tasks, policy.features)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ArtifactError(f"{folder / 'policy.json'} does not describe a policy: {error}") from error
        return policy.eval()
