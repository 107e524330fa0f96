"""What looks wrong is found before any result: each fault where it is, none in a sound log."""

import re
from dataclasses import replace

import numpy as np
import pytest

from pygrade.logs import concatenate
from pygrade.training.log_findings import headline, log_findings, rate_sentence
from tests.evaluation.test_cautions import with_bot
from tests.learning import logs_of, tiny_logs


def sentences_of(logs) -> list[str]:
    return [str(finding) for finding in log_findings(logs)]


@pytest.fixture(scope="module")
def logs():
    return tiny_logs(400, seed=4)


def test_a_sound_log_has_none(logs):
    assert log_findings(logs) == [] and headline([]) == "You can train on this log."


def alone(logs):
    columns = {"predictions": logs.predictions[:, :1], "feedback": logs.feedback[:, :1]}
    return replace(logs, tasks=("click",), task_values=(1.0,), weights=None, concentration=None, **columns)


def flat(logs):
    return replace(logs, predictions=np.stack([logs.predictions[:, 0], np.full(logs.num_rows, 0.25, np.float32)], 1))


def rare(logs):
    orders = logs.feedback[:, 1]
    orders = np.where(np.cumsum(orders) <= 12, orders, 0)
    return replace(logs, feedback=np.stack([logs.feedback[:, 0], orders], 1).astype(np.float32))


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (alone, "ONE TASK: click is the only one"),
        (lambda logs: replace(logs, feedback=np.zeros_like(logs.feedback)), "NO FEEDBACK: .*Join the feedback"),
        (flat, r"CONSTANT PREDICTION: (?!.*click).*order \(0\.25\)"),
        (rare, "FEW EVENTS: order has 12 events on 2,000 shown rows"),
    ],
    ids=["one task", "no feedback", "constant prediction", "few events"],
)
def test_a_fault_is_named(logs, fault, said):
    (sentence,) = sentences_of(fault(logs))
    assert re.match(said, sentence)


def test_copies(logs):
    other = replace(logs, request_id=logs.request_id + 1000, user_id=logs.user_id + 1000).select(np.arange(100))
    (sentence,) = sentences_of(concatenate([logs, other]))
    assert sentence.startswith("COPIES: 20 % of the requests repeat another one under another user")
    assert sentences_of(concatenate([logs, other.select(np.arange(3))])) == []


def test_missing_features(logs):
    context = logs.context.copy()
    context[:100, 0], context[80:132, 1] = np.nan, np.nan
    (sentence,) = sentences_of(replace(logs, context=context))
    assert sentence == "MISSING FEATURES: 33 % of the requests lack a feature: mode 25 %, noise 13 %"
    context[:, 1] = 0
    context[3:, 0] = 0
    assert sentences_of(replace(logs, context=context)) == []  # 3 of 400
    many = np.full((400, 7), np.nan, np.float32)
    (sentence,) = sentences_of(replace(logs, features=tuple("abcdefg"), context=many))
    assert sentence.endswith(
        "100 % of the requests lack a feature: a 100 %, b 100 %, c 100 %, d 100 %, e 100 %, 2 more"
    )


def test_a_leak_and_a_bot(logs):
    told = np.add.reduceat(logs.feedback, logs.offsets[:-1])[:, 0]
    bot, _ = with_bot(replace(logs, context=np.stack([told, logs.context[:, 1]], 1)), 10_000)
    leak, value = sentences_of(bot)
    assert leak.startswith("LEAK: feature mode tells how often click happens on the page (AUC 1.000)")
    assert value.startswith("MUCH OF THE VALUE IN ONE PLACE")


def chain(seed=0, requests=3000, given=False):
    """Orders happen after clicks only; their prediction is that of an order, or (given) of an order after a click."""
    rng = np.random.default_rng(seed)
    click, order = rng.beta(1, 9, (requests, 5)), rng.beta(2, 8, (requests, 5))
    clicked = rng.random(click.shape) < click
    feedback = np.stack([clicked, clicked & (rng.random(click.shape) < order)], 2)
    predictions = np.stack([click, order if given else click * order], 2)
    return logs_of(predictions, np.tile(np.arange(5), (requests, 1)), feedback, tasks=("click", "order"))


def test_a_prediction_that_is_conditional_on_its_parent():
    assert log_findings(chain()) == []
    given, above = sentences_of(chain(given=True)), chain()
    assert len(given) == 1 and given[0].startswith("GIVEN ITS PARENT: order is predicted ")
    assert "right where click happened" in given[0] and "--scale order=given:click" in given[0]
    hyped = chain().predictions * np.array([1, 20], np.float32)  # too high, and right where a click happened
    inner = hyped[above.feedback[:, 0] > 0, 1].sum() / above.feedback[:, 1].sum()
    hyped = (hyped / [1, inner]).astype(np.float32)
    assert not any(text.startswith("GIVEN") for text in sentences_of(replace(above, predictions=hyped)))
    predictions = np.minimum(above.predictions * np.array([1, 2.5], np.float32), 1)
    (sentence,) = sentences_of(replace(above, predictions=predictions))
    assert sentence.startswith("ABOVE ITS PARENT: order never happens without click")


def test_an_odd_exchange_rate(logs):
    price = np.random.default_rng(0).lognormal(3, 0.5, logs.num_rows).astype(np.float32)
    priced = replace(logs, value=price, value_tasks=("order",), task_values=(1.0, 1.0))
    assert log_findings(priced) == []
    (sentence,) = sentences_of(replace(priced, value=price * 100))
    assert sentence.startswith("EXCHANGE RATE: one order is worth 2,") and "Are prices in cents?" in sentence
    assert "of the value" in sentence and rate_sentence({"order": 2.0}) == ""
    dear = replace(logs, task_values=(1.0, 2000.0))
    assert any("one order is worth 2,000 click" in text for text in sentences_of(dear))
    rare = logs.feedback * (np.cumsum(logs.feedback > 0, 0) <= [logs.num_rows, 1])  # one order: the clicks do count
    assert not any("EXCHANGE" in text for text in sentences_of(replace(dear, feedback=rare.astype(np.float32))))


def test_what_keeps_from_training_comes_first_then_what_keeps_from_a_verdict(logs):
    told = np.add.reduceat(logs.feedback, logs.offsets[:-1])[:, 0]
    leak = replace(logs, context=np.stack([told, logs.context[:, 1]], 1), slots_known=False)
    findings = log_findings(leak)
    assert [finding.kind for finding in findings] == ["LEAK", "NO SLOTS"]
    assert headline(findings).endswith("it supports no verdict until this is mended: LEAK.")
    feedback = logs.feedback.copy()
    feedback[logs.shown, 1] = 1
    findings = log_findings(replace(leak, feedback=feedback))
    assert findings[0].kind == "POSITIVES ONLY" and headline(findings).startswith("You can not train on this log")
