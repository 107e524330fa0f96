"""Policies as expressions of search engines: they rank as `BlendedRanker` does."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from pygrade.cli import main as cli
from pygrade.config.policy import PolicyConfig
from pygrade.logs import Logs, write_logs
from pygrade.policy import Baseline, FusionPolicy, Mixture, PolicySpec
from pygrade.serving import expressions
from pygrade.serving.ranker import BlendedRanker
from tests.corrections import random_requests
from tests.serving.test_correction import CORRECTED, EV, KNOTS, make_policy

MADE = (
    "corrected expected value",
    "challenger",
    "challenger alone",
    "plain challenger",
    "static challenger",
    "network",
)
MADE += ("network of identity", "network, mixed", "raw network, mixed", "corrected network, mixed")
SIZES = (30, 7, 1, 25, 40, 12)


def log_of(policy, sizes=SIZES, seed=3):
    given = random_requests(policy.correction, sizes, seed)
    count, rows = len(sizes), sum(sizes)
    rng = np.random.default_rng(seed)
    return Logs(
        tasks=policy.tasks,
        features=policy.features,
        request_id=np.array([f"r{r}" for r in range(count)]),
        user_id=np.array([f"u{r}" for r in range(count)]),
        offsets=given["offsets"],
        context=given["context"],
        item_id=np.arange(rows),
        position=np.concatenate([np.arange(size) for size in sizes]).astype(np.int32),
        predictions=given["predictions"],
        feedback=np.zeros_like(given["predictions"]),
        value=rng.uniform(1, 30, rows).astype(np.float32),
        items=policy.correction.items,
        item_features=given["items"],
        timestamp=1_700_000_000_000 + 1000 * np.arange(count),
    )


@pytest.mark.parametrize("form", ["", "marginal", "conditional"])
@pytest.mark.parametrize("name", MADE)
def test_pages_are_those_of_the_ranker_with_the_inputs_of_the_page(name, form):
    policy = make_policy(name, form)
    found = expressions.compare(policy, expressions.express(policy), log_of(policy), k=10, exact=True)
    assert found == {"requests": len(SIZES), "equal": 1.0, "kept": 1.0}


def test_calibrated_baselines_and_prices():
    policy = make_policy("plain challenger")
    policy.mixture = Mixture(0.4, replace(EV, calibration=KNOTS), challenger=replace(CORRECTED, value_tasks=("like",)))
    assert expressions.compare(policy, expressions.express(policy), log_of(policy), 10, exact=True)["equal"] == 1.0


def test_without_the_page_the_expected_value_of_predictions_alone_is_exact_and_others_are_near():
    policy = make_policy("corrected expected value")
    policy.mixture = Mixture(0.0, EV)
    logs = log_of(policy)
    assert expressions.compare(policy, expressions.express(policy), logs, 10)["equal"] == 1.0
    policy = make_policy("challenger")
    expression = expressions.express(policy)
    rough = expressions.compare(policy, expression, logs, 5)
    expressions.fit_defaults(policy, expression, logs)
    fitted = expressions.compare(policy, expression, logs, 5)
    assert 0.5 < fitted["kept"] < 1.0  # of random coefficients and pages of few candidates
    assert fitted != rough


def test_the_shift_of_the_request_is_that_of_the_context():
    policy = make_policy("corrected expected value", "")
    known = expressions.request_shifts(policy, np.array([0.3, -1.0, 2.0], np.float32), None, None)
    unknown = expressions.request_shifts(policy, np.full(3, np.nan, np.float32), None, None)
    default = expressions.express(policy).inputs
    assert np.array_equal(unknown["shifts"], default["shifts"]) and not np.allclose(known["shifts"], default["shifts"])


def python_of(text, kind):
    """The text of an engine as Python: its conditionals become calls of `where`."""
    if kind == "vespa":
        text = re.sub(r"attribute\((\w+)\)", r'document["\1"]', text)
        text = re.sub(r"query\((\w+)\)\{t:(\d+),v:(\d+)\}", r'request["\1"][\2][\3]', text)
        text = re.sub(r"query\((\w+)\)\{t:(\d+)\}", r'request["\1"][\2]', text)
        return re.sub(r"\bif \(isNan\((.*?)\) == 1,", r"where(isNan(\1),", text)
    text = re.sub(r"params\.(\w+)\[(\d+)\]", r'request["\1"][\2]', text)
    text = re.sub(
        r"\(doc\['(\w+)'\]\.size\(\) == 0 \? (\S+) : doc\['\w+'\]\.value\)",
        r'where(isNan(document["\1"]), \2, document["\1"])',
        text,
    )
    return re.sub(r"doc\['(\w+)'\]\.value", r'document["\1"]', text).replace("Math.", "")


def evaluate(steps, inputs, documents):
    found = {"log": np.log, "exp": np.exp, "max": np.maximum, "min": np.minimum, "where": np.where, "isNan": np.isnan}
    found |= {"document": documents, "request": inputs}
    for name, text in steps:
        found[name] = eval(text, {"__builtins__": {}}, found)
    return found["score"]


def vespa_steps(profile):
    steps = re.findall(r"function (\w+)\(\) \{\n\s+expression: (.*)\n\s+\}", profile)
    inputs = {
        name: json.loads(text) for name, text in re.findall(r"query\((\w+)\) tensor<double>\(\S+\): (.*)", profile)
    }
    assert "first-phase {\n        expression: score" in profile
    return [(name, python_of(text, "vespa")) for name, text in steps], inputs


def painless_steps(text):
    script = json.loads(text)["script"]
    *statements, last = script["source"].removesuffix(";").split("; ")
    assert last == "return 1.0 / (1.0 + Math.exp(-score))" and script["lang"] == "painless"
    pairs = (statement.removeprefix("double ").split(" = ", 1) for statement in statements)
    return [(name, python_of(expression, "painless")) for name, expression in pairs], script["params"]


@pytest.mark.parametrize("name", MADE)
def test_texts_of_the_engines_compute_the_expression(name):
    policy = make_policy(name, "conditional")
    expression, logs = expressions.express(policy), log_of(policy)
    record = next(expressions.recorded_requests(policy, logs, 1))
    inputs, documents = record.inputs, {key: column.astype(np.float64) for key, column in record.documents.items()}
    documents = {key: np.where(np.isfinite(column), column, np.nan) for key, column in documents.items()}
    wanted = expression.evaluate(documents, inputs)["score"]
    for steps, defaults in (
        vespa_steps(expressions.write_vespa(expression)),
        painless_steps(expressions.write_opensearch(expression)),
    ):
        assert set(defaults) == set(expression.inputs)
        np.testing.assert_allclose(evaluate(steps, {**defaults, **inputs}, documents), wanted, rtol=1e-12)


def test_ranks_and_names_that_are_none_are_refused():
    policy = make_policy("corrected expected value")
    policy.mixture = Mixture(0.0, Baseline("ranks", "rank", (1.0,) * 5))
    with pytest.raises(ValueError, match="transform of baseline_score is rank"):
        expressions.express(policy)
    with pytest.raises(ValueError, match="correction has 3 trees, which no expression holds"):
        expressions.express(make_policy("corrected expected value", trees=3))
    for names, wanted in ((("a b", "a_b"), "'raw_a_b' twice"), (("click", "é"), "letters, digits and _")):
        with pytest.raises(ValueError, match=wanted):
            expressions.express(FusionPolicy(PolicySpec(names, ("hour",), PolicyConfig(transform="log"))))


def test_command(tmp_path, capsys):
    policy = make_policy("static challenger")
    policy.save(tmp_path / "policy")
    logs = log_of(policy)
    write_logs(logs, tmp_path / "log.parquet")
    common = ["export", "--policy", str(tmp_path / "policy"), "--log", str(tmp_path / "log.parquet"), "--json"]
    for engine, out in (("vespa", "pygrade.profile"), ("opensearch", "script.json")):
        assert cli.main([*common, "--engine", engine, "--out", str(tmp_path / out)]) == 0
        record = json.loads(capsys.readouterr().out)
        assert record["pages"]["requests"] == len(SIZES) and 0 < record["pages"]["kept"] <= 1
    steps, inputs = vespa_steps((tmp_path / "pygrade.profile").read_text())
    assert steps and inputs["mixture_deviations"] != [1.0, 1.0]
    page = BlendedRanker(policy).rank(
        logs.context[:1], logs.predictions[None, :30], 5, item_values=logs.value[None, :30]
    )
    assert page.indices.shape == (1, 5)
