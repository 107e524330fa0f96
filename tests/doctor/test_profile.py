"""The profile says what a log can tell, and every fault in a sentence."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("pyarrow")

from pygrade._util.serialization import to_builtins
from pygrade.config.training import RewardConfig
from pygrade.doctor import profile_log, profile_page, words
from pygrade.doctor.exploration import SHARES, effective_share
from pygrade.doctor.tasks import fits
from pygrade.logs import Logs, concatenate
from pygrade.training.propensity import slot_propensity
from tests.html_page import HtmlPage
from tests.logs.shop import PAGE, shop


@pytest.fixture(scope="module")
def logs():
    return Logs.from_table(shop(900))


@pytest.fixture(scope="module")
def profile(logs):
    return profile_log(logs)


def test_calibration_and_order_of_each_task(logs, profile):
    shown = logs.shown
    for t, task in enumerate(logs.tasks):
        entry = profile["tasks"][task]
        assert entry["events"] == logs.feedback[:, t].sum() and entry["rows"] == shown.sum()
        assert entry["ratio"]["value"] == pytest.approx(logs.predictions[shown, t].sum() / logs.feedback[:, t].sum())
        assert entry["ratio"]["low"] < entry["ratio"]["value"] < entry["ratio"]["high"]
        examined = entry["examined_ratio"]  # the shop's predictions are those of examined items
        assert abs(examined["value"] - 1) < 0.25 < entry["ratio"]["value"] - 1
        assert entry["over_order"]["low"] < entry["over_order"]["value"] < entry["over_order"]["high"]
        assert 0.5 < entry["auc"]["low"] < entry["auc"]["high"] < 1 and 0 < entry["ece"] < 0.3


def test_sizes_users_and_tests(logs, profile):
    size = profile["size"]
    assert (size["requests"], size["candidates"], size["shown"], size["slots"]) == (900, 9000, 900 * PAGE, PAGE)
    assert size["users"] == len(set(logs.user_id.tolist())) and size["unseen_share"] == 0.5
    assert profile["users"]["requests_per_user"]["50 %"] == np.median(np.unique(logs.user_id, return_counts=True)[1])
    assert profile["plan"]["click"]["users"] < profile["plan"]["buy"]["users"]


def test_which_estimates_are_possible_and_why_others_are_not(logs, profile):
    possible = {name: entry["possible"] for name, entry in profile["estimates"].items()}
    assert possible["replay"] and possible["A/B test planning"] and not possible["value by densities"]
    assert possible["value by position"] == (slot_propensity(logs, RewardConfig()).source != "none")
    assert "w_<task> and a_<task>" in profile["estimates"]["value by densities"]["why"]
    assert "exploration and w_<task>" in profile["estimates"]["cascade and whole page"]["why"]


def test_drawn_and_shuffled_pages_are_found(logs):
    rng = np.random.default_rng(0)
    weights = rng.dirichlet([5, 5], logs.num_requests).astype(np.float32)
    kind = np.array(["none", "dirichlet", "shuffle"])[np.arange(logs.num_requests) % 3]
    concentration = np.full_like(weights, math.nan)
    concentration[kind == "dirichlet"] = 5.0
    explored = replace(logs, weights=weights, concentration=concentration, exploration=kind)
    found = profile_log(explored)
    assert found["exploration"] == {
        "logged": True,
        "shares": {"none": pytest.approx(1 / 3), "dirichlet": pytest.approx(1 / 3), "shuffle": pytest.approx(1 / 3)},
        "weights": True,
        "drawn": 300,
        "components": 1,
    }
    assert found["estimates"]["value by densities"]["possible"]
    assert "300 requests with drawn weights" in found["estimates"]["value by densities"]["why"]


def test_exploration_buys_narrower_intervals_at_a_higher_cost(logs, profile):
    rows = profile["exploration_precision"]["rows"]
    assert [row["share"] for row in rows] == list(SHARES)
    for name, direction in (("exponent", -1), ("lift", -1), ("shuffled_cost", 1), ("value", -1)):
        known = [row[name] for row in rows if row[name] is not None]
        assert len(known) >= 2 and (np.diff(known) * direction > 0).all(), name
    ratio = rows[0]["exponent"] / rows[-1]["exponent"]
    assert ratio == pytest.approx(math.sqrt(SHARES[-1] / SHARES[0]))
    more = profile_log(Logs.from_table(shop(1800)))["exploration_precision"]["rows"]
    assert more[-1]["lift"] < rows[-1]["lift"]


def test_cost_of_shuffled_pages_is_what_they_lose():
    """Feedback that is the slot's propensity itself: a random order earns its mean in each slot."""
    logs = Logs.from_table(shop(300))
    theta = (np.arange(PAGE) + 1.0) ** -0.7
    feedback = np.where(logs.shown, theta[np.maximum(logs.position, 0)], 0.0).astype(np.float32)
    logs = replace(
        logs, tasks=("click",), predictions=logs.predictions[:, :1], feedback=feedback[:, None], task_values=()
    )
    worth = profile_log(logs, RewardConfig(propensity=0.7))["exploration_precision"]
    assert worth["rows"][-1]["shuffled_cost"] == pytest.approx(0.0, abs=1e-6)  # all items are equally good
    best = np.where(logs.position == 0, 1.0, 0.0).astype(np.float32)
    logs = replace(logs, feedback=best[:, None])
    worth = profile_log(logs, RewardConfig(propensity=0.7))["exploration_precision"]
    assert worth["rows"][-1]["shuffled_cost"] == pytest.approx(SHARES[-1] * (1 - theta.mean()))


def test_effective_share_is_that_of_sampled_ratios():
    torch = pytest.importorskip("torch")
    center = np.array([0.5, 0.3, 0.2])
    target = torch.tensor([4.0, 3.0, 3.0], dtype=torch.float64)
    logged = torch.tensor(center * 10)
    torch.manual_seed(0)
    draws = torch.distributions.Dirichlet(logged).sample((400_000,))
    ratio = (
        torch.distributions.Dirichlet(target).log_prob(draws) - torch.distributions.Dirichlet(logged).log_prob(draws)
    ).exp()
    sampled = float(ratio.sum() ** 2 / ratio.square().sum() / len(ratio))
    assert effective_share(center) == pytest.approx(sampled, rel=0.03)
    assert effective_share(np.ones(1)) == 0.0


def test_nothing_in_the_profile_is_lost_in_json_and_the_page(profile):
    again = json.loads(json.dumps(to_builtins(profile), allow_nan=False))
    assert words.task_rows(again) == words.task_rows(profile)
    assert words.exploration_rows(again) == words.exploration_rows(profile)
    contract = [("<task>", "yes", "what & why", "missing"), ("left out", "", "<i>", "a")]
    page = profile_page({"profile": profile, "contract": contract, "changed": ["a < b"], "warned": ["c > d"]}, "<shop>")
    assert "<i>" not in page and "<shop>" not in page and "&lt;shop&gt;" in page and "a &lt; b" in page
    assert "://" not in page
    for title in (
        "What this log can tell",
        "Predictions beside feedback",
        "What exploration would buy",
        "A/B test for 1 %",
    ):
        assert title in HtmlPage(page).headings


def spoiled(logs, **changes):
    return replace(logs, **{name: change(getattr(logs, name).copy()) for name, change in changes.items()})


def column(place, values):
    def change(array):
        array[:, place] = values(array[:, place])
        return array

    return change


SENTENCES = {
    "noise": (
        dict(predictions=column(0, lambda p: np.random.default_rng(1).permutation(p))),
        "the prediction of click has no signal: its AUC 0.",
    ),
    "the wrong way": (dict(predictions=column(0, lambda p: 1 - p)), "the prediction of click orders the wrong way"),
    "far from the rate": (dict(predictions=column(1, lambda p: p / 10)), "buy happens "),
    "below the rate": (dict(predictions=column(0, lambda p: p / 2)), "click happens 1.9 times as often as predicted"),
    "worse than the page": (
        dict(predictions=column(0, lambda p: p + np.random.default_rng(1).uniform(0, 3, len(p)))),
        "the prediction of click orders a page worse",
    ),
    "a feature without a value": (dict(context=column(2, lambda x: x * np.nan)), "feature buyer_score has no value"),
    "a constant feature": (dict(context=column(3, np.ones_like)), "feature hour is 1 everywhere"),
}  # fmt: skip


@pytest.mark.parametrize("name", SENTENCES)
def test_each_fault_has_its_sentence(logs, profile, name):
    changes, sentence = SENTENCES[name]
    assert not any(sentence in line for line in profile["sentences"])
    found = [line for line in profile_log(spoiled(logs, **changes))["sentences"] if sentence in line]
    assert len(found) == 1


def test_a_wrong_level_is_neither_called_a_fit_nor_hidden_by_the_chart(logs, profile):
    def section(profile):
        return next(part for part in words.profile_sections(profile) if part.title == "Predictions beside feedback")

    def mean_height(profile):
        return np.mean(words.calibration_chart(profile).lines["click"][1])

    half = profile_log(spoiled(logs, predictions=column(0, lambda p: p / 2)))
    assert "fits" not in section(half).line and section(half).light == "yellow"
    assert mean_height(half) == pytest.approx(2 * mean_height(profile))
    ratio = profile["tasks"]["click"]["ratio"]["value"]
    shown = profile_log(replace(logs, predictions=logs.predictions / np.float32(ratio)))  # slots and all
    assert fits(shown["tasks"]["click"]["ratio"]) and not fits(shown["tasks"]["click"]["examined_ratio"])
    assert not any("happens" in fault for fault in shown["prediction_faults"])
    assert "Each fits the events of a row as shown" in section(shown).line


@pytest.mark.parametrize(
    "low, high, fit", [(0.5, 0.6, False), (0.85, 0.95, True), (1.05, 1.2, True), (1.11, 1.2, False), (None, None, True)]
)
def test_a_level_fits_unless_its_bounds_exclude_a_tenth(low, high, fit):
    assert fits({"value": 1.0, "low": low, "high": high}) is fit


def test_copies_and_missing_features_are_counted(logs, profile):
    assert profile["users"]["copied_share"] == 0.0 and profile["missing"]["share"] == 0.0
    again = replace(
        logs,
        request_id=np.array([f"again {r}" for r in logs.request_id]),
        user_id=np.char.add("b", logs.user_id.astype(str)),
    )
    some = again.select(np.arange(300))
    context = logs.context.copy()
    context[:225, -2], context[:300, -1] = np.nan, np.nan
    found = profile_log(concatenate([replace(logs, context=context), replace(some, context=context[:300])]))
    assert found["users"]["copied_share"] == 0.25
    assert found["users"]["effective"] < profile["users"]["effective"] < found["size"]["users"]
    assert found["missing"]["share"] == 0.5
    assert found["missing"]["features"]["buyer_score"] == 0.375
    assert "25 % repeat another user's. As evidence" in words.user_sentence(found)


def test_columns_that_hold_the_feedback_come_first(logs):
    feedback = logs.feedback[:, 1]
    leaking = profile_log(replace(logs, predictions=np.stack([logs.predictions[:, 0], (feedback + 1) / 3], 1)))
    assert leaking["sentences"][0].startswith("LEAK: the prediction of buy holds its feedback (AUC 1.000)")


def test_faults_of_the_whole_log(logs):
    seen = Logs.from_table({k: [v for v, s in zip(c, TABLE["rank"], strict=True) if s] for k, c in TABLE.items()})
    bare = replace(seen, features=(), context=seen.context[:, :0], timestamp=None)
    text = " ".join(profile_log(bare)["sentences"])
    for sentence in ("every candidate was shown", "no feature of the request", "no timestamps", "900 requests: below"):
        assert sentence in text
    twins = replace(logs, predictions=logs.predictions[:, [0, 0]], feedback=logs.feedback[:, [0, 0]])
    assert "buy and click have the same events and predictions" in " ".join(profile_log(twins)["sentences"])


TABLE = shop(900)


def test_a_log_without_any_event_has_a_profile(logs):
    empty = profile_log(replace(logs, feedback=np.zeros_like(logs.feedback)))
    assert not empty["estimates"]["replay"]["possible"]
    assert [row["lift"] for row in empty["exploration_precision"]["rows"]] == [None] * len(SHARES)
    assert empty["sentences"][0].startswith("NO FEEDBACK") and not empty["trainable"]
    json.dumps(to_builtins(empty), allow_nan=False)
    assert "n/a" in str(words.task_rows(empty))


def test_a_log_of_one_request_has_a_profile(logs):
    single = profile_log(logs.select([0]))
    assert not single["estimates"]["A/B test planning"]["possible"]
    profile_page({"profile": single}, "one")


def test_a_log_without_slots_says_so_and_has_no_figures_of_slots(logs):
    profile = profile_log(replace(logs, slots_known=False))
    assert any(
        sentence.startswith("NO SLOTS: ") and "--reward.propensity 0" in sentence for sentence in profile["sentences"]
    )
    assert (
        "in unknown slots" in words.size_sentence(profile) and not profile["estimates"]["value by position"]["possible"]
    )
    assert {entry["over_order"]["value"] for entry in to_builtins(profile)["tasks"].values()} == {None}
    assert {row[1:4] for row in words.exploration_rows(profile)} == {("n/a", "n/a", "n/a")}
    assert "of no use until the slots are logged" in profile_page({"profile": profile}, "")
