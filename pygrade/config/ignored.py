"""Options that a command would ignore, as another option rules them out: errors, not silence."""

from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from pygrade.config.option import default_of
from pygrade.config.training import TrainConfig


def refuse(options: Any, names: Iterable[str], wanted: str, prefix: str = "") -> None:
    """``ValueError`` if one of the options is not at its default; ``wanted``: when it counts."""
    for field in fields(options):
        value = getattr(options, field.name)
        if field.name in names and value != default_of(field):
            raise ValueError(f"{prefix}{field.name} is {value}; expected it with {wanted} alone")


def refuse_in_training(config: TrainConfig, prefix: str = "") -> None:
    """Refuse ignored options of a training: those of a group that count only with another option."""
    correction = ("calibration", "policy", "prior")
    rules: tuple[tuple[Any, str, tuple[str, ...], str], ...] = (
        (config.policy.trade_offs, "reward", ("values_spread", "plain_share"), "policy.trade-offs"),
        (config.policy.evidence_prior, "policy", ("evidence_feature", "evidence_scale"), "policy.evidence-prior"),
        (config.policy.transform == "log1p", "policy", ("slope",), "policy.transform log1p"),
        (config.reward.prior_weight != 0.0, "reward", ("prior_calibration",), "reward.prior-weight above 0"),
        (config.grade, "correction", ("policy",), "grade"),
        *((config.grade, stage, (), "grade") for stage in ("stage1", "stage2")),  # all of its options
        (config.correction.enabled, "correction", correction, "correction.enabled"),
        (config.guardrails.limits, "guardrails", ("confidence", "current_policy"), "guardrails.limits"),
        (
            config.history.enabled,
            "history",
            ("exposure_delay_seconds", "feedback_delay_seconds", "half_life_seconds"),
            "history.enabled",
        ),
        (
            config.correction.enabled and config.cross_fit.folds,
            "history",
            ("enabled",),
            "correction.enabled and cross-fit.folds above 0",
        ),
        (config.cross_fit.folds, "correction", correction, "cross-fit.folds above 0"),  # nothing then accepts one
    )
    for counts, name, ignored, wanted in rules:
        if not counts:
            group = getattr(config, name)
            names = ignored or tuple(field.name for field in fields(group))
            refuse(group, names, f"--{prefix.replace('_', '-')}{wanted}", f"{prefix}{name}.")
