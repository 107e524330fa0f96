"""The report of a training: what is in a run directory becomes sections of one page that needs no other file."""

import json
import re

import numpy as np
import pytest

from pygrade._util.serialization import write_json, write_text
from pygrade.console.tables import METRIC_LABELS
from pygrade.console.training import write_report
from pygrade.console.weights import record_weights, weight_sections
from tests.html_page import HtmlPage

TASKS = ("click", "order")


def interval(value, reach=0.01):
    return {"value": value, "standard_error": reach / 2, "low": value - reach, "high": value + reach}


def ab_test_record():
    def arm(shift, lifted):
        return {
            "values": {metric: interval(1 + shift) for metric in METRIC_LABELS},
            "lifts": {metric: interval(shift) for metric in METRIC_LABELS} if lifted else {},
        }

    arms = {"production": arm(0, False), "static <b>": arm(0.01, True), "GRADE": arm(0.0312, True)}
    return {"baseline": "production", "num_requests": 1200, "num_users": 300, "expected": arms, "sampled": arms}


@pytest.fixture
def run_dir(tmp_path):
    rng = np.random.default_rng(0)
    write_json(tmp_path / "abtest.json", ab_test_record())
    lines = [{"stage": "stage1", "step": i, "loss": 1 / i, "grad_norm": 1.0} for i in range(1, 41)]
    lines += [{"stage": "stage2", "step": i, "reward": 1.0, "reward_prior": 0.5, "kl": 0.1} for i in range(1, 41)]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    write_text(tmp_path / "training" / "metrics.jsonl", text + '{"stage": "stage2", "st')
    weights = rng.dirichlet([3.0, 2.0], 50).astype(np.float32)
    groups = {"segment": np.array(["buy", "browse"])[np.arange(50) % 2]}
    record_weights(tmp_path, TASKS, weights, 10 * weights, np.array([0.5, 0.5], np.float32), groups)
    item = {"item_id": 7, "score": 0.4, "contributions": [0.5, -0.1]}
    page = {
        "title": "user <1>",
        "tasks": TASKS,
        "weighs": True,
        "weights": [0.6, 0.4],
        "why": "it <is>",
        "items": [item],
    }
    write_json(tmp_path / "pages.json", {"pages": [page]})
    write_json(tmp_path / "summary.json", {"seed": 3, "wall_seconds": 12.5, "arms": {}})
    return tmp_path


def test_the_page_stands_alone_and_has_every_section(run_dir):
    text = write_report(run_dir, "a <run>").read_text(encoding="utf-8")
    page = HtmlPage(text)
    curves = [label.rsplit(": ", 1)[0] for label, kind in page.pictures if kind == "chart"]
    assert curves == ["Stage 1: listwise loss", "Stage 2: reward", "Stage 2: distance to stage 1", "Prior"]
    titles = ("A/B test", "Learning curves", "Reward components", "Weights served", "Ranked pages", "The run")
    assert [title for title in page.headings if title in titles] == list(titles)
    cells = [cell for row in page.rows for cell in row]
    assert "+3.12 ± 1.00 %" in page.text and "60.0 %" in cells and "+0.500" in cells
    for name in ("a <run>", "static <b>", "user <1>", "it <is>"):
        assert name in page.text and name not in text
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", text)  # nothing from outside
    assert sorted(path.name for path in run_dir.glob("*.html")) == ["report.html"]


def test_sections_appear_where_their_data_does(run_dir):
    for name in ("abtest.json", "pages.json", "weights.json", "summary.json"):
        (run_dir / name).unlink()
    text = write_report(run_dir).read_text(encoding="utf-8")
    assert "Learning curves" in text
    assert "A/B test" not in text and "Weights served" not in text


def test_nothing_to_show_and_damaged_files_are_named(run_dir, tmp_path_factory):
    with pytest.raises(ValueError, match=r"abtest\.json"):
        write_report(tmp_path_factory.mktemp("empty"))
    (run_dir / "weights.json").write_text('{"tasks": [')
    with pytest.raises(ValueError, match=r"weights\.json is truncated"):
        write_report(run_dir)
    assert not (run_dir / "report.html").exists()


def test_weights_by_group_have_their_size_and_interval(tmp_path):
    weights = np.random.default_rng(0).dirichlet([3.0, 2.0], 60).astype(np.float32)
    groups = {"scenario": np.where(np.arange(60) < 20, "few", "many")}
    users = np.arange(60) // 2
    record_weights(tmp_path, ("a", "b"), weights, 9 * weights, np.array([0.5, 0.5]), groups, users)
    record = json.loads((tmp_path / "weights.json").read_text())
    assert {name: entry["requests"] for name, entry in record["groups"]["scenario"].items()} == {"many": 40, "few": 20}
    mean = record["groups"]["scenario"]["few"]["means"][0]
    assert mean["value"] == pytest.approx(weights[:20, 0].mean(), rel=1e-6)
    pairs = weights[:20, 0].reshape(10, 2).sum(1) - 2 * weights[:20, 0].mean()
    error = np.sqrt((pairs**2).sum() * 10 / 9) / 20
    assert mean["high"] - mean["value"] == pytest.approx(2.262 * error, rel=1e-2)
    assert record["spread"]["5th"][0] == pytest.approx(np.percentile(weights[:, 0], 5), rel=1e-6)
    (section,) = weight_sections(tmp_path)
    body = section.html("s")
    reach = 100 * (mean["high"] - mean["low"]) / 2
    groups = [row for row in HtmlPage(body).rows if row[0].startswith("scenario")]
    assert [row[0] for row in groups] == ["scenario many", "scenario few"]  # the largest first
    assert "40" in groups[0] and f"{100 * mean['value']:.1f} ± {reach:.1f}" in groups[1]
    assert weight_sections(tmp_path / "nowhere") == []


def test_lifts_without_an_interval_are_drawn(tmp_path):
    record = ab_test_record()
    for kind in ("expected", "sampled"):
        for metric in record[kind]["GRADE"]["lifts"]:
            record[kind]["GRADE"]["lifts"][metric] = {"value": 0.02, "low": None, "high": None}
    write_json(tmp_path / "abtest.json", record)
    text = write_report(tmp_path).read_text(encoding="utf-8")
    assert any("+2.00 %" in label and kind == "interval undecided" for label, kind in HtmlPage(text).pictures)
