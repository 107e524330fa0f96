"""The report: what is in a run directory becomes sections, pictures and one page that needs no other file."""

import json
import re

import numpy as np
import pytest

from pygrade.console import plots
from pygrade.console.training import curves, record_weights, write_report, write_text

TASKS = ("click", "order")
PNG = b"\x89PNG\r\n"


def interval(value, reach=0.01):
    return {"value": value, "standard_error": reach / 2, "low": value - reach, "high": value + reach}


def ab_test_record():
    def arm(shift, lifted):
        return {
            "values": {metric: interval(1 + shift) for metric in plots.METRIC_NAMES},
            "lifts": {metric: interval(shift) for metric in plots.METRIC_NAMES} if lifted else {},
            "unpaired_errors": {},
        }

    arms = {"production": arm(0, False), "static <b>": arm(0.01, True), "GRADE": arm(0.0312, True)}
    return {"baseline": "production", "num_requests": 1200, "num_users": 300, "expected": arms, "sampled": arms}


@pytest.fixture
def run_dir(tmp_path):
    rng = np.random.default_rng(0)
    write_text(tmp_path / "abtest.json", json.dumps(ab_test_record()))
    lines = [{"stage": "stage1", "step": i, "loss": 1 / i, "grad_norm": 1.0} for i in range(1, 41)]
    lines += [{"stage": "stage2", "step": i, "reward": 1.0, "reward_prior": 0.5, "kl": 0.1} for i in range(1, 41)]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    write_text(tmp_path / "training" / "metrics.jsonl", text + '{"stage": "stage2", "st')
    weights = rng.dirichlet([3.0, 2.0], 50).astype(np.float32)
    record_weights(
        tmp_path,
        TASKS,
        weights,
        10 * weights,
        rng.normal(size=50).astype(np.float32),
        np.array([0.5, 0.5], np.float32),
        {"segment": np.array(["buy", "browse"])[np.arange(50) % 2]},
    )
    item = {"item_id": 7, "score": 0.4, "contributions": [0.5, -0.1]}
    page = {
        "title": "user 1",
        "tasks": TASKS,
        "weighs": True,
        "weights": [0.6, 0.4],
        "why": "chosen by the policy",
        "items": [item],
    }
    write_text(tmp_path / "pages.json", json.dumps({"pages": [page]}))
    write_text(tmp_path / "summary.json", json.dumps({"seed": 3, "wall_seconds": 12.5, "arms": {}}))
    return tmp_path


def test_the_page_stands_alone_and_has_every_section(run_dir):
    path = write_report(run_dir, "a <run>")
    text = path.read_text(encoding="utf-8")
    assert text.count("<svg") > 10 and "prefers-color-scheme:dark" in text
    for title in ("A/B test", "Learning curves", "Reward components", "Weights by segment", "Concentration", "user 1"):
        assert title in text
    assert "+3.12 ±" in text
    assert "a &lt;run&gt;" in text and "static &lt;b&gt;" in text and "static <b>" not in text
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", text)  # nothing from outside
    assert "http:" not in text and "https:" not in text
    names = {p.name for p in (run_dir / "plots").iterdir()}
    assert names == {"lifts.png", "learning.png", "components.png", "concentration.png"}
    assert all((run_dir / "plots" / name).read_bytes().startswith(PNG) for name in names)


def test_sections_appear_where_their_data_does(run_dir):
    for name in ("abtest.json", "pages.json", "weights.json", "summary.json"):
        (run_dir / name).unlink()
    text = write_report(run_dir).read_text(encoding="utf-8")
    assert "Learning curves" in text
    assert "A/B test" not in text and "Concentration" not in text


def test_nothing_to_show_and_damaged_files_are_named(run_dir, tmp_path_factory):
    with pytest.raises(ValueError, match=r"abtest\.json"):
        write_report(tmp_path_factory.mktemp("empty"))
    (run_dir / "weights.json").write_text('{"tasks": [')
    with pytest.raises(ValueError, match=r"weights\.json is truncated"):
        write_report(run_dir)
    assert not (run_dir / "report.html").exists()


def test_weights_are_averaged_by_group(run_dir):
    record = json.loads((run_dir / "weights.json").read_text())
    with np.load(run_dir / "weights.npz") as arrays:
        expected = arrays["weights"][::2].mean(0)
    assert record["groups"]["segment"]["buy"]["click"] == pytest.approx(expected[0], rel=1e-6)


def test_curves_leave_a_cut_off_line_out(run_dir):
    lines = curves(run_dir / "training" / "metrics.jsonl")
    assert lines["stage1"]["loss"][0][:2] == [1.0, 2.0] and lines["stage1"]["loss"][1][:2] == [1.0, 0.5]
    assert len(lines["stage2"]["kl"][0]) == 40


def test_lifts_without_an_interval_are_drawn_and_said(tmp_path):
    record = ab_test_record()
    for kind in ("expected", "sampled"):
        for metric in record[kind]["GRADE"]["lifts"]:
            record[kind]["GRADE"]["lifts"][metric] = {"value": 0.02, "low": None, "high": None}
    write_text(tmp_path / "abtest.json", json.dumps(record))
    assert "unknown" in write_report(tmp_path).read_text(encoding="utf-8")
