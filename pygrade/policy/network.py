"""The fusion policy: what is known about a request → a Dirichlet distribution over its fusion weights.

The paper (GRADE, arXiv 2510.07919) states that weights are personal and that exploration is a Dirichlet that adapts to
the request; it leaves the network and the parametrisation open. Ours, for T tasks:

    α(x) = f · (α_min + κ · softmax(logits(x)))        logits: an MLP (SiLU) of the normalized inputs

α_min (``concentration_floor``) keeps the density finite near the faces of the simplex, κ (``total_concentration``) is
the width of the exploration, f the exploration factor of the request's scenario, 1 by default. The mean α / Σα is what
is served, projected onto the weight constraints; it does not depend on f, so that exploring more in one scenario does
not change what exploitation shows there.

Users of whom little is known may be served weights nearer to what their scenario gets (off by default): with n pieces
of evidence, told by a context feature, and a prior worth m of them, the mean becomes
(n · mean + m · scenario) / (n + m), Σα and f stay. It acts on what is served and explored, not on what is trained.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pygrade._util.serialization import read_json, read_safetensors, to_json, to_safetensors, write_bytes
from pygrade.ops.fusion import TRANSFORMS

# Rises where an older reader would serve a newer policy wrongly: 2 has an evidence prior; policies without one are
# written as 1. Else keys may be added to `config`: a reader leaves alone what it does not know, and takes what was
# meant before where one is absent (slope: 1).
FORMAT_VERSION = 2
_INPUT_CLIP = 5.0  # normalized inputs beyond are cut: one broken feature must not take over the weights
_EVIDENCE_SCALES = ("count", "log", "log1p")


@dataclass(frozen=True)
class PolicyConfig:
    """Network, exploration, fusion formula and weight constraints of a `FusionPolicy`."""

    hidden: tuple[int, ...] = (64, 64)  # widths of the MLP's hidden layers
    concentration_floor: float | None = None  # α_min > 0; None: 0.3 / T
    # κ > 0, the width of exploration. Above about 60 small logit changes make large probability ratios (× 22 at 300).
    total_concentration: float = 10.0
    transform: str = "zlog"  # f_t of the fused score Σ_t w_t f_t(p_t): identity, log, zscore, zlog, rank or log1p
    beta: float = 1e-7  # added to predictions before the logarithm
    epsilon: float = 1e-3  # added to the standard deviation of a z-score
    slope: float | tuple[float, ...] = 1.0  # ≥ 0, for all tasks or one each: log1p is log(1 + slope_t p_t)
    prediction_features: bool = True  # mean and std over the candidates of log(p + beta), per task, as inputs
    lower: float | tuple[float, ...] = 0.005  # smallest weight served, for all tasks or one each
    upper: float | tuple[float, ...] = 0.70  # largest weight served, for all tasks or one each
    minimum: dict[str, float] = field(default_factory=dict)  # smallest weight of single tasks, above `lower`
    # Factor on the concentration by scenario: below 1 explores more widely, above 1 less.
    scenario_exploration: dict[str, float] = field(default_factory=dict)
    # Shrinkage of the served weights by evidence. The feature tells n, how much is known of the user: below 0 or NaN
    # counts as 0.
    evidence_feature: str = ""  # name of a context feature
    evidence_scale: str = "count"  # the feature is n (count), log(n) (log) or log(1 + n) (log1p)
    evidence_prior: float = 0.0  # m ≥ 0, what the scenario's weights are worth in pieces of evidence; 0: off

    def __post_init__(self) -> None:
        for name in ("hidden", "slope", "lower", "upper"):  # JSON gives lists
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        if not self.hidden or any(width < 1 for width in self.hidden):
            raise ValueError(f"hidden is {self.hidden}; want at least one positive width")
        positive = {"total_concentration": self.total_concentration, "beta": self.beta, "epsilon": self.epsilon}
        if self.concentration_floor is not None:
            positive["concentration_floor"] = self.concentration_floor
        positive |= {f"scenario_exploration[{key!r}]": factor for key, factor in self.scenario_exploration.items()}
        for name, value in positive.items():
            if not (value > 0.0 and math.isfinite(value)):
                raise ValueError(f"{name} is {value}; want a positive number")
        if self.transform not in TRANSFORMS:
            raise ValueError(f"transform is {self.transform!r}; want one of {', '.join(TRANSFORMS)}")
        if self.evidence_scale not in _EVIDENCE_SCALES:
            raise ValueError(f"evidence_scale is {self.evidence_scale!r}; want one of {', '.join(_EVIDENCE_SCALES)}")
        if not (self.evidence_prior >= 0.0 and math.isfinite(self.evidence_prior)):
            raise ValueError(f"evidence_prior is {self.evidence_prior}; want a number ≥ 0")
        slopes = self.slope if isinstance(self.slope, tuple) else (self.slope,)
        if not slopes or not all(slope >= 0.0 and math.isfinite(slope) for slope in slopes):
            raise ValueError(f"slope is {self.slope}; want one number ≥ 0 or one per task")

    @property
    def formula(self) -> dict[str, Any]:
        """How predictions are fused, as keyword arguments of `fuse_scores` and its like."""
        slope = torch.tensor(self.slope) if isinstance(self.slope, tuple) else self.slope
        return {"transform": self.transform, "beta": self.beta, "epsilon": self.epsilon, "slope": slope}

    def bounds(self, tasks: Sequence[str]) -> Tensor:
        """The box of the weights, float32 [2, T]: row 0 the lower bounds, row 1 the upper ones."""
        count = len(tasks)
        if count == 1:  # its weight is 1 whatever the config says
            return torch.ones(2, 1)
        rows = []
        for name, value in (("lower", self.lower), ("upper", self.upper)):
            row = [value] * count if isinstance(value, int | float) else list(value)
            if len(row) != count:
                raise ValueError(f"{name} has {len(row)} bounds; want one number or {count}, one per task")
            rows.append(row)
        for task, value in self.minimum.items():
            if task not in tasks:
                raise ValueError(f"minimum names task {task!r}; want one of {', '.join(tasks)}")
            index = list(tasks).index(task)
            rows[0][index] = max(rows[0][index], value)
        low, high = rows
        if not all(0.0 <= a <= b <= 1.0 for a, b in zip(low, high, strict=True)):
            raise ValueError(f"weight bounds are lower {low}, upper {high}; want 0 <= lower <= upper <= 1")
        if not sum(low) <= 1.0 <= sum(high):
            raise ValueError(f"weight bounds sum to {sum(low):g} (lower) and {sum(high):g} (upper); want 1 in between")
        return torch.tensor(rows, dtype=torch.float32)


def project_weights(weights: Tensor, bounds: Tensor) -> Tensor:
    """The weight vectors nearest to ``weights`` (in KL divergence) that sum to 1 and lie inside the box.

    v_t = clip(λ w_t, low_t, high_t) with the λ that makes Σ v = 1. weights [..., T] ≥ 0 with a positive sum, bounds
    [2, T] with Σ low ≤ 1 ≤ Σ high → the same shape and dtype. The bounds hold exactly; the sum is 1 up to rounding.
    Vectors that comply already come back unchanged.
    """
    low, high = bounds.to(weights)
    fine = ((weights >= low) & (weights <= high)).all(-1) & ((weights.sum(-1) - 1.0).abs() <= 1e-6)
    if bool(fine.all()):
        return weights
    exact, lower, upper = weights.double(), low.double(), high.double()
    safe = exact.clamp_min(1e-30)
    # Σ clip(λ w, low, high) grows piecewise linearly in λ with corners at low/w and high/w: find the piece, then solve.
    corners = torch.cat([lower / safe, upper / safe], -1).sort(-1).values  # [..., 2T]
    sums = (corners[..., None] * safe[..., None, :]).clamp(lower, upper).sum(-1)  # [..., 2T], ascending
    right = (sums < 1.0).sum(-1, keepdim=True).clamp(1, corners.shape[-1] - 1)
    a, b = corners.gather(-1, right - 1), corners.gather(-1, right)
    sum_a, sum_b = sums.gather(-1, right - 1), sums.gather(-1, right)
    share = torch.where(sum_b > sum_a, (1.0 - sum_a) / (sum_b - sum_a).clamp_min(1e-300), 0.0)
    scale = a + (b - a) * share.clamp(0.0, 1.0)
    projected = (scale * safe).clamp(lower, upper).to(weights.dtype).clamp(low, high)
    return torch.where(fine[..., None], weights, projected)


def _initial_logits(weights: Tensor, floor: float, total: float) -> Tensor:
    """Logits whose Dirichlet mean is ``weights`` (as near as the floor lets it be)."""
    count = weights.shape[-1]
    mean = (((count * floor + total) * weights - floor) / total).clamp_min(1e-4)
    return torch.log(mean / mean.sum())


class FusionPolicy(nn.Module):
    """Inputs of a request → concentration of its fusion weights.

    tasks: T names in the order of the predictions. features: names of the F context features. initial_weights [T]:
    where the untrained policy stands, equal weights by default; also its first `static_weights`. seed: of the network's
    initial weights; equal seeds give equal bits, whatever the global generator.

    `static_weights` [T] and `scenario_weights` {scenario: [T]} are what a ranker serves where features are missing.
    """

    input_mean: Tensor
    input_std: Tensor
    bounds: Tensor
    static_weights: Tensor
    scenario_table: Tensor

    def __init__(
        self,
        config: PolicyConfig,
        tasks: Sequence[str],
        features: Sequence[str],
        initial_weights: Tensor | NDArray[Any] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.config, self.tasks, self.features = config, tuple(tasks), tuple(features)
        count = len(self.tasks)
        if count == 0:
            raise ValueError("tasks is empty; want at least one")
        if isinstance(config.slope, tuple) and len(config.slope) != count:
            raise ValueError(f"slope has {len(config.slope)} numbers; want one, or {count}, one per task")
        if config.evidence_prior and config.evidence_feature not in self.features:
            raise ValueError(f"evidence_feature is {config.evidence_feature!r}; want one of {', '.join(self.features)}")
        size = len(self.features) + (2 * count if config.prediction_features else 0)
        if size == 0:
            raise ValueError("there are no features and prediction_features is off; the policy needs an input")
        self.concentration_floor = 0.3 / count if config.concentration_floor is None else config.concentration_floor
        if initial_weights is None:
            start = torch.full((count,), 1.0 / count)
        else:
            start = torch.as_tensor(np.asarray(initial_weights), dtype=torch.float32)
            if start.shape != (count,) or not bool(((start >= 0) & start.isfinite()).all()) or float(start.sum()) <= 0:
                raise ValueError(f"initial_weights is {start.tolist()}; want {count} weights >= 0, not all 0")
            start = start / start.sum()
        self.scenarios: tuple[str, ...] = ()
        bounds = config.bounds(self.tasks)
        self.register_buffer("input_mean", torch.zeros(size))
        self.register_buffer("input_std", torch.ones(size))
        self.register_buffer("bounds", bounds)
        self.register_buffer("static_weights", project_weights(start, bounds))
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
            self.head.bias.copy_(_initial_logits(start, self.concentration_floor, config.total_concentration))

    @property
    def num_inputs(self) -> int:
        """F, or F + 2T with prediction features."""
        return self.input_mean.shape[0]

    @property
    def version(self) -> str:
        """First 12 hex digits of a sha256 of tensors and evidence prior: equal policies, equal versions."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
        if self.config.evidence_prior:
            digest.update(b"evidence_prior" + np.float32(self.config.evidence_prior).tobytes())
            digest.update(f"{self.config.evidence_scale}{self.config.evidence_feature}".encode())
        return digest.hexdigest()[:12]

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
        """Static weights [T] of the scenario, or the global ones where it has none."""
        if scenario is not None and scenario in self.scenarios:
            return self.scenario_table[self.scenarios.index(scenario)]
        return self.static_weights

    def request_inputs(
        self, context: NDArray[Any], predictions: NDArray[Any], offsets: NDArray[Any] | None = None
    ) -> Tensor:
        """Raw inputs [R, F (+ 2T)]: the context, then mean and std over the request's candidates of log(p + beta).

        context [R, F]; predictions [M, T] with offsets [R + 1] (every request with at least one row), or [R, N, T].
        The sums are float64, so that training and serving see the same numbers. NaN features stay NaN.
        """
        context = np.asarray(context, np.float32)
        if context.ndim != 2 or context.shape[1] != len(self.features):
            raise ValueError(f"context has shape {context.shape}; want [R, {len(self.features)}]")
        if not self.config.prediction_features:
            return torch.from_numpy(context.copy()).to(self.input_mean.device)
        rows = np.asarray(predictions, np.float32)
        if offsets is None:
            if rows.ndim != 3 or rows.shape[0] != len(context) or rows.shape[1] == 0:
                raise ValueError(
                    f"predictions has shape {rows.shape}; want [{len(context)}, N >= 1, T] without offsets"
                )
            offsets = np.arange(len(context) + 1, dtype=np.int64) * rows.shape[1]
            rows = rows.reshape(-1, rows.shape[2])
        if rows.ndim != 2 or rows.shape[1] != len(self.tasks):
            raise ValueError(f"predictions has {rows.shape[-1]} tasks; want {len(self.tasks)}: {', '.join(self.tasks)}")
        sizes = np.diff(offsets)
        if len(sizes) != len(context) or (len(sizes) and (sizes.min() < 1 or offsets[-1] != len(rows))):
            raise ValueError(
                f"offsets has {len(offsets)} entries up to {offsets[-1]}; want {len(context) + 1} up to {len(rows)}, "
                "each request with at least one row"
            )
        if len(sizes) == 0:
            return torch.zeros(0, self.num_inputs, device=self.input_mean.device)
        logs = np.log(rows.astype(np.float64) + self.config.beta)
        mean = np.add.reduceat(logs, offsets[:-1]) / sizes[:, None]
        square = np.add.reduceat((logs - np.repeat(mean, sizes, axis=0)) ** 2, offsets[:-1]) / sizes[:, None]
        inputs = np.concatenate([context, mean, np.sqrt(square)], 1).astype(np.float32)
        return torch.from_numpy(inputs).to(self.input_mean.device)

    def fit_normalization(self, inputs: Tensor) -> None:
        """Set the mean and std of raw inputs [R, D]; NaN is left out, a constant input gets std 1."""
        values = inputs.double()
        seen = ~values.isnan()
        count = seen.sum(0).clamp_min(1)
        mean = torch.where(seen, values, 0.0).sum(0) / count
        std = (torch.where(seen, values - mean, 0.0).square().sum(0) / count).sqrt()
        self.input_mean.copy_(mean)
        self.input_std.copy_(torch.where(std > 1e-6, std, 1.0))

    def normalize(self, inputs: Tensor) -> Tensor:
        """(x - mean) / std, cut to ±5; NaN (unknown) becomes 0, the mean."""
        return ((inputs - self.input_mean) / self.input_std).clamp(-_INPUT_CLIP, _INPUT_CLIP).nan_to_num(0.0)

    def exploration_factor(self, scenario: Sequence[str] | NDArray[Any] | None, count: int) -> Tensor:
        """Factor f on the concentration of each request, [count]; 1 for scenarios that the config does not name."""
        table = self.config.scenario_exploration
        if scenario is None or not table:
            return torch.ones(count, device=self.input_mean.device)
        factors = [table.get(str(name), 1.0) for name in scenario]
        return torch.tensor(factors, dtype=torch.float32, device=self.input_mean.device)

    def concentration(self, inputs: Tensor, factor: Tensor | None = None) -> Tensor:
        """α [B, T] of raw inputs [B, D] under exploration factors [B] (None: 1)."""
        share = torch.softmax(self.head(self.body(self.normalize(inputs))), -1)
        alpha = self.concentration_floor + self.config.total_concentration * share
        return alpha if factor is None else alpha * factor[:, None]

    def shrinkage(self, inputs: Tensor) -> Tensor:
        """m / (n + m) [B] of raw inputs [B, D]: the share of the scenario's weights in what is served."""
        prior = self.config.evidence_prior
        if not prior:
            return inputs.new_zeros(len(inputs))
        told = inputs[:, self.features.index(self.config.evidence_feature)]
        count = {"count": told, "log": told.exp(), "log1p": told.exp() - 1.0}[self.config.evidence_scale]
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
        """α [B, T] of raw inputs [B, D] that is explored with in the scenarios [B] (names)."""
        return self._shrunk(inputs, scenario) * self.exploration_factor(scenario, inputs.shape[0])[:, None]

    @torch.no_grad()
    def serve(self, inputs: Tensor, scenario: Sequence[str] | NDArray[Any] | None = None) -> Tensor:
        """Weights [B, T] to rank with in the scenarios [B] (names): the mean of α, projected onto the constraints."""
        alpha = self._shrunk(inputs, scenario)
        return project_weights(alpha / alpha.sum(-1, keepdim=True), self.bounds)

    def schema_hash(self) -> str:
        """First 16 hex digits of a sha256 of what inputs and outputs mean: tasks, features, formula."""
        schema = {
            "tasks": self.tasks,
            "features": self.features,
            "prediction_features": self.config.prediction_features,
            "transform": self.config.transform,
        }
        return hashlib.sha256(to_json(schema)).hexdigest()[:16]

    def artifact(self, extra: Mapping[str, Any] | None = None) -> tuple[bytes, bytes]:
        """The content of ``policy.json`` and ``policy.safetensors``, as `save` writes them."""
        content = to_safetensors(self.state_dict())
        record = {
            "format": "pygrade.FusionPolicy",
            "format_version": FORMAT_VERSION if self.config.evidence_prior else 1,
            "tasks": self.tasks,
            "features": self.features,
            "scenarios": self.scenarios,
            "schema_hash": self.schema_hash(),
            "sha256": hashlib.sha256(content).hexdigest(),
            "version": self.version,
            "config": asdict(self.config),
            "static_weights": self.static_weights.tolist(),
            "scenario_weights": {name: weights.tolist() for name, weights in self.scenario_weights.items()},
            "extra": dict(extra or {}),
        }
        return to_json(record), content

    def save(self, directory: str | Path, extra: Mapping[str, Any] | None = None) -> Path:
        """Write ``policy.safetensors`` and ``policy.json`` into a directory (made where it is absent).

        The JSON names the sha256 of the tensors and is the commit point: the tensors are written beside the old ones,
        the JSON is replaced, then the tensors take their name. A process killed in between leaves the old policy or the
        new one, never a mixture (`load` knows the middle state). ``extra``: more JSON to keep with it.
        """
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        record, content = self.artifact(extra)
        write_bytes(folder / "policy.safetensors.new", content)
        write_bytes(folder / "policy.json", record)
        (folder / "policy.safetensors.new").replace(folder / "policy.safetensors")
        return folder

    @classmethod
    def load(cls, directory: str | Path) -> "FusionPolicy":
        """Read a saved policy. ``FileNotFoundError`` where there is none; ``ValueError`` naming the file and the fault
        where one is truncated, corrupt, of another save than the other, or of a newer format.
        """
        folder = Path(directory)
        path = folder / "policy.json"
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist; want a directory that FusionPolicy.save wrote")
        record = read_json(path)
        if record.get("format") != "pygrade.FusionPolicy" or record.get("format_version") not in (1, FORMAT_VERSION):
            raise ValueError(
                f"{path} is {record.get('format')!r} version {record.get('format_version')!r}; "
                f"this pygrade reads pygrade.FusionPolicy version 1 or {FORMAT_VERSION}"
            )
        try:
            known = {item.name for item in fields(PolicyConfig)}
            config = PolicyConfig(**{key: value for key, value in record["config"].items() if key in known})
            policy = cls(config, record["tasks"], record["features"])
            sha256, scenarios, schema = str(record["sha256"]), tuple(record["scenarios"]), record["schema_hash"]
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} lacks a field or has a wrong one: {error}") from error
        if policy.schema_hash() != schema:
            raise ValueError(
                f"{path} has schema_hash {schema}; its tasks, features and formula give {policy.schema_hash()}"
            )
        tensors = _committed_tensors(folder, sha256)
        policy.scenarios = scenarios
        policy.scenario_table = torch.zeros(len(scenarios), len(policy.tasks))
        try:
            policy.load_state_dict(tensors)
        except RuntimeError as error:
            raise ValueError(f"{folder / 'policy.safetensors'} does not fit {path}: {error}") from error
        return policy.eval()


def _committed_tensors(folder: Path, sha256: str) -> dict[str, Tensor]:
    """The tensors that the JSON names: under their name, or still under the temporary one of a killed save."""
    pending = folder / "policy.safetensors.new"
    if pending.is_file() and hashlib.sha256(pending.read_bytes()).hexdigest() == sha256:
        return read_safetensors(pending, sha256)
    path = folder / "policy.safetensors"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist; policy.json beside it names a tensor file of sha256 {sha256[:12]}"
        )
    return read_safetensors(path, sha256)
