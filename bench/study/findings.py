"""Verdicts on claims, and whether targets were met, by rules that the protocol states before the runs.

`claims.json` lists the claims: each is a set of differences with intervals and an expected sign. *Reproduced*: all
intervals are wholly on the expected side of 0. *Not reproduced*: none is. *Depends*: some are; the text says which.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.study.settings import Regime, Settings
from bench.study.stats import Record, Results, production_lift, sign
from pygrade.metrics.intervals import Interval
from pygrade.metrics.texts import lift_text

REPRODUCED, NOT_REPRODUCED, NOT_RUN = "reproduced", "not reproduced", "not run"
CONFIRMED, NOT_CONFIRMED = "confirmed", "not confirmed"
CONSTRAINED = {"constraint-100": 0.0, "constraint-102": 2.0, "constraint-104": 4.0}  # arm → carts over production, %
SERVED = "trust"  # the arm that is the product's default
RIVALS = {"boosted-value": "boosted trees, value", "boosted-rank": "boosted trees, LambdaMART"}
NO_HARM = -0.1  # per cent of the baseline that what is served may lose in any world
MAX_REGRESSION = 2.0  # per cent of stage 1's value that an online version may lose, as in settings.json
_RARE, _OTHERS = "rarest tenth of users", "other users"
_UNSTARTED = ("no-stage1", "ppo-no-stage1")  # arms of the stability part


@dataclass(frozen=True)
class Difference:
    """A measured difference and its expected sign, +1 or -1."""

    text: str
    interval: Interval
    side: int = 1

    @property
    def holds(self) -> bool:
        return sign(self.interval) == self.side

    def __str__(self) -> str:
        return f"{self.text}: {percent(self.interval)}"


@dataclass(frozen=True)
class Finding:
    """A claim, the measured differences, and the verdict."""

    claim: str
    source: str  # "paper" or "ours"
    measured: tuple[str, ...]
    verdict: str


@dataclass(frozen=True)
class StudyTarget:
    """A number that the study was to reach."""

    name: str
    wanted: str
    measured: str
    met: bool | None  # None: not run


def percent(interval: Interval) -> str:
    """``+1.20 ± 0.30 %``; from a single world without the interval."""
    return lift_text(interval, scale=1.0)


def verdict(differences: Sequence[Difference], source: str) -> str:
    """The verdict on a claim of the paper or of ours."""
    yes, no = (REPRODUCED, NOT_REPRODUCED) if source == "paper" else (CONFIRMED, NOT_CONFIRMED)
    if not differences:
        return NOT_RUN
    good = [difference.text for difference in differences if difference.holds]
    if not good:
        return no
    return yes if len(good) == len(differences) else "depends: holds for " + ", ".join(good)


def findings(results: Results) -> list[Finding]:
    """All claims in the order of `claims.json`. Parts that did not run count as not run."""
    claims = json.loads(Path(__file__).with_name("claims.json").read_text(encoding="utf-8"))
    return [_RULES[claim.pop("rule", "differences")](results, **claim) for claim in claims]


def _differences(results: Results, claim: str, source: str, differences: list[list[str]], side: int = 1) -> Finding:
    """A claim on differences: text, regime, arm, baseline, and metric and kind if not the value."""
    measured = [
        Difference(text, results.lift(regime, arm, base, *metric), side)
        for text, regime, arm, base, *metric in differences
        if results.has(regime, arm, base)
    ]
    return Finding(claim, source, tuple(map(str, measured)), verdict(measured, source))


def collapses(results: Results, arm: str) -> tuple[int, int]:
    """Trainings of the stability part: those whose policy ends below production, and all."""
    lifts = [production_lift(record) for record in results.records("stability", arm)]
    return sum(not lift >= 0 for lift in lifts), len(lifts)


def _stability(results: Results) -> Finding:
    claim = "Learning is stable: no collapse, and less spread over seeds than PPO with a critic (both without stage 1)"
    if not results.has("stability", *_UNSTARTED):
        return Finding(claim, "paper", (), NOT_RUN)
    spread, rival_spread = (results.spread("stability", arm) for arm in _UNSTARTED)
    (lost, count), (rival_lost, rival_count) = (collapses(results, arm) for arm in _UNSTARTED)
    measured = (
        f"sd over seeds {spread:.2f} points against {rival_spread:.2f}",
        f"collapses {lost} of {count} against {rival_lost} of {rival_count}",
    )
    if lost == 0:
        result = REPRODUCED if spread < rival_spread else "depends: no collapse, but not less spread"
    else:
        result = "depends: less spread, but collapses" if spread < rival_spread else NOT_REPRODUCED
    return Finding(claim, "paper", measured, result)


def _hacking(results: Results, regime: str, where: str) -> Finding:
    """Hacking: without the posterior, predicted value rises over stage 1 while true value falls."""
    claim = f"The composite reward prevents reward hacking, in {where}"
    if not results.has(regime, "grade", "no-posterior", "stage1"):
        return Finding(claim, "paper", (), NOT_RUN)
    predicted = results.lift(regime, "no-posterior", "stage1", "predicted")
    true = results.lift(regime, "no-posterior", "stage1")
    composite = results.lift(regime, "grade", "stage1")
    measured = (
        f"prior only over stage 1: predicted value {percent(predicted)}, true value {percent(true)}",
        f"composite over stage 1: true value {percent(composite)}",
    )
    if not (sign(predicted) > 0 and sign(true) < 0):
        result = "nothing to prevent: prior only is not hacked here"
    else:
        result = NOT_REPRODUCED if sign(composite) < 0 else REPRODUCED
    return Finding(claim, "paper", measured, result)


def _format(results: Results) -> Finding:
    claim = "Weights satisfy the bounds in every request, at no cost in value"
    if not results.has("main", "grade", "no-format"):
        return Finding(claim, "paper", (), NOT_RUN)
    served, before = (_compliant(results, key, "grade") for key in ("served", "before"))
    cost = results.mean("main", "grade", projection_cost)
    measured = (
        f"served {served:.1f} %",
        f"before the projection {before:.1f} %, without the format reward "
        f"{_compliant(results, 'before', 'no-format'):.1f} %",
        f"value with over without the projection {percent(cost)}",
    )
    good = served == 100 and sign(cost) >= 0
    return Finding(claim, "paper", measured, REPRODUCED if good else NOT_REPRODUCED)


def _compliant(results: Results, key: str, arm: str) -> float:
    """Per cent of the requests whose weights are within the bounds, as served or before the projection."""
    return 100 * results.mean("main", arm, lambda record: record["compliance"][key]).value


def projection_cost(record: Record) -> float:
    """Value with the projection over value without it, in per cent."""
    return float(100 * (record["expected"]["value"] / record["compliance"]["value_before"] - 1))


def _rare(results: Results) -> Finding:
    """A limit that the paper states."""
    claim = "Rare and new users gain less"
    if not results.has("main", "grade", "static"):
        return Finding(claim, "paper", (), NOT_RUN)
    rare, others = (results.lift("main", "grade", "static", name, "slices") for name in (_RARE, _OTHERS))
    measured = [f"rarest tenth {percent(rare)}, others {percent(others)} over best static"]
    if results.has("cold", "grade", "static"):
        measured.append(f"a world with little history {percent(results.lift('cold', 'grade', 'static'))}")
    difference = Difference("difference", results.lift_difference("main", "grade", "static", _RARE, _OTHERS), -1)
    return Finding(claim, "paper", (*measured, str(difference)), verdict([difference], "paper"))


_RULES: dict[str, Callable[..., Finding]] = {
    "differences": _differences,
    "stability": _stability,
    "hacking": _hacking,
    "format": _format,
    "rare": _rare,
}


def over_chosen(results: Results, regime: str) -> dict[int, float]:
    """World → lift of what is served over the baseline that its log chose, in per cent, by the regime's judge."""
    return {
        world: results.number(regime, SERVED, world, lambda record: record["figures"]["over_baseline"])
        for world in results.worlds(regime, SERVED)
    }


def targets(results: Results, settings: Settings) -> list[StudyTarget]:
    """The targets, on worlds that no choice was based on."""
    sized = [regime for regimes in settings.families.values() for regime in regimes]
    served = [regime for regime in sized if results.has(regime.name, SERVED, "ev")]
    return [
        _harmless(results, served, "the baseline that the log chose"),
        _harmless(results, served, "expected value", "ev"),
        *(goal.judge(results) for goal in _SERVED_GOALS),
        *(_ahead(results, served, rival) for rival in RIVALS),
        *(goal.judge(results) for goal in _GOALS),
    ]


def _harmless(results: Results, served: Sequence[Regime], name: str, base: str = "") -> StudyTarget:
    """What is served, in every world."""
    lifts: dict[tuple[str, int], float] = {}
    for regime in served:
        over = results.lifts(regime.name, SERVED, base, regime.judge) if base else over_chosen(results, regime.name)
        lifts |= {(regime.name, world): lift for world, lift in over.items()}
    name, wanted = f"served over {name}", f"≥ {NO_HARM:g} % in every world, regime and size"
    if not lifts:
        return StudyTarget(name, wanted, NOT_RUN, None)
    below = sum(lift < NO_HARM for lift in lifts.values())
    (where, world), lift = min(lifts.items(), key=lambda item: item[1])
    text = f"worst {lift:+.2f} % ({where}, world {world}); {below} of {len(lifts)} below"
    return StudyTarget(name, wanted, text, not below)


def _ahead(results: Results, served: Sequence[Regime], rival: str) -> StudyTarget:
    """What is served over a rival, in every regime up to 20,000 requests."""
    name, wanted = f"served over {RIVALS[rival]}", "mean lift above 0 in every regime up to 20,000 requests"
    lifts = {
        regime.name: results.lift(regime.name, SERVED, rival, regime.judge)
        for regime in served
        if regime.requests <= 20000 and results.has(regime.name, rival)
    }
    if not any(results.has(regime.name, rival) for regime in served):
        return StudyTarget(name, wanted, NOT_RUN, None)
    lost = [f"{regime} {percent(lift)}" for regime, lift in lifts.items() if not lift.value > 0]
    text = f"{len(lifts) - len(lost)} of {len(lifts)}" + (f"; not in {', '.join(lost)}" if lost else "")
    return StudyTarget(name, wanted, text, not lost)


@dataclass(frozen=True)
class _Goal:
    """A target of one regime; the measure says what was found, and whether that suffices."""

    name: str
    wanted: str
    regime: str
    arms: Sequence[str]
    measure: Callable[[Results], tuple[str, bool]]

    def judge(self, results: Results) -> StudyTarget:
        measured, met = self.measure(results) if results.has(self.regime, *self.arms) else (NOT_RUN, None)
        return StudyTarget(self.name, self.wanted, measured, met)


_ABOVE, _NOT_BELOW = "interval above 0", "not below 0"


def _lift(name: str, regime: str, arm: str, base: str, wanted: float | str, *metric: str) -> _Goal:
    """A lift of at least a number, or with an interval above 0 or not below it."""

    def measure(results: Results) -> tuple[str, bool]:
        interval = results.lift(regime, arm, base, *metric)
        enough = sign(interval) >= (wanted == _ABOVE) if isinstance(wanted, str) else interval.value >= wanted
        return percent(interval), enough

    return _Goal(name, wanted if isinstance(wanted, str) else f"≥ {wanted:+g} %", regime, (arm, base), measure)


def _share(name: str, regime: str, arm: str, base: str, best: str, floor: float) -> _Goal:
    """A share of the best arm's gain."""

    def measure(results: Results) -> tuple[str, bool]:
        interval = results.share(regime, arm, base, best)
        return percent(interval).removeprefix("+"), interval.value >= floor

    return _Goal(name, f"≥ {floor:g} %", regime, (arm, base, best), measure)


def _spread(results: Results) -> tuple[str, bool]:
    ours, rival = (results.spread("stability", arm) for arm in _UNSTARTED)
    return f"{ours:.2f} against {rival:.2f}", ours <= rival / 3


def _collapsed(results: Results) -> tuple[str, bool]:
    lost, count = collapses(results, "no-stage1")
    return f"{lost} of {count}", lost == 0 and count >= 50


def _compliance(results: Results) -> tuple[str, bool]:
    served, cost = _compliant(results, "served", "grade"), results.mean("main", "grade", projection_cost)
    return f"{served:.1f} %, value {percent(cost)}", served == 100 and sign(cost) >= 0


def _online(results: Results) -> tuple[str, bool]:
    figures = [record["figures"] for record in results.records("drift", "online")]
    worst, back = min(entry["worst"] for entry in figures), sum(entry["rolled_back"] for entry in figures)
    return f"{worst:+.2f} %, {back:.0f} roll-backs", worst >= -MAX_REGRESSION


def _covered(method: str) -> _Goal:
    def measure(results: Results) -> tuple[str, bool]:
        records = results.records("estimates", "estimates")
        hits = sum(record["figures"][f"covered {method}, small step"] for record in records)
        return f"{hits:.0f} of {len(records)}", hits >= 0.9 * len(records)

    name = f"off-policy intervals that cover the value of a small step, {method}"
    return _Goal(name, "≥ 90 % of 50 worlds", "estimates", ["estimates"], measure)


_CARTS = "cart", "events"
_ORACLE = "share of the gain of the oracle on observed features"
_SERVED_GOALS = tuple(
    _lift(f"served over expected value, {label}", regime, SERVED, "ev", floor)
    for regime, label, floor in (("main", "default", 1.3), ("main", "default, the aim", 2.5), ("hype", "hyped", 3.0))
)
_GOALS = (
    _lift("value over production", "main", "grade", "production", 4.0),
    *(
        _lift(f"{label} over production", "main", "grade", "production", _ABOVE, label.lower())
        for label in ("CTR", "CVR", "OPM", "orders")
    ),
    _lift("value over best static, same fusion", "main", "grade", "static", 3.5),
    _lift("value over best static, z-linear", "main", "grade", "static-zlinear", _ABOVE),
    _share(f"{_ORACLE}, 20k logs", "main", "grade", "static", "oracle", 80),
    _share(f"{_ORACLE}, 5k logs", "small", "grade", "static", "oracle", 60),
    _lift("composite's true value over stage 1", "main", "grade", "stage1", _NOT_BELOW),
    _lift("5k logs: composite over stage 1", "small", "grade", "stage1", _ABOVE),
    _lift("5k logs: composite over prior only", "small", "grade", "no-posterior", _ABOVE),
    _lift("5k logs: composite over posterior only", "small", "grade", "no-prior", _ABOVE),
    _Goal("without stage 1: spread over seeds against PPO's", "≤ 1/3", "stability", _UNSTARTED, _spread),
    _Goal("without stage 1: collapses", "0 of 50", "stability", _UNSTARTED, _collapsed),
    _Goal("requests with weights within the bounds", "100 %, value not below 0", "main", ["grade"], _compliance),
    _share("drift: online learning's share of the gain of retraining", "drift", "online", "stage1", "retrained", 80),
    _Goal(
        "drift: worst 1,000 requests of an online run, over stage 1",
        f"≥ -{MAX_REGRESSION:g} % (max_regression)",
        "drift",
        ["online"],
        _online,
    ),
    _lift("hyped predictions: calibrated composite over posterior only", "hype", "calibrated", "no-prior", _NOT_BELOW),
    *(_covered(method) for method in ("snips", "dr")),
    *(
        _lift(f"constraint of {low:+g} % carts: carts over production", "constraint", arm, "production", low, *_CARTS)
        for arm, low in CONSTRAINED.items()
    ),
)
