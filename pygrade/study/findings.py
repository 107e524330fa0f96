"""What the numbers say about each claim, by rules that the protocol states before the runs.

A claim is a set of statements, each a difference with its interval and the side it should lie on. *Reproduced*: all
intervals lie wholly on their side. *Not reproduced*: none does. *Depends*: some do, and the text says which.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pygrade.metrics.intervals import Interval
from pygrade.study.stats import Record, Results, over_worlds, sign

REPRODUCED, NOT_REPRODUCED, NOT_RUN = "reproduced", "not reproduced", "not run"
CONFIRMED, NOT_CONFIRMED = "confirmed", "not confirmed"
CONSTRAINED = {
    "constraint-100": 0.0,
    "constraint-102": 2.0,
    "constraint-104": 4.0,
}  # arm → carts over production, %
MAX_REGRESSION = 2.0  # per cent of stage 1's value that an online version may lose, as the settings say


@dataclass(frozen=True)
class Statement:
    """One measured difference: which side of 0 the claim wants it on, +1 or -1."""

    text: str
    interval: Interval
    side: int = 1
    condition: str = ""  # what the verdict depends on, where statements disagree

    @property
    def holds(self) -> bool:
        return sign(self.interval) == self.side

    def __str__(self) -> str:
        return f"{self.text} {percent(self.interval)}"


@dataclass(frozen=True)
class Finding:
    """A claim, what was measured, and the verdict."""

    claim: str
    source: str  # "paper" or "ours"
    measured: tuple[str, ...]
    verdict: str
    picture: str


@dataclass(frozen=True)
class Target:
    """A number that was to be reached."""

    name: str
    wanted: str
    measured: str
    met: bool | None  # None: not run


def percent(interval: Interval) -> str:
    """``+1.20 ± 0.30 %``, or without the interval where one world gives none."""
    if not math.isfinite(interval.value):
        return "n/a"
    if not math.isfinite(interval.low):
        return f"{interval.value:+.2f} %"
    return f"{interval.value:+.2f} ± {(interval.high - interval.low) / 2:.2f} %"


def judge(statements: Sequence[Statement], paper: bool = True) -> str:
    """The verdict on a claim, by the rule above."""
    yes, no = (REPRODUCED, NOT_REPRODUCED) if paper else (CONFIRMED, NOT_CONFIRMED)
    if not statements:
        return NOT_RUN
    good = [s for s in statements if s.holds]
    if len(good) == len(statements):
        return yes
    if not good:
        return no
    return "depends: holds for " + ", ".join(s.condition or s.text for s in good)


def findings(results: Results) -> list[Finding]:
    """Every claim, in the order of the protocol. Parts that did not run count as not run."""

    def lifts(arm: str, base: str, where: Sequence[tuple[str, str]], side: int = 1) -> list[Statement]:
        return [
            Statement(f"{label}:", results.lift(regime, arm, base, _judged(regime)), side, label)
            for regime, label in where
            if results.has(regime, arm, base)
        ]

    def finding(claim: str, statements: list[Statement], picture: str, source: str = "paper") -> Finding:
        return Finding(claim, source, tuple(map(str, statements)), judge(statements, source == "paper"), picture)

    here = [("main", "20k logs")]
    sizes = [("small", "5k logs"), *here, ("large", "60k logs")]
    sparse = [*here, ("sparse", "orders only")]
    metrics = (("ctr", "CTR"), ("cvr", "CVR"), ("opm", "OPM"), ("orders", "orders"))
    online = [
        Statement(label, results.lift("main", "grade", "production", metric))
        for metric, label in metrics
        if results.has("main", "grade", "production")
    ]
    statics = [
        s
        for base, label in (("static", "best static, CEM"), ("static-optuna", "best static, Optuna"),
                            ("static-linear", "best static, linear fusion"))
        for s in lifts("grade", base, [("main", f"over {label}")])
    ]  # fmt: skip
    scenarios = [
        Statement(name, results.lift("main", "grade", "static", slice=name))
        for name in ("scenario feed", "scenario category", "scenario search")
        if results.has("main", "grade", "static")
    ]
    return [
        finding("Online, GRADE lifts CTR, CVR, OPM and orders over the production weights", online, "main"),
        finding("GRADE beats the best static weights", statics, "main"),
        finding("Reinforcement learning improves on supervised stage 1", lifts("grade", "stage1", sizes), "regimes"),
        _stability(results),
        finding("Dirichlet exploration beats Gaussian, most of all where rewards are sparse",
                lifts("grade", "gaussian", sparse), "regimes"),
        _hacking(results, "main"),
        _hacking(results, "hype"),
        finding("The dense prior helps", lifts("grade", "no-prior", [*sizes[:2], sparse[1]]), "regimes"),
        finding("The posterior helps", lifts("grade", "no-posterior", [*sizes[:2], ("hype", "hyped predictions")]),
                "regimes"),
        _format(results),
        finding("The KL term to stage 1 helps", lifts("grade", "no-kl", here), "ablations"),
        finding("The supervised start helps", lifts("grade", "no-stage1", here), "ablations"),
        _rare(results),
        finding("Every scenario gains over best static", scenarios, "users", "ours"),
        finding("Many useless tasks do not stop it: over best static with 17 tasks",
                lifts("grade", "static", [("tasks17", "17 tasks")]), "regimes", "ours"),
        finding("Dividing advantages by the group's own std, as GRPO's text does, costs value",
                lifts("group-std", "grade", here, -1), "ablations", "ours"),
        finding("Debiased labels (IPS) beat raw ones in stage 1", lifts("stage1", "stage1-naive", here), "main",
                "ours"),
        finding("The group baseline is better than a learned critic", lifts("grade", "ppo", here), "ablations", "ours"),
        finding("A prior calibrated to feedback is better than one taken as it is",
                lifts("calibrated", "grade", [("small", "5k logs"), *here, ("hype", "hyped predictions")]), "regimes",
                "ours"),
        finding("Learning online follows a drift: over the same policy that stays",
                lifts("online", "grade", [("drift", "after the drift")]), "drift", "ours"),
    ]  # fmt: skip


def collapses(results: Results, arm: str) -> tuple[int, int]:
    """Trainings of the stability part whose policy ends below production, and all of them."""
    lifts = [record["lifts"]["expected"]["value"][0] for record in results.records("stability", arm)]
    return sum(lift is None or lift < 0 for lift in lifts), len(lifts)


def _judged(regime: str) -> str:
    return "orders" if regime == "sparse" else "value"


def _stability(results: Results) -> Finding:
    claim = "Learning is stable: no collapse, and less spread over seeds than PPO with a critic (both without stage 1)"
    if not results.has("stability", "no-stage1", "ppo-no-stage1"):
        return Finding(claim, "paper", (), NOT_RUN, "stability")
    own, rival = (results.spread("stability", arm) for arm in ("no-stage1", "ppo-no-stage1"))
    lost, count = collapses(results, "no-stage1")
    lost_rival, count_rival = collapses(results, "ppo-no-stage1")
    measured = (
        f"sd over seeds {own:.2f} points against {rival:.2f}",
        f"collapses {lost} of {count} against {lost_rival} of {count_rival}",
    )
    good = [lost == 0, own < rival]
    verdict = REPRODUCED if all(good) else NOT_REPRODUCED if not any(good) else (
        "depends: " + ("no collapse, but not less spread" if good[0] else "less spread, but collapses")
    )  # fmt: skip
    return Finding(claim, "paper", measured, verdict, "stability")


def _hacking(results: Results, regime: str) -> Finding:
    """Hacking: without the posterior, predicted value rises over stage 1 while true value falls."""
    where = {"main": "the ordinary world", "hype": "a world with hyped predictions"}[regime]
    claim = f"The composite reward prevents reward hacking, in {where}"
    if not results.has(regime, "grade", "no-posterior", "stage1"):
        return Finding(claim, "paper", (), NOT_RUN, "hacking")
    predicted = results.lift(regime, "no-posterior", "stage1", "predicted")
    true = results.lift(regime, "no-posterior", "stage1")
    composite = results.lift(regime, "grade", "stage1")
    measured = (
        f"prior only over stage 1: predicted value {percent(predicted)}, true value {percent(true)}",
        f"composite over stage 1: true value {percent(composite)}",
    )
    hacked = sign(predicted) > 0 and sign(true) < 0
    if not hacked:
        verdict = "nothing to prevent: prior only is not hacked here"
    else:
        verdict = NOT_REPRODUCED if sign(composite) < 0 else REPRODUCED
    return Finding(claim, "paper", measured, verdict, "hacking")


def _format(results: Results) -> Finding:
    claim = "Weights obey the constraints in every request, at no cost in value"
    if not results.has("main", "grade", "no-format"):
        return Finding(claim, "paper", (), NOT_RUN, "ablations")

    def share(key: str, arm: str) -> float:
        return 100 * results.mean("main", arm, lambda record: record["compliance"][key]).value

    cost = results.mean("main", "grade", projection_cost)
    measured = (
        f"served {share('served', 'grade'):.1f} %",
        f"before the projection {share('before', 'grade'):.1f} %, without the format reward "
        f"{share('before', 'no-format'):.1f} %",
        f"value with over without the projection {percent(cost)}",
    )
    good = share("served", "grade") == 100 and sign(cost) >= 0
    return Finding(claim, "paper", measured, REPRODUCED if good else NOT_REPRODUCED, "ablations")


def projection_cost(record: Record) -> float:
    """Value with the projection over value without it, in per cent."""
    return float(100 * (record["expected"]["value"] / record["compliance"]["value_before"] - 1))


def _rare(results: Results) -> Finding:
    """The paper names it as a limit: rare and new users gain less."""
    claim = "Rare and new users gain less"
    statements = []
    if results.has("main", "grade", "static"):
        rare, rest = (
            results.lift("main", "grade", "static", slice=name) for name in ("rarest tenth of users", "other users")
        )
        apart = _apart(results)
        measured = [f"rarest tenth {percent(rare)}, others {percent(rest)} over best static"]
        statements = [Statement("difference", apart, -1, "the rarest tenth")]
        if results.has("cold", "grade", "static"):
            measured.append(f"a world of little history {percent(results.lift('cold', 'grade', 'static'))}")
        return Finding(claim, "paper", (*measured, str(statements[0])), judge(statements), "users")
    return Finding(claim, "paper", (), NOT_RUN, "users")


def _apart(results: Results) -> Interval:
    def lift(world: int, name: str) -> float:
        own, base = (
            results.number("main", arm, world, lambda record: record["slices"][name]) for arm in ("grade", "static")
        )
        return 100 * (own / base - 1)

    worlds = results.worlds("main", "grade", "static")
    return over_worlds([lift(w, "rarest tenth of users") - lift(w, "other users") for w in worlds])


def targets(results: Results) -> list[Target]:
    """What the study was to reach on worlds that were not used to choose anything."""
    found: list[Target] = []

    def add(
        name: str, wanted: str, needs: Sequence[tuple[str, str]], interval: Interval, floor: float, whole: bool
    ) -> None:
        ran = all(results.has(regime, arm) for regime, arm in needs)
        reached = interval.low > floor if whole else interval.value >= floor
        found.append(Target(name, wanted, percent(interval) if ran else NOT_RUN, reached if ran else None))

    def lift(name: str, regime: str, arm: str, base: str, floor: float | None, metric: str = "value") -> None:
        ran = results.has(regime, arm, base)
        interval = results.lift(regime, arm, base, metric) if ran else over_nothing()
        wanted = "interval above 0" if floor is None else f"≥ {floor:+g} %"
        add(name, wanted, [(regime, arm), (regime, base)], interval, floor or 0.0, floor is None)

    lift("value over production", "main", "grade", "production", 4.0)
    for metric in ("ctr", "cvr", "opm", "orders"):
        lift(f"{'orders' if metric == 'orders' else metric.upper()} over production", "main", "grade", "production",
             None, metric)  # fmt: skip
    lift("value over best static, same fusion", "main", "grade", "static", 3.5)
    lift("value over best static, linear fusion", "main", "grade", "static-linear", None)
    for regime, floor, label in (("main", 80.0, "20k"), ("small", 60.0, "5k")):
        ran = results.has(regime, "grade", "static", "oracle")
        share = results.share(regime, "grade", "static", "oracle") if ran else over_nothing()
        found.append(Target(f"share of the observed-feature oracle's gain, {label} logs", f"≥ {floor:g} %",
                            percent(share).removeprefix("+") if ran else NOT_RUN,
                            share.value >= floor if ran else None))  # fmt: skip
    if results.has("main", "grade", "stage1"):
        composite = results.lift("main", "grade", "stage1")
        found.append(
            Target("composite's true value over stage 1", "not below 0", percent(composite), sign(composite) >= 0)
        )
    for base, label in (("stage1", "stage 1"), ("no-posterior", "prior only"), ("no-prior", "posterior only")):
        lift(f"5k logs: composite over {label}", "small", "grade", base, None)
    if results.has("stability", "no-stage1", "ppo-no-stage1"):
        own, rival = (results.spread("stability", arm) for arm in ("no-stage1", "ppo-no-stage1"))
        found.append(Target("without stage 1: spread over seeds against PPO's", "≤ 1/3",
                            f"{own:.2f} against {rival:.2f}", own <= rival / 3))  # fmt: skip
        lost, count = collapses(results, "no-stage1")
        found.append(Target("without stage 1: collapses", "0 of 50", f"{lost} of {count}", lost == 0 and count >= 50))
    if results.has("main", "grade"):
        inside = results.mean("main", "grade", lambda record: 100 * record["compliance"]["served"])
        cost = results.mean("main", "grade", projection_cost)
        found.append(Target("requests whose weights obey the constraints", "100 %, value not below 0",
                            f"{inside.value:.1f} %, value {percent(cost)}",
                            inside.value == 100 and sign(cost) >= 0))  # fmt: skip
    if results.has("drift", "online", "stage1", "retrained"):
        share = results.share("drift", "online", "stage1", "retrained")
        add(
            "drift: share of what training anew gains over stage 1", "≥ 80 %", [("drift", "online")], share, 80.0, False
        )
        records = results.records("drift", "online")
        worst = min(record["figures"]["worst"] for record in records)
        back = sum(record["figures"]["rolled_back"] for record in records)
        wanted, result = f"≥ -{MAX_REGRESSION:g} % (max_regression)", f"{worst:+.2f} %, {back:.0f} roll-backs"
        name = "drift: worst interval of any online run against stage 1"
        found.append(Target(name, wanted, result, worst >= -MAX_REGRESSION))
    if results.has("hype", "calibrated", "no-prior"):
        gain = results.lift("hype", "calibrated", "no-prior")
        found.append(Target("hyped predictions: calibrated composite over posterior only", "not below 0", percent(gain),
                            sign(gain) >= 0))  # fmt: skip
    if results.has("estimates", "estimates"):
        records = results.records("estimates", "estimates")
        for method in ("snips", "dr"):
            hits = sum(record["figures"][f"covered {method}, small step"] for record in records)
            name = f"off-policy intervals that cover the value of a small step, {method}"
            found.append(Target(name, "≥ 90 % of 50 worlds", f"{hits:.0f} of {len(records)}",
                                hits >= 0.9 * len(records)))  # fmt: skip
    for arm, level in CONSTRAINED.items():
        if results.has("constraint", arm, "production"):
            carts = results.lift("constraint", arm, "production", "cart", "events")
            name = f"constraint of carts at {level:+g} %: carts over production"
            add(name, f"≥ {level:+g} %", [("constraint", arm)], carts, level, False)
    return found


def over_nothing() -> Interval:
    """Of a part that did not run."""
    return Interval(math.nan, math.nan, math.nan, math.nan)
