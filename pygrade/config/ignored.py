"""Options that a command would ignore, as another option rules them out: errors, not silence."""

from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from pygrade.config.guardrails import GuardrailConfig
from pygrade.config.option import default_of
from pygrade.config.training import TrainConfig


def refuse(options: Any, names: Iterable[str], wanted: str, prefix: str = "") -> None:
    """``ValueError`` if one of the options is not at its default; ``wanted``: when it counts."""
    for field in fields(options):
        value = getattr(options, field.name)
        if field.name in names and value != default_of(field):
            raise ValueError(f"{prefix}{field.name} is {value}; want it with {wanted} alone")


def refuse_in_training(config: TrainConfig, prefix: str = "") -> None:
    """Refuse ignored options of a training."""
    policy, flag = config.policy, "--" + prefix.replace("_", "-")
    if not policy.trade_offs:
        spread = ("values_spread", "plain_share")
        refuse(config.reward, spread, f"{flag}policy.trade-offs", f"{prefix}reward.")
    if not policy.evidence_prior:
        evidence = ("evidence_feature", "evidence_scale")
        refuse(policy, evidence, f"{flag}policy.evidence-prior", f"{prefix}policy.")
    if policy.transform != "log1p":
        refuse(policy, ("slope",), f"{flag}policy.transform log1p", f"{prefix}policy.")
    if config.reward.prior_weight == 0.0:
        refuse(config.reward, ("prior_calibration",), f"a {flag}reward.prior-weight", f"{prefix}reward.")
    if config.grade == "off":
        refuse(config.correction, ("policy",), f"{flag}grade on", f"{prefix}correction.")
        for name, stage in (("stage1", config.stage1), ("stage2", config.stage2)):
            refuse(stage, [field.name for field in fields(stage)], f"{flag}grade on", f"{prefix}{name}.")
    if not config.correction.on:
        refuse(config.correction, ("maps", "policy", "prior"), f"{flag}correction.on", f"{prefix}correction.")
    refuse_in_guardrails(config.guardrails, prefix)
    if not config.trust.folds:  # nothing then licenses a correction
        refuse(config.correction, ("maps", "policy", "prior"), f"{flag}trust.folds above 0", f"{prefix}correction.")


def refuse_in_guardrails(config: GuardrailConfig, prefix: str = "") -> None:
    """Refuse ignored options of limits."""
    if not config.limits:
        flag = "--" + prefix.replace("_", "-")
        refuse(config, ("confidence", "in_use"), f"{flag}guardrails.limits", f"{prefix}guardrails.")
