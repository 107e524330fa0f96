"""The report on the correction: fresh worlds, logs of noise, shops' tables, a real log; and what had to be reached."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bench.study.findings import NOT_RUN, StudyTarget, percent
from bench.study.settings import Regime, Settings
from bench.study.stats import Record, Results, over_worlds, wilson
from bench.study.tables import Row, Section, shown
from pygrade.metrics.intervals import Interval

SERVED, GATED, FREE = "served", "gated", "corrected"
CELLS = ("default", "hyped", "accurate", "orders only", "little history", "17 tasks")
_TREES = ("boosted-value", "boosted-rank")
_STATIC = ("static-linear", "static-zlinear", "static", "static-log1p")
_UNHARMED = -0.05  # per cent of expected value that no world may lose where nothing can be won
_AHEAD, _BEHIND, _WINNABLE = 0.3, -0.1, 0.3  # per cent
_COVERED, _FALSE, _SHARE = 0.9, 0.025, 85.0
Further = Mapping[str, Any]  # the records of bench.evidence, by name


def fresh_worlds(results: Results, settings: Settings, further: Further) -> Iterator[Section]:
    """The sections of the report; none if nothing of it ran."""
    regimes = [regime for regime in settings.regimes.values() if regime.fresh and results.has(regime.name, "ev", GATED)]
    if not regimes and not further:
        return
    if regimes:
        yield _lifts(results, settings, regimes)
    goals = [goal for goal in fresh_targets(results, settings, further) if goal.met is not None]
    rows = [[goal.name, goal.wanted, goal.measured, "met" if goal.met else "**missed**"] for goal in goals]
    if rows:
        yield Section("Targets on fresh worlds", "", (), ["target", "wanted", "measured", ""], rows)
    yield from _ceilings(results, settings, regimes)
    yield from _noise(further)
    yield from _shops(further)
    yield from _real(further)


def _lift(results: Results, regime: Regime, arm: str) -> Interval:
    return results.lift(regime.name, arm, "ev", regime.judge)


def _lifts(results: Results, settings: Settings, regimes: Sequence[Regime]) -> Section:
    arms = ("ev-calibrated", "grade", "grade-corrected", *_TREES, FREE, GATED, SERVED)
    rows: list[Row] = []
    for regime in regimes:
        found = results.lifts(regime.name, GATED, "ev", regime.judge)
        licensed = [record["figures"]["licensed"] > 0 for record in results.records(regime.name, GATED)]
        static = max((_lift(results, regime, arm) for arm in _STATIC), key=lambda lift: _or_lowest(lift.value))
        cells = [shown(_lift(results, regime, arm)) for arm in arms]
        served = results.lifts(regime.name, SERVED, "ev", regime.judge)
        worst = f"{min([*found.values(), *served.values()]):+.2f} %"
        where = [regime.group, f"{regime.requests:,}", str(len(found)), cells[0], shown(static)]
        rows.append([*where, *cells[1:], worst, f"{sum(licensed)} of {len(licensed)}"])
    titles = {name: settings.arms[name].title for name in arms}
    head = ["world", "logged requests", "worlds", titles["ev-calibrated"], "best static weights, the best form"]
    head += [*list(titles.values())[1:], "worst world, behind the gate or served", "licensed"]
    worlds = sorted({world for regime in regimes for world in results.worlds(regime.name, GATED)})
    text = (
        f"Worlds {worlds[0]} to {worlds[-1]}, which nothing was chosen on. Lifts over expected value of the same "
        "predictions, of value (of orders where only they count); ± over worlds, of which there are few."
    )
    return Section("The correction", text, ("correction",), head, rows)


def _or_lowest(value: float) -> float:
    return value if math.isfinite(value) else -math.inf


def _ceilings(results: Results, settings: Settings, regimes: Sequence[Regime]) -> Iterator[Section]:
    rows = []
    for regime in regimes:
        if not results.has(regime.name, "oracle-inputs", "ev"):
            continue
        sizes = [other for other in regimes if other.group == regime.group]
        ceiling = _lift(results, regime, "oracle-inputs")
        shares = []
        for other in sizes:
            arm = SERVED if results.has(other.name, SERVED) else GATED
            pairs = _pairs(results, other, arm, regime)
            share = over_worlds([100 * value / top for value, top in pairs])
            if pairs and ceiling.low > 0:
                shares.append(f"{other.requests:,}: {share.value:.0f} %")
        rows.append([regime.group, shown(_lift(results, regime, "oracle")), percent(ceiling), "; ".join(shares)])
    if not rows:
        return
    head = ["world", settings.arms["oracle"].title, settings.arms["oracle-inputs"].title, "share of it that is served"]
    text = (
        "Lifts over expected value: of the best personal weights of this fusion, and of the best ranking "
        "of the same inputs. Both are learned from 20,000 requests whose true probabilities are known."
    )
    yield Section("Ceilings", text, (), head, rows)


def _pairs(results: Results, regime: Regime, arm: str, other: Regime) -> list[tuple[float, float]]:
    """Lifts of an arm and of the oracle of inputs on the same worlds."""
    one = results.lifts(regime.name, arm, "ev", regime.judge)
    top = results.lifts(other.name, "oracle-inputs", "ev", other.judge)
    return [(one[world], top[world]) for world in one if world in top]


# ---- what had to be reached ------------------------------------------------------------------------------------------
def fresh_targets(results: Results, settings: Settings, further: Further) -> list[StudyTarget]:
    """The targets of the protocol on fresh worlds and on what `bench.evidence` ran."""
    return [
        *_served_targets(results, settings),
        _harmless(results, settings),
        *_prior_targets(results, settings),
        *(_against_trees(results, settings, rival) for rival in _TREES),
        *_noise_targets(further),
        *_shop_targets(further),
        *_real_targets(further),
    ]


def _regime(settings: Settings, group: str, requests: int) -> Regime:
    return next(r for r in settings.regimes.values() if r.group == group and r.requests == requests)


def _best_known(results: Results, regime: Regime) -> str:
    """Served by default, if that ran."""
    return SERVED if results.has(regime.name, SERVED, "ev") else GATED


def _served_targets(results: Results, settings: Settings) -> Iterator[StudyTarget]:
    wanted = {("default", 2000): 1.5, ("default", 5000): 2.4, ("default", 20000): 2.7}
    wanted |= {("hyped", 2000): 5.5, ("hyped", 5000): 6.5}
    for (group, requests), floor in wanted.items():
        regime = _regime(settings, group, requests)
        arm = _best_known(results, regime)
        name = f"{settings.arms[arm].title} over expected value, {group}, {requests:,} requests"
        if not results.has(regime.name, arm, "ev"):
            yield StudyTarget(name, f"≥ {floor:+g} %", NOT_RUN, None)
            continue
        lift = _lift(results, regime, arm)
        yield StudyTarget(name, f"≥ {floor:+g} %", percent(lift), lift.value >= floor)


def _harmless(results: Results, settings: Settings) -> StudyTarget:
    """Where predictions are accurate, also if they are bent."""
    name, wanted = "accurate, accurate and bent: served or behind the gate", f"no log below {_UNHARMED:g} %"
    lifts = {
        f"{regime.name}, world {world}": lift
        for regime in settings.regimes.values()
        if regime.group == "accurate" or (regime.group.startswith("accurate") and regime.bend)
        for arm in (GATED, SERVED)
        for world, lift in results.lifts(regime.name, arm, "ev").items()
    }
    if not lifts:
        return StudyTarget(name, wanted, NOT_RUN, None)
    worst = min(lifts, key=lambda key: lifts[key])
    below = sum(lift < _UNHARMED for lift in lifts.values())
    return StudyTarget(
        name, wanted, f"worst {lifts[worst]:+.2f} % ({worst}); {below} of {len(lifts)} below", below == 0
    )


def _prior_targets(results: Results, settings: Settings) -> Iterator[StudyTarget]:
    for requests, floor in ((500, 0.9), (2000, 2.7)):
        regime = _regime(settings, "prior of a related market", requests)
        name = f"behind the gate, prior of a related market, {requests:,} requests"
        lift = _lift(results, regime, GATED)
        known = math.isfinite(lift.value)
        yield StudyTarget(
            name, f"≥ {floor:+g} %", percent(lift) if known else NOT_RUN, lift.value >= floor if known else None
        )
    for requests in (500, 2000):
        regime = _regime(settings, "prior of an unrelated market", requests)
        without = _regime(settings, "no prior" if requests == 500 else "default", requests)
        name = f"behind the gate, prior of an unrelated market less none, {requests:,} requests"
        one = results.lifts(regime.name, GATED, "ev")
        other = results.lifts(without.name, GATED, "ev")
        differences = over_worlds([one[world] - other[world] for world in one if world in other])
        known = math.isfinite(differences.value)
        met = differences.value >= _BEHIND if known else None
        yield StudyTarget(name, f"≥ {_BEHIND:g} points", percent(differences) if known else NOT_RUN, met)


def _against_trees(results: Results, settings: Settings, rival: str) -> StudyTarget:
    """In the 18 cells: ahead wherever anything can be won, and behind nowhere."""
    title = settings.arms[rival].title
    name = f"served (behind the gate where that did not run) over {title}, 18 cells"
    wanted = f"≥ {_AHEAD:+g} % wherever anything can be won, ≥ {_BEHIND:g} % elsewhere"
    missed, worst, cells = [], math.inf, 0
    for group in CELLS:
        for requests in (2000, 5000, 20000):
            regime = _regime(settings, group, requests)
            arm = _best_known(results, regime)
            if not results.has(regime.name, arm, rival, "ev"):
                continue
            cells += 1
            lift = results.lift(regime.name, arm, rival, regime.judge).value
            worst = min(worst, lift)
            arms = [name for name in results.arms(regime.name) if name != "ev"]
            winnable = max(_or_lowest(_lift(results, regime, name).value) for name in arms) > _WINNABLE
            if lift < (_AHEAD if winnable else _BEHIND):
                missed.append(f"{group} {requests:,} {lift:+.2f} %")
    if not cells:
        return StudyTarget(name, wanted, NOT_RUN, None)
    text = f"{cells - len(missed)} of {cells}, worst {worst:+.2f} %" + (f"; not {', '.join(missed)}" if missed else "")
    return StudyTarget(name, wanted, text, not missed)


# ---- beside the worlds -----------------------------------------------------------------------------------------------
def _noise_counts(further: Further) -> Iterator[tuple[str, int, int, int, int]]:
    """Kind, logs, those called better, licensed, called undecidable."""
    for kind, found in further.get("noise", {}).get("noise", {}).items():
        records: list[Record] = list(found.values())
        better, none = (sum(r["verdict"] == verdict for r in records) for verdict in ("better", "undecidable"))
        yield kind, len(records), better, sum(r["licensed"] for r in records), none


def _noise(further: Further) -> Iterator[Section]:
    rows = [
        [kind, str(count), f"{better} [{wilson(better, count)}]", str(licensed), str(undecidable)]
        for kind, count, better, licensed, undecidable in _noise_counts(further)
    ]
    text = "Logs of 1,000 requests whose feedback nothing predicts, and what `train` says of them:"
    if rows:
        yield Section(
            "Noise", text, (), ["logs", "number", "*better*, Wilson 95 %", "licensed", "*not decidable*"], rows
        )


def _noise_targets(further: Further) -> Iterator[StudyTarget]:
    for kind, count, better, *_ in _noise_counts(further):
        share = f"{better} of {count}"
        yield StudyTarget(f"noise, {kind}: *better*", f"≤ {100 * _FALSE:g} %", share, better <= _FALSE * count)


def _shops_by_effect(further: Further) -> dict[str, list[Record]]:
    table: dict[str, list[Record]] = {}
    for entry in further.get("shops", {}).get("shops", ()):
        table.setdefault(entry["effect"], []).append(entry)
    return table


def _covers(entry: Record, true: str = "true") -> bool:
    """Whether the bounds of the verdict hold the true lift: of whole pages, or ``within`` the logged ones."""
    return entry["bounds"] is not None and entry["bounds"][0] <= entry[true] <= entry["bounds"][2]


def _shops(further: Further) -> Iterator[Section]:
    rows = []
    for effect, entries in _shops_by_effect(further).items():
        for entry in sorted(entries, key=lambda e: int(e["seed"])):
            low, value, high = entry["bounds"] or (math.nan,) * 3
            said = f"{value:+.2f} ({low:+.2f} to {high:+.2f})" if entry["bounds"] else ""
            figures = [f"{entry['oracle']:+.2f} %", f"{entry['served']:+.2f} %", f"{entry['share']:.0f} %"]
            cells = [f"{entry[name]:+.2f} %" for name in ("true", "within")]
            covered = " / ".join("yes" if _covers(entry, name) else "no" for name in ("true", "within"))
            rows.append([effect, str(entry["seed"]), *figures, said, entry["over"], *cells, covered])
    text = (
        "With a planted effect, text, missing values and prices; 20,000 requests to learn from, true value of 10,000 "
        "later ones over expected value:"
    )
    head = ["effect", "seed", "oracle", "served", "share", "`train` said, per cent", "over", "true over that"]
    head += ["true, logged pages re-ordered", "bounds cover the first / the second"]
    if rows:
        yield Section("Raw tables of a shop", text, (), head, rows)


def _shop_targets(further: Further) -> Iterator[StudyTarget]:
    shops = _shops_by_effect(further)
    for effect, entries in shops.items():
        share = sum(entry["share"] for entry in entries) / len(entries)
        text = f"{share:.0f} % (lowest {min(entry['share'] for entry in entries):.0f} %)"
        yield StudyTarget(f"shop, {effect}: share of the oracle's gain", f"≥ {_SHARE:g} %", text, share >= _SHARE)
    every = [entry for entries in shops.values() for entry in entries]
    if every:
        covered, within = (sum(_covers(entry, name) for entry in every) for name in ("true", "within"))
        met = covered >= _COVERED * len(every)
        text = f"{covered} of {len(every)}; {within} of the logged pages, which are what replay sees"
        yield StudyTarget("shops: bounds that cover the truth", f"≥ {100 * _COVERED:g} %", text, met)


def _real(further: Further) -> Iterator[Section]:
    lists = further.get("kuairand", {}).get("lists", ())
    if not lists:
        return
    rows = [
        [name, *(_bounds(entry["lifts"][name]) for entry in lists)]
        for name in lists[0]["lifts"]
        if name != "expected value"
    ]
    heads = [f"{e['days']}-day lists" for e in lists]
    sizes = "; ".join(
        f"{head}: {e['lists'][0]:,} to learn from, {e['lists'][1]:,} to judge ({e['rows'][1]:,} videos), a perfect "
        f"order {e['perfect']:+.0f} %"
        for head, e in zip(heads, lists, strict=True)
    )
    text = (
        "Discounted value of the first ten over expected value, per cent, with 95 % intervals clustered by user. Of "
        f"{sizes}."
    )
    yield Section("KuaiRand-Pure, a real log", text, (), ["arm", *heads], rows)


def _bounds(lift: Sequence[float]) -> str:
    value, low, high = lift
    return f"{value:+.2f} ({low:+.2f} to {high:+.2f})"


def _real_targets(further: Further) -> Iterator[StudyTarget]:
    for entry in further.get("kuairand", {}).get("lists", ()):
        lift = entry["lifts"]["served by default"]
        name = f"KuaiRand-Pure, {entry['days']}-day lists: served over expected value"
        yield StudyTarget(name, "interval not below 0", f"{_bounds(lift)} %", lift[2] >= 0)
