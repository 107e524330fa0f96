"""K-fold cross-fitting: how far a log shows a policy to be better than the strongest simple baseline.

Users are split into K folds. Policies and baselines learn from all folds but one and rank the pages of that one, so
that nothing is judged by requests that it learned from. A ranking is worth the debiased value of the logged page in its
order, Σ_r D(r) · v / max(q(slot), floor), as in the posterior of the composite reward.

*The baseline* is the strongest simple one: that with the highest lower bound of the lift over expected value, which is
the baseline itself if no other is shown to be better. *The anchor* is chosen in the same way among what can be served,
which includes the expected value of corrected predictions if the likelihood licenses them (`pygrade.training.license`):
the license counts as a bound just above 0. What is served is the anchor, or a mixture of it with the policy after stage
1 or stage 2 or with another of these rankings, at the share λ that has the highest lower bound of the lift over the
anchor if that is above 0.

Lifts are paired by request and clustered (`pygrade.logs.clusters`), their intervals are widened for the number of
rankings tried (`intervals.simultaneous`) and reach over the interval of the slot propensities; those that decide have
the confidence `verdict.SURE`. The verdict is *better*
if the lower bound of what is served over the baseline is above 0, or the likelihood licenses it, and the later requests
of the log do not show the contrary.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch

from pygrade import ops
from pygrade._typing import Floats, Floats32, Ints
from pygrade._util.html_table import html_table
from pygrade._util.serialization import to_builtins
from pygrade.config.training import RewardConfig, TrustConfig
from pygrade.evaluation.arms import CORRECTED_EXPECTED_VALUE, EXPECTED_VALUE, LOGGED_ORDER, PRODUCTION
from pygrade.evaluation.cautions import contradicted, one_user, winsorized
from pygrade.evaluation.verdict import SURE, VerdictText, strongest, write_verdict
from pygrade.logs import Logs
from pygrade.metrics import intervals
from pygrade.metrics.intervals import Interval
from pygrade.metrics.texts import lift_text
from pygrade.policy.mixture import Baseline, Mixture
from pygrade.training.form import BetterForm, better_form
from pygrade.training.license import License
from pygrade.training.page_replay import PageReplay, logged_order
from pygrade.training.propensity import SlotPropensity
from pygrade.workers import LOCAL, LocalWorkers, Workers

_LICENSED = 1e-9  # lower bound of a lift that the likelihood licenses and replay does not show
MIN_USERS = 30  # with feedback of value; with fewer, nothing is said
_POOL_REQUESTS = 5_000  # from which on folds are worth processes of their own


class FoldRankings(NamedTuple):
    """Standardized scores of a fold's shown rows, float32 [S] each, by name."""

    baselines: dict[str, Floats32]
    policies: dict[str, Floats32]


@dataclass(frozen=True)
class Trust:
    """The result of cross-fitting. Lifts are relative; their intervals cover all at once (mixtures, baselines)."""

    verdict: VerdictText
    policy: str  # that the artifact has: stage 1 or GRADE
    folds: int
    users: int
    propensity: str  # where the slot propensities come from
    baseline: str = EXPECTED_VALUE  # the strongest simple one
    served_baseline: str = EXPECTED_VALUE  # that a mixture is made of, or that is served alone
    challenger: str = ""  # what is mixed with it: stage 1, GRADE, or a baseline
    trust: float = 0.0  # share of the challenger that is served
    lift: Interval | None = None  # of what is served over the baseline
    mixtures: dict[str, Interval] = field(default_factory=dict)  # over the baseline
    baselines: dict[str, Interval] = field(default_factory=dict)  # over the baseline
    license: License | None = None  # of corrected predictions
    better_form: BetterForm | None = None  # in which static weights earn more than in the policy's

    @property
    def sentence(self) -> str:
        """The verdict for those who decide."""
        return self.verdict.sentence

    @property
    def served(self) -> str:
        """The name of what is served."""
        return label(self.challenger, self.trust, self.served_baseline)

    def mixture(self, baselines: Sequence[Baseline]) -> Mixture:
        """For the served policy; baselines: as fitted to the whole log."""
        by_name = {entry.name: entry for entry in baselines}
        said = self.verdict
        lift = None if said.lift is None else (said.lift.value, said.lift.low, said.lift.high)
        return Mixture(
            self.trust,
            by_name[self.served_baseline],
            said.verdict,
            said.sentence,
            tuple(baselines),
            challenger=by_name.get(self.challenger) if self.trust else None,
            detail=said.detail,
            reasons=said.reasons,
            lift=lift,
            weeks=said.weeks,
            over=said.over,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and dicts for JSON; the fields of the verdict beside the others."""
        record: dict[str, Any] = to_builtins(self)
        return record | {**record["verdict"], "lift": record["lift"], "served": self.served}

    def _repr_html_(self) -> str:
        """A small table for notebooks."""
        rows = [[name, lift_text(lift)] for name, lift in (self.mixtures | self.baselines).items()]
        return html_table(["ranking", f"lift over {self.baseline}"], rows, self.sentence)


def fold_of_requests(cluster: Ints, folds: int, seed: int) -> Ints:
    """[R]: the fold of each request's cluster [R]; folds have equally many clusters."""
    place = np.random.default_rng([seed, 3]).permutation(int(cluster.max(initial=-1)) + 1)
    return np.asarray(place[cluster] % folds)


def too_little(logs: Logs, fold: Ints, cluster: Ints) -> str:
    """Why the log is too small to cross-fit; empty if it is not."""
    valued = np.add.reduceat(logs.value_of(logs.feedback), logs.offsets[:-1]) != 0
    users = len(np.unique(cluster[valued]))
    if users < MIN_USERS:
        return f"{users} users gave feedback of value; want {MIN_USERS}"
    if reason := one_user(logs, cluster, MIN_USERS):
        return reason
    for number in np.unique(fold):
        if not valued[fold != number].any():
            return f"all feedback of value is of the users of fold {number}"
    return ""


def fold_workers(config: TrustConfig, logs: Logs, workers: Workers) -> Workers:
    """Workers that train the folds: if no others are given, as many processes of this machine as are worth it."""
    if workers is not LOCAL:
        return workers
    return LocalWorkers(min(config.processes, config.folds) if logs.num_requests >= _POOL_REQUESTS else 1)


def standardized(scores: Floats32, logs: Logs) -> Floats32:
    """z of scores [M] within each request, of the shown rows alone."""
    ones = torch.ones(logs.num_requests, 1)
    pair = torch.from_numpy(np.ascontiguousarray(scores, np.float32))[:, None]
    z = ops.fuse_scores(pair, ones, offsets=torch.from_numpy(logs.offsets), transform="zscore", epsilon=1e-6)
    return np.asarray(z.numpy()[logs.shown])


def choose_mixture(
    logs: Logs,
    fold: Ints,
    cluster: Ints,
    rankings: Sequence[FoldRankings],
    config: TrustConfig,
    reward: RewardConfig,
    propensity: SlotPropensity,
    license: License | None = None,
    reasons: Sequence[str] = (),
    requests: int | None = None,
) -> Trust:
    """Choose the baseline, the anchor and what is mixed with it by the rankings of the folds.

    logs: with the values of events that count; fold, cluster [R]; license: of the corrected predictions, whose expected
    value is then one of the rankings' baselines; reasons: what the correction changes, in words;
    requests: of the whole log, if ``logs`` is a sample.
    """
    rival = _Rivals(logs, cluster, reward, propensity, _joined(logs, fold, [part.baselines for part in rankings]))
    policies = _joined(logs, fold, [part.policies for part in rankings])
    baseline, anchor, arms = rival.baseline, rival.anchor, rival.arms(policies, config.shares)

    # The anchor was not chosen for its lift, so that its interval stands alone.
    over_anchor = rival.lifts(anchor, arms, SURE)
    claims = [*rival.lifts(baseline, arms[:1]), *rival.lifts(baseline, arms)[1:]]
    best = max(range(1, len(arms)), key=lambda place: _or_lowest(over_anchor[place].low))
    whole = max(place for place, arm in enumerate(arms) if arm.challenger in policies)  # the policy alone
    served = best if over_anchor[best].low > 0 else 0
    corrected = license is not None and CORRECTED_EXPECTED_VALUE in (anchor, arms[served].challenger)
    judged, verdict, why = served if served or corrected else best, "undecided", ""
    if corrected or (served and rival.lifts(baseline, arms, SURE)[served].low > 0):
        why = rival.contradiction(rival.values(arms[served].rank), baseline)
        verdict = "undecided" if why else "better"
    elif claims[whole].high < 0:
        verdict, judged = "worse", whole

    new, arm = verdict == "better", arms[served]
    named, over, lift, kept = arms[judged].name, baseline, claims[judged], rival.kept()
    if not new and kept == baseline and kept not in (EXPECTED_VALUE, PRODUCTION):  # another simple ranking is better
        verdict, named, over = "better", kept, EXPECTED_VALUE
        lift = rival.lifts(EXPECTED_VALUE, [rival.alone(kept)])[0]
    said = license.text if new and corrected and license is not None else ""
    text = write_verdict(
        verdict,
        named,
        over,
        lift,
        logs,
        license=said,
        reasons=reasons if new and corrected else (),
        why=f"{len(rankings)}-fold cross-fitted by user" + (f", {propensity.reason}" if propensity.reason else ""),
        contrary=why,
        requests=requests,
    )
    return Trust(
        verdict=text,
        baseline=baseline,
        served_baseline=anchor if new else kept,
        challenger=arm.challenger if new else "",
        policy=arm.challenger if new and arm.challenger in policies else list(policies)[-1],
        trust=arm.share if new else 0.0,
        lift=claims[served] if new else None,
        mixtures={entry.name: lift for entry, lift in zip(arms, claims, strict=True)},
        baselines=rival.over_baseline(),
        license=license,
        folds=len(rankings),
        users=int(cluster.max(initial=-1)) + 1,
        propensity=propensity.note,
        better_form=better_form(rival.worth, cluster),
    )


class _Arm(NamedTuple):
    """A ranking that could be served."""

    anchor: str
    challenger: str  # "": the anchor alone
    share: float
    rank: Ints  # [S]

    @property
    def name(self) -> str:
        return label(self.challenger, self.share, self.anchor)


class _Rivals:
    """The simple rankings of a log's pages: what they are worth, the strongest, and lifts over them."""

    def __init__(
        self,
        logs: Logs,
        cluster: Ints,
        reward: RewardConfig,
        propensity: SlotPropensity,
        scores: Mapping[str, Floats32],
    ) -> None:
        """scores: name → standardized scores [S] of the shown rows."""
        self.logs, self.cluster, self.propensity, self.scores = logs, cluster, propensity, scores
        self.pages = pages = PageReplay(logs, reward, winsorized(logs, cluster))
        self.ranks = {name: pages.ranks(part) for name, part in scores.items()}
        self.worth = {name: self.values(rank) for name, rank in self.ranks.items()}  # [R] each
        if (ordered := logged_order(logs, pages, propensity)) is not None:
            self.worth[LOGGED_ORDER] = ordered
        self.lows = strongest(self.worth, EXPECTED_VALUE, cluster)
        if CORRECTED_EXPECTED_VALUE in self.lows:
            self.lows[CORRECTED_EXPECTED_VALUE] = max(self.lows[CORRECTED_EXPECTED_VALUE], _LICENSED)
        self.baseline = self._highest(name for name in self.lows if name != CORRECTED_EXPECTED_VALUE)
        self.anchor = self._highest(self.ranks)

    def _highest(self, names: Iterable[str]) -> str:
        return max(names, key=lambda name: self.lows[name])

    def values(self, rank: Ints) -> Floats:
        """[R] of ranks [S]."""
        return self.pages.values(rank, self.propensity)

    def alone(self, name: str) -> _Arm:
        return _Arm(name, "", 0.0, self.ranks[name])

    def arms(self, policies: Mapping[str, Floats32], shares: Sequence[float]) -> list[_Arm]:
        """The anchor, and its mixtures with the policies and the challengers; policies also alone."""
        arms = [self.alone(self.anchor)]
        for name, scores in {**policies, **self._challengers()}.items():
            for share in shares:
                if share < 1 or name in policies:
                    mixed = (1 - share) * self.scores[self.anchor] + share * scores.astype(np.float64)
                    arms.append(_Arm(self.anchor, name, share, self.pages.ranks(mixed)))
        return arms

    def _challengers(self) -> dict[str, Floats32]:
        """Baselines to mix with the anchor: corrected expected value, and with that the strongest of the others."""
        if CORRECTED_EXPECTED_VALUE not in self.scores:
            return {}
        others = [name for name in self.scores if name not in (CORRECTED_EXPECTED_VALUE, EXPECTED_VALUE)]
        name = self._highest(others) if self.anchor == CORRECTED_EXPECTED_VALUE else CORRECTED_EXPECTED_VALUE
        return {name: self.scores[name]}

    def lifts(self, over: str, chosen: Sequence[_Arm], confidence: float = 0.95) -> list[Interval]:
        """Of arms, the widest over the interval of the propensities."""
        found = []
        for curve in (self.propensity, *self.propensity.bounds()):
            ordered = over == LOGGED_ORDER
            base = logged_order(self.logs, self.pages, curve) if ordered else self.pages.values(self.ranks[over], curve)
            assert base is not None
            each = [intervals.mean_lift(self.pages.values(arm.rank, curve), base) for arm in chosen]
            by_influence = confidence == SURE
            found.append(intervals.simultaneous(each, self.cluster, confidence=confidence, by_influence=by_influence))
        return [
            Interval(e[0].value, e[0].standard_error, min(i.low for i in e), max(i.high for i in e))
            for e in zip(*found, strict=True)
        ]

    def over_baseline(self) -> dict[str, Interval]:
        """Lifts of the other simple rankings."""
        others = {name: value for name, value in self.worth.items() if name != self.baseline}
        lifts = [intervals.mean_lift(value, self.worth[self.baseline]) for value in others.values()]
        return dict(zip(others, intervals.simultaneous(lifts, self.cluster), strict=True))

    def contradiction(self, values: Floats, over: str) -> str:
        """A text if the later requests of the log contradict a lift of values [R] over a ranking; empty if not."""
        return contradicted(self.logs, values, self.worth[over], self.cluster)

    def kept(self) -> str:
        """The ranking served without anything new: expected value, or a simple ranking that is shown to be better."""
        best = self._highest(name for name in self.lows if name != CORRECTED_EXPECTED_VALUE and name in self.ranks)
        if best != EXPECTED_VALUE and self.lifts(EXPECTED_VALUE, [self.alone(best)], SURE)[0].low > 0:
            return EXPECTED_VALUE if self.contradiction(self.worth[best], EXPECTED_VALUE) else best
        return EXPECTED_VALUE


def undecidable(reason: str, policy: str, folds: int, logs: Logs, propensity: SlotPropensity) -> Trust:
    """Nothing can be said, for this reason: expected value is served."""
    text = write_verdict("undecidable", EXPECTED_VALUE, EXPECTED_VALUE, None, logs, why=reason)
    if propensity.reason:
        text = replace(text, detail=f"{text.detail}; {propensity.reason}")
    return Trust(text, policy, folds, int(logs.user_number.max(initial=-1)) + 1, propensity.note)


def label(challenger: str, share: float, baseline: str) -> str:
    """A mixture's name: that of its only part if it has one."""
    if not share:
        return baseline
    return challenger if share == 1 else f"{share:g} {challenger} + {1 - share:g} {baseline}"


def _joined(logs: Logs, fold: Ints, parts: Sequence[Mapping[str, Floats32]]) -> dict[str, Floats32]:
    """Scores of all shown rows, put together from those of the folds."""
    of_row = fold[logs.row_request[logs.shown]]
    result = {name: np.empty(len(of_row), np.float32) for name in parts[0]}
    for number, part in enumerate(parts):
        for name, scores in part.items():
            result[name][of_row == number] = scores
    return result


def _or_lowest(bound: float) -> float:
    return bound if math.isfinite(bound) else -math.inf
