"""The benchmark of the multi-task model checks its answers, and its committed results are those that are claimed."""

import json

import numpy as np
import pytest

from bench.report.results import RESULTS

CONTENDERS = ("pygrade", "pygrade, whole rows", "pygrade, mixed rows", "AOTInductor", "ONNX Runtime", "torch")


def test_the_committed_results_are_complete_and_fast_enough():
    record = json.loads((RESULTS / "mtl.json").read_text())
    rows = {row["contender"]: row for row in record["rows"]}
    assert tuple(rows) == CONTENDERS and record["machine"]["isa"] == "avx512" and record["machine"]["threads"] == "1"
    assert rows["pygrade"]["p50_us"] < 700
    assert rows["AOTInductor"]["times_pygrade"] > 1.5 and rows["ONNX Runtime"]["times_pygrade"] > 2


def test_wrong_answers_are_not_timed():
    from bench.system import mtl

    model, dense, ids, *_ = mtl.world()
    runs = mtl.ours(model, dense, ids, dense, ids)
    for name, run in runs.items():
        mtl.check(name, run(), model, dense, ids)
    spoiled = np.array(runs["pygrade"]())
    spoiled[7, 3] *= 1.001
    with pytest.raises(RuntimeError, match="pygrade is off by"):
        mtl.check("pygrade", spoiled, model, dense, ids)
