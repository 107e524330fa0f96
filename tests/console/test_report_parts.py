"""The parts of reports: marks on scales, tables, pages side by side, weights by group."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from pygrade.config.training import RewardConfig, TrainConfig
from pygrade.console import plots
from pygrade.console.comparison import compare_pages, comparison_section
from pygrade.console.html import Column, Html, Lead, Section, document, escape, table
from pygrade.console.marks import Scale, bars, whisker
from pygrade.console.sections import options_section, prediction_section, replay_section, verdict_lead
from pygrade.console.style import COLORS
from pygrade.console.weights import record_weights, weight_sections
from pygrade.evaluation.arms import EXPECTED_VALUE, GRADE, LOGGED_ORDER
from pygrade.evaluation.replay import reinforcement_sentence
from pygrade.metrics.intervals import UNKNOWN
from pygrade.metrics.texts import share_text
from pygrade.policy import Baseline, FusionPolicy, Mixture, PolicySpec
from pygrade.training.evaluate_policy import evaluate_policy, later_record
from tests.learning import tiny_logs


def interval(value, reach):
    return {"value": value, "low": value - reach, "high": value + reach}


def places(picture):
    return [float(x) for x in re.findall(r'(?:cx|x1|x2)="([^"]+)"', picture)]


def test_marks_of_a_column_share_a_scale():
    scale = Scale.of([interval(0.02, 0.01), interval(-0.01, 0.03)], percent=True)
    assert scale.low < -0.04 and scale.high > 0.03 and "-4." in scale.axis and "+3." in scale.axis
    line, low, high, dot = places(whisker(scale, interval(0.02, 0.01)))[1:]
    assert line == scale.place(0) and low < dot < high and dot == scale.place(0.02) > line
    assert places(whisker(scale, {"value": None})) == [line, line]  # the origin alone
    assert scale.place(99.0) == scale.place(scale.high)
    assert Scale.of([]).place(0.0) == pytest.approx(65)


def test_bars_begin_at_the_origin_and_the_scale_with_it():
    scale = Scale.of([{"value": 4.0}, {"value": None}])
    assert scale.low == 0.0 and scale.label(0.0) == "0"
    (start, width) = map(
        float, re.search(r'rect class="own" x="([^"]+)" y="[^"]+" width="([^"]+)"', bars(scale, 4.0)).groups()
    )
    assert start == scale.place(0) and start + width == pytest.approx(scale.place(4.0))
    assert bars(scale, None).count("<rect") == 0 and 'class="tick"' in bars(scale, 1.0, mark=3.0)


def test_a_table_has_its_heads_over_its_cells_and_beside_them():
    found = table(
        [Column("na<me", "text"), "n", Column(Html("<svg></svg>"), "mark")], [["a", "1", Html("<b>m</b>")]], "a"
    )
    assert 'class="stack"' in found and '<tr class="own">' in found and "na&lt;me" in found
    for kind in ("text", "number", "mark"):
        assert f'<th scope="col" class="{kind}">' in found
    assert '<td class="number" data-label="n">1</td>' in found and "<b>m</b>" in found
    with pytest.raises(ValueError):
        table(["a", "b"], [["1"]])


def test_names_have_no_effect_on_a_page():
    assert escape("a<\u202e\x1b[1m") == "a&lt;\\u202e\\x1b[1m"


def test_pictures_take_the_colors_of_the_page():
    picture = plots.curves(
        [plots.Panel("loss <x>", "nats", {"loss": ([1, 2, 3], [3.0, 2.0, 1.0])}, marks={2: "stage 2"})]
    )
    (part,) = picture.parts
    assert picture.png.startswith(b"\x89PNG") and part.startswith("<svg") and "var(--blue)" in part
    assert "loss &lt;x&gt;" in part and ">stage 2<" in part  # text stays text
    assert not any(light in part for light, _ in COLORS.values()) and "http" not in part and "xmlns" not in part
    ids = re.findall(r' id="([^"]+)"', part)
    assert all(f"#{name}" in part for name in ids)
    page = document("t", Lead(), [Section("s", "", "loss", picture)], {})
    for name, (light, dark) in COLORS.items():
        assert f"--{name}:{light}" in page and f"--{name}:{dark}" in page


@pytest.fixture(scope="module")
def judged():
    logs = tiny_logs(150, seed=3)
    spec = PolicySpec(logs.tasks, logs.features)
    policies = {GRADE: FusionPolicy(spec, torch.tensor([0.7, 0.3]), seed=0)}
    baseline = Baseline(EXPECTED_VALUE, "identity", (1.0, 2.0))
    mixture = Mixture(0.0, baseline, "undecided", "Keep what you have.", detail="GRADE over expected value")
    record = evaluate_policy(logs, logs, policies, mixture, RewardConfig(page_size=5, propensity=0.5), 3)
    return logs, policies, mixture, json.loads(json.dumps(record))


def test_a_replay_says_what_is_served_against_the_logged_order(judged):
    *_, record = judged
    assert record["logged_order"]["name"] == EXPECTED_VALUE  # a policy without trust is not served
    assert record["logged_order"]["metric"] == "value" and record["logged_order"]["lift"]["low"] is not None
    assert record["warnings"] == []


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
    words = ("Test the &lt;new&gt; ranking.", "a over b", "c &amp; d", "later requests: ", "WATCH &amp; wait")
    places = [lead.index(part) for part in (*words, 'class="cards"')]
    assert places == sorted(places) and lead.count("WATCH") == 1 and 'class="verdict better"' in lead
    assert verdict_lead(None, None, ()).html() == ""


def test_later_requests_have_figures_and_no_verdict(judged):
    _, _, mixture, record = judged
    assert record["verdict"]["sentence"] == mixture.sentence and record["verdict"]["verdict"] == "undecided"
    later = record["later"]
    assert later["text"].startswith(f"later requests: {EXPECTED_VALUE} is served; GRADE ")
    assert later["text"].endswith(f" over {EXPECTED_VALUE} (value@3, two-sided 95 %)")
    assert later["lift"] == record["lifts"][GRADE]["value"] and later["serves"] == EXPECTED_VALUE
    lead = verdict_lead(None, record, ()).html()
    assert lead.index(mixture.sentence) < lead.index("later requests: ") and 'class="verdict undecided"' in lead


@pytest.mark.parametrize(
    "in_sample, head", [(True, "in-sample, not evidence: "), (None, "requests that the policy may know: ")]
)
def test_requests_of_the_training_are_called_so(judged, in_sample, head):
    logs, policies, mixture, _ = judged
    reward = RewardConfig(page_size=5, propensity=0.5)
    later = evaluate_policy(logs, logs, policies, replace(mixture, trust=1.0), reward, 3, in_sample)["later"]
    assert later["text"].startswith(f"{head}GRADE ") and later["in_sample"] is in_sample


def test_figures_that_need_propensities_or_cannot_differ_say_so():
    given = (GRADE, GRADE, EXPECTED_VALUE)
    text = later_record(*given, "ndcg", UNKNOWN, 5, False, False)["text"]
    assert text.endswith("(NDCG@5, two-sided 95 %, slot propensities are unknown)")
    assert later_record(*given, None, UNKNOWN, 5, True, False)["text"].endswith("rankings cannot differ on these pages")


def test_held_out_tables_have_every_interval(judged):
    logs, *_, record = judged
    section = replay_section(record)
    assert section.table.count("<svg") == 2 * (len(record["rankers"]) + 1)
    for arm, lifts in record["lifts"].items():
        assert f"{100 * lifts['value']['value']:+.2f} ± " in section.table and f">{arm}<" in section.table
    shown = prediction_section(record).table
    assert [name for name in re.findall(r'scope="row">([^<]+)<', shown)] == list(logs.tasks)
    assert share_text(record["predictions"]["click"]["auc"], 3) in shown


def test_a_metric_that_cannot_differ_has_no_lift(judged):
    *_, record = judged
    section = replay_section({**record, "cannot_differ": {"value": "every page is whole"}})
    assert "value@3 lift" not in section.table and "NDCG@3 lift" in section.table
    assert "value@3 cannot differ: every page is whole" in section.text


def test_pages_side_by_side_order_the_shown_items(judged):
    logs, policies, mixture, _ = judged
    record = compare_pages(logs, policies, mixture, count=4, k=3)
    assert len(record["requests"]) == 4 and record["policy"] == GRADE
    for entry in record["requests"]:
        assert list(entry["orders"]) == [LOGGED_ORDER, EXPECTED_VALUE, GRADE]
        assert [item["slot"] for item in entry["orders"][LOGGED_ORDER]["items"]] == [0, 1, 2]
        row = [str(r) for r in logs.request_id.tolist()].index(entry["title"].split()[1].rstrip(","))
        rows = np.arange(logs.offsets[row], logs.offsets[row + 1])
        worth = logs.predictions[rows] @ np.array([1.0, 2.0])
        best = rows[np.argsort(-worth, kind="stable")]
        shown = [str(logs.item_id[r]) for r in best if logs.shown[r]][:3]
        order = entry["orders"][EXPECTED_VALUE]
        assert [item["item"] for item in order["items"]] == shown
        assert order["not_shown"] == int((~logs.shown[best[:3]]).sum())
    names = compare_pages(logs, policies, mixture, lambda ids: [f"<{i}>" if i % 2 else None for i in ids], 4, 3)
    (section,) = comparison_section(names)
    assert re.search(r"&lt;\d*[13579]&gt;", section.table) and "<details>" in section.table and "▲" in section.table
    assert comparison_section({}) == []


def test_weights_by_group_have_their_size_and_interval(tmp_path):
    weights = np.random.default_rng(0).dirichlet([3.0, 2.0], 60).astype(np.float32)
    groups = {"scenario": np.where(np.arange(60) < 20, "few", "many")}
    users = np.arange(60) // 2
    record_weights(tmp_path, ("a", "b"), weights, 9 * weights, weights[:, 0], np.array([0.5, 0.5]), groups, users)
    record = json.loads((tmp_path / "weights.json").read_text())
    assert record["requests"]["scenario"] == {"few": 20, "many": 40}
    pairs = weights[:20, 0].reshape(10, 2).sum(1) - 2 * weights[:20, 0].mean()
    error = np.sqrt((pairs**2).sum() * 10 / 9) / 20
    assert record["reaches"]["scenario"]["few"]["a"] == pytest.approx(2.262 * error, rel=1e-2)
    section, _ = weight_sections(tmp_path)
    text = f"{100 * record['groups']['scenario']['few']['a']:.1f}"
    assert text in section.table and "rgba(var(--" in section.table and ">40<" in section.table
    assert section.table.index("many") < section.table.index("few")  # the largest first
    assert weight_sections(tmp_path / "nowhere") == []


def test_options_that_differ_come_first():
    changed = replace(TrainConfig(), seed=3)
    (section,) = options_section(changed, TrainConfig())
    head, _, rest = section.table.partition("<details>")
    assert "seed" in head and "<b>3</b> (default 0)" in head and "batch_size" not in head
    assert "stage1.batch_size" in rest and section.text.startswith("1 of ")
    assert options_section(changed, changed)[0].text == "All have their defaults."
