"""Slot propensity: how likely the item in a slot is examined, relative to the first slot.

One rule for training and judging: the exponent that the config states; else a power law fitted to the shuffled pages;
else, with no or too few of those, nothing is known and every slot counts alike.
"""

import logging
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from pygrade.logs import Logs

logger = logging.getLogger("pygrade")


class PropensityConfig(Protocol):
    """The options of `RewardConfig` that decide."""

    @property
    def propensity(self) -> Literal["estimate"] | float: ...
    @property
    def page_size(self) -> int: ...


@dataclass(frozen=True)
class SlotPropensity:
    """q(slot) = (slot + 1)^-exponent."""

    exponent: float  # 0 if nothing is known
    source: Literal["given", "shuffled pages", "none"]
    reason: str = ""  # why nothing is known

    @property
    def note(self) -> str:
        """The source, for people."""
        return f"none, every slot counts alike ({self.reason})" if self.source == "none" else self.source

    def curve(self, slots: int) -> NDArray[np.float64]:
        """q of the first slots."""
        return propensity_curve(self.exponent, slots)

    def bounds(self) -> tuple["SlotPropensity", ...]:
        """The propensities at the ends of the exponent's interval, if it has one."""
        return ()

    def known(self, slots: int) -> NDArray[np.float64] | None:
        """The same; None if nothing is known."""
        return None if self.source == "none" else self.curve(slots)


def slot_propensity(logs: Logs, config: PropensityConfig) -> SlotPropensity:
    """The propensity of a log's slots, by the rule above.

    A power law has one number to fit, which a few hundred events determine; slot by slot the estimates would be noisier
    and could rise. The first ``page_size`` slots are fitted, since they are the ones that count.
    """
    if not isinstance(config.propensity, str):
        return SlotPropensity(float(config.propensity), "given")
    try:
        return SlotPropensity(fit_exponent(logs, config.page_size), "shuffled pages")
    except ValueError as error:
        logger.warning("slot propensities are taken as 1 (labels keep their position bias): %s", error)
        return SlotPropensity(0.0, "none", str(error))


def propensity_curve(exponent: float, slots: int) -> NDArray[np.float64]:
    """q(slot) = (slot + 1)^-exponent of the first slots."""
    return np.arange(1, slots + 1, dtype=np.float64) ** -exponent


def fit_exponent(logs: Logs, slots: int = 10) -> float:
    """The exponent of the first slots, fitted to the requests with exploration "shuffle", whose order is random.

    Events per view of a slot (any feedback at all), weighted by their precision; from 0 (flat) to 3. ``ValueError`` if
    the shuffled pages are missing or have fewer than 30 events.
    """
    if logs.exploration is None or not bool((logs.exploration == "shuffle").any()):
        raise ValueError("logs have no request with exploration 'shuffle'; want some, or a propensity exponent")
    rows = (logs.exploration == "shuffle")[logs.row_request] & logs.shown & (logs.position < slots)
    slot = logs.position[rows]
    events = np.bincount(slot, (logs.feedback[rows] > 0).any(1), minlength=slots)
    views = np.bincount(slot, minlength=slots)
    seen = (views > 0) & (events > 0)
    if events.sum() < 30 or seen.sum() < 2:
        raise ValueError(
            f"the shuffled pages have {int(events.sum())} events in {int(seen.sum())} slots; "
            "want at least 30 in 2, or a propensity exponent"
        )
    rate = events[seen] / views[seen]
    slope = np.polyfit(np.log(np.flatnonzero(seen) + 1.0), np.log(rate), 1, w=np.sqrt(events[seen]))[0]
    return float(np.clip(-slope, 0.0, 3.0))
