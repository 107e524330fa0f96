"""The bookkeeping of a training: checkpoints to resume from, figures, sums for the summary.

A checkpoint is a directory ``<stage>-<step>`` with ``state.safetensors`` and ``state.json``, whole or absent: it is
written under a temporary name, synced and renamed. The sha256 in the JSON finds damage that happens later (a truncated
file, a flipped bit).
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from pygrade._util.files import atomic_directory
from pygrade._util.serialization import read_json, read_safetensors, to_json, to_safetensors, write_bytes
from pygrade.policy import FusionPolicy
from pygrade.training.policy_step import PolicyStep
from pygrade.training.tracking import Tracker

logger = logging.getLogger("pygrade")
STAGES = ("stage1", "stage2")
_KEPT = 2  # checkpoints
_RUNTIME = (
    "threads",
    "checkpoint_every",
    "heldout_every",
    "tensorboard",
    "cross_fit",
    "production",
    "guardrails",
    "sample_requests",
)  # options that do not change what is learned


@dataclass(frozen=True)
class Checkpoint:
    """One complete state of a training."""

    stage: str
    step: int  # steps done in this stage
    tensors: dict[str, Tensor]
    record: dict[str, Any]  # what else the run keeps: fingerprint, sums of its statistics


class CheckpointStore:
    """The checkpoints of one training, newest last; the two newest are kept."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def _names(self) -> list[Path]:
        """Complete checkpoints by (stage, step)."""
        names = []
        for path in self.directory.glob("*-*"):
            stage, _, step = path.name.rpartition("-")
            if stage in STAGES and step.isdigit():
                names.append((STAGES.index(stage), int(step), path))
        return [path for _, _, path in sorted(names)]

    def save(self, checkpoint: Checkpoint) -> Path:
        """Write one checkpoint; then drop all but the newest. ``OSError`` (a full disk) leaves the older ones."""
        target = self.directory / f"{checkpoint.stage}-{checkpoint.step:06d}"
        content = to_safetensors(checkpoint.tensors)
        record = {
            "stage": checkpoint.stage,
            "step": checkpoint.step,
            "sha256": hashlib.sha256(content).hexdigest(),
            "record": checkpoint.record,
        }
        with atomic_directory(target) as partial:
            (partial / "state.safetensors").write_bytes(content)
            (partial / "state.json").write_bytes(to_json(record))
        for old in self._names()[:-_KEPT]:
            shutil.rmtree(old, ignore_errors=True)
        return target

    def latest(self) -> Checkpoint | None:
        """The newest checkpoint that is whole; None if there is none. Damaged ones are logged and skipped."""
        for path in reversed(self._names()):
            try:
                record = read_json(path / "state.json")
                tensors = read_safetensors(path / "state.safetensors", str(record["sha256"]))
                return Checkpoint(str(record["stage"]), int(record["step"]), tensors, dict(record["record"]))
            except (OSError, ValueError, KeyError, TypeError) as error:
                logger.warning("checkpoint %s is damaged, taking the one before it: %s", path.name, error)
        return None

    def sweep(self, everything: bool) -> None:
        """Remove the unfinished files of killed processes, or every checkpoint, too."""
        for path in [*self.directory.glob(".*.partial-*"), *(self._names() if everything else ())]:
            shutil.rmtree(path, ignore_errors=True)


class Run:
    """The bookkeeping of one training in a directory; ``Run()`` keeps none (a stage on its own).

    A checkpoint is the state after a step: policy, Adam's moments, in stage 2 the reference, and the sums for the
    summary. Random numbers need no state: they are functions of the step. data: a fingerprint of what is learned from.
    """

    def __init__(
        self,
        directory: Path | None = None,
        config: Any = None,
        data: str | None = None,
        resume: bool = True,
        on_step: Callable[[str, int], None] | None = None,
    ) -> None:
        self._directory, self._on_step = directory, on_step
        self._sums: dict[str, dict[str, float]] = {stage: {} for stage in STAGES}
        self._checkpoint: Checkpoint | None = None
        self._store: CheckpointStore | None = None
        self._tracker: Tracker | None = None
        self.static_weights: Tensor | None = None  # of the checkpoint that was resumed
        self.heldout: Callable[[FusionPolicy], dict[str, float]] | None = None  # figures for the learning curves
        if directory is None or data is None:
            return
        self._every, self._heldout_every = int(config.checkpoint_every), int(config.heldout_every)
        self._options = _options(config)
        self._fingerprint = hashlib.sha256(to_json(self._options) + data.encode()).hexdigest()
        self._store = CheckpointStore(directory / "checkpoints")
        self._store.sweep(everything=not resume)
        self._checkpoint = self._store.latest()
        done: dict[str, int] = {}
        if self._checkpoint is not None:
            record = self._checkpoint.record
            if record["fingerprint"] != self._fingerprint:
                changed = _changes(record.get("options", {}), self._options)
                other = f"a run with other options: {changed}" if changed else "a run on other logs"
                raise ValueError(
                    f"{directory / 'checkpoints'} holds {other}; expected the same, another directory, or resume=False "
                    "(--no-resume)"
                )
            self._sums = record["sums"]
            self.static_weights = self._checkpoint.tensors["static_weights"]
            done = {self._checkpoint.stage: self._checkpoint.step}
            if self._checkpoint.stage == "stage2":
                done["stage1"] = int(config.stage1.steps)
        self._tracker = Tracker(directory, done, bool(config.tensorboard))

    @property
    def resumed_from(self) -> str | None:
        """Name of the checkpoint that was resumed."""
        return None if self._checkpoint is None else f"{self._checkpoint.stage}-{self._checkpoint.step:06d}"

    def begin(self, policy: FusionPolicy, static_weights: Tensor) -> None:
        """Before the first step: save the static weights, which took a search, in a checkpoint."""
        self.static_weights = static_weights.cpu()
        if self._checkpoint is None and self._store is not None:
            self._save("stage1", 0, policy, None, None)
            if self._tracker is not None and self.heldout is not None:
                self._tracker.log("stage1", 0, self.heldout(policy))

    def resume(self, stage: str, steps: int, policy: FusionPolicy, learner: PolicyStep) -> int:
        """Restore policy and learner from the checkpoint; returns the steps of this stage that are done.

        If the checkpoint is of a later stage, all of them: the policy is then the reference of stage 2.
        """
        at = self._checkpoint
        if at is None or STAGES.index(at.stage) < STAGES.index(stage):
            return 0
        passed = at.stage != stage
        prefix = "reference." if passed else "policy."
        policy.load_state_dict({n.removeprefix(prefix): v for n, v in at.tensors.items() if n.startswith(prefix)})
        if not passed:
            learner.load_state(at.tensors)
        return steps if passed else at.step

    def after(
        self,
        stage: str,
        step: int,
        steps: int,
        figures: dict[str, float],
        policy: FusionPolicy,
        learner: PolicyStep,
        reference: FusionPolicy | None = None,
    ) -> None:
        """After step ``step`` (from 1) of ``steps``: note its figures, and save a checkpoint if one is due."""
        _add(self._sums[stage], figures, step, steps)
        if self._tracker is not None:
            due = self.heldout is not None and (step % self._heldout_every == 0 or step == steps)
            shown = self.heldout(policy) if due and self.heldout is not None else {}
            self._tracker.log(stage, step, figures | shown)
        if self._store is not None and (step % self._every == 0 or step == steps):
            self._save(stage, step, policy, learner, reference)
        if self._on_step is not None:
            self._on_step(stage, step)

    def statistics(self, stage: str) -> dict[str, float]:
        """Means over the stage's steps, rewards also of its first and last fifth; largest ratio; last KL."""
        sums = self._sums[stage]
        return {
            name.removesuffix("/sum"): value / sums[name.removesuffix("/sum") + "/count"]
            if name.endswith("/sum")
            else value
            for name, value in sorted(sums.items())
            if not name.endswith("/count")
        }

    def write_summary(self, summary: dict[str, Any]) -> None:
        if self._directory is not None:
            write_bytes(self._directory / "train.json", (json.dumps(summary, indent=2) + "\n").encode())

    def close(self) -> None:
        if self._tracker is not None:
            self._tracker.close()

    def _save(
        self, stage: str, step: int, policy: FusionPolicy, learner: PolicyStep | None, reference: FusionPolicy | None
    ) -> None:
        assert self._store is not None and self.static_weights is not None
        tensors = {"static_weights": self.static_weights}
        tensors |= {f"policy.{name}": tensor for name, tensor in policy.state_dict().items()}
        if reference is not None:
            tensors |= {f"reference.{name}": tensor for name, tensor in reference.state_dict().items()}
        if learner is not None:  # moments and step counts of Adam, which a bit-exact resume needs
            tensors |= learner.state()
        record = {"fingerprint": self._fingerprint, "options": self._options}
        record["sums"] = self._sums
        self._store.save(Checkpoint(stage, step, tensors, record))


def _add(sums: dict[str, float], figures: dict[str, float], step: int, steps: int) -> None:
    """Fold the figures of a step into the sums of its stage."""
    window = "start" if step <= max(steps // 5, 1) else "end" if step > steps - max(steps // 5, 1) else None
    for name, value in figures.items():
        if name == "learning_rate":
            continue
        keys = [name] if window is None or not name.startswith("reward") else [name, f"{name}_{window}"]
        for key in keys:
            sums[f"{key}/sum"] = sums.get(f"{key}/sum", 0.0) + value
            sums[f"{key}/count"] = sums.get(f"{key}/count", 0.0) + 1.0
    if "ratio_max" in figures:
        sums["ratio_largest"] = max(sums.get("ratio_largest", 0.0), figures["ratio_max"])
    if "kl" in figures:
        sums["final_kl"] = figures["kl"]


def _options(config: Any) -> dict[str, Any]:
    """The options that decide what is learned, as JSON gives them back."""
    options = {name: value for name, value in asdict(config).items() if name not in _RUNTIME}
    return dict(json.loads(to_json(options)))


def _changes(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> str:
    """``--seed is 5, the run has 3; …``: the options that differ from those of a run."""
    parts = []
    for name in sorted(before.keys() | now.keys()):
        old, new = before.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            parts.append(_changes(old, new, f"{prefix}{name}."))
        elif old != new:
            flag = f"{prefix}{name}".replace("_", "-")
            parts.append(f"--{flag} is {json.dumps(new)}, the run has {json.dumps(old)}")
    return "; ".join(text for text in parts if text)
