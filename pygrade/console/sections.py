"""Sections that the reports of training, pipeline and evaluation share."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pygrade._util.html_table import Html, escape
from pygrade._util.serialization import to_builtins
from pygrade.console.html import Json, Lead, Section, card, facts, folded, notes, table
from pygrade.console.marks import interval_mark, reach_of
from pygrade.evaluation.policy_estimates import LIFT
from pygrade.evaluation.replay import equal_metrics, judged_by, reinforcement_sentence
from pygrade.metrics.texts import bounds_text, lift_text, share_text, value_text

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
    named = [(metric, f"{later['name']}: {title} over {base}") for metric, title in _metrics(replay)]
    reach = reach_of(lifts[metric] for metric, _ in named if metric in lifts)
    shown = [
        ("requests", f"{replay['num_requests']:,} {_REQUESTS[later['in_sample']]}"),
        ("users", f"{replay['num_users']:,}"),
        *([("policy", version)] if version else []),
        ("serves", later["serves"]),
    ]
    cards = [
        card(name, lifts.get(metric), reach, replay["cannot_differ"].get(metric, "this ranking is the baseline"))
        for metric, name in named
    ]
    said = _sentences(verdict or replay["verdict"], later["text"])
    return Lead(text, **said, warnings=[*warnings, *replay["warnings"]], facts=shown, cards=cards)


def _sentences(verdict: Json | None, later: str = "") -> dict[str, Any]:
    if not verdict:
        return {}
    lines = (verdict.get("detail", ""), *verdict.get("reasons", ()), later)
    return {"verdict": verdict["sentence"], "kind": verdict["verdict"], "beside": [line for line in lines if line]}


def _metrics(replay: Json) -> list[tuple[str, str]]:
    return [("value", f"value@{replay['k']}"), ("ndcg", f"NDCG@{replay['k']}")]


def replay_section(replay: Json, title: str = "Replay of all rankings") -> Section:
    """Each ranking's value and NDCG, and its lift over the baseline, with intervals that all cover at once."""
    base, metrics = replay["baseline"], _metrics(replay)
    differing = [metric for metric, _ in metrics if metric not in replay["cannot_differ"]]
    reaches = {metric: reach_of(entry[metric] for entry in replay["lifts"].values()) for metric in differing}
    head = ["ranking"]
    for metric, name in metrics:
        head += [name, *([f"{name} lift", "interval"] if metric in differing else [])]
    rows: list[list[str | Html]] = []
    for arm, entry in sorted(replay["rankers"].items(), key=lambda row: row[0] != base):
        lifts, row = replay["lifts"].get(arm), list[str | Html]([arm])
        for metric, _ in metrics:
            row.append(value_text(entry[metric]))
            if metric in differing:
                mark = interval_mark(lifts[metric], reaches[metric], f"{arm}, {metric}") if lifts else Html("")
                row += [lift_text(lifts[metric] if lifts else None), mark]
        rows.append(row)
    judged = ". ".join((judged_by(replay), *equal_metrics(replay)))
    text = (
        f"Each ranking re-orders the shown items of {replay['num_requests']:,} requests; what was not shown can't be "
        f"judged. Lifts are over {escape(base)}, ± two-sided 95 %, and all intervals cover at once. "
        f"{escape(judged[0].upper() + judged[1:])}. {escape(reinforcement_sentence(replay))}"
    )
    return Section(title, text.strip(), table(head, rows, strong=replay["later"]["served"]))


def prediction_section(replay: Json, title: str = "How well each task is predicted", text: str = "") -> Section:
    """AUC and GAUC by task, with intervals."""
    rows = [
        [
            task,
            f"{int(entry['events']):,}",
            f"{entry['rate']:.2%}",
            f"{entry['mean_prediction']:.2%}",
            share_text(entry["auc"], 3),
            share_text(entry["gauc"], 3),
        ]
        for task, entry in replay["predictions"].items()
    ]
    size = f"{replay['num_requests']:,} requests of {replay['num_users']:,} users, ± 95 %. GAUC: within a user."
    head = ["task", "events", "rate", "predicted", "AUC", "GAUC"]
    return Section(title, f"{text} {size}".strip(), table(head, rows))


def off_policy_section(estimates: Json, absent: str) -> Section:
    """What the policy would have earned; absent: why there is no estimate, if there is none."""
    warned: dict[str, list[str]] = {}
    for name, entry in estimates.items():
        if entry["warning"]:
            warned.setdefault(entry["warning"], []).append(name)
    rows = [
        [name, lift_text(entry) if name == LIFT else value_text(entry), f"{entry['effective_sample_size']:,.0f}"]
        for name, entry in estimates.items()
    ]
    text = f"Value of a request's page if the policy orders it, ± 95 %. {escape(absent[:1].upper() + absent[1:])}"
    below = notes([f"{', '.join(names)}: {warning}" for warning, names in warned.items()])
    shown = table(["estimate", "value", "effective sample"], rows) + below if rows else ""
    return Section("Off-policy estimate", text, shown)


def trust_section(trust: Json | None) -> list[Section]:
    """What cross-fitting found: mixtures and baselines against the strongest baseline."""
    lifts = {} if not trust else trust["mixtures"] | trust["baselines"]
    if not trust or not lifts:
        return []
    lifts = dict(sorted(lifts.items(), key=lambda row: -(row[1]["value"] or 0.0)))
    text = (
        f"Policies and baselines learned from all users but a fold's and re-ordered the logged pages of that fold "
        f"({trust['folds']} folds, {trust['users']:,} users; slot propensities: {trust['propensity']}). Lifts of the "
        f"debiased value over {trust['baseline']}; bounds are two-sided at 95 % and hold for all rows at once. A "
        f"mixture adds the standardized scores of its parts. Served: {trust['served']}."
    )
    reach = reach_of(lifts.values())
    rows = [[name, bounds_text(lift), interval_mark(lift, reach, name)] for name, lift in lifts.items()]
    shown = table(["ranking", "lift", "interval"], rows, strong=trust["served"])
    return [Section("Cross-fitted value of the logged pages", escape(text), shown)]


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
    return Section("Options", text, (facts(changed) if changed else "") + every)


def run_section(summary: Json) -> list[Section]:
    """The texts and numbers of a run's summary."""
    known = [
        (name.replace("_", " "), f"{value:,.4g}" if isinstance(value, float) else str(value))
        for name, value in summary.items()
        if isinstance(value, str | int | float)
    ]
    return [Section("The run", body=facts(known))] if known else []


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
