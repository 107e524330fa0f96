"""What users do later, as tasks: counts against a loop, censoring, no feature of them, refusals."""

import numpy as np
import polars as pl
import pytest

from pygrade.data.downstream import Downstream, downstream_amounts
from pygrade.data.events import import_events
from pygrade.evaluation.return_screen import screen
from pygrade.features.defaults import default_schema
from pygrade.features.feature import Feature, SchemaError
from pygrade.features.schema import FeatureSchema

HOUR, DAY = 3_600_000, 86_400_000

SHOP = """
requests = "session"
gap_minutes = 30
KEYS

[[events]]
files = "events.csv"
form = "wide"
user = "user"
item = "item"
time = "time"
exposure = "every row"
tasks = { click = "click" }
measures = { revenue = "revenue" }
"""
LATER = """
[downstream]
back = { days = 1 }
often = { days = 3, at_least = 2 }
spends = { days = 2, of = "revenue", at_least = 5 }
"""


def shop(tmp_path, keys=LATER, rows=400):
    rng = np.random.default_rng(0)
    times = 1_700_000_000_000 + rng.integers(0, 12 * 24, rows) * HOUR + rng.integers(0, 600_000, rows)
    frame = pl.DataFrame(
        {"user": rng.integers(0, 30, rows), "item": rng.integers(0, 9, rows), "time": times}
        | {"click": rng.integers(0, 2, rows), "revenue": rng.integers(0, 4, rows)}
    )
    frame.write_csv(tmp_path / "events.csv")
    (tmp_path / "events.toml").write_text(SHOP.replace("KEYS", keys))
    return frame, f"events:{tmp_path / 'events.toml'}"


def expected(frame, user, time):
    """The three labels by a loop."""
    own = frame.filter(pl.col("user") == user).sort("time")
    times, revenue = own["time"].to_list(), own["revenue"].to_list()
    begins = [t for n, t in enumerate(times) if n == 0 or t - times[n - 1] > 30 * 60_000]

    def later(days):
        return sum(time < begin <= time + days * DAY for begin in begins)

    spent = sum(r for t, r in zip(times, revenue, strict=True) if time < t <= time + 2 * DAY)
    return [float(later(1) >= 1), float(later(3) >= 2), float(spent >= 5)]


def test_labels_of_a_log_are_those_of_a_loop_and_the_last_days_have_none(tmp_path):
    frame, spec = shop(tmp_path)
    log = import_events(spec, tmp_path / "log")
    assert log.tasks == ("click", "back", "often", "spends") and log.source["downstream"] == ["back", "often", "spends"]
    events = log.scan().collect()
    end = frame["time"].max()
    assert events["timestamp"].max() <= end - 3 * DAY
    assert len(events) < len(frame) and any(
        "what their users do later is not known yet" in n for n in log.source["notes"]
    )
    seen = set()
    for row in events.iter_rows(named=True):
        at = frame.filter((pl.col("user") == row["user_id"]) & (pl.col("item") == row["item_id"]))
        found = [row["y_back"], row["y_often"], row["y_spends"]]
        assert any(expected(frame, row["user_id"], t) == found for t in at["time"]), row
        seen.add(tuple(found))
    assert len(seen) >= 6  # not all alike


def test_no_feature_reads_a_label_of_the_future(tmp_path):
    log = import_events(shop(tmp_path)[1], tmp_path / "log")
    schema = default_schema(log)
    assert not any("back" in f.source or "spends" in f.source for f in schema.features)
    assert any(f.source == "y_click" for f in schema.features)
    with pytest.raises(SchemaError, match="feature 'leak' reads y_back, whose label is known only days later"):
        FeatureSchema.of([Feature("leak", "user", "rate", "y_back", ("user_id",))], log)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ("downstream = { back = { hours = 1 } }", "days, and if wanted of and at_least, for 'back'"),
        ("downstream = { back = { days = 0 } }", "days and at_least above 0 for 'back'"),
        ("downstream = { back = { days = 1, of = 'profit' } }", "is of 'profit'; want sessions, revenue"),
        ("downstream = { click = { days = 1 } }", "'click' is feedback and downstream; want two names"),
    ],
)
def test_wrong_keys_are_named(tmp_path, keys, said):
    with pytest.raises(ValueError, match=said):
        import_events(shop(tmp_path, keys)[1], tmp_path / "log")


def test_an_exposure_without_later_events_has_amount_0():
    user, time = np.array([1, 1, 2]), np.array([0, 2 * HOUR, 5 * HOUR])
    found = downstream_amounts([Downstream("back", 1)], (user, time), (user, time), HOUR)
    assert found["back"].tolist() == [1.0, 0.0, 0.0]


def test_the_screen_removes_what_activity_explains():
    rng = np.random.default_rng(1)
    n = 20_000
    active = rng.poisson(3 * rng.gamma(1.0, 1.0, n))
    liked, clicked = rng.binomial(1, 0.3, n), rng.poisson(active)  # clicks only follow activity
    back = rng.random(n) < 1 / (1 + np.exp(-(0.4 * active - 1 + 0.5 * liked)))
    found = screen({"like": liked, "click": clicked, "none": np.zeros(n)}, back, {"sessions": active}, np.arange(n))
    assert set(found) == {"like", "click"}
    assert (
        found["click"].alone.low > 0.05 and found["click"].given_activity.low < 0 < found["click"].given_activity.high
    )
    assert found["like"].given_activity.low > 0.01
    with pytest.raises(ValueError, match="activity is empty"):
        screen({"like": liked}, back, {}, np.arange(n))
