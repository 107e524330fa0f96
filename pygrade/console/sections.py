"""Sections that the reports of training, pipeline and evaluation share."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pygrade._util.html_table import Table
from pygrade._util.serialization import to_builtins
from pygrade.console import tables
from pygrade.console.html import Json, Lead, Section, card, facts, folded
from pygrade.console.marks import reach_of
from pygrade.evaluation.replay import equal_metrics, evaluation_rule, metric_titles, reinforcement_sentence
from pygrade.evaluation.verdict import arm_name, lines_of, plain_name
from pygrade.policy.guardrails import LimitState

_WHOSE = {True: "in-sample", False: "later requests", None: "these requests"}
_REQUESTS = {True: "of the training", False: "held out", None: "of the log"}


def verdict_lead(
    verdict: Json | None, replay: Json | None, warnings: Sequence[str] = (), version: str = "", text: str = ""
) -> Lead:
    """The verdict of the training, what the requests show of the policy, the warnings, and the lifts that a reader asks
    for first.

    verdict: see `evaluation.verdict.stored_verdict`; None: that of the replay, if there is one.
    """
    if replay is None:
        return Lead(text, **_sentences(verdict), warnings=warnings)
    later, base = replay["later"], replay["baseline"]
    lifts = replay["lifts"].get(later["name"], {})
    own, base = arm_name(later["name"], later["name"]), plain_name(base)
    whose = f"{_WHOSE[later['in_sample']]}: {own}{'' if later['served'] == later['name'] else ', not served'}"
    named = {metric: f"{whose}, {title} over {base}" for metric, title in metric_titles(replay["k"]).items()}
    reach = reach_of(lifts[metric] for metric in named if metric in lifts)
    shown = [
        ("requests", f"{replay['num_requests']:,} {_REQUESTS[later['in_sample']]}"),
        ("users", f"{replay['num_users']:,}"),
        *([("policy", version)] if version else []),
        ("serves", later["serves"]),
    ]
    cards = [
        card(name, lifts.get(metric), reach, replay["cannot_differ"].get(metric, "this ranking is the baseline"))
        for metric, name in named.items()
    ]
    verdict = verdict or replay["verdict"]
    if (lift := verdict.get("lift")) and verdict.get("control"):
        name = f"all requests, cross-fitted: value over {plain_name(verdict['control'])}"
        cards.insert(0, card(name, lift, reach_of([lift])))
    sentences = _sentences(verdict, later["text"])
    return Lead(text, **sentences, warnings=[*warnings, *replay["warnings"]], facts=shown, cards=cards)


def _sentences(verdict: Json | None, later: str = "") -> dict[str, Any]:
    if not verdict:
        return {}
    return {"verdict": verdict["sentence"], "kind": verdict["verdict"], "beside": lines_of(verdict, later)}


def replay_section(replay: Json) -> Section:
    """Each ranking's value and NDCG, and its lift over the baseline, with intervals that all cover at once."""
    text = (
        f"Each ranking re-orders the shown items of {replay['num_requests']:,} requests; what was not shown can't be "
        f"judged. Lifts are over {replay['baseline']}, ± two-sided 95 %, and all intervals cover at once. Served: "
        f"{replay['later']['serves']}; {'. '.join((evaluation_rule(replay), *equal_metrics(replay)))}. "
        f"{reinforcement_sentence(replay)}"
    )
    return Section("Replay of all rankings", text.strip(), [tables.replay_table(replay)])


def prediction_section(replay: Json, title: str = "How well each task is predicted", text: str = "") -> Section:
    """AUC and GAUC by task, with intervals."""
    size = f"{replay['num_requests']:,} requests of {replay['num_users']:,} users, ± 95 %. GAUC: within a user."
    if replay.get("propensity"):
        size += (
            " Predicted × examined: each prediction times its slot's propensity; of good predictions it is the rate."
        )
    return Section(title, f"{text} {size}".strip(), [tables.prediction_table(replay)])


def off_policy_section(estimates: Json, absent: str) -> Section:
    """The off-policy estimate of the policy's value; absent: the reason, if there is none."""
    shown, warnings = tables.off_policy_table(estimates)
    text = f"Value of a request's page if the policy orders it, ± 95 %. {absent[:1].upper() + absent[1:]}"
    return Section("Off-policy estimate", text, [shown] if shown.rows else [], warnings)


def cross_fit_section(record: Json | None) -> list[Section]:
    """Results of cross-fitting: mixtures and baselines against the strongest baseline."""
    lifts, tried = tables.cross_fit_table(record), tables.tried_table(record)
    text = "Standard errors of held-out likelihood over what is served without it, plain, weighted by value, and of "
    text += "the value given the page; the same on later requests. The first that passes is served."
    corrections = [Section("Corrections that were tried", text, [tried])] if tried.rows else []
    if not record or not lifts.rows:
        return corrections
    text = (
        f"Policies and baselines learned from all users but a fold's and re-ordered the logged pages of that fold "
        f"({record['folds']} folds, {record['users']:,} users; slot propensities: {record['propensity']}). Lifts of "
        f"the debiased value over {record['baseline']}; bounds are two-sided at 95 % and hold for all rows at once. A "
        f"mixture adds the standardized scores of its parts. Served: {record['served']}."
    )
    return [Section("Cross-fitted value of the logged pages", text, [lifts]), *corrections]


def brief_section(record: Json | None) -> list[Section]:
    """Lifts of the new ranking, of what the shop has and of simple rankings, on users who trained nothing."""
    lifts = tables.cross_fit_table(record, brief=True)
    if not record or not lifts.rows:
        return []
    base = plain_name(record["baseline"])
    text = f"Lift of the value over {base}, cross-fitted by user; bounds at 95 % for all at once."
    return [Section("What the logged pages would have earned", text, [lifts])]


def guardrail_section(guardrails: Json) -> Section:
    """Limits, their estimates and bounds, of `Guardrails.to_dict`."""
    states = [LimitState(**state) for state in guardrails["states"]]
    rows = [[state.limit, f"{state.value:.4g}", f"{state.bound:.4g}", state.word] for state in states]
    text = (
        f"On {guardrails['num_requests']:,} requests that trained nothing; all bounds hold at once with "
        f"{guardrails['confidence']:.0%}."
    )
    return Section("Limits of what is served", text, [Table(["limit", "estimate", "bound", ""], rows)])


def options_section(options: Any, defaults: Any) -> Section:
    """The options that differ from the defaults, and behind a line all of them."""
    chosen, usual = _flat(to_builtins(options)), _flat(to_builtins(defaults))
    changed = [
        (name, f"{_shown(value)} (default {_shown(usual.get(name))})")
        for name, value in chosen.items()
        if usual.get(name) != value
    ]
    text = f"{len(changed)} of {len(chosen)} differ from their defaults." if changed else "All have their defaults."
    every = folded(f"all {len(chosen)} options", facts([(name, _shown(value)) for name, value in chosen.items()]))
    return Section("Options", text, more=(facts(changed) if changed else "") + every)


def run_section(summary: Json) -> list[Section]:
    """The texts and numbers of a run's summary."""
    facts_of_run = [
        (name.replace("_", " "), f"{value:,.4g}" if isinstance(value, float) else str(value))
        for name, value in summary.items()
        if isinstance(value, str | int | float)
    ]
    return [Section("The run", more=facts(facts_of_run))] if facts_of_run else []


def _flat(record: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"a": {"b": 1}}`` as ``{"a.b": 1}``."""
    flat: dict[str, Any] = {}
    for name, value in record.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if value is None or value == {} or value == "":
        return "none"
    return f"{value:g}" if isinstance(value, float) and math.isfinite(value) else str(value)
