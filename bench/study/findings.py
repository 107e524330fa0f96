"""Verdicts on claims by rules that the protocol states before the runs.

`claims.json` lists the claims: each is a set of differences with intervals and an expected sign. *Reproduced*: all
intervals are wholly on the expected side of 0. *Not reproduced*: none is. *Depends*: some are; the text says which.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pygrade.metrics.intervals import Interval
from pygrade.metrics.texts import lift_text
from .stats import Results, over_worlds, sign

REPRODUCED, NOT_REPRODUCED, NOT_RUN = "reproduced", "not reproduced", "not run"
CONFIRMED, NOT_CONFIRMED = "confirmed", "not confirmed"
_RARE, _OTHERS = "rarest tenth of users", "other users"


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
    cost = results.mean(
        "main", "grade", lambda record: 100 * (record["expected"]["value"] / record["compliance"]["value_before"] - 1)
    )
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


def _rare(results: Results) -> Finding:
    """A limit that the paper states."""
    claim = "Rare and new users gain less"
    if not results.has("main", "grade", "static"):
        return Finding(claim, "paper", (), NOT_RUN)
    rare, others = (results.lifts("main", "grade", "static", name, "slices") for name in (_RARE, _OTHERS))
    texts = [percent(over_worlds(list(lifts.values()))) for lifts in (rare, others)]
    measured = [f"rarest tenth {texts[0]}, others {texts[1]} over best static"]
    if results.has("cold", "grade", "static"):
        measured.append(f"a world with little history {percent(results.lift('cold', 'grade', 'static'))}")
    difference = Difference("difference", over_worlds([rare[world] - others[world] for world in rare]), -1)
    return Finding(claim, "paper", (*measured, str(difference)), verdict([difference], "paper"))


_RULES: dict[str, Callable[..., Finding]] = {
    "differences": _differences,
    "hacking": _hacking,
    "format": _format,
    "rare": _rare,
}
