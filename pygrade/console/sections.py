"""Sections that the reports of training and pipeline share: verdict, held-out tables, data, options."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pygrade._util.serialization import to_builtins
from pygrade.console.html import Cell, Column, Html, Lead, Section, cards, escape, facts, folded, table
from pygrade.console.marks import Json, Scale, whisker
from pygrade.evaluation.arms import ALONE, GRADE, LOGGED_ORDER, SERVED, STAGE1
from pygrade.evaluation.replay import equal_metrics, judged_by, reinforcement_sentence
from pygrade.metrics.texts import TOO_FEW, bounds_text, lift_text, share_text, span_text, value_text

_FIRST_OPTIONS = 40  # characters of a value that is shown


def verdict_lead(verdict: Json | None, replay: Json | None, warnings: Sequence[str], text: str = "") -> Lead:
    """The verdict of the training on top, with what later requests show; the warnings, and the lifts of the arms that a
    reader asks for first.

    verdict: see `evaluation.verdict.stored_verdict`; None: that of the replay, if there is one.
    """
    loud = tuple(dict.fromkeys(warnings))
    boxes = _boxes(replay) if replay else ""
    found = verdict or (replay["verdict"] if replay else None)
    if not found:
        return Lead(text, warnings=loud, cards=boxes)
    lines = [found.get("detail", ""), *found.get("reasons", ()), replay["later"]["text"] if replay else ""]
    return Lead(text, found["sentence"], found["verdict"], tuple(filter(None, lines)), loud, boxes)


def judge_metric(replay: Json) -> str | None:
    """The first metric that can tell rankings apart: value, else NDCG."""
    return next((name for name in ("value", "ndcg") if name not in replay["cannot_differ"]), None)


def _boxes(replay: Json) -> str:
    metric = judge_metric(replay)
    if metric is None:
        return ""
    served, base = replay["later"]["served"], replay["baseline"]
    what = f"{'value' if metric == 'value' else 'NDCG'}@{replay['k']}"
    boxes = []
    for arm in dict.fromkeys((served, SERVED, GRADE, STAGE1, ALONE, LOGGED_ORDER)):
        entry = replay["lifts"].get(arm, {}).get(metric)
        if entry and entry["value"] is not None:
            reach = f"{what} over {base}, 95 %: {span_text(entry)}"
            boxes.append((arm, f"{100 * entry['value']:+.2f} %", reach, arm == served))
    return cards(boxes)


def key(*entries: tuple[str, str]) -> str:
    """What the colors of marks mean: pairs of a class (own, other, second) and a text."""
    return f'<div class="key">{" · ".join(f"<b class={kind}>●</b> {escape(text)}" for kind, text in entries)}</div>'


def prediction_section(replay: Json, title: str = "Predictions on held-out requests", text: str = "") -> Section:
    """AUC and GAUC by task, with intervals."""
    tasks = replay["predictions"]
    scale = Scale.of(
        [e[name] for e in tasks.values() for name in ("auc", "gauc") if share_text(e[name]) != TOO_FEW], 0.5
    )
    rows: list[list[Cell]] = []
    for task, entry in tasks.items():
        drawn = [entry[name] for name in ("auc", "gauc") if share_text(entry[name]) != TOO_FEW]
        rows.append(
            [
                task,
                f"{int(entry['events']):,}",
                f"{entry['rate']:.2%}",
                f"{entry['mean_prediction']:.2%}",
                share_text(entry["auc"], 3),
                share_text(entry["gauc"], 3),
                Html(whisker(scale, *drawn, strong=True, says=f"{task}: AUC {share_text(entry['auc'], 3)}")),
            ]
        )
    heads: list[Column | str] = [
        Column("task", "text"),
        "events",
        "rate",
        "predicted",
        "AUC",
        "GAUC",
        Column(Html(scale.axis), "mark"),
    ]
    size = f"{replay['num_requests']:,} requests of {replay['num_users']:,} users, ± 95 %. The line is chance."
    drawn_key = key(("own", "AUC"), ("second", "GAUC: within a user"))
    return Section(title, f"{text} {size}".strip(), table=drawn_key + table(heads, rows))


def replay_section(replay: Json, title: str = "Replay of held-out requests") -> Section:
    """Each ranking's NDCG and value, and its lift over the baseline, with intervals that all cover at once."""
    k, base, named = replay["k"], replay["baseline"], replay["later"]["served"]
    metrics = [("value", f"value@{k}"), ("ndcg", f"NDCG@{k}")]
    differing = [pair for pair in metrics if pair[0] not in replay["cannot_differ"]]
    scales = {name: Scale.of([e[name] for e in replay["lifts"].values()], percent=True) for name, _ in differing}
    heads: list[Column | str] = [Column("ranking", "text"), *(title for _, title in metrics)]
    for name, title_ in differing:
        heads += [f"{title_} lift", Column(Html(scales[name].axis), "mark")]
    rows: list[list[Cell]] = []
    for arm, entry in sorted(replay["rankers"].items(), key=lambda row: row[0] != base):
        lifts = replay["lifts"].get(arm)
        row: list[Cell] = [arm, *(value_text(entry[name]) for name, _ in metrics)]
        for name, _ in differing:
            drawn = whisker(scales[name], *([lifts[name]] if lifts else [{"value": 0.0}]), strong=arm == named)
            row += [lift_text(lifts[name] if lifts else None), Html(drawn)]
        rows.append(row)
    judged = escape(". ".join((judged_by(replay), *equal_metrics(replay))))
    text = (
        f"Each ranking re-orders the shown items of {replay['num_requests']:,} requests that trained nothing; what was "
        f"not shown can't be judged. Lifts are over {escape(base)}, ± two-sided 95 %, and all intervals cover at once. "
        f"{judged[0].upper()}{judged[1:]}. {escape(reinforcement_sentence(replay))}"
    )
    return Section(title, text.strip(), table=table(heads, rows, named))


def trust_section(trust: Json | None) -> list[Section]:
    """What cross-fitting found: mixtures and baselines against the strongest baseline."""
    lifts = {} if not trust else trust["mixtures"] | trust["baselines"]
    if not trust or not lifts:
        return []
    lifts = dict(sorted(lifts.items(), key=lambda row: -(row[1]["value"] or 0.0)))
    served = trust["served"]
    text = (
        f"Policies and baselines learned from all users but a fold's and re-ordered the logged pages of that fold "
        f"({trust['folds']} folds, {trust['users']:,} users; slot propensities: {trust['propensity']}). Lifts of the "
        f"debiased value over {trust['baseline']}; bounds are two-sided at 95 % and hold for all rows at once. A "
        f"mixture adds the standardized scores of its parts. Served: {served}."
    )
    scale = Scale.of(lifts.values(), percent=True)
    heads: list[Column | str] = [Column("ranking", "text"), "lift", Column(Html(scale.axis), "mark")]
    rows = [
        [name, bounds_text(entry), Html(whisker(scale, entry, strong=name == served))] for name, entry in lifts.items()
    ]
    return [Section("Cross-fitted value of the logged pages", escape(text), table=table(heads, rows, served))]


def options_section(options: Any, defaults: Any) -> list[Section]:
    """The options that differ from the defaults, and behind a line all of them."""
    chosen, usual = _flat(to_builtins(options)), _flat(to_builtins(defaults))
    changed = [(name, value) for name, value in chosen.items() if usual.get(name) != value]
    rows = [(name, Html(f"<b>{_shown(value)}</b> (default {_shown(usual.get(name))})")) for name, value in changed]
    text = f"{len(changed)} of {len(chosen)} differ from their defaults." if changed else "All have their defaults."
    every = folded(f"all {len(chosen)} options", facts([(name, Html(_shown(value))) for name, value in chosen.items()]))
    return [Section("Options", text, table=(facts(rows) if rows else "") + every)]


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
        return escape(", ".join(map(str, value)) or "none")
    if value is None or value == {} or value == "":
        return "none"
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:g}"
    return escape(str(value))
