"""python -m bench.study.x_value_picture: the picture of docs/guides/x-value-model.md, from the committed result."""

import json
from pathlib import Path

import numpy as np

from pygrade.console.charts import Chart, picture

_ROOT = Path(__file__).parents[2]
RESULT, PICTURE = _ROOT / "bench/results/x_value_model.json", _ROOT / "docs/assets/x-value-model.svg"


def draw() -> str:
    """Value by the boost, beside that of the correction and of the truth, as an SVG file."""
    runs = json.loads(RESULT.read_text(encoding="utf-8"))["runs"]
    mean = {name: float(np.mean([run["lifts"][name] for run in runs])) for name in runs[0]["lifts"]}
    boosts = [int(name) for name in mean if name[1:].isdigit()]
    lines = {"boost": (boosts, [mean[f"+{boost}"] for boost in boosts])}
    lines |= {name: ([0, boosts[-1]], [mean[name]] * 2) for name in ("corrected", "truth")}
    points = {name: (2.0, mean[name]) for name in ("corrected", "truth")} | {"shipped": (20.0, mean["+20"])}
    points |= {"kept": (15.0, mean["+15"])}
    chart = Chart("Value over X's formula", "%", lines, points=points, across="boost of replies to mutual follows")
    return picture([chart])


if __name__ == "__main__":
    PICTURE.write_text(draw(), encoding="utf-8")
