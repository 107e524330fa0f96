"""K-fold cross-fitting: how far a log shows a policy to be better than the strongest simple baseline.

Users are split into K folds. Policies and baselines learn from all folds but one and rank the pages of that one, so
that nothing is judged by requests that it learned from. A ranking is worth the debiased value of the logged page in its
order, Σ_r D(r) · v / max(q(slot), floor), as in the posterior of the composite reward.

*The baseline* is the simple ranking with the highest lower bound of its lift over expected value; expected value itself
if no bound is above 0.

*The anchor* is chosen by the same rule among all that can be served. If the likelihood proves corrected predictions
better (`pygrade.training.correction_proof`), their expected value is one of them, with a bound just above 0.

*The offer* is the anchor, or its mixture with a policy (after stage 1 or 2) or with another of these rankings: the one
whose lift over the anchor has the highest lower bound, if that is above 0.

Lifts are paired by request and clustered (`pygrade.logs.clusters`). Their intervals are widened for the number of
rankings tried (`intervals.simultaneous`) and for the interval of the slot propensities. Those that decide have the
confidence `verdict.SURE`.

The verdict is *better* if all of this holds:

- the lower bound of the offer over the baseline is above 0, or the likelihood proves the offer;
- the later requests of the log do not show the contrary;
- no estimate is below 0 (by more than a standard error, if the likelihood proves the order, too).

Else a simple ranking is served: expected value or one that is better, or production's where that is known and nothing
is proven against it. If what is served is shown to be better than production, the verdict is *better*, too.

*Production* (`pygrade.training.production`) made the pages: the lift of the verdict is over it. A ranking is proven if
neither whole pages nor the replay show it to be worse; what is served and not proven is marked (`Mixture.unproven`).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from pygrade._typing import Floats, Floats32, Ints
from pygrade._util.serialization import to_builtins
from pygrade.config.training import CrossFitConfig, RewardConfig
from pygrade.correction.fit import later_requests
from pygrade.evaluation.arms import (
    ALONE,
    CORRECTED_EXPECTED_VALUE,
    EXPECTED_VALUE,
    LOGGED_ORDER,
    PRODUCTION,
    PRODUCTION_SCORE,
)
from pygrade.evaluation.cautions import contradicted, dominant_user, winsor_factors
from pygrade.evaluation.replay import ranks
from pygrade.evaluation.verdict import SURE, VerdictText, cost_of, percent, strongest, write_verdict
from pygrade.logs import Logs
from pygrade.metrics import intervals
from pygrade.metrics.intervals import Estimate, Interval
from pygrade.policy.mixture import Baseline, Mixture, mix_scores
from pygrade.training.correction_proof import CorrectionProof, TriedCorrection
from pygrade.training.form import TransformChoice, choose_transform
from pygrade.training.page_replay import PageReplay, logged_order
from pygrade.training.production import MARGIN, PageLift, Production, page_lift
from pygrade.training.propensity import SlotPropensity
from pygrade.workers import LOCAL, LocalWorkers, Workers

_MISSED = "your model misses this, though no better order is proven: "
_ACCEPTED = 1e-9  # lower bound of a lift that the likelihood proves and replay does not show
MIN_USERS = 30  # with feedback of value; with fewer, nothing is said
_POOL_REQUESTS = 5_000  # from which on folds are worth processes of their own


class FoldRankings(NamedTuple):
    """Scores of a fold's candidates, float32 [M] each, by name."""

    baselines: dict[str, Floats32]
    policies: dict[str, Floats32]


@dataclass(frozen=True)
class CrossFitResult:
    """The result of cross-fitting. Lifts are relative; their intervals cover all at once (mixtures, baselines)."""

    verdict: VerdictText
    policy: str  # that the artifact has: stage 1 or GRADE, without GRADE the start alone
    folds: int
    users: int
    propensity: str  # where the slot propensities come from
    baseline: str = EXPECTED_VALUE  # the strongest simple one
    served_baseline: str = EXPECTED_VALUE  # that a mixture is made of, or that is served alone
    challenger: str = ""  # what is mixed with it: stage 1, GRADE, or a baseline
    mixture_weight: float = 0.0  # share of the challenger that is served
    judged: str = ""  # the ranking that the verdict is on: what is served, or what is not better
    lift: Interval | None = None  # of what is served over the baseline
    mixtures: dict[str, Interval] = field(default_factory=dict)  # over the baseline
    baselines: dict[str, Interval] = field(default_factory=dict)  # over the baseline
    production: str = ""  # the control of the verdict
    pages: PageLift | None = None  # of what is served, over production
    proof: CorrectionProof | None = None  # of corrected predictions
    tried: tuple[TriedCorrection, ...] = ()  # corrections, until one was accepted
    better_transform: TransformChoice | None = None  # in which static weights earn more than in the policy's

    @property
    def sentence(self) -> str:
        """The verdict for those who decide."""
        return self.verdict.sentence

    @property
    def served(self) -> str:
        """The name of what is served."""
        return label(self.challenger, self.mixture_weight, self.served_baseline)

    def mixture(self, baselines: Sequence[Baseline]) -> Mixture:
        """The record for the served policy; baselines: as fitted to the whole log."""
        by_name = {baseline.name: baseline for baseline in baselines}
        verdict = self.verdict
        lift = None if verdict.lift is None else (verdict.lift.value, verdict.lift.low, verdict.lift.high)
        return Mixture(
            self.mixture_weight,
            by_name[self.served_baseline],
            verdict.verdict,
            verdict.sentence,
            tuple(baselines),
            challenger=by_name.get(self.challenger) if self.mixture_weight else None,
            detail=verdict.detail,
            reasons=verdict.reasons,
            lift=lift,
            weeks=verdict.weeks,
            control=verdict.control,
            unproven=verdict.unproven,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and dicts for JSON; the fields of the verdict beside the others."""
        record: dict[str, Any] = to_builtins(self)
        return record | {**record["verdict"], "lift": record["lift"], "served": self.served}


def fold_of_requests(cluster: Ints, folds: int, seed: int) -> Ints:
    """Return the fold [R] of each request's cluster [R]; folds have equally many clusters."""
    shuffled = np.random.default_rng([seed, 3]).permutation(int(cluster.max(initial=-1)) + 1)
    return np.asarray(shuffled[cluster] % folds)


def insufficient_data(logs: Logs, fold: Ints, cluster: Ints) -> str:
    """The reason why the log is too small to cross-fit; empty if it is not."""
    has_value = np.add.reduceat(logs.value_of(logs.feedback), logs.offsets[:-1]) != 0
    users = len(np.unique(cluster[has_value]))
    if users < MIN_USERS:
        return f"{users} users gave feedback of value; expected {MIN_USERS}"
    if reason := dominant_user(logs, cluster, MIN_USERS):
        return reason
    for number in np.unique(fold):
        if not has_value[fold != number].any():
            return f"all feedback of value is of the users of fold {number}"
    return ""


def fold_workers(config: CrossFitConfig, logs: Logs, workers: Workers) -> Workers:
    """Workers that train the folds: if no others are given, as many processes of this machine as are worth it."""
    if workers is not LOCAL:
        return workers
    return LocalWorkers(min(config.processes, config.folds) if logs.num_requests >= _POOL_REQUESTS else 1)


def choose_mixture(
    logs: Logs,
    fold: Ints,
    cluster: Ints,
    rankings: Sequence[FoldRankings],
    later: FoldRankings,
    config: CrossFitConfig,
    reward: RewardConfig,
    propensity: SlotPropensity,
    production: Production,
    proof: CorrectionProof | None = None,
    reasons: Sequence[str] = (),
    requests: int | None = None,
) -> CrossFitResult:
    """Choose the baseline, the anchor and what is mixed with it by the rankings of the folds and of later requests.

    logs: with the values of events that count; fold, cluster [R]; proof: of the corrected predictions, whose expected
    value is then one of the rankings' baselines; reasons: what the correction changes, or would, in words;
    requests: of the whole log, if ``logs`` is a sample.
    """
    policies = _joined(logs, fold, [ranking.policies for ranking in rankings])
    baseline_scores = _joined(logs, fold, [ranking.baselines for ranking in rankings])
    comparison = _BaselineComparison(logs, cluster, reward, propensity, baseline_scores, production, later)
    baseline, anchor, arms = comparison.baseline, comparison.anchor, comparison.arms(policies, config.mixture_weights)

    # The anchor was not chosen for its lift, so that its interval stands alone.
    over_anchor = comparison.lifts(anchor, arms, SURE)
    claims, over_production = (
        [*comparison.lifts(name, arms[:1]), *comparison.lifts(name, arms)[1:]]
        for name in (baseline, comparison.control)
    )
    best = max(range(1, len(arms)), key=lambda index: _or_lowest(over_anchor[index].low), default=0)
    alone = max((index for index, arm in enumerate(arms) if arm.challenger in policies), default=0)  # the policy alone
    offered = best if over_anchor[best].low > 0 else 0
    corrected = proof is not None and CORRECTED_EXPECTED_VALUE in (anchor, arms[offered].challenger)
    served, contrary, new = None, "", False
    if corrected or (offered and comparison.lifts(baseline, arms, SURE)[offered].low > 0):
        served = comparison.compare_with_production(arms[offered], over_production[offered])
        contrary = comparison.contradiction(served.arm, baseline) or served.page_warning
        claim = comparison.claim(served.arm, baseline, claims[offered])
        gains = min(claim.value, served.lift.value) > 0
        if proof is not None and served.proven:  # replays see no page terms, and noise where the order is proven
            small = proof.orders and served.lift.value > 0 and claim.value >= -claim.standard_error
            gains |= bool(proof.page_line) or small
        new = gains and not contrary
    if served is None or not new:
        served = comparison.fallback()

    verdict, judged_name, control, lift = "better", served.arm.name, comparison.control, served.lift
    if not (new or comparison.beats_production(served)):
        judged = offered if offered or corrected else best
        judged = alone if claims[alone].high < 0 and not contrary else judged
        judged_name, lift = arms[judged].name, over_production[judged]
        if claims[judged].high < 0 and not lift.high < 0:
            control, lift = baseline, claims[judged]
        verdict = "worse" if lift.high < 0 else "undecided"
    text = write_verdict(
        verdict,
        judged_name,
        control,
        lift,
        logs,
        beside=(baseline, claim) if new and baseline != control else None,
        **({"proof": proof.text, "claim": proof.claim} if new and corrected and proof is not None else {}),
        reasons=reasons if new and corrected else [_MISSED * (line == reasons[0]) + line for line in reasons],
        why=f"{len(rankings)}-fold cross-fitted by user" + (f", {propensity.reason}" if propensity.reason else ""),
        contrary=contrary,
        pages="" if served.pages is None else served.pages.text,
        unproven="" if served.proven else cost_of("the new ranking" if new else served.arm.name, served.weaker_lift),
        requests=requests,
        slots=comparison.slots(control, served.arm) if verdict == "better" else None,
        exposure=None if propensity.source == "none" else propensity.curve(max(logs.num_slots, reward.page_size)),
    )
    return CrossFitResult(
        verdict=text,
        baseline=baseline,
        served_baseline=served.arm.anchor,
        challenger=served.arm.challenger,
        policy=served.arm.challenger if served.arm.challenger in policies else next(reversed(policies), ALONE),
        mixture_weight=served.arm.share,
        judged=judged_name,
        lift=claim if new else None,
        mixtures={arm.name: lift for arm, lift in zip(arms, claims, strict=True)},
        baselines=comparison.over_baseline(),
        production=comparison.control,
        pages=served.pages,
        proof=proof,
        folds=len(rankings),
        users=int(cluster.max(initial=-1)) + 1,
        propensity=propensity.note,
        better_transform=choose_transform(comparison.worth, cluster),
    )


class _Arm(NamedTuple):
    """A ranking that could be served."""

    anchor: str
    challenger: str  # "": the anchor alone
    share: float
    scores: Floats32  # [M]
    rank: Ints  # [S]

    @property
    def name(self) -> str:
        return label(self.challenger, self.share, self.anchor)


class _ProductionComparison(NamedTuple):
    """A ranking's comparison with production."""

    arm: _Arm
    lift: Interval  # over production, of re-ordered pages
    pages: PageLift | None  # of whole pages; None: the log has none of production's own

    @property
    def proven(self) -> bool:
        """Whole pages lose no more than `production.MARGIN`, and re-ordered ones are not a standard error below."""
        if self.pages is None:
            return self.lift.low >= -MARGIN
        return self.pages.proven and not self.lift.value < -self.lift.standard_error

    @property
    def page_warning(self) -> str:
        """A warning if the page lift is more than one standard error below production, else ""."""
        if self.pages is None or self.pages.proven or self.pages.lift.value >= -self.pages.lift.standard_error:
            return ""
        return f"with the items that it shows in place of yours, whole pages earn {percent(self.pages.lift)}"

    @property
    def weaker_lift(self) -> Interval:
        """The lift that proves it least."""
        return self.lift if self.pages is None or self.pages.proven else self.pages.lift


class _BaselineComparison:
    """The simple rankings of a log's pages: what they are worth, the strongest, and lifts over them."""

    def __init__(
        self,
        logs: Logs,
        cluster: Ints,
        reward: RewardConfig,
        propensity: SlotPropensity,
        scores: Mapping[str, Floats32],
        production: Production,
        later: FoldRankings,
    ) -> None:
        """scores: name → scores [M]."""
        self.logs, self.cluster, self.propensity, self.scores = logs, cluster, propensity, scores
        self.production, self.control, self.page_size = production, production.control, reward.page_size
        self.share = winsor_factors(logs, cluster)
        self.pages = PageReplay(logs, reward, self.share)
        self.later, self.is_later = later.baselines | later.policies, later_requests(logs)
        self.later_logs = logs.select(self.is_later)
        self.later_pages = PageReplay(self.later_logs, reward, self.share[self.is_later])
        self.alone = {name: self._arm(scores, name) for name in scores}
        self.judged = {name: arm.rank for name, arm in self.alone.items()}  # also those that nothing can serve
        if self.control == PRODUCTION_SCORE:
            self.judged[self.control] = self.pages.ranks(production.scores[logs.shown])
        self.worth = {name: self.pages.values(rank, propensity) for name, rank in self.judged.items()}  # [R] each
        if (ordered := logged_order(logs, self.pages, propensity)) is not None:
            self.worth[LOGGED_ORDER] = ordered
        self.lows = strongest(self.worth, EXPECTED_VALUE, cluster)
        if CORRECTED_EXPECTED_VALUE in self.lows:
            self.lows[CORRECTED_EXPECTED_VALUE] = max(self.lows[CORRECTED_EXPECTED_VALUE], _ACCEPTED)
        self.baseline = self._highest(name for name in self.lows if name != CORRECTED_EXPECTED_VALUE)
        self.anchor = self._highest(self.alone)

    def _highest(self, names: Iterable[str]) -> str:
        return max(names, key=lambda name: self.lows[name])

    def _arm(self, scores: Mapping[str, Floats32], anchor: str, challenger: str = "", share: float = 0.0) -> _Arm:
        mixed = _mix(scores, self.logs, anchor, challenger, share)
        return _Arm(anchor, challenger, share, mixed, self.pages.ranks(mixed[self.logs.shown]))

    def arms(self, policies: Mapping[str, Floats32], weights: Sequence[float]) -> list[_Arm]:
        """The anchor, and its mixtures with the policies and the challengers; policies also alone."""
        scores = {**self.scores, **policies}
        pairs = [(name, share) for name in (*policies, *self._challengers()) for share in weights]
        mixed = [self._arm(scores, self.anchor, *pair) for pair in pairs if pair[1] < 1 or pair[0] in policies]
        return [self.alone[self.anchor], *mixed]

    def _challengers(self) -> list[str]:
        """Baselines to mix with the anchor: corrected expected value, and with that the strongest of the others."""
        if CORRECTED_EXPECTED_VALUE not in self.scores:
            return []
        others = [name for name in self.scores if name not in (CORRECTED_EXPECTED_VALUE, EXPECTED_VALUE)]
        return [self._highest(others) if self.anchor == CORRECTED_EXPECTED_VALUE else CORRECTED_EXPECTED_VALUE]

    def lifts(self, control: str, chosen: Sequence[_Arm], confidence: float = 0.95) -> list[Interval]:
        """Lifts of the chosen arms over another, each with its widest interval over those of the propensities."""
        curves = []
        for propensity in (self.propensity, *self.propensity.bounds()):
            base = self._values(control, propensity)
            lifts = [intervals.mean_lift(self.pages.values(arm.rank, propensity), base) for arm in chosen]
            by_influence = confidence == SURE
            curves.append(intervals.simultaneous(lifts, self.cluster, confidence=confidence, by_influence=by_influence))
        return [
            Interval(e[0].value, e[0].standard_error, min(i.low for i in e), max(i.high for i in e))
            for e in zip(*curves, strict=True)
        ]

    def _values(self, name: str, propensity: SlotPropensity) -> Floats:
        """Return the values of the pages of a ranking, of shape [R]."""
        own = logged_order(self.logs, self.pages, propensity) if name == LOGGED_ORDER else None
        return self.pages.values(self.judged[name], propensity) if own is None else own

    def slots(self, control: str, arm: _Arm) -> tuple[Ints, Ints] | None:
        """Return the slots [M] of candidates on pages of another ranking and an arm; None if unknown of the other."""
        new = ranks(arm.scores, self.logs.offsets)
        if control == LOGGED_ORDER:
            old = self.logs.position.astype(np.int64)
        elif control == PRODUCTION_SCORE or control in self.scores:
            old = ranks(
                self.production.scores if control == PRODUCTION_SCORE else self.scores[control], self.logs.offsets
            )
        else:
            return None
        return np.where(old < self.page_size, old, -1), np.where(new < self.page_size, new, -1)

    def later_lift(self, arm: _Arm, control: str) -> Estimate:
        """The lift over a ranking on later requests, both learned from the earlier ones; influence [R] of all."""
        logs, pages = self.later_logs, self.later_pages
        base = logged_order(logs, pages, self.propensity) if control == LOGGED_ORDER else None
        if base is None:
            late_rows = self.is_later[self.logs.row_request]
            served = control != PRODUCTION_SCORE
            scores = _mix(self.later, logs, control) if served else self.production.scores[late_rows]
            base = pages.values(pages.ranks(scores[logs.shown]), self.propensity)
        mixed = _mix(self.later, logs, arm.anchor, arm.challenger, arm.share)
        lift = intervals.mean_lift(pages.values(pages.ranks(mixed[logs.shown]), self.propensity), base)
        influence = np.zeros(len(self.is_later))
        influence[self.is_later] = lift.influence * (len(influence) / max(len(lift.influence), 1))
        return Estimate(lift.value, influence)

    def claim(self, arm: _Arm, control: str, lift: Interval) -> Interval:
        """Mean of the cross-fitted and the later lift, with the wider of the two intervals."""
        later = self.later_lift(arm, control)
        if not (math.isfinite(later.value) and math.isfinite(lift.value)):
            return lift
        base = self._values(control, self.propensity)
        own = intervals.mean_lift(self.pages.values(arm.rank, self.propensity), base)
        apart = intervals.interval(own.value - later.value, own.influence - later.influence, self.cluster)
        reach, value = apart.high - apart.value, (lift.value + later.value) / 2
        low, high = (max(abs(end - lift.value), reach) for end in (lift.low, lift.high))
        return Interval(value, max(lift.standard_error, apart.standard_error), value - low, value + high)

    def over_baseline(self) -> dict[str, Interval]:
        """Lifts of the other simple rankings."""
        others = {name: value for name, value in self.worth.items() if name != self.baseline}
        lifts = [intervals.mean_lift(value, self.worth[self.baseline]) for value in others.values()]
        return dict(zip(others, intervals.simultaneous(lifts, self.cluster), strict=True))

    def contradiction(self, arm: _Arm, control: str) -> str:
        """A text if the later requests of the log contradict a lift over a ranking; empty if not."""
        estimate = self.later_lift(arm, control)
        later = intervals.interval(estimate.value, estimate.influence, self.cluster)
        if later.value < -later.standard_error:
            return f"on later requests what the earlier ones taught earns {percent(later)}"
        values = self.pages.values(arm.rank, self.propensity)
        return contradicted(self.logs, values, self.worth[control], self.cluster)

    def compare_with_production(self, arm: _Arm, lift: Interval | None = None) -> _ProductionComparison:
        """A ranking beside production; lift: over it, of one among several."""
        options = self.propensity, self.page_size, self.share
        pages = page_lift(self.logs, self.production, arm.scores, self.cluster, *options)
        return _ProductionComparison(
            arm, self.claim(arm, self.control, lift or self.lifts(self.control, [arm])[0]), pages
        )

    def fallback(self) -> _ProductionComparison:
        """The ranking to serve without anything new: expected value, or a simple ranking that is shown to be better; if
        it is not proven against production, production's own ranking where that is known.
        """
        best = self._highest(name for name in self.lows if name != CORRECTED_EXPECTED_VALUE and name in self.alone)
        sure = best == EXPECTED_VALUE or self.lifts(EXPECTED_VALUE, [self.alone[best]], SURE)[0].low > 0
        if not sure or self.contradiction(self.alone[best], EXPECTED_VALUE):
            best = EXPECTED_VALUE
        compared = self.compare_with_production(self.alone[best])
        if compared.proven or PRODUCTION not in self.alone:
            return compared
        of_production = self.compare_with_production(self.alone[PRODUCTION])
        return max((of_production, compared), key=lambda option: (option.proven, option.weaker_lift.low))

    def beats_production(self, compared: _ProductionComparison) -> bool:
        """A simple ranking other than production's is shown to be better, later requests do not say the contrary."""
        if compared.arm.name in (PRODUCTION, self.control) or not compared.proven:
            return False
        sure = self.lifts(self.control, [compared.arm], SURE)[0].low > 0
        return sure and not self.contradiction(compared.arm, self.control)


def undecidable(
    reason: str,
    policy: str,
    folds: int,
    logs: Logs,
    cluster: Ints,
    propensity: SlotPropensity,
    production: Production,
    page_size: int,
) -> CrossFitResult:
    """Nothing can be said, for this reason: expected value is served, or production's ranking if that alone is known to
    make the log's pages."""
    name, scores = EXPECTED_VALUE, logs.value_of(logs.predictions)
    pages = page_lift(logs, production, scores, cluster, propensity, page_size)
    if production.servable is not None and pages is not None and not pages.proven:
        name = PRODUCTION
        pages = page_lift(logs, production, production.servable, cluster, propensity, page_size)
    unproven = "" if pages is None or pages.proven else cost_of(name, pages.lift)
    text = write_verdict("undecidable", name, name, None, logs, why=reason, unproven=unproven)
    if propensity.reason:
        text = replace(text, detail=f"{text.detail}; {propensity.reason}")
    users = int(cluster.max(initial=-1)) + 1
    result = CrossFitResult(text, policy, folds, users, propensity.note, served_baseline=name)
    return replace(result, production=production.control, pages=pages)


def label(challenger: str, share: float, baseline: str) -> str:
    """A mixture's name: that of its only part if it has one."""
    if not share:
        return baseline
    return challenger if share == 1 else f"{share:g} {challenger} + {1 - share:g} {baseline}"


def _mix(scores: Mapping[str, Floats32], logs: Logs, anchor: str, challenger: str = "", share: float = 0.0) -> Floats32:
    """Return the scores of a mixture of two rankings by name, or of the anchor alone, of shape [M]."""
    return mix_scores(scores[anchor], scores[challenger or anchor], share, logs.offsets)


def _joined(logs: Logs, fold: Ints, parts: Sequence[Mapping[str, Floats32]]) -> dict[str, Floats32]:
    """Scores of all candidates, put together from those of the folds."""
    of_row = fold[logs.row_request]
    result = {name: np.empty(len(of_row), np.float32) for name in parts[0]}
    for number, fold_scores in enumerate(parts):
        for name, scores in fold_scores.items():
            result[name][of_row == number] = scores
    return result


def _or_lowest(bound: float) -> float:
    return bound if math.isfinite(bound) else -math.inf
