"""The profile in words and table cells, which the terminal and the page share."""

from collections.abc import Mapping, Sequence
from typing import Any

from pygrade._util.html_table import Table
from pygrade.console.charts import Chart, draw
from pygrade.console.html import Section
from pygrade.doctor.audit_words import audit_section
from pygrade.doctor.tasks import fits
from pygrade.metrics.texts import lift_text, rate_text, value_text
from pygrade.training.log_findings import rate_sentence

Profile = Mapping[str, Any]
Rows = Sequence[tuple[str, ...]]


TASK_TEXT = (
    "Over the shown rows, ± 95 % over users. Predicted / observed: 1 is calibrated; examined: the same with each "
    "prediction times its slot's propensity. ECE: mean distance of prediction and rate in 20 groups. Over the "
    "order: DCG of a page by prediction over that in the logged order; the slots' effect is allowed for if it is "
    "known. Without slots there is no logged order (n/a)."
)
_SUPPORTS = {
    "replay": "compare orders of what was shown",
    "value by position": "judge a ranking that no user has seen",
    "A/B test planning": "plan an A/B test",
}
FEW = 5_000  # requests below which a policy learns little beyond its prior
_FINE = 0.01  # lift in value that the users of a log find in a test
_KEEPS = ("training", "verdict", "")  # of findings


def support_sentences(profile: Profile) -> list[str]:
    """Sentences on the uses that the log supports, the least difference that it shows, and the worth of an event."""
    entries = {text: profile["estimates"][name] for name, text in _SUPPORTS.items()}
    can = [text for text, support in entries.items() if support["possible"]]
    sentences = [f"With this log you can {', '.join(can)}."] if can else []
    sentences += [
        f"You can not {text}: {support['why']}." for text, support in entries.items() if not support["possible"]
    ]
    sentences += [f"{half[0].upper()}{half[1:]}."] if (half := half_sentence(profile)) else []
    rate = rate_sentence(profile["worth"])
    told = not rate or any(rate in sentence for sentence in profile["sentences"])
    return sentences if told else [*sentences, f"{rate[0].upper()}{rate[1:]}."]


def last_lines(profile: Profile, command: str) -> list[str]:
    """Three lines: can one train, what limits it, the next command."""
    kinds = {keeps: [f"{kind}: {text}" for kind, text, use in profile["findings"] if use == keeps] for keeps in _KEEPS}
    slots, few = profile["propensity"], profile["size"]["requests"] < FEW
    unseen = f"nothing shows how often each slot is looked at, so no order that is new can be judged; {slots['needed']}"
    can = "yes"
    if kinds["training"]:
        can = f"not yet ({kinds['training'][0].rstrip('.')})"
    elif kinds["verdict"]:
        can = "yes, but nothing is proven until what limits it is mended"
    limits = [
        *kinds["verdict"],
        *([unseen] if slots["source"] == "none" else []),
        *([few_sentence(profile["size"]["requests"])] if few else []),
        *kinds[""],
        half_sentence(profile),
        "nothing that the log shows",
    ]
    limit = next(filter(None, limits)).rstrip(".")
    return [f"You can train: {can}.", f"What limits it: {limit}.", f"Next command: {command}"]


def few_sentence(requests: int) -> str:
    return f"{requests:,} requests: below {FEW:,} a policy learns little beyond the predictions"


def half_sentence(profile: Profile) -> str:
    """The least difference that the log shows; empty if it is unknown."""
    lift = profile["expected_value_over_order"]
    if lift["high"] is None or lift["low"] is None:
        return ""
    half = f"{50 * (lift['high'] - lift['low']):.2g} %"
    return f"a ranking must be worth about {half} more or less than another for this log to show it"


def size_sentence(profile: Profile) -> str:
    size = profile["size"]
    days = "" if size["days"] is None else f" on {size['days']:,} days"
    lengths = f"{size['candidates_per_request']:.3g} candidates and {size['shown_per_request']:.3g} shown items each"
    where = "unknown slots" if size["slots"] is None else f"{size['slots']} slots"
    return f"{size['requests']:,} requests of {size['users']:,} users{days}; {lengths}, in {where}."


def exploration_sentence(profile: Profile) -> str:
    explored, slots = profile["exploration"], profile["propensity"]
    shares = [f"{100 * explored['shares'][kind]:.3g} % {kind}" for kind in ("shuffle", "dirichlet")]
    told = ", ".join(shares) if explored["logged"] else "no exploration column"
    return (
        f"Explored: {told}. How often a slot is looked at: {'unknown' if slots['source'] == 'none' else slots['note']}."
    )


def user_sentence(profile: Profile) -> str:
    users = profile["users"]
    quantiles = ", ".join(f"{name}: {count:g}" for name, count in users["requests_per_user"].items())
    return (
        f"Requests per user by quantile: {quantiles}, largest {users['largest']:,}; "
        f"{100 * users['single_share']:.3g} % of the requests are their user's only one, "
        f"{100 * users['copied_share']:.2g} % repeat another user's. As evidence they are worth "
        f"{users['effective']:,.0f} users with equally many."
    )


def record_sections(record: Mapping[str, Any]) -> list[Section]:
    """The sections of a table's columns, if the record of `profile_page` has them, and of its profile."""
    audit = [audit_section(record["audit"])] if "audit" in record else []
    if not record.get("contract"):
        return [*audit, *profile_sections(record["profile"])]
    rows = [(name, column, what) for name, _, what, column in record["contract"]]
    left = sum(name == "left out" for name, *_ in rows)
    read = sum(column not in ("none", "missing") for _, column, _ in rows) - left
    guessed = ", ".join(record.get("guessed", ()))
    columns = Section(
        "What each column was taken for",
        tables=[Table(("", "column", ""), rows, texts=3)],
        notes=record.get("changed") or ["Nothing was changed."],
        line=f"{read} columns are read, {left} left out.{f' Guessed: {guessed}.' if guessed else ''}",
        light=_light(False, bool(guessed or record.get("warned"))),
    )
    return [columns, *audit, *profile_sections(record["profile"])]


def profile_sections(profile: Profile) -> list[Section]:
    """The figures of a profile, each with a light and a line on what they come to, for page and terminal."""
    estimates = [(name, "yes" if e["possible"] else "no", e["why"]) for name, e in profile["estimates"].items()]
    judgment = ("judgment", "possible", "what it says, or why not")
    task = ("task", "events", "rate or mean", "predicted", "pred. / obs.", "examined", "ECE", "AUC", "AUC in a page")
    worth = ("explored", "shuffled: exponent", "lift", "shuffling costs", "drawn: value", "draws cost")
    plan = ("metric", "per request", "users for 1 %", "with CUPED", "the log's users find")
    facts, faults, value = profile["tasks"].values(), profile["prediction_faults"], profile["plan"]["value"]
    turned = any(fact["constant"] or (fact["auc"]["high"] or 1.0) < 0.5 for fact in facts)
    examined = all(fact["examined_ratio"] is None or fits(fact["examined_ratio"]) for fact in facts)
    fit = "the events" if examined else "the events of a row as shown, its slot's propensity included"
    right = f"Each fits {fit}, and orders items better than chance."
    known, least = profile["propensity"]["source"] != "none", value["detectable_lift"]
    found = "The log has too few users, or too few days, to plan a test."
    if least is not None:
        found = f"A test of the log's users, as long as the log, finds a lift of {100 * least:.2g} % in value."
    replay, by_slot = (profile["estimates"][name]["possible"] for name in ("replay", "value by position"))
    few = profile["size"]["requests"] < FEW
    return [
        Section(
            "What this log can tell",
            " ".join(support_sentences(profile)),
            [Table(judgment, estimates, texts=3)],
            line=size_sentence(profile),
            light=_light(not replay, few or not by_slot),
        ),
        Section(
            "Predictions beside feedback",
            TASK_TEXT,
            [Table((*task, "over the order"), task_rows(profile))],
            more=draw(calibration_chart(profile)),
            line=" ".join(f"{fault[0].upper()}{fault[1:]}." for fault in faults) or right,
            light=_light(turned, bool(faults)),
        ),
        Section(
            "What exploration would buy",
            exploration_text(profile),
            [Table(worth, exploration_rows(profile))],
            line=exploration_sentence(profile),
            light=_light(False, not known),
        ),
        Section(
            "A/B test for 1 %",
            user_sentence(profile),
            [Table(plan, plan_rows(profile))],
            line=found,
            light=_light(least is None, least is not None and least > _FINE),
        ),
    ]


def _light(red: bool, yellow: bool) -> str:
    return "red" if red else "yellow" if yellow else "green"


def calibration_chart(profile: Profile) -> Chart:
    """Events of the shown rows in groups by prediction, in multiples of the mean prediction (examined, if known)."""
    lines = {}
    for task, fact in profile["tasks"].items():
        if fact["rate"] > 0 and fact["mean_prediction"] > 0:
            expected = fact["rate"] * (fact["examined_ratio"] or fact["ratio"])["value"]  # events
            groups = fact["groups"]
            across = [value / fact["mean_prediction"] for value in groups["predicted"]]
            lines[task] = across, [value / expected for value in groups["observed"]]
    most = max((x[-1] for x, _ in lines.values()), default=1.0)
    return Chart(
        "Do predictions come true?",
        "happened, times the mean prediction",
        lines | {"as predicted": ([0.0, most], [0.0, most])},
        points={name: (x[-1], y[-1]) for name, (x, y) in lines.items()},
        across="predicted, times the mean (pale line: exact)",
        faint="as predicted",
    )


def task_rows(profile: Profile) -> Rows:
    """A row for each task, and one for the order by expected value."""
    rows = [
        (
            task,
            f"{fact['events']:,}",
            rate_text(fact["rate"], fact["amount"]),
            rate_text(fact["mean_prediction"], fact["amount"]),
            value_text(fact["ratio"], 2),
            "n/a" if fact["examined_ratio"] is None else value_text(fact["examined_ratio"], 2),
            "n/a" if fact["ece"] is None else f"{fact['ece']:.4f}",
            value_text(fact["auc"]),
            value_text(fact["page_auc"]),
            lift_text(fact["over_order"], 1),
        )
        for task, fact in profile["tasks"].items()
    ]
    return [*rows, ("expected value", *[""] * 8, lift_text(profile["expected_value_over_order"], 1))]


def plan_rows(profile: Profile) -> Rows:
    """A row for each metric of an A/B test."""

    def or_unknown(value: float | None, form: str) -> str:
        return "n/a" if value is None else form.format(value)

    return [
        (
            name,
            value_text(metric["baseline"]),
            or_unknown(metric["users"], "{:,}"),
            or_unknown(metric["cuped_users"], "{:,}"),
            or_unknown(metric["detectable_lift"], "{:.2%}").replace("%", " %"),
        )
        for name, metric in profile["plan"].items()
    ]


def exploration_text(profile: Profile) -> str:
    worth = profile["exploration_precision"]
    exponent = "an assumed exponent" if worth["assumed"] else "the estimated exponent"
    shuffled = (
        f"± of the slots' exponent (now {exponent} of {worth['exponent']:.2f}), and ± of the lift of an order by "
        "expected value, estimated from all pages."
    )
    if profile["size"]["slots"] is None:
        shuffled = "of no use until the slots are logged."
    return (
        f"By share of the requests, for a log of this size. Shuffled pages: {shuffled} Drawn weights: ± of the value "
        "of a policy that moves a tenth of the weight. Cost: of the value of all requests."
    )


def exploration_rows(profile: Profile) -> Rows:
    """A row for each share of explored requests."""
    rows = []
    for row in profile["exploration_precision"]["rows"]:
        shuffled = ("n/a",) * 3
        if profile["size"]["slots"] is not None:
            lift = _wide(row["lift"], 100.0, " %")
            shuffled = (_wide(row["exponent"], 1.0, ""), lift, _percent(row["shuffled_cost"]))
        drawn = (_wide(row["value"], 100.0, " %"), _percent(row["drawn_cost"]))
        rows.append((f"{100 * row['share']:g} %", *shuffled, *drawn))
    return rows


def _wide(half: float | None, scale: float, unit: str) -> str:
    if half is None:
        return "too few"
    size = half * scale
    return f"± {f'{size:.0f}' if size >= 10 else f'{size:.2g}'}{unit}"


def _percent(share: float | None) -> str:
    return "n/a" if share is None else f"{100 * share:.2g} %"
