"""Pictures of a training have titles, units and a mark for each ranking or task."""

import re
import sys

import numpy as np
import pytest

import pygrade
from pygrade.evaluation.verdict import VerdictText
from pygrade.metrics.intervals import Interval
from pygrade.metrics.picture import draw_lifts
from tests.learning import tiny_logs
from tests.refusals import refuses
from tests.runs.test_train import FAST


@pytest.fixture(scope="module")
def model():
    return pygrade.train(tiny_logs(300), FAST, verbose=False)


@pytest.fixture
def pyplot():
    module = pytest.importorskip("matplotlib.pyplot", reason="matplotlib is not installed; it is in the extra plots")
    yield module
    module.close("all")


def test_the_verdict(model, pyplot):
    _, given = pyplot.subplots()
    ax = model.plot_verdict(given)
    rows = model.lifts[1]
    assert ax is given and [label.get_text() for label in ax.get_yticklabels()] == [name for name, _ in rows]
    assert ax.get_title(loc="left").replace("\n", " ") == str(model.verdict)
    assert re.fullmatch(r"lift of the value over .+, % \(95 % interval\)", ax.get_xlabel())
    assert rows[0][0] == "new ranking"
    assert ax.containers[0][0].get_xdata()[0] == pytest.approx(100 * model.verdict.lift.value)


def test_the_weights(model, pyplot):
    ax = model.plot_weights()
    assert [label.get_text() for label in ax.get_yticklabels()] == ["click", "order"]
    assert ax.get_xlabel() == "weight of the task, %"
    assert ax.get_title(loc="left").startswith("Weights of the policy over 60 later requests")
    assert np.allclose(ax.lines[1].get_xdata(), 100 * model.static_weights.numpy())
    bare = pygrade.train(tiny_logs(200), FAST, holdout=0, verbose=False)
    refuses(ValueError, "expected a holdout above 0", bare.plot_weights)


def test_a_missing_library_is_named(model, monkeypatch):
    for name in ("matplotlib.pyplot", "matplotlib"):
        monkeypatch.setitem(sys.modules, name, None)
    assert "pygrade-ranking[plots]" in refuses(ImportError, "matplotlib", model.plot_verdict)


def test_a_notebook_shows_the_verdict_with_a_picture(model):
    names = re.findall(r'<text y="[\d.]+">(.*?)<title>', model._repr_html_())
    assert names == [name for name, _ in model.lifts[1]]
    lift = Interval(0.02, 0.005, 0.01, 0.03)
    shown = VerdictText("better", "Test <b>it</b>.", "x & y", ("<i>",), lift, None, "<s>")._repr_html_()
    assert not re.search("<b>it|<i>|<s>", shown) and "+2.0 % (1.0 to 3.0)" in shown
    assert "<svg" not in VerdictText("untested", "Not tested.", "", (), None, None)._repr_html_()


def test_a_picture_of_lifts_has_a_color_and_a_place_for_each():
    down, up = {"value": -0.01, "low": -0.02, "high": -0.005}, {"value": 0.02, "low": 0.01, "high": 0.03}
    shown = draw_lifts([("up", up), ("a < b", down), ("n/a", {"value": None}), ("bare", {"value": 0.0})], "lift <")
    assert "lift &lt;" in shown and "a &lt; b" in shown and "n/a" not in shown
    assert re.findall(r'r="4.5" fill="(\S+)"', shown) == ["#1a7f37", "#c0362c", "#7a828c"]
    x = [float(value) for value in re.findall(r'<circle cx="([\d.]+)"', shown)]
    assert x[1] < x[2] < x[0] and (x[0] - x[2]) / (x[2] - x[1]) == pytest.approx(2, abs=0.02)
