"""The form of the policy's score: whether static weights earn more in another one."""

from collections.abc import Mapping
from dataclasses import dataclass

from pygrade._typing import Array, Floats
from pygrade.evaluation.arms import STATIC
from pygrade.metrics import intervals
from pygrade.metrics.intervals import Interval
from pygrade.metrics.texts import bounds_text
from pygrade.training.baselines import FORMS

_NEEDED = 2.0  # standard errors of the paired difference


@dataclass(frozen=True)
class TransformChoice:
    """A form in which static weights earn more than in the policy's."""

    transform: str  # of `PolicyConfig`
    lift: Interval  # over static weights of the policy's form, paired by request

    def sentence(self, own: str) -> str:
        """``static weights in linear form do 7.0 % (5.1 to 8.9) better than in z-log form: …``; own: the policy's
        transform.
        """
        names = [_name(transform) for transform in (self.transform, own)]
        return (
            f"static weights in {names[0]} form do {bounds_text(self.lift, 1).lstrip('+')} better than in {names[1]} "
            f"form: try --policy.transform {self.transform}"
        )


def choose_transform(worth: Mapping[str, Floats], cluster: Array) -> TransformChoice | None:
    """The form of most value whose lift over the policy's is above 2 standard errors; None if there is none.

    worth: the value [R] of each page in the order of static weights, by the names of `fit_baselines`, which are
    cross-fitted; cluster [R]: of requests that are dependent.
    """
    better = []
    for transform, name in FORMS.items():
        if name in worth:
            estimate = intervals.mean_lift(worth[name], worth[STATIC])
            lift = intervals.interval(estimate.value, estimate.influence, cluster)
            if lift.value > _NEEDED * lift.standard_error > 0:
                better.append(TransformChoice(transform, lift))
    return max(better, key=lambda form: form.lift.value, default=None)


def _name(transform: str) -> str:
    """linear, z-log, …"""
    return FORMS.get(transform, transform).rpartition(", ")[2]
