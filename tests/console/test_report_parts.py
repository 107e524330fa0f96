"""The parts of reports: marks on scales, tables, pages side by side, weights by group."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from pygrade._util.html_table import Html, escape, html_table
from pygrade.config.training import RewardConfig, TrainConfig
from pygrade.console.charts import Chart, draw, moving_mean
from pygrade.console.html import Lead, Section
from pygrade.console.marks import interval_mark, reach_of
from pygrade.console.page import page
from pygrade.console.sections import options_section, prediction_section, replay_section, verdict_lead
from pygrade.console.tables import cross_fit_table
from pygrade.evaluation.arms import EXPECTED_VALUE, GRADE
from pygrade.evaluation.replay import reinforcement_sentence
from pygrade.evaluation.verdict import arm_name
from pygrade.metrics.intervals import UNKNOWN
from pygrade.metrics.texts import rate_text, share_text
from pygrade.policy import Baseline, FusionPolicy, Mixture, PolicySpec
from pygrade.training.evaluate_policy import evaluate_policy, later_record
from pygrade.training.propensity import SlotPropensity
from tests.html_page import HtmlPage
from tests.learning import tiny_logs


def interval(value, reach):
    return {"value": value, "low": value - reach, "high": value + reach}


def ends(mark):
    return [float(number) for number in re.findall(r"(?:left|width):([^%]+)%", mark.code)]


def test_marks_of_a_column_share_a_scale():
    lifts = [interval(0.02, 0.01), interval(-0.01, 0.03), {"value": None, "low": None, "high": None}]
    reach = reach_of(lifts)
    assert reach == 0.05 and reach_of([]) == 0.005 and reach_of([interval(9.0, 1.0)]) == 10.0
    left, width, dot = ends(interval_mark(lifts[0], reach))
    assert (left, width, dot) == pytest.approx((60.0, 20.0, 70.0))
    for lift, kind in zip((*lifts, interval(-0.02, 0.01)), ("better", "undecided", "undecided", "worse"), strict=True):
        assert f'class="interval {kind}"' in interval_mark(lift, reach).code
    assert (
        ends(interval_mark(lifts[2], reach)) == [] and 'aria-label="a&lt; n/a"' in interval_mark(lifts[2], 1, "a<").code
    )
    assert ends(interval_mark(interval(99.0, 1.0), reach)) == [100.0, 0.5, 100.0]


def test_a_table_escapes_all_but_html():
    found = HtmlPage(html_table(["na<me", "n", ""], [["<a>", "<1>", Html("<b>m</b>")]], "t<", strong="<a>"))
    assert found.rows == [["na<me", "n", ""], ["<a>", "<1>", "m"]] and found.own == found.rows[1:]
    assert "t<" in found.text and "b" in found.tags and "a" not in found.tags
    assert "thead" in found.tags and "thead" not in HtmlPage(html_table([], [["a", "b"]], texts=2)).tags
    with pytest.raises(ValueError, match="a row has 1 cells"):
        html_table(["a", "b"], [["1"]])


def test_names_have_no_effect_on_a_page():
    assert escape("a<\u202e\x1b[1m") == "a&lt;\\u202e\\x1b[1m"
    hostile = "<script>alert(1)</script>"
    lead = Lead(verdict=hostile, kind="better", beside=[hostile], warnings=[hostile], facts=[(hostile, hostile)])
    shown = HtmlPage(page(hostile, lead, [Section(hostile)] * 2, scripted=False))
    assert "script" not in shown.tags and shown.headings[1:] == [hostile] * 2
    assert HtmlPage(lead.html()).text.count(hostile) == 5  # verdict, beside, warning, name and value of a fact


def points(chart, name):
    found = re.search(rf'<polyline class="{name}" points="([^"]*)"', chart)
    return [tuple(map(float, pair.split(","))) for pair in found[1].split()]


def test_a_chart_draws_its_lines_band_and_marks():
    values = [3.0, 2.0, float("nan"), 1.0]
    chart = draw(Chart("loss <x>", "nats", {"loss": ([0, 1, 2, 3], values)}, ([0.0] * 4, [4.0] * 4), {2: "stage 2"}))
    line = points(chart, "line-0")
    assert len(line) == 3 and [x for x, _ in line] == sorted(x for x, _ in line)
    assert line[0][1] < line[1][1] < line[2][1]  # a larger number is higher
    assert line[1][1] - line[0][1] == pytest.approx(line[2][1] - line[1][1], abs=0.11)
    assert "loss &lt;x&gt;" in chart and ">stage 2<" in chart and '<polygon class="band"' in chart
    assert "http" not in chart and "0" in re.findall(r">([^<]+)</text>", chart)


def test_long_curves_are_smoothed():
    steps = list(range(40))
    chart = draw(Chart("t", "l", {"a": (steps, [step % 2 for step in steps])}, smooth=True))
    strong, pale = points(chart, "line-0"), points(chart, "pale line-0")
    spread = [max(y for _, y in line[5:-5]) - min(y for _, y in line[5:-5]) for line in (strong, pale)]
    assert spread[0] < spread[1] / 3
    assert moving_mean([1.0, float("nan")] * 20).tolist() == [1.0] * 40


@pytest.fixture(scope="module")
def judged():
    logs = tiny_logs(150, seed=3)
    spec = PolicySpec(logs.tasks, logs.features)
    policies = {GRADE: FusionPolicy(spec, torch.tensor([0.7, 0.3]), seed=0)}
    baseline = Baseline(EXPECTED_VALUE, "identity", (1.0, 2.0))
    mixture = Mixture(0.0, baseline, "undecided", "Keep what you have.", detail="GRADE over expected value")
    record = evaluate_policy(logs, SlotPropensity(0.5, "given"), policies, mixture, RewardConfig(page_size=5), 3)
    return logs, policies, mixture, json.loads(json.dumps(record))


def test_a_replay_says_what_is_served_against_the_logged_order(judged):
    *_, record = judged
    assert record["logged_order"]["name"] == EXPECTED_VALUE  # a policy without record is not served
    assert record["logged_order"]["metric"] == "value" and record["logged_order"]["lift"]["low"] is not None
    assert record["warnings"] == []


def test_the_new_ranking_of_the_table_is_that_of_the_verdict():
    lifts = {EXPECTED_VALUE: 0.0, "0.4 stage 1 + 0.6 expected value": -0.00003, GRADE: -0.0088}
    bounds = {name: {"value": value, "low": value - 0.005, "high": value + 0.005} for name, value in lifts.items()}
    record = {"served": EXPECTED_VALUE, "judged": GRADE, "mixtures": bounds, "baselines": {}}
    assert dict(row[:2] for row in cross_fit_table(record, brief=True).rows)["new ranking"].startswith(
        "-0.88 % (-1.38 to "
    )
    whole = cross_fit_table(record)
    assert [row[0] for row in whole.rows][1:] == ["variant: 0.4 stage 1 + 0.6 expected value", "new ranking"]
    assert whole.strong == EXPECTED_VALUE
    simple = cross_fit_table(record | {"judged": EXPECTED_VALUE}, brief=True)
    assert [row[:2] for row in simple.rows][1] == ["new ranking", "-0.00 % (-0.50 to 0.50)"]


def test_what_stage_2_adds_is_said():
    def added(low, high):
        lift = {"value": (low + high) / 2, "low": low, "high": high}
        return reinforcement_sentence({"k": 5, "reinforcement": {"metric": "ndcg", "lift": lift}})

    assert added(0.01, 0.03) == "Reinforcement learning adds to stage 1: GRADE over stage 1 +2.00 ± 1.00 % NDCG@5."
    assert "loses against stage 1" in added(-0.03, -0.01)
    assert "adds nothing to stage 1 that these requests can show" in added(-0.01, 0.02)
    assert reinforcement_sentence({"k": 5}) == ""


def test_the_lead_has_the_verdict_then_the_warnings_then_the_lifts(judged):
    *_, record = judged
    verdict = {"sentence": "Test the <new> ranking.", "verdict": "better", "detail": "a over b", "reasons": ["c & d"]}
    lead = verdict_lead(verdict, record, ["WATCH & wait", "WATCH & wait"]).html()
    words = ("Test the &lt;new&gt; ranking.", "c &amp; d", "judged: a over b", "later requests: ", "WATCH &amp; wait")
    places = [lead.index(part) for part in (*words, 'class="cards"')]
    assert places == sorted(places) and lead.count("WATCH") == 1 and 'class="badge better"' in lead
    assert verdict_lead(None, None, ()).html() == ""


def test_later_requests_have_figures_and_no_verdict(judged):
    _, _, mixture, record = judged
    assert record["verdict"]["sentence"] == mixture.sentence and record["verdict"]["verdict"] == "undecided"
    later = record["later"]
    assert later["text"].startswith(f"later requests: the policy ranks by {EXPECTED_VALUE}; the new ranking ")
    assert later["text"].endswith(f" over {EXPECTED_VALUE} (value@3, two-sided 95 %)")
    assert later["lift"] == record["lifts"][GRADE]["value"] and later["serves"] == EXPECTED_VALUE
    lead = verdict_lead(None, record, ()).html()
    assert lead.index(mixture.sentence) < lead.index("later requests: ") and 'class="badge undecided"' in lead


def test_figures_that_need_propensities_or_cannot_differ_say_so():
    given = (GRADE, GRADE, EXPECTED_VALUE)
    text = later_record(*given, "ndcg", UNKNOWN, 5, "slot propensities are unknown", False)["text"]
    assert text.endswith("(NDCG@5, two-sided 95 %, slot propensities are unknown)")
    assert later_record(*given, None, UNKNOWN, 5, "", False)["text"].endswith("rankings cannot differ on these pages")


def test_held_out_tables_have_every_interval(judged):
    logs, *_, record = judged
    page = HtmlPage(replay_section(record).html("s"))
    intervals = [label for label, kind in page.pictures if kind.startswith("interval")]
    rows = {row[0]: " ".join(row) for row in page.rows}
    for name, lifts in record["lifts"].items():
        arm = arm_name(name, record["later"]["served"])
        assert f"{100 * lifts['value']['value']:+.2f} ± " in rows[arm]
        assert [arm in label for label in intervals].count(True) == 2  # of the value and of NDCG
    _head, *predicted = HtmlPage(prediction_section(record).html("s")).rows
    assert [row[0] for row in predicted] == list(logs.tasks)
    assert share_text(record["predictions"]["click"]["auc"], 3) in " ".join(predicted[0])


def test_names_of_lines_that_end_alike_stay_apart():
    chart = Chart("a", "b", {"x": ([0, 1], [0, 1])}, points={name: (1.0, 1.0) for name in ("click", "cart", "buy")})
    heights = [float(y) for y in re.findall(r'y="([\d.]+)">(?:click|cart|buy)<', draw(chart))]
    assert len(heights) == 3 and min(np.diff(sorted(heights))) > 10


def test_a_rate_stands_beside_what_is_predicted_of_examined_items(judged):
    logs, *_, record = judged
    shown, figures = logs.shown, record["predictions"]["click"]
    looks = (logs.position[shown] + 1.0) ** -0.5
    assert figures["examined_prediction"] == pytest.approx(np.mean(logs.predictions[shown, 0] * looks))
    head, row, *_ = HtmlPage(prediction_section(record).html("s")).rows
    assert row[head.index("predicted × examined")] == rate_text(figures["examined_prediction"])
    blind = {task: {**of_task, "examined_prediction": None} for task, of_task in record["predictions"].items()}
    section = prediction_section({**record, "propensity": None, "predictions": blind})
    assert "examined" not in section.html("s")


def test_a_metric_that_cannot_differ_has_no_lift(judged):
    *_, record = judged
    section = replay_section({**record, "cannot_differ": {"value": "every page is whole"}})
    assert "value@3 lift" not in section.html("s") and "NDCG@3 lift" in section.html("s")
    assert "value@3 cannot differ: every page is whole" in section.text


def test_options_that_differ_come_first():
    changed = replace(TrainConfig(), seed=3)
    section = options_section(changed, TrainConfig())
    head, _, rest = section.more.partition("<details>")
    assert "seed" in head and "3 (default 0)" in head and "batch_size" not in head
    assert "stage1.batch_size" in rest and section.text.startswith("1 of ")
    assert options_section(changed, changed).text == "All have their defaults."
