"""Verdicts on claims, and whether targets were met, by rules that the protocol states before the runs.

`claims.json` lists the claims: each is a set of differences with intervals and an expected sign. *Reproduced*: all
intervals are wholly on the expected side of 0. *Not reproduced*: none is. *Depends*: some are; the text says which.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.study.settings import Settings
from bench.study.stats import Record, Results, production_lift, sign
from pygrade.metrics.intervals import Interval
from pygrade.metrics.texts import lift_text

REPRODUCED, NOT_REPRODUCED, NOT_RUN = "reproduced", "not reproduced", "not run"
CONFIRMED, NOT_CONFIRMED = "confirmed", "not confirmed"
CONSTRAINED = {"constraint-100": 0.0, "constraint-102": 2.0, "constraint-104": 4.0}  # arm → carts over production, %
SERVED = "trust"  # the arm that is the product's default
BASELINES = ("production", "ev", "ev-calibrated", "static-linear", "static-zlinear", "static", "static-log1p")
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
    rows: list[StudyTarget] = []
    sized = [regime for regimes in settings.families.values() for regime in regimes]
    served = [regime for regime in sized if results.has(regime.name, SERVED, "ev")]

    def add(name: str, wanted: str, regime: str, arms: Sequence[str], measure: Callable[[], tuple[str, bool]]) -> None:
        measured, met = measure() if results.has(regime, *arms) else (NOT_RUN, None)
        rows.append(StudyTarget(name, wanted, measured, met))

    def lift(name: str, regime: str, arm: str, base: str, floor: float | None = None, *metric: str) -> None:
        def measure() -> tuple[str, bool]:
            interval = results.lift(regime, arm, base, *metric)
            return percent(interval), interval.low > 0 if floor is None else interval.value >= floor

        add(name, "interval above 0" if floor is None else f"≥ {floor:+g} %", regime, (arm, base), measure)

    def share(name: str, regime: str, arm: str, base: str, best: str, floor: float) -> None:
        def measure() -> tuple[str, bool]:
            interval = results.share(regime, arm, base, best)
            return percent(interval).removeprefix("+"), interval.value >= floor

        add(name, f"≥ {floor:g} %", regime, (arm, base, best), measure)

    def not_below(name: str, regime: str, arm: str, base: str) -> None:
        def measure() -> tuple[str, bool]:
            interval = results.lift(regime, arm, base)
            return percent(interval), sign(interval) >= 0

        add(name, "not below 0", regime, (arm, base), measure)

    def spread() -> tuple[str, bool]:
        ours, rival = (results.spread("stability", arm) for arm in _UNSTARTED)
        return f"{ours:.2f} against {rival:.2f}", ours <= rival / 3

    def collapsed() -> tuple[str, bool]:
        lost, count = collapses(results, "no-stage1")
        return f"{lost} of {count}", lost == 0 and count >= 50

    def compliance() -> tuple[str, bool]:
        served, cost = _compliant(results, "served", "grade"), results.mean("main", "grade", projection_cost)
        return f"{served:.1f} %, value {percent(cost)}", served == 100 and sign(cost) >= 0

    def online() -> tuple[str, bool]:
        figures = [record["figures"] for record in results.records("drift", "online")]
        worst, back = min(entry["worst"] for entry in figures), sum(entry["rolled_back"] for entry in figures)
        return f"{worst:+.2f} %, {back:.0f} roll-backs", worst >= -MAX_REGRESSION

    def covered(method: str) -> Callable[[], tuple[str, bool]]:
        def measure() -> tuple[str, bool]:
            records = results.records("estimates", "estimates")
            hits = sum(record["figures"][f"covered {method}, small step"] for record in records)
            return f"{hits:.0f} of {len(records)}", hits >= 0.9 * len(records)

        return measure

    def harmless(base: str) -> tuple[str, bool]:
        lifts: dict[tuple[str, int], float] = {}
        for regime in served:
            over = results.lifts(regime.name, SERVED, base, regime.judge) if base else over_chosen(results, regime.name)
            lifts |= {(regime.name, world): lift for world, lift in over.items()}
        below = [f"{name} {world}" for (name, world), lift in lifts.items() if lift < NO_HARM]
        name, world = min(lifts, key=lambda key: lifts[key])
        text = f"worst {lifts[name, world]:+.2f} % ({name}, world {world}); {len(below)} of {len(lifts)} below"
        return text, not below

    def better(rival: str) -> tuple[str, bool]:
        lifts = {
            regime.name: results.lift(regime.name, SERVED, rival, regime.judge)
            for regime in served
            if regime.requests <= 20000 and results.has(regime.name, rival)
        }
        lost = [f"{name} {percent(lift)}" for name, lift in lifts.items() if not lift.value > 0]
        text = f"{len(lifts) - len(lost)} of {len(lifts)}" + (f"; not in {', '.join(lost)}" if lost else "")
        return text, not lost

    for name, base in (("the baseline that the log chose", ""), ("expected value", "ev")):
        wanted = f"≥ {NO_HARM:g} % in every world, regime and size"
        rows.append(StudyTarget(f"served over {name}", wanted, *(harmless(base) if served else (NOT_RUN, None))))
    for regime, label, floor in (("main", "default", 1.3), ("main", "default, the aim", 2.5), ("hype", "hyped", 3.0)):
        lift(f"served over expected value, {label}", regime, SERVED, "ev", floor)
    for rival, title in RIVALS.items():
        ran = any(results.has(regime.name, rival) for regime in served)
        wanted = "mean lift above 0 in every regime up to 20,000 requests"
        rows.append(StudyTarget(f"served over {title}", wanted, *(better(rival) if ran else (NOT_RUN, None))))
    lift("value over production", "main", "grade", "production", 4.0)
    for label, metric in (("CTR", "ctr"), ("CVR", "cvr"), ("OPM", "opm"), ("orders", "orders")):
        lift(f"{label} over production", "main", "grade", "production", None, metric)
    lift("value over best static, same fusion", "main", "grade", "static", 3.5)
    lift("value over best static, z-linear", "main", "grade", "static-zlinear")
    share("share of the gain of the oracle on observed features, 20k logs", "main", "grade", "static", "oracle", 80)
    share("share of the gain of the oracle on observed features, 5k logs", "small", "grade", "static", "oracle", 60)
    not_below("composite's true value over stage 1", "main", "grade", "stage1")
    for base, label in (("stage1", "stage 1"), ("no-posterior", "prior only"), ("no-prior", "posterior only")):
        lift(f"5k logs: composite over {label}", "small", "grade", base)
    add("without stage 1: spread over seeds against PPO's", "≤ 1/3", "stability", _UNSTARTED, spread)
    add("without stage 1: collapses", "0 of 50", "stability", _UNSTARTED, collapsed)
    add("requests with weights within the bounds", "100 %, value not below 0", "main", ["grade"], compliance)
    share("drift: online learning's share of the gain of retraining", "drift", "online", "stage1", "retrained", 80)
    wanted = f"≥ -{MAX_REGRESSION:g} % (max_regression)"
    add("drift: worst 1,000 requests of an online run, over stage 1", wanted, "drift", ["online"], online)
    not_below("hyped predictions: calibrated composite over posterior only", "hype", "calibrated", "no-prior")
    for method in ("snips", "dr"):
        name = f"off-policy intervals that cover the value of a small step, {method}"
        add(name, "≥ 90 % of 50 worlds", "estimates", ["estimates"], covered(method))
    for arm, level in CONSTRAINED.items():
        name = f"constraint of {level:+g} % carts: carts over production"
        lift(name, "constraint", arm, "production", level, "cart", "events")
    return rows
